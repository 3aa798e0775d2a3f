"""Numbers of a judgement: ranking metrics of one user each, catalogue metrics, errors, and the paired bootstrap.

NumPy only. U users, lists of K item positions padded with -1, I items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lists = NDArray[np.int32]
PerUser = NDArray[np.float64]

_DRAWS_AT_ONCE = 200_000  # bootstrap draws held in memory: they stay in cache


def find_hits(lists: Lists, held_offsets: NDArray[np.int64], held_items: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which entries of the lists are held-out items of the same user.

    Args:
        lists: (U, K) item positions, best first, padded with -1.
        held_offsets: (U + 1,) where each user's held-out items start.
        held_items: (H,) their positions, without repeats within a user.

    Returns:
        (U, K) bool.
    """
    width = max(int(lists.max(initial=-1)), int(held_items.max(initial=0))) + 1
    owners = np.repeat(np.arange(len(held_offsets) - 1), np.diff(held_offsets))
    held = owners * width + held_items.astype(np.int64)
    keys = np.arange(len(lists))[:, None] * width + lists.astype(np.int64)
    return np.isin(keys, held) & (lists >= 0)


def ndcg_at_k(hits: NDArray[np.bool_], n_held: NDArray[np.integer]) -> PerUser:
    """Normalised discounted cumulative gain of each user, binary gains (Järvelin & Kekäläinen 2002).

    Args:
        hits: (U, k) from :func:`find_hits`.
        n_held: (U,) held-out items of each user, also those no model can know.

    Returns:
        (U,) in [0, 1]; NaN for a user without held-out items.
    """
    discounts = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.append(np.nan, np.cumsum(discounts))[np.minimum(n_held, hits.shape[1])]
    return np.asarray(hits @ discounts / ideal)


def recall_at_k(hits: NDArray[np.bool_], n_held: NDArray[np.integer]) -> PerUser:
    """Share of each user's held-out items that the list holds; (U,), NaN without held-out items."""
    return np.asarray(hits.sum(axis=1) / np.where(n_held > 0, n_held, np.nan))


def average_precision(hits: NDArray[np.bool_], n_held: NDArray[np.integer]) -> PerUser:
    """Mean precision at the ranks of the hits, over ``min(n_held, k)``; (U,), NaN without held-out items."""
    k = hits.shape[1]
    precisions = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    return np.asarray((precisions * hits).sum(axis=1) / np.where(n_held > 0, np.minimum(n_held, k), np.nan))


def count_exposures(lists: Lists, n_items: int) -> NDArray[np.int64]:
    """How often each item is listed; (I,)."""
    return np.bincount(lists[lists >= 0], minlength=n_items)


def coverage(exposures: NDArray[np.int64]) -> float:
    """Share of the catalogue that is in any list."""
    return float(np.mean(exposures > 0)) if len(exposures) else 0.0


def gini(exposures: NDArray[np.int64]) -> float:
    """Gini coefficient of the exposures: 0 when all items are listed equally often, near 1 when one takes all."""
    total, n_items = exposures.sum(), len(exposures)
    if total == 0:
        return 0.0
    ranks = np.arange(1, n_items + 1)
    return float(2 * (ranks * np.sort(exposures)).sum() / (n_items * total) - (n_items + 1) / n_items)


def novelty(exposures: NDArray[np.int64], popularity: NDArray[np.integer]) -> float:
    """Mean self-information of a listed item in bits (Vargas & Castells 2011), add-one smoothed for unrated items."""
    total = exposures.sum()
    if total == 0:
        return 0.0
    information = -np.log2((popularity + 1) / (popularity.sum() + len(popularity)))
    return float((exposures * information).sum() / total)


def rmse(predicted: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Root mean square error; NaN without pairs."""
    return float(np.sqrt(np.mean((predicted - actual) ** 2, dtype=np.float64))) if len(actual) else float("nan")


def mae(predicted: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Mean absolute error; NaN without pairs."""
    return float(np.mean(np.abs(predicted - actual), dtype=np.float64)) if len(actual) else float("nan")


@dataclass(frozen=True)
class Interval:
    """A difference of means and the interval it lies in."""

    difference: float
    low: float
    high: float


def paired_bootstrap(left: PerUser, right: PerUser, *, samples: int, confidence: float, seed: int = 0) -> Interval:
    """Percentile interval of ``mean(left - right)`` over resampled users (Efron 1979).

    Each of the ``samples`` draws as many users as there are, with replacement, and takes both values of a
    user together: what users have in common cancels out.

    Args:
        left: (U,) a metric of each user.
        right: (U,) the same metric of the same users from another model.
        samples: number of resamplings.
        confidence: share of them inside the interval.
        seed: same seed and values, same interval.
    """
    differences = np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)
    n_users = len(differences)
    if n_users == 0 or not np.isfinite(differences).all():
        return Interval(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    means = np.empty(samples)
    step = max(1, _DRAWS_AT_ONCE // n_users)
    for start in range(0, samples, step):
        drawn = random.integers(n_users, size=(min(step, samples - start), n_users))
        means[start : start + len(drawn)] = differences.take(drawn).mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high))
