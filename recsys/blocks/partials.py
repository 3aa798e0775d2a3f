"""Sums over all blocks: every task adds up its own, and the parts are added in a fixed order.

A task's part is cut into ranges of columns (items), so that a reducer holds one range of every task and the driver only
the sum.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame

PART: Final = "part"  # the task's partition: parts are added in this order
RANGE: Final = "range"
DATA: Final = "data"
PARTIALS_SCHEMA: Final = f"{RANGE} INT, {PART} INT, {DATA} BINARY"

_RANGE_BYTES: Final = 4 * 1024**2
_COLLECT_BYTES: Final = 128 * 1024**2  # all parts together: below it, a reduction costs more than it saves


def emit_partials(total: NDArray[Any]) -> Iterator[pa.RecordBatch]:
    """Rows of one task's part of a sum; call it once at the end of a ``mapInArrow`` function.

    Args:
        total: any array; its first axis is cut into ranges.
    """
    context = TaskContext.get()
    part = context.partitionId() if context is not None else 0
    flat = total.reshape(-1)
    step = max(1, _RANGE_BYTES // total.itemsize)
    for number, start in enumerate(range(0, len(flat), step)):
        data = flat[start : start + step].tobytes()
        yield pa.RecordBatch.from_arrays(
            [pa.array([number], pa.int32()), pa.array([part], pa.int32()), pa.array([data], pa.binary())],
            [RANGE, PART, DATA],
        )


def sum_partials(partials: DataFrame, *, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.float64]:
    """Add up the parts of all tasks (one Spark job); float64, whatever the parts are.

    Args:
        partials: rows of ``PARTIALS_SCHEMA``.
        shape: of the sum.
        dtype: of the parts.
    """
    total = np.zeros(int(np.prod(shape)))
    step = max(1, _RANGE_BYTES // np.dtype(dtype).itemsize)
    rows = partials.collect()
    for row in sorted(rows, key=lambda row: (row[RANGE], row[PART])):
        data = np.frombuffer(row[DATA], dtype)
        total[row[RANGE] * step : row[RANGE] * step + len(data)] += data
    return total.reshape(shape)
