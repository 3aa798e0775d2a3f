"""A factorization is its item factors; users follow from them and their own ratings. No Spark here."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.als import kernels
from recsys.als.params import AlsParams


@dataclass(frozen=True)
class FactorModel:
    """Item factors and what is needed to solve users against them (I items).

    Attributes:
        params: the problem the factors solve.
        item_factors: float32 (I, rank).
        item_biases: float32 (I,); zeros without biases.
        mean: weighted mean rating, 0 without biases.
    """

    params: AlsParams
    item_factors: NDArray[np.float32]
    item_biases: NDArray[np.float32]
    mean: float

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_factors)

    @cached_property
    def item_parameters(self) -> NDArray[np.float32]:
        """float32 (I, K): what the fit chooses of every item, the factors and with biases the bias."""
        if not self.params.biases:
            return np.ascontiguousarray(self.item_factors, np.float32)
        return np.column_stack((self.item_factors, self.item_biases))

    @cached_property
    def user_features(self) -> NDArray[np.float32]:
        """float32 (I, K): what a user's parameters are multiplied with, the factors and with biases a 1."""
        return np.ascontiguousarray(with_ones(self.params, self.item_factors), np.float32)

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """float64 (K, K): ``a0 Q'Q``, the part of all users' matrices that unobserved pairs make; 0 if explicit."""
        if self.params.objective == "explicit":
            return np.zeros((self.params.rank + self.params.biases,) * 2)
        q = self.user_features.astype(np.float64)
        return self.params.unobserved_weight * (q.T @ q)

    def extended_to(self, n_items: int) -> "FactorModel":
        """The model with items added at the end.

        New items start at zero: they leave users' factors as they are, and the first item half gives them their own.

        Raises:
            ValueError: fewer items than there are; positions are never taken away.
        """
        new = n_items - self.n_items
        if new < 0:
            raise ValueError(f"the model has {self.n_items} items and cannot be cut to {n_items}.")
        return replace(
            self,
            item_factors=np.concatenate((self.item_factors, np.zeros((new, self.params.rank), np.float32))),
            item_biases=np.concatenate((self.item_biases, np.zeros(new, np.float32))),
        )

    def predict(self, users: "SolvedUsers") -> NDArray[np.float32]:
        """Scores float32 (U, I) of all items: ``x_u.q_i``, and with biases the mean and both biases added."""
        scores = users.x @ self.item_factors.T
        if self.params.biases:
            scores += users.biases[:, None] + self.item_biases[None, :] + np.float32(self.mean)
        return scores


@dataclass(frozen=True)
class SolvedUsers:
    """Users' factors against one model (U users).

    Attributes:
        x: float32 (U, rank).
        biases: float32 (U,); zeros without biases.
    """

    x: NDArray[np.float32]
    biases: NDArray[np.float32]


def initial_model(params: AlsParams, n_items: int, mean: float = 0.0) -> FactorModel:
    """Where a cold fit starts: random directions of length 1, as in Spark's ALS; the same for the same seed.

    Item i starts the same however many items follow it.
    """
    factors = np.random.default_rng(params.seed).standard_normal((n_items, params.rank), np.float32)
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    return FactorModel(params, factors, np.zeros(n_items, np.float32), mean)


def solve_users(
    model: FactorModel,
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    *,
    start: SolvedUsers | None = None,
) -> SolvedUsers:
    """Fold in: solve users against fixed items; this one function is the user half of a fit and every later use.

    Hu, Koren & Volinsky 2008, eq. 4; the regularisation of a user is ``reg * n_u ** nu``, which with nu = 1 is Spark's.
    n_u counts ratings, for the implicit objective those above 0. A user without any gets zeros.

    Args:
        model: fixed items.
        offsets: int64 (U + 1,); user u has ratings ``offsets[u]`` to ``offsets[u + 1]``.
        items: int32 (N,), positions below ``model.n_items``.
        values: float32 (N,).
        weights: float32 (N,), by age; ones when there are none.
        start: the users' last factors; conjugate gradient steps are taken from there unless ``user_solver`` is
            ``exact``. Without them the solution is exact.

    Raises:
        IndexError: a position the model does not have.
    """
    if len(items) and int(items.max()) >= model.n_items:
        raise IndexError(f"item position {int(items.max())} is not below the model's {model.n_items} items.")
    w, b = weigh(model.params, values, weights, model.mean)
    # As blocks have them, so that the kernels compiled for a pass serve here, too.
    positions: NDArray[np.uint16] | NDArray[np.uint32] = items.astype(np.uint32)
    if model.n_items <= np.iinfo(np.uint16).max + 1:
        positions = items.astype(np.uint16)
    ratings = WeighedRatings(offsets, positions, None, w, b, user_reg(model.params, offsets, values))
    return solve_weighed(model, ratings, start=start).users


@dataclass(frozen=True)
class WeighedRatings:
    """One block's ratings as the kernels take them; shapes as in recsys.als.kernels.

    Attributes:
        offsets: int64 (U + 1,).
        items: uint16 or uint32 (N,).
        codes: uint8 (N,), or None.
        w_of: float32, weight of each code, or of each rating.
        b_of: float32, weighted target of each code, or of each rating.
        reg: float64 (U,), each user's regularisation; -1 for a user without evidence.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.uint16] | NDArray[np.uint32]
    codes: NDArray[np.uint8] | None
    w_of: NDArray[np.float32]
    b_of: NDArray[np.float32]
    reg: NDArray[np.float64]


@dataclass(frozen=True)
class SolvedBlock:
    """One block's users, and what the pass that solved them found on the way.

    Attributes:
        users: their factors.
        weights: float32 (U,), each user's total weight.
        loss: of the ratings, but for regularisation and the loss of predictions of 0.
        rescued: users solved exactly because steps got nowhere.
    """

    users: SolvedUsers
    weights: NDArray[np.float32]
    loss: float
    rescued: int


def solve_weighed(
    model: FactorModel,
    ratings: WeighedRatings,
    *,
    start: SolvedUsers | None = None,
    residuals: NDArray[np.float32] | None = None,
) -> SolvedBlock:
    """``solve_users`` for ratings that are weighed already.

    Args:
        model: fixed items.
        ratings: of one block; all positions below ``model.n_items``.
        start: as in ``solve_users``.
        residuals: float32 (I, K), the block's share of the items' residuals is added.
    """
    params, rank = model.params, model.params.rank
    q = model.item_parameters
    x = np.zeros((len(ratings.offsets) - 1, q.shape[1]), np.float32)
    exact = start is None or params.user_solver == "exact"
    if start is not None and not exact:
        x[:, :rank] = start.x
        if params.biases:
            x[:, rank] = start.biases
    weights = np.empty(len(x), np.float32)
    loss, rescued = kernels.solve_users(
        q,
        model.gram,
        ratings.offsets,
        ratings.items,
        ratings.codes,
        ratings.w_of,
        ratings.b_of,
        ratings.reg,
        params.biases,
        exact,
        params.cg_steps,
        x,
        weights,
        np.empty((0, q.shape[1]), np.float32) if residuals is None else residuals,
    )
    biases = x[:, rank].copy() if params.biases else np.zeros(len(x), np.float32)
    return SolvedBlock(SolvedUsers(np.ascontiguousarray(x[:, :rank]), biases), weights, loss, rescued)


def weigh(
    params: AlsParams, values: NDArray[np.float32], weights: NDArray[np.float32], mean: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight ``w`` and weighted target ``b`` of each rating, float32 (N,) each (recsys.als.kernels).

    explicit: ``w`` is the age weight and ``b = w (r - mean)``. implicit: ``w = c = alpha |r|`` times the age weight and
    ``b = 1 + c`` where r > 0, else 0.
    """
    if params.objective == "explicit":
        return weights.copy(), weights * (values - np.float32(mean))
    c = np.float32(params.alpha) * np.abs(values) * weights
    return c, np.where(values > 0, 1 + c, np.float32(0))


def user_reg(params: AlsParams, offsets: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each user's regularisation ``reg * n_u ** nu``, float64 (U,); -1 for a user without evidence.

    n_u counts his ratings, for the implicit objective those above 0.
    """
    before = np.concatenate(([0], np.cumsum(is_evidence(params, values))))
    return scaled_reg(params, before[offsets[1:]] - before[offsets[:-1]])


def is_evidence(params: AlsParams, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which ratings count for the regularisation, bool (N,): all, for the implicit objective those above 0."""
    return values > 0 if params.objective == "implicit" else np.ones(len(values), np.bool_)


def scaled_reg(params: AlsParams, counts: NDArray[Any]) -> NDArray[np.float64]:
    """``reg * n ** nu`` of users or items with n ratings; -1 where there are none."""
    scaled = params.reg * np.asarray(counts, np.float64) ** params.reg_exponent
    return np.where(np.asarray(counts) > 0, scaled, -1.0)


def with_ones(params: AlsParams, factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features that the other side's parameters are multiplied with: the factors, and with biases a 1."""
    if not params.biases:
        return factors
    return np.column_stack((factors, np.ones(len(factors), np.float32)))
