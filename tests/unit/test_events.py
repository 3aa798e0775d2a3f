"""Events that are summed: whatever the order, the batches and the repetitions of arrival, the same blocks and sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import columns as c
from recsys.blocks import pack
from recsys.blocks.codec import SplitBlock, UserBlock, iter_rows
from recsys.blocks.split import MICROS_PER_DAY, split_row
from recsys.schemas import USER_BLOCKS
from tests.oracles.blocks import Event, sum_events
from tests.unit.test_pack import contents, events_of, rows

DAY = MICROS_PER_DAY


def merge(blocks: Sequence[UserBlock], events: Sequence[Event], *, users_per_block: int = 2) -> list[UserBlock]:
    sources = [*(block.events() for block in blocks), events_of(list(events))]
    return pack.merge(0, sources, users_per_block=users_per_block, keeps_events=True)


@dataclass(frozen=True)
class Sums:
    """User and item → sum, and its decayed sum; and what is held out."""

    observed: dict[tuple[str, int], tuple[float, float]]
    held: dict[tuple[str, int], float]


def split(blocks: Sequence[UserBlock], **cut: float | None) -> Sums:
    names = [name for name in USER_BLOCKS.names if name not in (c.THROUGH_BATCH, c.RATINGS_VERSION)]
    observed, held = {}, {}
    for block in blocks:
        batch = pa.RecordBatch.from_pylist([{name: block.to_row()[name] for name in names}])
        [row] = iter_rows(batch)
        given_cut = {"cutoff": None, "until": None, "as_of": None, "half_life_days": None} | cut
        found = split_row(row, **given_cut)
        if found is None:
            continue
        own = SplitBlock.from_row(found)
        for u, user in enumerate(own.user_ids):
            for n in range(own.offsets[u], own.offsets[u + 1]):
                assert (user, int(own.items[n])) not in observed
                observed[user, int(own.items[n])] = (float(own.values[n]), float(own.values[n] * own.weights[n]))
            for n in range(own.held_offsets[u], own.held_offsets[u + 1]):
                held[user, int(own.held_items[n])] = float(own.held_values[n])
    return Sums(observed, held)


def test_every_event_of_a_pair_counts_and_each_only_once() -> None:
    view, cart, again = ("u", 1, 1.0, 10, "a"), ("u", 1, 3.0, 20, "b"), ("u", 1, 1.0, 30, "c")
    blocks = merge(merge([], [cart, view, view]), [again, cart])
    assert contents(blocks) == [view, cart, again]
    assert split(blocks).observed == {("u", 1): (5.0, 5.0)}


def test_an_event_that_is_taken_back_counts_no_more_also_when_it_arrives_late() -> None:
    view, taken_back, cart = ("u", 1, 1.0, 10, "a"), ("u", 1, None, 11, "a"), ("u", 1, 3.0, 9, "b")
    blocks = merge(merge([], [taken_back]), [view, cart])
    assert contents(blocks) == [taken_back, cart]
    assert split(blocks).observed == {("u", 1): (3.0, 3.0)}


def test_each_event_is_decayed_by_its_own_age() -> None:
    blocks = merge([], [("u", 1, 4.0, 0, "a"), ("u", 1, 1.0, 2 * DAY, "b"), ("u", 2, 8.0, 1 * DAY, "c")])
    decayed = split(blocks, as_of=2 * DAY, half_life_days=1.0)
    assert decayed.observed == {("u", 1): (5.0, pytest.approx(4 / 4 + 1)), ("u", 2): (8.0, pytest.approx(8 / 2))}


def test_events_from_the_cut_off_on_are_not_summed_with_those_before_it() -> None:
    """A pair of which something is known is not held out: lists leave out what a user has seen."""
    blocks = merge([], [("u", 1, 1.0, 10, "a"), ("u", 1, 3.0, 20, "b"), ("u", 2, 3.0, 20, "c"), ("u", 2, 1.0, 25, "d"),
                        ("u", 2, 9.0, 40, "e"), ("u", 3, 9.0, 40, "f")])  # fmt: skip
    assert split(blocks, cutoff=20, until=30) == Sums({("u", 1): (1.0, 1.0)}, {("u", 2): 4.0})


# Few of everything, so that pairs, ids and times are repeated; weights are sums of powers of two: every sum is exact.
an_event = st.tuples(
    st.sampled_from(["u", "v", "ü"]),
    st.integers(0, 2),
    st.one_of(st.none(), st.sampled_from([1.0, 2.5, 8.0])),
    st.integers(0, 3),
    st.sampled_from(["a", "b", "aa", "ä"]),
)


@settings(deadline=None)
@given(events=st.lists(an_event, max_size=30), data=st.data())
def test_any_order_any_batching_and_any_repetition_of_the_same_events_give_the_same_blocks(
    events: list[Event], data: st.DataObject
) -> None:
    """Case 15, for events: late ones and redelivered ones, too; a repeated id may even come with another value."""
    in_order = merge([], sorted(events, key=lambda event: event[3]))
    assert split(in_order).observed == {pair: (total, total) for pair, total in sum_events(events).items()}

    redelivered = data.draw(st.lists(st.sampled_from(events), max_size=8)) if events else []
    arrivals = data.draw(st.permutations([*events, *redelivered]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arrivals)), max_size=4)))
    blocks: list[UserBlock] = []
    for first, last in zip([0, *cuts], [*cuts, len(arrivals)], strict=True):
        blocks = merge(blocks, arrivals[first:last])
    assert rows(blocks) == rows(in_order)


@settings(deadline=None)
@given(events=st.lists(an_event, max_size=20), cutoff=st.integers(0, 4), until=st.integers(0, 4))
def test_a_cut_gives_the_sums_of_the_events_on_either_side(events: list[Event], cutoff: int, until: int) -> None:
    found = split(merge([], events), cutoff=cutoff, until=until)
    before = sum_events(events, before=cutoff)
    assert {pair: total for pair, (total, _) in found.observed.items()} == before
    after = sum_events(events, since=cutoff, before=until)
    assert found.held == {pair: total for pair, total in after.items() if pair not in before}
