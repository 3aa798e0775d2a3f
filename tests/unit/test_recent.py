"""Recent ratings laid over blocks, against blocks packed anew; no JVM."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys import columns as c
from recsys.blocks.codec import NEWCOMERS, RECENT, UserBlock, read_array, read_items, unpack_values
from recsys.blocks.pack import merge
from recsys.blocks.recent import RATING_COLUMNS, is_contested, place_users, read_ratings
from recsys.blocks.split import split_row
from tests.oracles.blocks import Event
from tests.unit.test_pack import an_event, events_of

ALL = 10**9
Cut = dict[str, tuple[list[tuple[int, float]], list[tuple[int, float]]]]


def row_of(block: UserBlock) -> dict[str, Any]:
    """As arrow hands it to a task."""
    row = block.to_row()
    return row | {c.USER_IDS: pa.array(row[c.USER_IDS], pa.string())}


def beside(whole: list[UserBlock], events: list[Event], *, users_per_block: int = 2) -> list[UserBlock]:
    """What is packed beside blocks."""
    ids = {block.block: pa.array(block.user_ids, pa.string()) for block in whole}
    gathered = merge(0, [events_of(events)], users_per_block=ALL)
    return [found for block in gathered for found in place_users(block, ids, users_per_block=users_per_block)]


def assembled(whole: list[UserBlock], kept: list[UserBlock]) -> list[dict[str, Any]]:
    """The rows that Spark's join makes of both."""
    recent = {
        block.block: {name: block.to_row()[name] for name in RATING_COLUMNS} for block in kept if block.layer == RECENT
    }
    rows = [row_of(block) | {c.RECENT: recent.get(block.block)} for block in whole]
    return rows + [row_of(block) | {c.RECENT: None} for block in kept if block.layer == NEWCOMERS]


def cut(rows: list[dict[str, Any]], cutoff: int) -> Cut:
    """Each user's observed and held-out ratings."""
    found: Cut = {}
    for row in rows:
        out = split_row(row, cutoff=cutoff, until=None, as_of=5, half_life_days=None)
        if out is None:
            continue
        parts = []
        for offsets, items, values in (
            (c.OFFSETS, c.ITEMS, unpack_values(out[c.DICTIONARY], out[c.VALUES])),
            (c.HELD_OFFSETS, c.HELD_ITEMS, read_array(out[c.HELD_VALUES], np.float32)),
        ):
            bounds = read_array(out[offsets], np.int64)
            pairs = list(zip(read_items(out[items], int(bounds[-1])).tolist(), values.tolist(), strict=True))
            parts.append([pairs[a:b] for a, b in pairwise(bounds)])
        for user, observed, held in zip(out[c.USER_IDS].to_pylist(), *parts, strict=True):
            assert user not in found
            found[user] = (observed, held)
    return found


def test_a_recent_rating_takes_the_place_of_an_older_one_and_a_late_one_does_not() -> None:
    whole = merge(0, [events_of([("u", 1, 3.0, 10, "a"), ("u", 2, 4.0, 10, "b")])], users_per_block=2)
    kept = beside(whole, [("u", 1, 5.0, 11, "c"), ("u", 2, 1.0, 9, "d"), ("u", 3, 2.0, 12, "e")])
    assert [(block.block, block.layer) for block in kept] == [(0, RECENT)]
    assert cut(assembled(whole, kept), cutoff=ALL) == {"u": ([(1, 5.0), (2, 4.0), (3, 2.0)], [])}


def test_users_without_a_block_get_blocks_of_their_own_after_the_others() -> None:
    whole = merge(0, [events_of([(user, 1, 3.0, 10, "a") for user in "bdf"])], users_per_block=2)
    kept = beside(whole, [(user, 2, 4.0, 11, "x") for user in "abceg"])
    assert [(block.block, block.layer, block.user_ids) for block in kept] == [
        (0, RECENT, ["b"]),
        (2, NEWCOMERS, ["a", "c"]),
        (3, NEWCOMERS, ["e", "g"]),
    ]
    seen = cut(assembled(whole, kept), cutoff=ALL)
    assert seen["b"] == ([(1, 3.0), (2, 4.0)], [])
    assert seen["g"] == ([(2, 4.0)], [])


def test_more_values_than_one_byte_names_are_kept_one_by_one() -> None:
    events = [("u", item, float(item), 10, "a") for item in range(200)]
    news = [("u", item, 1000.0 + item, 11, "b") for item in range(100, 300)]
    whole = merge(0, [events_of(events)], users_per_block=2)
    [row] = assembled(whole, beside(whole, news))
    values = read_ratings(row).plain_values()
    assert values.tolist() == [float(i) for i in range(100)] + [1000.0 + i for i in range(100, 300)]


def test_of_two_values_at_one_time_the_blocks_are_packed_anew() -> None:
    """The larger event id decides, and a pass over blocks does not read ids."""
    whole = merge(0, [events_of([("u", 1, 3.0, 10, "b")])], users_per_block=2)
    for event, contested in (
        (("u", 1, 3.0, 10, "b"), False),  # delivered again
        (("u", 1, 3.0, 10, "a"), False),  # whichever stays, the rating is the same
        (("u", 1, 4.0, 10, "a"), True),
        (("u", 1, None, 10, "c"), True),
        (("u", 1, 4.0, 11, "a"), False),
        (("u", 2, 4.0, 10, "a"), False),
    ):
        [row] = assembled(whole, beside(whole, [event]))
        assert is_contested(row) is contested, event


@settings(deadline=None)
@given(
    events=st.lists(an_event, min_size=1, max_size=30), later=st.lists(an_event, max_size=20), cutoff=st.integers(0, 4)
)
def test_what_a_fit_sees_is_what_it_would_see_of_blocks_packed_anew(
    events: list[Event], later: list[Event], cutoff: int
) -> None:
    whole = merge(0, [events_of(events)], users_per_block=2)
    rows = assembled(whole, beside(whole, later))
    assume(not any(is_contested(row) for row in rows if row[c.RECENT] is not None))
    anew = [row_of(block) for block in merge(0, [events_of(events), events_of(later)], users_per_block=2)]
    assert cut(rows, cutoff) == cut(anew, cutoff)
