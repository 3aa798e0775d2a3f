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
    def user_features(self) -> NDArray[np.float32]:
        """float32 (I, K): what a user's parameters are multiplied with, the factors and with biases a 1."""
        return np.ascontiguousarray(with_ones(self.params, self.item_factors), np.float32)

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """float64 (K, K): ``a0 Q'Q``, the part of all users' matrices that unobserved pairs make; 0 if explicit."""
        q = self.user_features.astype(np.float64)
        if self.params.objective == "explicit":
            return np.zeros((q.shape[1], q.shape[1]))
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
        start: the users' last factors; conjugate gradient steps are taken from there if ``user_solver`` is ``cg``.
            Without them, or with ``exact``, the solution is exact.

    Raises:
        IndexError: a position the model does not have.
    """
    if len(items) and int(items.max()) >= model.n_items:
        raise IndexError(f"item position {int(items.max())} is not below the model's {model.n_items} items.")
    w, b = weigh(model.params, values, weights, model.mean)
    return solve_weighed(model, offsets, items, w, b, user_reg(model.params, offsets, values), start=start)


def solve_weighed(
    model: FactorModel,
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    b: NDArray[np.float32],
    reg: NDArray[np.float64],
    *,
    start: SolvedUsers | None = None,
) -> SolvedUsers:
    """``solve_users`` for callers that already have ``weigh`` and ``user_reg`` of these ratings."""
    params, rank = model.params, model.params.rank
    if params.biases:
        b = b - w * model.item_biases[items]
    x = np.zeros((len(offsets) - 1, model.user_features.shape[1]), np.float32)
    if start is None or params.user_solver == "exact":
        kernels.solve_exact(model.user_features, model.gram, offsets, items, w, b, reg, x)
    else:
        x[:, :rank] = start.x
        if params.biases:
            x[:, rank] = start.biases
        kernels.solve_cg(model.user_features, model.gram, offsets, items, w, b, reg, params.cg_steps, x)
    biases = x[:, rank].copy() if params.biases else np.zeros(len(x), np.float32)
    return SolvedUsers(np.ascontiguousarray(x[:, :rank]), biases)


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
