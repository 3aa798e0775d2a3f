"""Packing rating events into user blocks; NumPy and Arrow only.

A bucket's blocks are a function of the set of events it ever received: the order, the batches and the number of times
in which they arrived leave no trace.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.blocks.codec import Events, UserBlock, pack_items


def merge(
    bucket: int, sources: Sequence[Events], *, users_per_block: int, keeps_events: bool = False
) -> list[UserBlock]:
    """Pack a bucket's events: of each (user, item) pair the newest stays, a withdrawal as NaN.

    Newest is by time, then by event id as UTF-8 bytes. (Two events with one id but different values break the contract
    of an id; the larger value then wins, so that the result is still the same in any order.)

    Where events are to be summed, every one stays that has an id of its own, because a sum alone could not tell one
    that is delivered again, nor what its age takes from it: of each (user, item, event id) the newest stays.

    Args:
        bucket: its number.
        sources: new events, and what the bucket's blocks hold so far (`UserBlock.events`).
        users_per_block: users are cut into blocks of at most so many.
        keeps_events: whether events are to be summed.

    Returns:
        All blocks of the bucket, numbered from 0.
    """
    if not sources:
        return []
    ranks, ids = _rank_users([source.user_ids for source in sources])
    user = np.concatenate([own[source.users] for own, source in zip(ranks, sources, strict=True)])
    user, ids = _drop_unused(user, ids)
    item = np.concatenate([source.items for source in sources])
    # Adding 0 turns -0.0 into 0.0: equal ratings must be equal bytes.
    value = np.concatenate([source.values for source in sources]) + np.float32(0)
    value[np.isnan(value)] = np.nan
    time = np.concatenate([source.times for source in sources])
    event_id = pa.concat_arrays([source.event_ids for source in sources])

    newest = _find_newest(user, item, time, event_id, value, keeps_events=keeps_events)
    user, item, value, time = user[newest], item[newest], value[newest], time[newest]
    event_id = event_id.take(pa.array(newest))
    starts = np.searchsorted(user, np.arange(len(ids) + 1))
    packed = []
    for number, first in enumerate(range(0, len(ids), users_per_block)):
        last = min(first + users_per_block, len(ids))
        own = slice(starts[first], starts[last])
        packed.append(
            UserBlock(
                bucket=bucket,
                block=number,
                user_ids=ids[first:last].to_pylist(),
                offsets=starts[first : last + 1] - starts[first],
                items=pack_items(item[own]),
                values=value[own],
                times=time[own],
                event_ids=event_id[own],
            )
        )
    return packed


def _rank_users(sources: Sequence[pa.StringArray]) -> tuple[list[NDArray[np.int64]], pa.StringArray]:
    """Each id's rank among all distinct ids ascending by UTF-8 bytes, source by source; and those ids."""
    encoded = pa.concat_arrays(sources).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    ranks = rank[encoded.indices.to_numpy()]
    return np.split(ranks, np.cumsum([len(ids) for ids in sources[:-1]])), encoded.dictionary.take(order)


def _drop_unused(user: NDArray[np.int64], ids: pa.StringArray) -> tuple[NDArray[np.int64], pa.StringArray]:
    """The same without ids that no event has: a user without ratings is not packed."""
    used = np.zeros(len(ids), np.bool_)
    used[user] = True
    if used.all():
        return user, ids
    return (np.cumsum(used) - 1)[user], ids.filter(pa.array(used))


def _find_newest(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    time: NDArray[np.int64],
    event_id: pa.StringArray,
    value: NDArray[np.float32],
    *,
    keeps_events: bool,
) -> NDArray[np.int64]:
    """Indices of the events that stay, ascending by user, item and, where several of a pair stay, event id."""
    order = _order_by(item, user)
    same_pair = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if same_pair.any():
        # Times and ids are compared where a pair is repeated only: sorting all by them would cost more than all else.
        repeated = _either_side(same_pair)
        few = order[repeated]
        pairs, when, ids = (item[few], user[few]), time[few], event_id.take(pa.array(few))
        by_value = np.nan_to_num(value[few], nan=-np.inf)
        if keeps_events:
            rank = _rank_ids(ids)
            within = np.lexsort((by_value, when, rank, *pairs))
            same_id = np.zeros(len(order), np.bool_)
            same_id[np.flatnonzero(repeated)[:-1]] = np.diff(rank[within]) == 0
            same_pair &= same_id[:-1]
        else:
            within = np.lexsort((by_value, _rank_tied_ids(*pairs, when, ids), when, *pairs))
        order[repeated] = few[within]
    newest: NDArray[np.int64] = order[np.append(~same_pair, np.True_)[: len(order)]]
    return newest


def _rank_tied_ids(
    item: NDArray[np.int64], user: NDArray[np.int64], time: NDArray[np.int64], event_id: pa.StringArray
) -> NDArray[np.int64]:
    """The rank of each event's id by UTF-8 bytes among those that have a pair and a time in common with another."""
    order = np.lexsort((time, item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0) & (np.diff(time[order]) == 0)
    which = np.sort(order[_either_side(same)])
    rank = np.zeros(len(order), np.int64)
    rank[which] = _rank_ids(event_id.take(pa.array(which)))
    return rank


def _rank_ids(event_id: pa.StringArray) -> NDArray[np.int64]:
    """The rank of each id among all by UTF-8 bytes; equal ids have one."""
    encoded = event_id.dictionary_encode()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    ranks: NDArray[np.int64] = rank[encoded.indices.to_numpy()]
    return ranks


def _either_side(same_as_next: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which elements are like the one before or the one after, from which are like the one after."""
    found = np.zeros(len(same_as_next) + 1, np.bool_)
    found[:-1] = same_as_next
    found[1:] |= same_as_next
    return found


def _order_by(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """``np.lexsort`` of keys that are not negative, 16 bits at a time: for those NumPy has a radix sort."""
    order = np.arange(len(keys[0]))
    for key in keys:
        for shift in range(0, int(key.max(initial=0)).bit_length(), 16):
            digits = (key >> shift).astype(np.uint16)
            order = order[np.argsort(digits[order], kind="stable")]
    return order
