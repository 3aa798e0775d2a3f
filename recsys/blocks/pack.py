"""Packing rating events into user blocks; NumPy and Arrow only.

A bucket's blocks are a function of the set of events it ever received: the order, the batches and the number of times
in which they arrived leave no trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.blocks.codec import UserBlock, pack_items


@dataclass(frozen=True)
class Events:
    """Rating events of one bucket, in any order and with repetitions (E events).

    Attributes:
        user_ids: arrow strings (E,).
        items: int64 (E,), positions.
        values: float32 (E,); NaN withdraws the rating.
        times: int64 (E,), microseconds since 1970 UTC.
        event_ids: arrow strings (E,).
    """

    user_ids: pa.StringArray
    items: NDArray[np.int64]
    values: NDArray[np.float32]
    times: NDArray[np.int64]
    event_ids: pa.StringArray


def merge(bucket: int, blocks: Sequence[UserBlock], events: Events, *, users_per_block: int) -> list[UserBlock]:
    """Bring a bucket's blocks up to date: of each (user, item) pair the newest event stays, a withdrawal as NaN.

    Newest is by time, then by event id as UTF-8 bytes. (Two events with one id but different values break the contract
    of an id; the larger value then wins, so that the result is still the same in any order.)

    Args:
        bucket: its number.
        blocks: all blocks of the bucket as they are; none for a rebuild.
        events: the new events.
        users_per_block: users are cut into blocks of at most so many.

    Returns:
        All blocks of the bucket, numbered from 0.
    """
    users, ids = _rank_users([np.asarray(block.user_ids, object) for block in blocks], events.user_ids)
    rated = [np.repeat(own, np.diff(block.offsets)) for own, block in zip(users[:-1], blocks, strict=True)]
    user = np.concatenate([*rated, users[-1]])
    item = np.concatenate([*(block.items.astype(np.int64) for block in blocks), events.items])
    # Adding 0 turns -0.0 into 0.0: equal ratings must be equal bytes.
    value = np.concatenate([*(block.values for block in blocks), events.values]) + np.float32(0)
    value[np.isnan(value)] = np.nan
    time = np.concatenate([*(block.times for block in blocks), events.times])
    event_id = pa.chunked_array([*(block.event_ids for block in blocks), events.event_ids], pa.string())

    newest = _newest_of_each_pair(user, item, time, event_id, value)
    user, item, value, time = user[newest], item[newest], value[newest], time[newest]
    event_ids = event_id.take(pa.array(newest)).combine_chunks()
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
                event_ids=event_ids[own],
            )
        )
    return packed


def _rank_users(known: list[NDArray[Any]], new: pa.StringArray) -> tuple[list[NDArray[np.int64]], pa.StringArray]:
    """Each user's rank among all distinct ids ascending by UTF-8 bytes, per block and for the events; and the ids."""
    everyone = pa.chunked_array([*(pa.array(ids, pa.string()) for ids in known), new], pa.string())
    encoded = everyone.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    ranks = rank[encoded.indices.to_numpy()]
    return np.split(ranks, np.cumsum([len(ids) for ids in known])), encoded.dictionary.take(order)


def _newest_of_each_pair(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    time: NDArray[np.int64],
    event_id: pa.ChunkedArray,
    value: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Indices of the newest events, ascending by user, then item."""
    order = np.lexsort((time, item, user))
    same_pair = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    tied = np.zeros(len(order), np.bool_)
    tied[:-1] = same_pair & (np.diff(time[order]) == 0)
    tied[1:] |= tied[:-1].copy()
    if tied.any():
        # Ids are compared for these few only: sorting all of them would cost more than everything else.
        which = np.sort(order[tied])
        encoded = event_id.take(pa.array(which)).combine_chunks().dictionary_encode()
        rank = np.zeros(len(order), np.int64)
        id_rank = np.empty(len(encoded.dictionary), np.int64)
        id_rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(id_rank))
        rank[which] = id_rank[encoded.indices.to_numpy()]
        order = np.lexsort((np.nan_to_num(value, nan=-np.inf), rank, time, item, user))
    newest: NDArray[np.int64] = order[np.append(~same_pair, np.True_)[: len(order)]]
    return newest
