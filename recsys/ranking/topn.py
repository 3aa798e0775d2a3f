"""Exact top-N of a block of users, without what they have rated.

One matrix product gives the affinities of a few hundred users to all items; one pass over each row keeps the
best N. Nothing is ever laid out as one row a (user, item) pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.als.kernels import compiled

_AFFINITIES_AT_ONCE = 8_000_000  # float32 values of one product: 32 MB
# Of the search for a bound: groups for each place on a list, at least, and items compared before the next branch.
_GROUPS_A_PLACE = 3
_FEWEST_GROUPS = 256
_LANES = 16
_AT_ONCE = 128

# Positions (U, n) int32, best first, padded with -1, and scores (U, n) float32, padded with -inf.
TopN = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Scorer:
    """How affinities become scores: ``weight * x_u.q_i + prior_i``, or ``fallback_i`` for a user nobody knows.

    Attributes:
        weight: of the affinities.
        prior: float32 (I,), the part of the score that all users share; -inf: never listed.
        fallback: float32 (I,), the same for users without factors.
    """

    weight: float
    prior: NDArray[np.float32]
    fallback: NDArray[np.float32]


def list_users(
    item_factors: NDArray[np.float32],
    x: NDArray[np.float32],
    seen_offsets: NDArray[np.int64],
    seen_items: NDArray[np.integer],
    scorers: Sequence[Scorer],
    n: int,
) -> list[TopN]:
    """List each user's N best items by every scorer; the affinities are computed once for all of them.

    A user whose factors are all zero or not finite is unknown: his scores are the fallback's. Seen items, and items
    whose score is not finite, are never listed; of equal scores the lower position comes first. A list equals a user's
    scores sorted and cut.

    Args:
        item_factors: (I, rank).
        x: (U, rank), user factors.
        seen_offsets: (U + 1,) where each user's seen items start.
        seen_items: (N,) their positions, in any order.
        scorers: what to rank by.
        n: length of a list, at least 1.

    Returns:
        For each scorer positions (U, n) int32, best first, padded with -1, and scores (U, n), padded with -inf.

    Raises:
        ValueError: n below 1, or a seen item outside the catalogue.
    """
    n_users, n_items = len(x), len(item_factors)
    is_known: NDArray[np.bool_] = np.logical_and(np.isfinite(x).all(axis=1), x.any(axis=1))
    known_x = np.where(is_known[:, None], x, np.float32(0))
    seen_offsets, seen_items = _check_seen(seen_offsets, seen_items, n_items)
    lists = [_empty_lists(n_users, n) for _ in scorers]
    is_personal = any(scorer.weight for scorer in scorers)
    step = max(1, _AFFINITIES_AT_ONCE // max(1, n_items))
    for first in range(0, n_users, step):
        part = slice(first, first + step)
        rows = known_x[part]
        affinities = rows @ item_factors.T if is_personal else np.zeros((len(rows), n_items), np.float32)
        for scorer, (positions, scores) in zip(scorers, lists, strict=True):
            _top_n(
                affinities,
                np.float32(scorer.weight),
                np.stack((scorer.fallback, scorer.prior)),
                is_known[part],
                seen_offsets[first : first + len(rows) + 1],
                seen_items,
                positions[part],
                scores[part],
            )
    return lists


def _empty_lists(n_users: int, n: int) -> TopN:
    if n < 1:
        raise ValueError(f"a list of {n} items; ask for at least one.")
    return np.full((n_users, n), -1, dtype=np.int32), np.full((n_users, n), -np.inf, dtype=np.float32)


def _check_seen(
    offsets: NDArray[np.int64], items: NDArray[np.integer], n_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The arrays in the types the kernel is compiled for; it does not check bounds itself."""
    if len(items) and not 0 <= int(items.min()) <= int(items.max()) < n_items:
        raise ValueError(f"seen items at positions {items.min()} to {items.max()}, but there are {n_items} items.")
    return np.ascontiguousarray(offsets, dtype=np.int64), np.ascontiguousarray(items, dtype=np.int32)


@compiled
def _find_bound(row: NDArray[np.float32], n: int, best_of: NDArray[np.float32]) -> np.float32:
    """A score that the best N of a row reach, and hardly any others; -inf for rows too short to tell.

    Items are dealt into groups. The best of each group are that many different items, so the N-th largest of them is
    no larger than the N-th largest of all. Scores that are not finite are not listed, and do not count.

    Args:
        row: (I,), scores.
        n: N.
        best_of: (G,), G above N; overwritten.
    """
    n_groups = len(best_of)
    if len(row) < 2 * n_groups:
        return np.float32(-np.inf)
    best_of[:] = np.float32(-np.inf)
    for first in range(0, len(row) - n_groups + 1, n_groups):
        dealt = row[first : first + n_groups]
        for g in range(n_groups):
            best_of[g] = dealt[g] if best_of[g] < dealt[g] < np.float32(np.inf) else best_of[g]
    bound: np.float32 = np.partition(best_of, n_groups - n)[n_groups - n]
    return bound


@compiled
def _top_n(
    affinities: NDArray[np.float32],
    weight: np.float32,
    priors: NDArray[np.float32],
    which: NDArray[np.bool_],
    seen_offsets: NDArray[np.int64],
    seen_items: NDArray[np.int32],
    positions: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> None:
    """Fill the lists of U users with ``weight * affinities[u] + priors[which[u]]``, float32.

    All N listed items reach the bound that is found first, and hardly any others do: items among which nobody reaches
    it are passed over, sixteen comparisons at a time. What reaches it is inserted into a sorted list, which beats a
    heap for lists of up to hundreds.
    """
    n_users, n_items = affinities.shape
    n = positions.shape[1]
    lowest, highest = np.float32(-np.inf), np.float32(np.inf)
    n_groups = max(_FEWEST_GROUPS, -(-_GROUPS_A_PLACE * n // _LANES) * _LANES)
    best_of = np.empty(n_groups, np.float32)
    # Kept, because a sum that is computed again may be rounded otherwise and then miss its own bound.
    row = np.empty(n_items, np.float32)
    for u in range(n_users):
        affinity, prior = affinities[u], priors[np.int64(which[u])]
        for i in range(n_items):
            row[i] = weight * affinity[i] + prior[i]
        for j in range(seen_offsets[u], seen_offsets[u + 1]):
            row[seen_items[j]] = lowest
        bound = _find_bound(row, n, best_of)
        listed = 0
        for first in range(0, n_items, _AT_ONCE):
            few = row[first : first + _AT_ONCE]
            promising = 0
            for i in range(len(few)):
                promising += few[i] >= bound
            if promising == 0:
                continue
            for i in range(len(few)):
                score = few[i]
                # Written so that NaN fails it. A full list takes what is better than its last only.
                if score >= bound and lowest < score < highest and (listed < n or score > bound):
                    listed = min(listed + 1, n)
                    slot = listed - 1
                    while slot > 0 and scores[u, slot - 1] < score:
                        scores[u, slot] = scores[u, slot - 1]
                        positions[u, slot] = positions[u, slot - 1]
                        slot -= 1
                    scores[u, slot] = score
                    positions[u, slot] = first + i
                    if listed == n:
                        bound = scores[u, n - 1]
