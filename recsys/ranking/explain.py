"""Which of a user's ratings put an item on his list. No Spark here."""

import numpy as np
from numpy.typing import NDArray

from recsys.als.kernels import compiled, factorize, solve_factorized
from recsys.als.model import FactorModel, user_reg, weigh


def explain_lists(
    model: FactorModel,
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    lists: NDArray[np.int32],
    n: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the ratings that contribute most to ``x_u.q_i`` of every listed item.

    ``x_u`` is linear in the ratings' targets, ``x_u = A_u^-1 sum_j b_j q_j``, so rating j contributes exactly
    ``b_j q_i' A_u^-1 q_j`` (Hu, Koren & Volinsky 2008, eq. 7), and all of a user's ratings together ``x_u.q_i``. One
    Cholesky decomposition a user, and only his listed items are explained.

    Args:
        model: item factors.
        offsets: int64 (U + 1,) where each user's ratings start.
        items: int32 (N,) positions.
        values: float32 (N,).
        weights: float32 (N,) by age.
        lists: int32 (U, L) positions, padded with -1.
        n: ratings named for each item.

    Returns:
        The explaining items' positions int32 (U, L, n), largest contribution first, padded with -1, and their
        contributions float32 (U, L, n), padded with 0. Contributions can be negative.
    """
    w, b = weigh(model.params, values, weights, model.mean)
    if model.params.biases:
        b = b - w * model.item_biases[items]
    reg = user_reg(model.params, offsets, values)
    because = np.full((*lists.shape, n), -1, np.int32)
    contributions = np.zeros((*lists.shape, n), np.float32)
    features = model.user_features
    _explain(features, model.params.rank, model.gram, offsets, items, w, b, reg, lists, because, contributions)
    return because, contributions


@compiled
def _explain(
    features: NDArray[np.float32],
    rank: int,
    gram: NDArray[np.float64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    b: NDArray[np.float32],
    reg: NDArray[np.float64],
    lists: NDArray[np.int32],
    because: NDArray[np.int32],
    contributions: NDArray[np.float32],
) -> None:
    """Fill ``because`` and ``contributions``; arguments as in `explain_lists`."""
    K = features.shape[1]
    n = because.shape[2]
    A = np.empty((K, K))
    v = np.empty(K)
    for u in range(len(offsets) - 1):
        first, last = offsets[u], offsets[u + 1]
        if reg[u] < 0.0 or n == 0:
            continue
        A[:] = gram
        _add_ratings(A, features, items[first:last], w[first:last], reg[u])
        factorize(A)
        for slot in range(lists.shape[1]):
            i = lists[u, slot]
            if i < 0:
                break
            v[:] = 0.0
            for p in range(rank):  # without the column of the user's bias
                v[p] = features[i, p]
            solve_factorized(A, v)
            named = 0
            for j in range(first, last):
                contribution = 0.0
                for p in range(K):
                    contribution += features[items[j], p] * v[p]
                contribution *= b[j]
                place = named
                while place > 0 and contributions[u, slot, place - 1] < contribution:
                    place -= 1
                if place < n:
                    named = min(named + 1, n)
                    for behind in range(named - 1, place, -1):
                        contributions[u, slot, behind] = contributions[u, slot, behind - 1]
                        because[u, slot, behind] = because[u, slot, behind - 1]
                    contributions[u, slot, place] = contribution
                    because[u, slot, place] = items[j]


@compiled
def _add_ratings(
    A: NDArray[np.float64],
    features: NDArray[np.float32],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    reg: float,
) -> None:
    """Add ``sum w q q' + reg I`` to the lower triangle."""
    for j in range(len(items)):
        f = features[items[j]]
        for p in range(len(A)):
            wf = np.float64(w[j]) * f[p]
            for r in range(p + 1):
                A[p, r] += wf * f[r]
    for p in range(len(A)):
        A[p, p] += reg
