"""Case 65: of a user with very many ratings a fit sees the newest only."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from recsys import columns as c
from recsys.blocks.codec import UserBlock, pack_items
from recsys.blocks.split import split_row


def make_row(items: list[list[int]], times: list[list[int]], values: list[list[float]]) -> dict[str, object]:
    flat = [value for own in values for value in own]
    block = UserBlock(
        bucket=0,
        block=0,
        user_ids=[f"u{n}" for n in range(len(items))],
        offsets=np.cumsum([0, *map(len, items)], dtype=np.int64),
        items=pack_items(np.array([item for own in items for item in own], np.int64)),
        values=np.array(flat, np.float32),
        times=np.array([time for own in times for time in own], np.int64),
        event_ids=pa.array([str(n) for n in range(len(flat))], pa.string()),
    )
    return block.to_row()


def cut(row: dict[str, object], cutoff: int | None = None, max_per_user: int = 0) -> dict[str, list[list[int]]]:
    out = split_row(row, cutoff=cutoff, until=None, as_of=None, half_life_days=None, max_per_user=max_per_user)
    assert out is not None
    return {
        name: [np.frombuffer(out[items], np.uint16)[a:b].tolist() for a, b in pairwise(offsets)]
        for name, items, offsets in (
            ("observed", c.ITEMS, np.frombuffer(out[c.OFFSETS], np.int64)),
            ("held", c.HELD_ITEMS, np.frombuffer(out[c.HELD_OFFSETS], np.int64)),
        )
    }


def test_case_65_the_newest_ratings_of_a_bot_are_left_and_others_keep_all() -> None:
    row = make_row([[0, 1, 2, 3], [4, 5]], [[40, 10, 30, 20], [1, 2]], [[1, 2, 3, 4], [5, 6]])
    assert cut(row, max_per_user=2) == {"observed": [[0, 2], [4, 5]], "held": [[], []]}
    assert cut(row, max_per_user=4) == cut(row)


def test_case_65_only_what_is_older_than_the_holdout_counts_and_what_is_held_out_stays() -> None:
    row = make_row([[0, 1, 2, 3]], [[40, 10, 30, 20]], [[1, 2, 3, 4]])
    assert cut(row, cutoff=30, max_per_user=1) == {"observed": [[3]], "held": [[0, 2]]}


def test_case_65_a_withdrawn_rating_takes_no_place() -> None:
    row = make_row([[0, 1, 2]], [[40, 10, 30]], [[np.nan, 2, 3]])
    assert cut(row, max_per_user=2) == {"observed": [[1, 2]], "held": [[]]}


def test_case_65_of_summed_events_the_newest_of_a_pair_tells_its_age() -> None:
    row = make_row([[0, 0, 1, 2, 2]], [[1, 50, 30, 20, 40]], [[1, 1, 1, 1, 1]])
    assert cut(row, max_per_user=2) == {"observed": [[0, 2]], "held": [[]]}


@pytest.mark.parametrize("n", [200_000])
def test_case_65_a_bot_beside_others_is_cut_to_what_it_would_be_with_its_newest_only(n: int) -> None:
    rng = np.random.default_rng(65)
    items, times = np.arange(n), rng.permutation(n)
    newest = items[times >= n - 1000]
    values = np.ones(n)
    others = [[1, 5, 9], [0, 7]]
    ages = [[1, 2, 3], [4, 5]]
    whole = make_row([*others, items.tolist()], [*ages, times.tolist()], [[1, 1, 1], [1, 1], values.tolist()])
    few = make_row(
        [*others, newest.tolist()], [*ages, times[newest].tolist()], [[1, 1, 1], [1, 1], values[newest].tolist()]
    )
    cuts = [
        split_row(row, cutoff=None, until=None, as_of=n, half_life_days=1.0, max_per_user=most)
        for row, most in ((whole, 1000), (few, 0))
    ]
    first, second = cuts
    assert first is not None
    assert second is not None
    assert first[c.USER_IDS].equals(second[c.USER_IDS])
    # Item positions may be packed wider beside larger ones; all else is the same bytes.
    assert {name: first[name] for name in first if name not in (c.ITEMS, c.USER_IDS)} == {
        name: second[name] for name in second if name not in (c.ITEMS, c.USER_IDS)
    }
    assert np.array_equal(np.frombuffer(first[c.ITEMS], np.uint32), np.frombuffer(second[c.ITEMS], np.uint32))
