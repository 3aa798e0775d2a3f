"""What one pass over blocks adds up, block after block; no Spark here.

I items, K features; shapes and letters as in recsys.als.items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.als import kernels
from recsys.als.items import Matrix
from recsys.als.model import (
    FactorModel,
    SolvedUsers,
    WeighedRatings,
    is_evidence,
    scaled_reg,
    solve_weighed,
    weigh,
    with_ones,
)
from recsys.als.params import AlsParams
from recsys.blocks.codec import CodedRatings
from recsys.blocks.partials import Part, Sum


@dataclass(frozen=True)
class RatingSums:
    """What a fit must know of its ratings before the first sweep.

    Attributes:
        n_users: users with ratings.
        n_ratings: all ratings.
        counts: float64 (I,), ratings of each item that are evidence (recsys.als.model.is_evidence).
        weights: float64 (I,), each item's total weight w.
        mean: weighted mean rating.
        constant: the loss of ratings whose prediction is 0: ``sum w t**2``, or ``sum (1 + c) p`` if implicit.
    """

    n_users: int
    n_ratings: int
    counts: NDArray[np.float64]
    weights: NDArray[np.float64]
    mean: float
    constant: float


def count_block(params: AlsParams, ratings: CodedRatings, totals: Matrix, by_item: Matrix) -> None:
    """Add a block to what `ratings_of` reads.

    Args:
        params: the problem.
        ratings: of one block.
        totals: (6,), added to: rated users, ratings, and sums of age weight, weighted rating, weighted squared rating
            and weighted target.
        by_item: (2, I), added to: counts and weights.

    Raises:
        IndexError: a position that is not below I.
    """
    n_items = by_item.shape[1]
    if len(ratings.items) and int(ratings.items.max()) >= n_items:
        raise IndexError(f"a block holds item position {int(ratings.items.max())}, the fit has {n_items} items.")
    values, weights = ratings.decoded()
    w, b = weigh(params, values, weights, 0.0)
    by_item[0] += np.bincount(ratings.items[is_evidence(params, values)], minlength=n_items)
    by_item[1] += np.bincount(ratings.items, w, minlength=n_items)
    age, r = weights.astype(np.float64), values.astype(np.float64)
    rated = np.count_nonzero(np.diff(ratings.offsets))
    totals += np.array([rated, len(r), age.sum(), age @ r, age @ np.square(r), b.sum(dtype=np.float64)])


def ratings_of(params: AlsParams, totals: Matrix, by_item: Matrix) -> RatingSums:
    """What `count_block` added up over all blocks."""
    n_users, n_ratings, weight, weighted, squared, target = (float(total) for total in totals)
    mean = weighted / weight if weight > 0 else 0.0
    centre = mean if params.biases else 0.0
    constant = target if params.objective == "implicit" else squared - centre * (2.0 * weighted - centre * weight)
    return RatingSums(int(n_users), int(n_ratings), by_item[0], by_item[1], mean, constant)


def weigh_coded(params: AlsParams, ratings: CodedRatings, mean: float) -> WeighedRatings:
    """Weigh a block's ratings: value by value where they are coded, one by one where they are not or have ages."""
    codes = ratings.codes if ratings.weights is None else None
    values, weights = ratings.decoded() if codes is None else (ratings.values, np.ones_like(ratings.values))
    w, b = weigh(params, values, weights, mean)
    counts = np.diff(ratings.offsets)
    if params.objective == "implicit":  # evidence is what has a target above 0
        counts = kernels.count_positive(ratings.offsets, codes, b)
    return WeighedRatings(ratings.offsets, ratings.items, codes, w, b, scaled_reg(params, counts))


class UserSums:
    """The user half over some blocks, and the sums that the item half needs of them.

    Attributes:
        scalars: (3,), the loss but for the items' regularisation, the loss of unobserved pairs and its constant; total
            weight; users solved exactly although steps were asked for.
        gram: (K, K), ``a0 X'X``; zeros if explicit.
        moment: (K, K), ``sum s_u y_u y_u'``.
        residuals: float32 (I, K).
        matrices: float32 (I, K (K + 1) / 2), the items' matrices; no rows if not asked for.
    """

    def __init__(self, model: FactorModel, *, exact_users: bool, with_matrices: bool) -> None:
        n_items, n_features = model.item_parameters.shape
        self._model = model
        self._exact = exact_users
        self.scalars = np.zeros(3)
        self.gram, self.moment = np.zeros((2, n_features, n_features))
        self.residuals = np.zeros((n_items, n_features), np.float32)
        self.matrices = np.zeros((n_items if with_matrices else 0, n_features * (n_features + 1) // 2), np.float32)

    def add(self, block: CodedRatings, start: SolvedUsers | None) -> SolvedUsers:
        """Solve a block's users and add them.

        Args:
            block: all positions below I.
            start: the users' last factors, to take steps from; None: zeros.
        """
        model, params = self._model, self._model.params
        ratings = weigh_coded(params, block, model.mean)
        n_users = len(ratings.reg)
        if self._exact:
            start = None
        elif start is None:
            start = SolvedUsers(np.zeros((n_users, params.rank), np.float32), np.zeros(n_users, np.float32))
        solved = solve_weighed(model, ratings, start=start, residuals=self.residuals)
        x, biases = solved.users.x, solved.users.biases
        norms = np.einsum("up,up->u", x, x, dtype=np.float64) + np.square(biases, dtype=np.float64)
        self.scalars += (
            solved.loss + np.maximum(ratings.reg, 0.0) @ norms,
            solved.weights.sum(dtype=np.float64),
            solved.rescued,
        )
        y = with_ones(params, x)
        # A few thousand users in float32: what is lost is less than what the factors' own rounding leaves.
        if params.objective == "implicit":
            self.gram += params.unobserved_weight * (y.T @ y)
        self.moment += (y.T * solved.weights) @ y
        if len(self.matrices):
            kernels.add_item_matrices(y, ratings.offsets, ratings.items, ratings.codes, ratings.w_of, self.matrices)
        return solved.users

    def part(self) -> Part:
        """What this task leaves to be added to the others'."""
        part = (self.scalars, self.gram, self.moment, self.residuals)
        return (*part, self.matrices) if len(self.matrices) else part


@dataclass(frozen=True)
class UserHalf:
    """The sums of all tasks, float64; shapes as in `UserSums`.

    Attributes:
        loss: but for the items' regularisation, the loss of unobserved pairs and the constant of `RatingSums`.
        rescued: users solved exactly although steps were asked for.
        gram: (K, K).
        moment: (K, K), C: ``sum s_u y_u y_u' / sum s_u``.
        residuals: (I, K).
        matrices: (I, K (K + 1) / 2); None if not asked for.
    """

    loss: float
    rescued: int
    gram: Matrix
    moment: Matrix
    residuals: Matrix
    matrices: Matrix | None

    @classmethod
    def of(cls, sums: Sum) -> "UserHalf":
        """From the sums of `UserSums.part` over all tasks."""
        (loss, weight, rescued), gram, moment, residuals, *matrices = sums
        moment = moment / max(float(weight), np.finfo(np.float64).tiny)
        return cls(float(loss), int(rescued), gram, moment, residuals, matrices[0] if matrices else None)


def add_image(
    params: AlsParams,
    block: CodedRatings,
    users: SolvedUsers,
    direction: NDArray[np.float32],
    image: NDArray[np.float32],
) -> None:
    """Add a block's share of ``sum_u w (y_u.d_i) y_u`` to ``image``; float32 (I, K) both."""
    ratings = weigh_coded(params, block, 0.0)
    y = with_ones(params, users.x)
    kernels.apply_ratings(y, direction, ratings.offsets, ratings.items, ratings.codes, ratings.w_of, image)
