"""Exact top-N of a block of users, without what they have rated.

One matrix product gives the affinities of a few hundred users to all items; one pass over each row keeps the
best N. Nothing is ever laid out as one row a (user, item) pair.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

AFFINITIES_AT_ONCE = 8_000_000  # float32 values of one product: 32 MB


def users_at_once(n_items: int) -> int:
    """How many users' affinities to all items are held at once, to keep them within 32 MB."""
    return max(1, AFFINITIES_AT_ONCE // max(1, n_items))


def top_n(
    affinities: NDArray[np.float32],
    seen_offsets: NDArray[np.int64],
    seen_items: NDArray[np.integer],
    n: int,
    *,
    prior: NDArray[np.float32] | None = None,
    weight: float = 1.0,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """List each user's N items with the highest ``weight * affinity + prior`` in float32.

    Seen items, items that are not allowed, and items whose score is not finite are never listed; of equal
    scores the lower position comes first. A running threshold (the worst score listed so far) rejects almost
    every item with one comparison, about 1 ns each; equal to sorting the whole row and cutting it.

    Args:
        affinities: (U, I).
        seen_offsets: (U + 1,) where each user's seen items start.
        seen_items: (N,) their positions, in any order.
        n: length of a list, at least 1.
        prior: (I,) the part of the score all users share.
        weight: of the affinities.
        allowed: (I,) which items may be listed at all.

    Returns:
        Positions (U, n) int32, best first, padded with -1, and their scores (U, n), padded with -inf.

    Raises:
        ValueError: n below 1, or a seen item outside the catalogue.
    """
    n_users, n_items = affinities.shape
    if n < 1:
        raise ValueError(f"a list of {n} items; ask for at least one.")
    seen = np.ascontiguousarray(seen_items, dtype=np.uint32)
    if seen.max(initial=0) >= max(n_items, 1):
        raise ValueError(f"seen item at position {seen.max()}, but there are {n_items} items.")
    shared = np.zeros(n_items, dtype=np.float32) if prior is None else prior.astype(np.float32)
    if allowed is not None:
        shared = np.where(allowed, shared, np.float32(-np.inf))
    positions = np.full((n_users, n), -1, dtype=np.int32)
    scores = np.full((n_users, n), -np.inf, dtype=np.float32)
    offsets = np.ascontiguousarray(seen_offsets, dtype=np.int64)
    _top_n(np.ascontiguousarray(affinities), np.float32(weight), shared, offsets, seen, positions, scores)
    return positions, scores


@njit(nogil=True, cache=True)
def _top_n(
    affinities: NDArray[np.float32],
    weight: np.float32,
    prior: NDArray[np.float32],
    seen_offsets: NDArray[np.int64],
    seen_items: NDArray[np.uint32],
    positions: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> None:
    """Fill ``positions`` and ``scores``; insertion into a sorted list beats a heap for lists of up to hundreds."""
    n_users, n_items = affinities.shape
    n = positions.shape[1]
    seen_by = np.full(n_items, -1, dtype=np.int64)  # the last user who has seen the item
    for u in range(n_users):
        for j in range(seen_offsets[u], seen_offsets[u + 1]):
            seen_by[seen_items[j]] = u
        listed = 0
        threshold = np.float32(-np.inf)
        for i in range(n_items):
            score = weight * affinities[u, i] + prior[i]
            # Written so that NaN fails it.
            if score > threshold and score < np.inf and seen_by[i] != u:
                listed = min(listed + 1, n)
                slot = listed - 1
                while slot > 0 and scores[u, slot - 1] < score:
                    scores[u, slot] = scores[u, slot - 1]
                    positions[u, slot] = positions[u, slot - 1]
                    slot -= 1
                scores[u, slot] = score
                positions[u, slot] = i
                if listed == n:
                    threshold = scores[u, n - 1]
