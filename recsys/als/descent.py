"""Sweep after sweep: a user half, and the item half in the way that is cheapest for the data. No Spark here.

Three ways for the items (docs/architecture.md, ALS):

* exact: the items' matrices are added up in the pass and solved; a sweep is one pass, but a long one;
* cg: conjugate gradient on all items at once, every step one more, shorter pass;
* one-pass: one step of known safe length along the preconditioned residuals, which the user pass leaves anyway.
"""

import logging
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from recsys.als.items import (
    ItemHalf,
    Matrix,
    improve_items,
    inflated_weights,
    shared_preconditioner,
    shrunk_weights,
    slowness,
    solve_items,
    step_items,
)
from recsys.als.model import FactorModel, scaled_reg
from recsys.als.params import AlsParams
from recsys.als.sums import RatingSums, UserHalf
from recsys.events import log_event

log = logging.getLogger(__name__)

# auto: both halves are exact while that is little work (ratings times features squared) and the items' matrices of one
# task (float32, bytes) are small: a pass of conjugate gradient costs Spark 0.1 to 0.3 s besides, and implicit items
# need only two to four, which is less than bringing 21 MB back from every task (measured).
_EXACT_WORK: Final = 1e9
_EXACT_BYTES: Final = {"explicit": 64 * 1024**2, "implicit": 16 * 1024**2}
# auto: beyond that one-pass, while its steps are on average less than this times shorter than they could be. Measured:
# up to 1.57 it ends where exact halves end, within 0.1 % of the loss or below; at 1.76 it ends 0.3 % above, at 1.8
# 1.6 %. Never for implicit: at 1.1 and 1.2 on MovieTweetings the loss ended 1 to 2 % below that of exact halves, but
# NDCG@10 8 to 16 % below, too.
_ONE_PASS_BELOW: Final = {"explicit": 1.6, "implicit": 0.0}
# Share of the residuals at which the items' conjugate gradient stops. Measured on MovieTweetings and ML-100K, ranks 16
# and 64, after 12 sweeps: implicit, 0.3 ends within 0.04 % of the loss of exact halves or below it, in half the passes
# of 0.01; explicit, 0.1 ends up to 10 % above where most items have few ratings and those are not centred.
_TOLERANCE: Final = {"explicit": 0.01, "implicit": 0.3}
# One-pass: of the exact half that ends the fit. It need not be better than the sweeps before it were.
_LAST_TOLERANCE: Final = 0.3
# One-pass: the share of the last sweep's move that is added to the next grows by the first figure a sweep, up to the
# second.
_MOMENTUM: Final = (0.1, 0.4)
# One-pass: after so many steps that raised the loss the rest of the fit is by conjugate gradient.
_FAILURES: Final = 2
# Users' mean square norm over the root mean square of what is to be predicted, a bias's 1 apart, once both sides are in
# balance. Measured at rank 64: 1.8 on 1 M ratings that are not centred, 1.7 to 2.2 with biases.
_BALANCED: Final = 1.8
# A loss that rises by less than this share is rounding.
_ROUNDING: Final = 1e-6


class Passes(Protocol):
    """What a fit needs of wherever the blocks are."""

    def solve_users(self, model: FactorModel, *, exact_users: bool, with_matrices: bool) -> UserHalf:
        """The user half: one pass."""
        ...

    def apply_ratings(self, direction: Matrix) -> Matrix:
        """``sum_u w (y_u.d_i) y_u``, (I, K), for the users of the last user half: one pass."""
        ...


class Descent:
    """The sweeps of one fit."""

    def __init__(self, passes: Passes, ratings: RatingSums, params: AlsParams) -> None:
        self._passes = passes
        self._ratings = ratings
        self._params = params
        self._exact_users, self._exact_items = is_exact(params, ratings)
        # One-pass: the item factors before the last step and their loss, steps since the last start, and failed ones.
        self._before: tuple[FactorModel, float] | None = None
        self._steps = 0
        self._failures = 0

    @property
    def is_unchecked(self) -> bool:
        """Whether the last sweep ended with a one-pass step, of which only a further pass tells whether it was good."""
        return self._before is not None

    def sweep(self, model: FactorModel, *, last: bool = False) -> tuple[FactorModel, float]:
        """One sweep: the user half, then the item half.

        The loss at the start of a pass comes with it. When it is above that of the sweep before, the one-pass step went
        wrong: the item factors before it are taken back, and this sweep is by conjugate gradient.

        Args:
            model: item factors to start from; zeros for items without evidence.
            last: of the fit. A one-pass fit then ends with an exact half, since no pass follows that would tell whether
                the step was good.

        Returns:
            The new item factors, and a loss: exact and cg, of the new factors with the users they were solved for;
            one-pass, of the factors the sweep began with, and the users solved for them.
        """
        users, half, loss = self._solve_users(model)
        failed = self._before is not None and loss > self._before[1] + _ROUNDING * abs(self._before[1])
        if self._before is not None and failed:
            log_event(log, "one_pass_step_taken_back", loss=loss, loss_before=self._before[1])
            model = self._before[0]
            users, half, loss = self._solve_users(model)
            self._failures += 1
        if not (failed or last) and self._steps_are_enough(half, users):
            return self._step(model, half, users, loss), loss
        tolerance = self._params.item_tolerance or _TOLERANCE[self._params.objective]
        if last and self._before is not None and not failed:
            tolerance = max(tolerance, _LAST_TOLERANCE)
        self._before, self._steps = None, 0
        if users.matrices is not None:
            q, fall = solve_items(half, users.matrices)
        else:
            weights = shrunk_weights(self._ratings.weights, self._ratings.counts, len(users.moment))
            q, fall, _ = improve_items(
                half,
                self._passes.apply_ratings,
                shared_preconditioner(half, users.moment, weights),
                steps=self._params.item_steps,
                tolerance=tolerance,
            )
        return _with_items(model, q), loss - fall

    def _step(self, model: FactorModel, half: ItemHalf, users: UserHalf, loss: float) -> FactorModel:
        """One-pass: a step of safe length, and some of the last move."""
        weights = inflated_weights(self._ratings.weights, self._ratings.counts, len(users.moment))
        q = step_items(half, shared_preconditioner(half, users.moment, weights))
        if self._before is not None:
            growth, most = _MOMENTUM
            momentum = min(growth * self._steps, most)
            q += momentum * (half.q - self._before[0].item_parameters)
        self._before, self._steps = (model, loss), self._steps + 1
        return _with_items(model, q)

    def _steps_are_enough(self, half: ItemHalf, users: UserHalf) -> bool:
        """Whether the item half is a one-pass step."""
        params, ratings = self._params, self._ratings
        if params.item_solver in ("exact", "cg") or self._exact_items or self._failures >= _FAILURES:
            return False
        if params.item_solver == "one-pass":
            return True
        return slowness(half, users.moment, ratings.weights, ratings.counts) < _ONE_PASS_BELOW[params.objective]

    def _solve_users(self, model: FactorModel) -> tuple[UserHalf, ItemHalf, float]:
        """The user half, where it leaves the items, and the loss there."""
        params, ratings = self._params, self._ratings
        users = self._passes.solve_users(model, exact_users=self._exact_users, with_matrices=self._exact_items)
        if users.rescued:
            log_event(log, "users_solved_exactly", users=users.rescued)
        q = model.item_parameters.astype(np.float64)
        reg = scaled_reg(params, ratings.counts)
        loss = users.loss + ratings.constant + float(np.maximum(reg, 0.0) @ np.sum(q * q, axis=1))
        if params.objective == "implicit":
            loss += float(np.sum(users.gram * (q.T @ q)))
        return users, ItemHalf(q, users.residuals, users.gram, reg), loss


def is_exact(params: AlsParams, ratings: RatingSums) -> tuple[bool, bool]:
    """Whether users, and whether items are solved exactly, as asked for or with ``auto`` by what it costs."""
    n_features = params.rank + params.biases
    little = ratings.n_ratings * n_features**2 <= _EXACT_WORK
    small = 4 * len(ratings.counts) * n_features * (n_features + 1) // 2 <= _EXACT_BYTES[params.objective]
    users = params.user_solver == "exact" or (params.user_solver == "auto" and little)
    items = params.item_solver == "exact" or (params.item_solver == "auto" and little and small)
    return users, items


def takes_one_pass(params: AlsParams, ratings: RatingSums) -> bool:
    """Whether a fit whose items are not exact will take one-pass steps, as far as can be told before it.

    The matrices are not known yet: users are taken for alike in all directions, and for as large as what they must
    predict asks for (`_BALANCED`).
    """
    if params.item_solver != "auto":
        return params.item_solver == "one-pass"
    K = params.rank + params.biases
    size = _BALANCED * np.sqrt(ratings.constant / max(ratings.n_ratings, 1)) + params.biases
    nothing = np.broadcast_to(0.0, (len(ratings.counts), K))
    half = ItemHalf(nothing, nothing, np.zeros((K, K)), scaled_reg(params, ratings.counts))
    return slowness(half, size / K * np.eye(K), ratings.weights, ratings.counts) < _ONE_PASS_BELOW[params.objective]


def _with_items(model: FactorModel, q: Matrix) -> FactorModel:
    """The model with other item parameters, (I, K)."""
    rank, improved = model.params.rank, np.ascontiguousarray(q, np.float32)
    biases = improved[:, rank].copy() if model.params.biases else model.item_biases
    return replace(model, item_factors=improved[:, :rank].copy(), item_biases=biases)
