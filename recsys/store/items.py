"""The items dictionary as fits and lists want it: in memory, by position."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys import columns as c
from recsys.store.tables import Memo, Table


@dataclass(frozen=True)
class Items:
    """All items of one version of the table; shapes (I,).

    Attributes:
        ids: item ids by position.
        batches: int64, the batch that brought each.
        available: bool, whether each may be listed.
    """

    ids: list[str]
    batches: NDArray[np.int64]
    available: NDArray[np.bool_]


_items: Memo[Items] = Memo()


def read_items(table: Table, version: int) -> Items:
    """Read one version of the items. One process reads the latest version once, however many jobs it runs.

    Raises:
        ValueError: the positions are not 0 to I - 1; the table was written by something else.
    """
    state = table.state()
    latest = state[1] == version
    known = _items.get(table, state) if latest else None
    if known is not None:
        return known
    columns = (c.POSITION, c.ITEM_ID, c.BATCH, c.AVAILABLE)
    rows: pa.Table = table.read_version(version).select(*columns).toArrow().sort_by(c.POSITION)
    positions = rows[c.POSITION].to_numpy()
    if not np.array_equal(positions, np.arange(len(positions))):
        raise ValueError(f"'{table.path}', version {version}: positions of {len(positions):,} items have gaps.")
    items = Items(rows[c.ITEM_ID].to_pylist(), rows[c.BATCH].to_numpy(), rows[c.AVAILABLE].to_numpy())
    if latest:
        _items.put(table, state, items)
    return items
