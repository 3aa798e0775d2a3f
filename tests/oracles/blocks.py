"""Blocks made the slow way: current ratings by a dictionary, split blocks from plain arrays."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys import columns as c
from recsys.blocks.codec import pack_items, pack_values

# user, item position, value (None: withdrawn), time, event id
Event = tuple[str, int, float | None, int, str]


def newest_events(events: Iterable[Event]) -> dict[tuple[str, int], Event]:
    """The newest event of each (user, item) pair, withdrawals included."""
    newest: dict[tuple[str, int], Event] = {}
    for event in events:
        pair = event[:2]
        if pair not in newest or (event[3], event[4].encode()) > (newest[pair][3], newest[pair][4].encode()):
            newest[pair] = event
    return newest


def sum_events(
    events: Iterable[Event], *, since: int | None = None, before: int | None = None
) -> dict[tuple[str, int], float]:
    """The sums of (user, item) pairs: of events with one id the newest counts (then the highest value), or nothing."""
    newest: dict[tuple[str, int, str], tuple[int, float]] = {}
    for user, item, value, time, event_id in events:
        key, found = (user, item, event_id), (time, float("-inf") if value is None else value)
        newest[key] = max(newest.get(key, found), found)
    sums: dict[tuple[str, int], float] = {}
    for (user, item, _), (time, value) in newest.items():
        if value > float("-inf") and (since is None or time >= since) and (before is None or time < before):
            sums[user, item] = sums.get((user, item), 0.0) + value
    return sums


def csr(R: NDArray[Any], W: NDArray[Any] | None = None) -> tuple[NDArray[Any], ...]:
    """offsets, items, values, weights of a dense matrix with NaN where there is no rating."""
    seen = ~np.isnan(R)
    users, items = np.nonzero(seen)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(users, minlength=len(R))))).astype(np.int64)
    weights = np.ones(len(items), np.float32) if W is None else W[seen].astype(np.float32)
    return offsets, items.astype(np.int32), R[seen].astype(np.float32), weights


def split_rows(
    offsets: NDArray[Any],
    items: NDArray[Any],
    values: NDArray[Any],
    weights: NDArray[Any] | None = None,
    *,
    users_per_block: int = 5,
) -> pa.Table:
    """Rows of split blocks of users in order, nothing held out; users without ratings stay."""
    rows = []
    for block, first in enumerate(range(0, len(offsets) - 1, users_per_block)):
        own = offsets[first : first + users_per_block + 1]
        inside = slice(own[0], own[-1])
        dictionary, codes = pack_values(values[inside])
        rows.append(
            {
                c.BUCKET: 0,
                c.BLOCK: block,
                c.USER_IDS: [str(first + u) for u in range(len(own) - 1)],
                c.OFFSETS: (own - own[0]).tobytes(),
                c.ITEMS: pack_items(items[inside]).tobytes(),
                c.VALUES: codes.tobytes(),
                c.DICTIONARY: dictionary.tobytes(),
                c.WEIGHTS: b"" if weights is None else weights[inside].tobytes(),
                c.HELD_OFFSETS: np.zeros(len(own), np.int64).tobytes(),
                c.HELD_ITEMS: b"",
                c.HELD_VALUES: b"",
            }
        )
    return pa.Table.from_pylist(rows)
