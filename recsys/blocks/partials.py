"""Sums over all blocks: every task adds up its own part, and the parts are added in a fixed order."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD

Part = tuple[NDArray[Any], ...]
Sum = tuple[NDArray[np.float64], ...]

# All parts together: below it they go straight to the driver, because a reduction would cost more than it saves.
_COLLECT_BYTES: Final = 512 * 1024**2
# What a reducer holds: one range of every part.
_REDUCE_BYTES: Final = 128 * 1024**2


def sum_parts(parts: "RDD[Part]", shapes: Sequence[tuple[int, ...]]) -> Sum:
    """Add up the parts of all tasks (one Spark job), in the order of the partitions: the same sum in every run.

    Many or large parts are cut into ranges first; a reducer then holds one range of every part, and the driver only the
    sum.

    Args:
        parts: exactly one part a partition.
        shapes: of the arrays of every part.

    Returns:
        The sums, float64, in the same shapes.
    """
    size = 8 * parts.getNumPartitions() * sum(int(np.prod(shape)) for shape in shapes)
    if size <= _COLLECT_BYTES:
        return _add(parts.collect())
    return _sum_by_range(parts, shapes, n_ranges=-(-size // _REDUCE_BYTES))


def _sum_by_range(parts: "RDD[Part]", shapes: Sequence[tuple[int, ...]], n_ranges: int) -> Sum:
    def cut(number: int, own: Iterable[Part]) -> Iterator[tuple[int, tuple[int, Part]]]:
        for part in own:
            ranges = zip(*(np.array_split(array.reshape(-1), n_ranges) for array in part), strict=True)
            for which, piece in enumerate(ranges):
                yield which, (number, piece)

    def add_in_order(pieces: Iterable[tuple[int, Part]]) -> Sum:
        return _add([piece for _, piece in sorted(pieces, key=_first)])

    ranges = parts.mapPartitionsWithIndex(cut).groupByKey(n_ranges).mapValues(add_in_order).collect()
    arrays = zip(*(piece for _, piece in sorted(ranges, key=_first)), strict=True)
    return tuple(np.concatenate(pieces).reshape(shape) for pieces, shape in zip(arrays, shapes, strict=True))


def _first(numbered: tuple[int, Any]) -> int:
    return numbered[0]


def _add(parts: Sequence[Part]) -> Sum:
    sums = tuple(array.astype(np.float64) for array in parts[0])
    for part in parts[1:]:
        for i, array in enumerate(part):
            sums[i][...] += array
    return sums
