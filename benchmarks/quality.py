"""How good factors are, the same for everybody: held-out RMSE and NDCG@10, and the implicit loss.

Judged are the users of a sample with their held-out ratings, drawn again from the generator, so a judge needs neither
Spark nor the data in memory.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import data
from recsys.als.kernels import compiled
from recsys.als.model import FactorModel, solve_users
from recsys.als.params import AlsParams
from recsys.evaluation import metrics
from recsys.ranking.topn import Scorer, list_users

CUT: Final = 10  # of NDCG
# Equal quality: what may be left to the rival's, below what different summation orders do to the same fit.
RMSE_SLACK: Final = 5e-5
LOSS_SLACK: Final = 1e-4  # as a share
NDCG_SLACK: Final = 1e-3

_THREADS: Final = 2
_USERS_A_TASK: Final = 512


@dataclass(frozen=True)
class Factors:
    """A finished factorization (U users of the world, I items).

    Attributes:
        users: float32 (U, K).
        items: float32 (I, K).
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]


class Judge:
    """Held-out ratings of a sample of users, and what was observed of these users."""

    def __init__(self, world: data.World, params: AlsParams, *observed: int, most_ratings: int = 2_000_000) -> None:
        """Draw the sample (no Spark job).

        Args:
            world: all of it.
            params: the problem; its objective decides what is measured.
            observed: the parts that fits see.
            most_ratings: of the sampled users, about; they are solved exactly after every sweep.
        """
        stride = max(1, round(world.shape.n_ratings / most_ratings))
        chunk = data.generate(world, np.arange(0, world.shape.n_users, stride, dtype=np.int64))
        n_held = np.diff(chunk.take(data.HELD).offsets)
        self.users: NDArray[np.int64] = chunk.users[n_held > 0]
        chunk = data.generate(world, self.users)
        self._observed = chunk.take(*observed)
        self._held = chunk.take(data.HELD)
        self._objective = params.objective
        if len(self.users) == 0:
            raise ValueError(f"no user of {world.shape} has a held-out rating. Raise the size or held_share.")

    @property
    def n_held(self) -> int:
        """Held-out ratings in the sample."""
        return len(self._held.items)

    def judge_model(self, model: FactorModel) -> dict[str, float]:
        """Fold the sample's users in, as the product does, and measure (two threads)."""
        starts = range(0, len(self.users), _USERS_A_TASK)
        with ThreadPoolExecutor(_THREADS) as pool:
            solved = list(pool.map(lambda first: self._solve(model, first), starts))
        return self.judge(np.concatenate(solved), model.item_factors)

    def judge(self, x: NDArray[np.float32], items: NDArray[np.float32]) -> dict[str, float]:
        """``rmse`` if explicit, ``ndcg`` if implicit; x: float32 (sampled users, K), items: float32 (I, K)."""
        if self._objective == "explicit":
            predicted = np.sum(x[self._held.owners()] * items[self._held.items], axis=1)
            return {"rmse": metrics.rmse(predicted, self._held.values)}
        by_product = Scorer(1.0, np.zeros(len(items), np.float32), np.zeros(len(items), np.float32))
        [(lists, _)] = list_users(
            np.ascontiguousarray(items), x, self._observed.offsets, self._observed.items, [by_product], CUT
        )
        hits = metrics.find_hits(lists, self._held.offsets, self._held.items)
        return {"ndcg": float(np.mean(metrics.ndcg_at_k(hits, np.diff(self._held.offsets))))}

    def judge_factors(self, factors: Factors) -> dict[str, float]:
        """Measure a rival's factors of all users."""
        return self.judge(np.ascontiguousarray(factors.users[self.users]), factors.items)

    def _solve(self, model: FactorModel, first: int) -> NDArray[np.float32]:
        offsets = self._observed.offsets[first : first + _USERS_A_TASK + 1]
        own = slice(int(offsets[0]), int(offsets[-1]))
        values = self._observed.values[own]
        ratings = offsets - offsets[0], self._observed.items[own], values, np.ones_like(values)
        return solve_users(model, *ratings).x


def implicit_loss(ratings: data.Ratings, factors: Factors, params: AlsParams) -> float:
    """The loss of Hu, Koren & Volinsky 2008, eq. 3, regularisation included, of any factors.

    ``sum_obs (1 + c)(1 - s)^2 - s^2 + a0 sum_all s^2 + reg (sum_u n_u^nu |x_u|^2 + sum_i n_i^nu |q_i|^2)`` with
    ``c = alpha r`` and, as the engine's problem has it, the observed part weighing ``c s^2 - 2 (1 + c) s + (1 + c)``.

    Args:
        ratings: what was fitted, all above 0.
        factors: of all users and items.
        params: of the problem.
    """
    x, q = factors.users.astype(np.float64), factors.items.astype(np.float64)
    observed = _observed_loss(
        factors.users, factors.items, ratings.offsets, ratings.items, ratings.values, params.alpha
    )
    n_users = np.diff(ratings.offsets)
    n_items = np.bincount(ratings.items, minlength=len(q))
    users = np.where(n_users > 0, n_users.astype(np.float64) ** params.reg_exponent, 0.0) @ np.sum(x * x, axis=1)
    items = np.where(n_items > 0, n_items.astype(np.float64) ** params.reg_exponent, 0.0) @ np.sum(q * q, axis=1)
    everywhere = params.unobserved_weight * float(np.sum((x.T @ x) * (q.T @ q)))
    return float(observed + everywhere + params.reg * (users + items))


def reached(found: dict[str, float], goal: dict[str, float]) -> bool:
    """Whether a measurement is as good as the rival's in every number that both have."""
    return all(
        (
            found["rmse"] <= goal["rmse"] + RMSE_SLACK if "rmse" in goal else True,
            found["loss"] <= goal["loss"] * (1 + LOSS_SLACK) if "loss" in goal else True,
            found["ndcg"] >= goal["ndcg"] - NDCG_SLACK if "ndcg" in goal else True,
        )
    )


@compiled
def _observed_loss(
    x: NDArray[np.float32],
    q: NDArray[np.float32],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    alpha: float,
) -> float:
    total = 0.0
    for u in range(len(offsets) - 1):
        for j in range(offsets[u], offsets[u + 1]):
            s = 0.0
            for p in range(x.shape[1]):
                s += np.float64(x[u, p]) * q[items[j], p]
            confidence = alpha * values[j]
            total += confidence * s * s - 2.0 * (1.0 + confidence) * s + 1.0 + confidence
    return total
