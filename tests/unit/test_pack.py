"""Merging events into blocks, against a dictionary; no JVM."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.blocks import pack
from recsys.blocks.codec import Events, UserBlock
from tests.oracles.blocks import Event, newest_events


def events_of(events: list[Event]) -> Events:
    users, items, values, times, ids = zip(*events, strict=True) if events else ((), (), (), (), ())
    encoded = pa.array(users, pa.string()).dictionary_encode()
    return Events(
        user_ids=encoded.dictionary,
        users=encoded.indices.to_numpy().astype(np.int64),
        items=np.array(items, np.int64),
        values=np.array([np.nan if value is None else value for value in values], np.float32),
        times=np.array(times, np.int64),
        event_ids=pa.array(ids, pa.string()),
    )


def merge(bucket: int, blocks: list[UserBlock], events: Events, *, users_per_block: int) -> list[UserBlock]:
    return pack.merge(bucket, [*(block.events() for block in blocks), events], users_per_block=users_per_block)


def rows(blocks: list[UserBlock]) -> list[dict[str, object]]:
    """What is stored, byte for byte."""
    return [block.to_row() for block in blocks]


def contents(blocks: list[UserBlock]) -> list[tuple[str, int, float | None, int, str]]:
    """All entries in the order in which they are packed."""
    found = []
    for block in blocks:
        users = np.repeat(np.array(block.user_ids, object), np.diff(block.offsets))
        entries = zip(users, block.items, block.values, block.times, block.event_ids.to_pylist(), strict=True)
        found += [(u, int(i), None if np.isnan(v) else float(v), int(t), e) for u, i, v, t, e in entries]
    return found


def test_case_15_of_a_repeated_pair_the_newest_event_stays() -> None:
    """Fault case 15: a duplicate inside a file and across batches, and a late correction."""
    first = [("u", 1, 3.0, 10, "a"), ("u", 1, 3.0, 10, "a"), ("u", 2, 5.0, 10, "b")]
    blocks = merge(0, [], events_of(first), users_per_block=10)
    correction_and_redelivery = [("u", 1, 4.0, 11, "c"), ("u", 2, 5.0, 10, "b"), ("u", 1, 1.0, 9, "z")]
    blocks = merge(0, blocks, events_of(correction_and_redelivery), users_per_block=10)
    assert contents(blocks) == [("u", 1, 4.0, 11, "c"), ("u", 2, 5.0, 10, "b")]


def test_of_two_events_of_one_time_the_larger_id_stays() -> None:
    blocks = merge(0, [], events_of([("u", 1, 3.0, 10, "b"), ("u", 1, 4.0, 10, "c")]), users_per_block=10)
    blocks = merge(0, blocks, events_of([("u", 1, 5.0, 10, "a")]), users_per_block=10)
    assert contents(blocks) == [("u", 1, 4.0, 10, "c")]


def test_an_older_event_that_arrives_late_does_not_bring_a_withdrawn_rating_back() -> None:
    blocks = merge(0, [], events_of([("u", 1, None, 10, "a")]), users_per_block=10)
    blocks = merge(0, blocks, events_of([("u", 1, 4.0, 9, "b")]), users_per_block=10)
    assert contents(blocks) == [("u", 1, None, 10, "a")]
    blocks = merge(0, blocks, events_of([("u", 1, 2.0, 11, "c")]), users_per_block=10)
    assert contents(blocks) == [("u", 1, 2.0, 11, "c")]


def test_users_are_in_the_order_of_their_bytes_and_cut_into_blocks() -> None:
    """UTF-16 would put the mathematical X, a surrogate pair, before the full-width Z; 007 and 7 are two users."""
    ids = ["ｚ", "7", "𝒳", "a", "007", "é", "Z"]
    blocks = merge(2, [], events_of([(user, 0, 1.0, 0, "e") for user in ids]), users_per_block=3)
    assert [block.user_ids for block in blocks] == [["007", "7", "Z"], ["a", "é", "ｚ"], ["𝒳"]]
    assert [(block.bucket, block.block) for block in blocks] == [(2, 0), (2, 1), (2, 2)]
    assert [block.offsets.tolist() for block in blocks] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]


def test_minus_zero_is_packed_as_zero() -> None:
    minus = merge(0, [], events_of([("u", 1, -0.0, 10, "a")]), users_per_block=10)
    plus = merge(0, [], events_of([("u", 1, 0.0, 10, "a")]), users_per_block=10)
    assert rows(minus) == rows(plus)


def test_a_bucket_without_events_has_no_blocks() -> None:
    assert merge(0, [], events_of([]), users_per_block=10) == []


# Few users, items, times and ids, so that corrections, withdrawals and ties are frequent.
an_event = st.tuples(
    st.sampled_from(["u", "v", "ü"]),
    st.integers(0, 3),
    st.one_of(st.none(), st.sampled_from([1.0, 2.5])),
    st.integers(0, 3),
    st.sampled_from(["a", "b", "aa"]),
)


@settings(deadline=None)
@given(events=st.lists(an_event, max_size=30), data=st.data())
def test_blocks_are_the_same_whatever_the_order_and_the_batches_of_arrival(
    events: list[Event], data: st.DataObject
) -> None:
    # An id names one event of a pair: a redelivery repeats it, never changes it.
    events = list(
        {(user, item, time, event_id): event for event in events for user, item, _, time, event_id in [event]}.values()
    )
    rebuilt = merge(0, [], events_of(events), users_per_block=2)
    assert contents(rebuilt) == sorted(newest_events(events).values(), key=lambda event: (event[0].encode(), event[1]))

    arrivals = data.draw(st.permutations(events))
    redelivered = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    blocks: list[UserBlock] = []
    arrivals = [*arrivals, *redelivered]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arrivals)), max_size=4)))
    for first, last in zip([0, *cuts], [*cuts, len(arrivals)], strict=True):
        blocks = merge(0, blocks, events_of(arrivals[first:last]), users_per_block=2)
    assert rows(blocks) == rows(rebuilt)
