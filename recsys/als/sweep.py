"""One sweep over user blocks in Spark: a pass that solves all users and adds up the items' sums, and the item half.

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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, Broadcast, SparkContext, StorageLevel
from pyspark.serializers import BatchedSerializer, CPickleSerializer
from pyspark.sql import DataFrame, Row

from recsys import columns as c
from recsys.als import kernels
from recsys.als.items import ItemHalf, Matrix, improve_items, shared_preconditioner, solve_items
from recsys.als.model import (
    FactorModel,
    SolvedUsers,
    is_evidence,
    scaled_reg,
    solve_weighed,
    user_reg,
    weigh,
    with_ones,
)
from recsys.als.params import AlsParams
from recsys.blocks.codec import SplitBlock
from recsys.blocks.partials import Part, sum_parts

# item_solver auto: size of the items' matrices of one task (float32) beyond which the item half is by conjugate
# gradient. Implicit items need two to four passes for it, which is less than bringing 21 MB back from every task costs
# (measured); explicit items with few ratings need many more.
_EXACT_ITEMS_BYTES: Final = {"explicit": 64 * 1024**2, "implicit": 16 * 1024**2}
_CHECKPOINT_SWEEPS: Final = 5

# A packed block, or None at the end of a partition: there a pass leaves its part of the sums.
_Packed = dict[str, Any] | None


@dataclass(frozen=True)
class RatingSums:
    """What a fit must know of its ratings before the first sweep.

    Attributes:
        n_users: users with ratings.
        n_ratings: all ratings.
        counts: float64 (I,), ratings of each item that are evidence (recsys.als.model.is_evidence).
        weights: float64 (I,), each item's total weight w.
        mean: weighted mean rating.
    """

    n_users: int
    n_ratings: int
    counts: NDArray[np.float64]
    weights: NDArray[np.float64]
    mean: float


@dataclass(frozen=True)
class _UserPass:
    """One user half: the users' factors beside the blocks, and sums with shapes as in recsys.als.items."""

    factors: "RDD[Any]"
    residuals: Matrix
    gram: Matrix
    moment: Matrix
    matrices: Matrix | None
    loss: float


class BlockPasses:
    """The packed blocks of a fit, kept in the executors' memory, and the passes over them.

    Use it as a context manager: it keeps the blocks until it is closed.
    """

    def __init__(self, split: DataFrame, n_items: int, params: AlsParams) -> None:
        names = (c.BUCKET, c.BLOCK, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS)
        self._n_items = n_items
        self._params = params
        self._context: SparkContext = split.sparkSession.sparkContext
        self._blocks = _one_by_one(split.select(*names).rdd.mapPartitions(_pack))
        self._blocks.persist(StorageLevel.MEMORY_AND_DISK)
        self._users: RDD[Any] | None = None
        self._shared: list[Broadcast[FactorModel]] = []

    def __enter__(self) -> "BlockPasses":
        return self

    def __exit__(self, *_: object) -> None:
        self._keep_users(None)
        self._blocks.unpersist()
        for shared in self._shared:
            shared.destroy()

    def count_ratings(self) -> RatingSums:
        """Count and weigh all ratings (one Spark job; it also packs the blocks)."""
        n_items, params = self._n_items, self._params

        def count(blocks: Iterable[_Packed]) -> Iterator[Part]:
            totals = np.zeros(4)
            by_item = np.zeros((2, n_items))
            for block in _unpack(blocks):
                if len(block.items) and int(block.items.max()) >= n_items:
                    raise IndexError(
                        f"a block holds item position {int(block.items.max())}, the fit has {n_items} items."
                    )
                w, _ = weigh(params, block.values, block.weights, 0.0)
                evidence = block.items[is_evidence(params, block.values)]
                by_item[0] += np.bincount(evidence, minlength=n_items)
                by_item[1] += np.bincount(block.items, w, minlength=n_items)
                rated = np.count_nonzero(np.diff(block.offsets))
                weight, weighted = block.weights.sum(dtype=np.float64), block.weights.astype(np.float64) @ block.values
                totals += np.array([rated, len(block.values), weight, weighted])
            yield totals, by_item

        totals, by_item = sum_parts(self._blocks.mapPartitions(count), [(4,), (2, n_items)])
        n_users, n_ratings, weight, weighted = totals
        mean = weighted / weight if weight > 0 else 0.0
        return RatingSums(int(n_users), int(n_ratings), by_item[0], by_item[1], float(mean))

    def sweep(self, model: FactorModel, ratings: RatingSums) -> tuple[FactorModel, float]:
        """One sweep: the user half, then the item half.

        Args:
            model: item factors to start from; zeros for items without evidence.
            ratings: of the same blocks.

        Returns:
            The new item factors, and the loss of them with the users they were solved for.
        """
        params = model.params
        users = self._run_user_pass(model, with_matrices=_solves_items_exactly(params, self._n_items))
        q = _item_parameters(model).astype(np.float64)
        reg = scaled_reg(params, ratings.counts)
        half = ItemHalf(q, users.residuals, users.gram, reg)
        loss = users.loss + float(np.maximum(reg, 0.0) @ np.sum(q * q, axis=1))
        if params.objective == "implicit":
            loss += float(np.sum(users.gram * (q.T @ q)))
        # A third way belongs here: the one-pass mode, which takes one damped preconditioned step and needs no further
        # pass (docs/architecture.md, ALS).
        if users.matrices is not None:
            q, fall = solve_items(half, users.matrices)
        else:
            q, fall, _ = improve_items(
                half,
                partial(self._apply_ratings, users.factors),
                shared_preconditioner(half, users.moment, ratings.weights, ratings.counts),
                steps=params.item_steps,
                tolerance=params.item_tolerance,
            )
        improved = np.ascontiguousarray(q, np.float32)
        biases = improved[:, params.rank].copy() if params.biases else model.item_biases
        return replace(model, item_factors=improved[:, : params.rank].copy(), item_biases=biases), loss - fall

    def _run_user_pass(self, model: FactorModel, *, with_matrices: bool) -> _UserPass:
        n_features = model.user_features.shape[1]
        warm = model.params.user_solver == "cg"
        self._shared.append(self._context.broadcast(model))
        solve = _user_pass(self._shared[-1], with_matrices=with_matrices)
        if warm and self._users is not None:
            users = self._blocks.zip(self._users).mapPartitions(solve)
        else:
            users = self._blocks.map(_without_start).mapPartitions(solve)
        carried = warm or not with_matrices
        if carried:
            users = _one_by_one(users).persist(StorageLevel.MEMORY_AND_DISK)
        # Warm users depend on those of the sweep before, back to the first: a lost executor would cost the whole fit.
        if warm and self._context.getCheckpointDir() and len(self._shared) % _CHECKPOINT_SWEEPS == 0:
            users.checkpoint()
        square = (n_features, n_features)
        shapes = [(2,), square, square, (self._n_items, n_features)]
        if with_matrices:
            shapes.append((self._n_items, n_features * (n_features + 1) // 2))
        (loss, weight), gram, moment, residuals, *matrices = sum_parts(users.filter(_is_part), shapes)
        self._keep_users(users if carried else None)
        moment /= max(float(weight), np.finfo(np.float64).tiny)
        return _UserPass(users, residuals, gram, moment, matrices[0] if matrices else None, float(loss))

    def _apply_ratings(self, factors: "RDD[Any]", direction: Matrix) -> Matrix:
        """``sum_u w (y_u.d_i) y_u`` for the users of a user half: one pass."""
        params = self._params
        shared = self._context.broadcast(direction.astype(np.float32))

        def apply(pairs: Iterable[tuple[_Packed, Any]]) -> Iterator[Part]:
            image = np.zeros_like(shared.value)
            for packed, users in pairs:
                if packed is not None:
                    block = SplitBlock.from_row(packed)
                    w, _ = weigh(params, block.values, block.weights, 0.0)
                    y = with_ones(params, users.x)
                    kernels.add_item_residuals(y, shared.value, block.offsets, block.items, w, np.zeros_like(w), image)
            yield (-image,)

        [image] = sum_parts(self._blocks.zip(factors).mapPartitions(apply), [direction.shape])
        shared.destroy()
        return image

    def _keep_users(self, users: "RDD[Any] | None") -> None:
        if self._users is not None:
            self._users.unpersist()
        self._users = users
        for shared in self._shared[:-1]:
            # Taken off the executors, not destroyed: a lost partition of warm users is computed from them again.
            shared.unpersist()


def _user_pass(
    shared: "Broadcast[FactorModel]", *, with_matrices: bool
) -> Callable[[Iterable[tuple[_Packed, Any]]], Iterator[Any]]:
    """The pass of one task: every block's users, then the task's part of the sums.

    The part: loss without the items' share and total weight; ``a0 X'X``; ``sum s_u y_u y_u'``; the items' residuals;
    and with matrices the items' matrices.
    """

    def solve(pairs: Iterable[tuple[_Packed, Any]]) -> Iterator[Any]:
        model = shared.value
        params = model.params
        q = _item_parameters(model)
        n_items, n_features = q.shape
        scalars = np.zeros(2)
        gram, moment = np.zeros((2, n_features, n_features))
        residuals = np.zeros(q.shape, np.float32)
        triangle = n_features * (n_features + 1) // 2
        matrices = np.zeros((n_items if with_matrices else 0, triangle), np.float32)
        for packed, start in pairs:
            if packed is None:
                continue
            block = SplitBlock.from_row(packed)
            offsets, items = block.offsets, block.items
            w, b = weigh(params, block.values, block.weights, model.mean)
            reg = user_reg(params, offsets, block.values)
            users = solve_weighed(model, offsets, items, w, b, reg, start=start or _zeros(params, len(reg)))
            yield users
            y = with_ones(params, users.x)
            if params.biases:
                b -= w * np.repeat(users.biases, np.diff(offsets))
            total = kernels.add_item_residuals(y, q, offsets, items, w, b, residuals)
            norms = np.sum(np.square(users.x, dtype=np.float64), axis=1) + np.square(users.biases, dtype=np.float64)
            scalars[0] += total + _constant(params, w, b) + np.maximum(reg, 0.0) @ norms
            y64 = y.astype(np.float64)
            if params.objective == "implicit":
                gram += params.unobserved_weight * (y64.T @ y64)
            if with_matrices:
                kernels.add_item_matrices(y, offsets, items, w, matrices)
            else:
                s = np.add.reduceat(np.append(w, np.float32(0)), offsets[:-1], dtype=np.float64) * (
                    np.diff(offsets) > 0
                )
                scalars[1] += s.sum()
                moment += (y64.T * s) @ y64
        _settle_worker()
        part: Part = (scalars, gram, moment, residuals)
        yield (*part, matrices) if with_matrices else part

    return solve


def _solves_items_exactly(params: AlsParams, n_items: int) -> bool:
    n_features = params.rank + params.biases
    small = 4 * n_items * n_features * (n_features + 1) // 2 <= _EXACT_ITEMS_BYTES[params.objective]
    return params.item_solver == "exact" or (params.item_solver == "auto" and small)


def _constant(params: AlsParams, w: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The loss of ratings whose prediction is 0: ``sum w t**2``, or ``sum (1 + c) p`` if implicit."""
    if params.objective == "implicit":
        return float(b.sum(dtype=np.float64))
    weighted = w > 0
    return float(np.sum(np.square(b[weighted], dtype=np.float64) / w[weighted]))


def _item_parameters(model: FactorModel) -> NDArray[np.float32]:
    """float32 (I, K): the factors, and with biases the bias."""
    if not model.params.biases:
        return model.item_factors
    return np.column_stack((model.item_factors, model.item_biases))


def _zeros(params: AlsParams, n_users: int) -> SolvedUsers:
    return SolvedUsers(np.zeros((n_users, params.rank), np.float32), np.zeros(n_users, np.float32))


def _pack(rows: Iterable[Row]) -> Iterator[_Packed]:
    for row in rows:
        yield {name: bytes(value) if isinstance(value, bytearray) else value for name, value in row.asDict().items()}
    yield None


def _unpack(blocks: Iterable[_Packed]) -> Iterator[SplitBlock]:
    return (SplitBlock.from_row(packed) for packed in blocks if packed is not None)


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
