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


def merge(bucket: int, sources: Sequence[Events], *, users_per_block: int) -> list[UserBlock]:
    """Pack a bucket's events: of each (user, item) pair the newest stays, a withdrawal as NaN.

    Newest is by time, then by event id as UTF-8 bytes. (Two events with one id but different values break the contract
    of an id; the larger value then wins, so that the result is still the same in any order.)

    Args:
        bucket: its number.
        sources: new events, and what the bucket's blocks hold so far (`UserBlock.events`).
        users_per_block: users are cut into blocks of at most so many.

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

    newest = _newest_of_each_pair(user, item, time, event_id, value)
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


def _newest_of_each_pair(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    time: NDArray[np.int64],
    event_id: pa.StringArray,
    value: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Indices of the newest events, ascending by user, then item."""
    order = _order_by(item, user)
    same_pair = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if same_pair.any():
        # Times and ids are compared where a pair is repeated only: sorting all by them would cost more than all else.
        repeated = np.zeros(len(order), np.bool_)
        repeated[:-1] = same_pair
        repeated[1:] |= same_pair
        few = order[repeated]
        rank = _rank_ids(user[few], item[few], time[few], event_id.take(pa.array(few)))
        by_value = np.nan_to_num(value[few], nan=-np.inf)
        order[repeated] = few[np.lexsort((by_value, rank, time[few], item[few], user[few]))]
    newest: NDArray[np.int64] = order[np.append(~same_pair, np.True_)[: len(order)]]
    return newest


def _rank_ids(
    user: NDArray[np.int64], item: NDArray[np.int64], time: NDArray[np.int64], event_id: pa.StringArray
) -> NDArray[np.int64]:
    """The rank of each event's id by UTF-8 bytes among those that have a pair and a time in common with another."""
    order = np.lexsort((time, item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0) & (np.diff(time[order]) == 0)
    tied = np.zeros(len(order), np.bool_)
    tied[:-1] = same
    tied[1:] |= same
    which = np.sort(order[tied])
    encoded = event_id.take(pa.array(which)).dictionary_encode()
    by_id = np.empty(len(encoded.dictionary), np.int64)
    by_id[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(by_id))
    rank = np.zeros(len(order), np.int64)
    rank[which] = by_id[encoded.indices.to_numpy()]
    return rank


def _order_by(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """``np.lexsort`` of keys that are not negative, 16 bits at a time: for those NumPy has a radix sort."""
    order = np.arange(len(keys[0]))
    for key in keys:
        for shift in range(0, int(key.max(initial=0)).bit_length(), 16):
            digits = (key >> shift).astype(np.uint16)
            order = order[np.argsort(digits[order], kind="stable")]
    return order
