"""Passes over user blocks in Spark: one that solves all users and adds up the items' sums, and a shorter one.

Blocks stay where they are. A pass sends the item factors to every task by broadcast and brings back one part of the
items' sums from every task (recsys.blocks.partials); nothing about a user is joined or shuffled. Users' factors travel
beside the blocks: a pass leaves one element a block, in the blocks' order and partitions, and a later pass reads both
by a zip, which moves nothing between tasks and is recomputed from the blocks when a task is retried elsewhere.

Passes run on RDDs of packed blocks and not by ``mapInArrow``: planning a query and starting it costs 0.2 to 0.4 s a
pass on two busy cores where this costs 0.05 to 0.1 s (measured, 90,000 ratings), and DataFrames have no zip.

Limits: a task holds one I x K part of the sums (float32) and shares one broadcast of the factors, the driver a few
I x K arrays (float64): with 1 M items and 64 factors 256 MB, 256 MB and 2 GB.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from pyspark import RDD, Broadcast, SparkContext, StorageLevel
from pyspark.serializers import BatchedSerializer, CPickleSerializer
from pyspark.sql import DataFrame, Row

from recsys import columns as c
from recsys.als.items import Matrix
from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.als.sums import RatingSums, UserHalf, UserSums, add_image, count_block, ratings_of
from recsys.blocks.codec import CodedRatings
from recsys.blocks.partials import Part, sum_parts

BLOCKS_OF_A_FIT: Final = "user blocks of a fit"  # as Spark's pages and status name them
_CHECKPOINT_SWEEPS: Final = 5

# A packed block, or None at the end of a partition: there a pass leaves its part of the sums.
_Packed = dict[str, Any] | None


class BlockPasses:
    """The packed blocks of a fit, kept in the executors' memory, and the passes over them.

    Use it as a context manager: it keeps the blocks until it is closed.
    """

    def __init__(self, split: DataFrame, n_items: int, params: AlsParams, tasks: int | None = None) -> None:
        names = (c.BUCKET, c.BLOCK, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS)
        self._n_items = n_items
        self._params = params
        self._context: SparkContext = split.sparkSession.sparkContext
        rows = split.select(*names)
        # Every task brings back a part of the sums, so more tasks than cores cost more and gain nothing.
        most = tasks or self._context.defaultParallelism
        if tasks or rows.rdd.getNumPartitions() > most:
            # In one order: users are paired with blocks by their places, and a shuffle that runs again after a loss
            # may bring the rows in another.
            rows = rows.repartition(most).sortWithinPartitions(c.BUCKET, c.BLOCK)
        self._blocks = _one_by_one(rows.rdd.mapPartitions(_pack))
        self._blocks.setName(BLOCKS_OF_A_FIT).persist(StorageLevel.MEMORY_AND_DISK)
        self._users: RDD[Any] | None = None
        self._shared: list[Broadcast[FactorModel]] = []

    def __enter__(self) -> "BlockPasses":
        return self

    def __exit__(self, *_: object) -> None:
        self._keep_users(None)
        self._blocks.unpersist()
        self._drop_shared(keep=0)

    def count_ratings(self) -> RatingSums:
        """Count and weigh all ratings (one Spark job; it also packs the blocks)."""
        n_items, params = self._n_items, self._params

        def count(blocks: Iterable[_Packed]) -> Iterator[Part]:
            totals, by_item = np.zeros(6), np.zeros((2, n_items))
            for packed in blocks:
                if packed is not None:
                    count_block(params, CodedRatings.from_row(packed), totals, by_item)
            yield totals, by_item

        totals, by_item = sum_parts(self._blocks.mapPartitions(count), [(6,), (2, n_items)])
        return ratings_of(params, totals, by_item)

    def solve_users(self, model: FactorModel, *, exact_users: bool, with_matrices: bool) -> UserHalf:
        """The user half: one pass."""
        n_features = self._params.rank + self._params.biases
        warm = not exact_users
        if self._params.objective == "implicit":
            _ = model.gram  # made once, here, and not by every task: what a model has made travels with it
        self._shared.append(self._context.broadcast(model))
        solve = _user_pass(self._shared[-1], exact_users=exact_users, with_matrices=with_matrices)
        if warm and self._users is not None:
            users = self._blocks.zip(self._users).mapPartitions(solve)
        else:
            users = self._blocks.map(_without_start).mapPartitions(solve)
        # Nobody asks for users again who are solved afresh, beside items that are solved from their matrices.
        carried = warm or not with_matrices
        if carried:
            users = _one_by_one(users).persist(StorageLevel.MEMORY_AND_DISK)
        # Warm users depend on those of the sweep before, back to the first: a lost executor would cost the whole fit.
        if warm and self._context.getCheckpointDir() and len(self._shared) > _CHECKPOINT_SWEEPS:
            users.checkpoint()
        square = (n_features, n_features)
        shapes = [(3,), square, square, (self._n_items, n_features)]
        if with_matrices:
            shapes.append((self._n_items, n_features * (n_features + 1) // 2))
        half = UserHalf.of(sum_parts(users.filter(_is_part), shapes))
        self._keep_users(users if carried else None)
        if not warm or users.isCheckpointed():
            # What users of earlier passes were solved for is needed no more: nobody is computed from them again.
            self._drop_shared(keep=1)
        return half

    def apply_ratings(self, direction: Matrix) -> Matrix:
        """``sum_u w (y_u.d_i) y_u`` for the users of the last user half: one pass."""
        params = self._params
        shared = self._context.broadcast(direction.astype(np.float32))

        def apply(pairs: Iterable[tuple[_Packed, Any]]) -> Iterator[Part]:
            image = np.zeros_like(shared.value)
            for packed, users in pairs:
                if packed is not None:
                    add_image(params, CodedRatings.from_row(packed), users, shared.value, image)
            yield (image,)

        if self._users is None:
            raise ValueError("there are no users yet: the user half comes first")
        [image] = sum_parts(self._blocks.zip(self._users).mapPartitions(apply), [direction.shape])
        shared.destroy()
        return image

    def _keep_users(self, users: "RDD[Any] | None") -> None:
        if self._users is not None:
            self._users.unpersist()
        self._users = users

    def _drop_shared(self, keep: int) -> None:
        """Destroy the older broadcasts.

        Until then they stay on the executors: a Python worker cannot read one that was unpersisted and sent again.
        """
        while len(self._shared) > keep:
            self._shared.pop(0).destroy()


def _user_pass(
    shared: "Broadcast[FactorModel]", *, exact_users: bool, with_matrices: bool
) -> Callable[[Iterable[tuple[_Packed, Any]]], Iterator[Any]]:
    """The pass of one task: every block's users, then the task's part of the sums.

    The part: what `UserSums` adds up.
    """

    def solve(pairs: Iterable[tuple[_Packed, Any]]) -> Iterator[Any]:
        sums = UserSums(shared.value, exact_users=exact_users, with_matrices=with_matrices)
        for packed, start in pairs:
            if packed is not None:
                yield sums.add(CodedRatings.from_row(packed), start)
        _settle_worker()
        yield sums.part()

    return solve


def _pack(rows: Iterable[Row]) -> Iterator[_Packed]:
    for row in rows:
        yield {name: bytes(value) if isinstance(value, bytearray) else value for name, value in row.asDict().items()}
    yield None


def _without_start(packed: _Packed) -> tuple[_Packed, None]:
    return packed, None


def _settle_worker() -> None:
    """Keep a worker's garbage collections from searching what imports and kernels left behind.

    PySpark collects after every task, and with numba loaded that takes 80 ms, twenty times a small pass (measured).
    """
    if gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()


def _is_part(element: Any) -> bool:
    return isinstance(element, tuple)


def _one_by_one(elements: "RDD[Any]") -> "RDD[Any]":
    """Serialize every element alone: a zip pairs serialized elements, and a block is large enough to travel alone."""
    return elements._reserialize(BatchedSerializer(CPickleSerializer(), 1))  # type: ignore[no-untyped-call]
