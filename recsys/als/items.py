"""The item half of a sweep: all items at once, from sums over the users' blocks. Driver arithmetic, no Spark here.

For fixed users the loss is a quadratic in every item's parameters q_i with the matrix

    A_i = sum_u w_ui y_u y_u' + a0 X'X + lambda n_i**nu I

and a residual ``g_i = sum_u (b_ui - w_ui y_u.q_i) y_u - (a0 X'X + lambda n_i**nu I) q_i`` (half the negative gradient).
I items, K features; everything float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.als import kernels

Matrix = NDArray[np.float64]

# Groups of the preconditioner: items whose weights and regularisations lie within this factor share one inverse.
_GROUP_RATIO: Final = 2**0.5
# Length of a step of the one-pass way; it falls up to 2 while the matrices are taken for larger than they are.
_STEP: Final = 1.2
# An item whose residual has shrunk to this share (of its squared norm) is exact to rounding and stops.
_SOLVED: Final = 1e-10


@dataclass(frozen=True)
class ItemHalf:
    """What the item half of one sweep starts from.

    Attributes:
        q: (I, K), the items' parameters; zeros for items without evidence.
        residuals: (I, K), ``sum_u (b - w y_u.q_i) y_u``.
        gram: (K, K), ``a0 X'X``; zeros if explicit.
        reg: (I,), ``lambda n_i ** nu``; -1 for items without evidence, which stay as they are.
    """

    q: Matrix
    residuals: Matrix
    gram: Matrix
    reg: Matrix

    @property
    def rated(self) -> NDArray[np.bool_]:
        """Which items have evidence, bool (I,)."""
        return self.reg >= 0

    def half_gradient(self) -> Matrix:
        """``g``, (I, K): what is left to do; zeros for items without evidence."""
        g = self.residuals - self.q @ self.gram - self.reg[:, None] * self.q
        g[~self.rated] = 0.0
        return g


def solve_items(half: ItemHalf, matrices: Matrix) -> tuple[Matrix, float]:
    """The exact item half.

    Args:
        half: where it starts.
        matrices: (I, K (K + 1) / 2), ``sum_u w y_u y_u'`` of each item, lower triangles row after row.

    Returns:
        The items' new parameters (I, K), and by how much the loss falls.
    """
    g = half.half_gradient()
    d = g.copy()
    kernels.solve_packed(matrices, half.gram, np.maximum(half.reg, 0.0), d)
    d[~half.rated] = 0.0
    return half.q + d, float(np.sum(g * d))


def improve_items(
    half: ItemHalf,
    apply_ratings: Callable[[Matrix], Matrix],
    precondition: Callable[[Matrix], Matrix],
    *,
    steps: int,
    tolerance: float,
) -> tuple[Matrix, float, int]:
    """The item half by preconditioned conjugate gradient, every item its own, all in step.

    Args:
        half: where it starts.
        apply_ratings: (I, K) directions to ``sum_u w (y_u.d_i) y_u``, (I, K): one pass over all ratings.
        precondition: (I, K) residuals to preconditioned residuals.
        steps: at most so many passes.
        tolerance: stop when the preconditioned residual norm over all items has shrunk to this share.

    Returns:
        The items' new parameters (I, K), by how much the loss falls, and the steps taken.
    """
    q, g = half.q.copy(), half.half_gradient()
    z = precondition(g)
    d = z.copy()
    size = _dots(g, z)
    first = size.copy()
    fall = 0.0
    for step in range(steps):
        if size.sum() <= tolerance**2 * first.sum():
            return q, fall, step
        active = (size > _SOLVED * first) & (size > 0)
        d[~active] = 0.0
        image = apply_ratings(d) + d @ half.gram + half.reg[:, None] * d
        curvature = _dots(d, image)
        active &= curvature > 0
        length = np.divide(size, curvature, out=np.zeros_like(size), where=active)
        fall += float(length @ size)
        q += length[:, None] * d
        g -= length[:, None] * image
        z = precondition(g)
        new_size = np.where(active, _dots(g, z), 0.0)
        d = z + np.divide(new_size, size, out=np.zeros_like(size), where=active)[:, None] * d
        size = new_size
    return q, fall, steps


def _dots(a: Matrix, b: Matrix) -> Matrix:
    """The scalar product of each row, (I,)."""
    dots: Matrix = np.einsum("ik,ik->i", a, b)
    return dots


def step_items(half: ItemHalf, precondition: Callable[[Matrix], Matrix]) -> Matrix:
    """One step along the preconditioned residuals, with nothing to tell its length: the items' parameters, (I, K).

    ``precondition`` must take every item's matrix for larger than it is (`inflated_weights`).
    """
    return half.q + _STEP * precondition(half.half_gradient())


def shared_preconditioner(half: ItemHalf, moment: Matrix, weights: Matrix) -> Callable[[Matrix], Matrix]:
    """Approximate inverses of all items' matrices from one second moment that they share.

    ``A_i`` is taken for ``a0 X'X + s_i C + lambda n_i**nu I`` with C the weighted second moment of all users. Three
    different matrices have no common basis, so items are grouped by s_i and regularisation on a grid of ratio sqrt(2),
    and each group has one inverse; the grid costs at most a factor 1.2 in the condition. Applied in float32: it only
    turns the direction, and what it turns to is followed exactly.

    Args:
        half: the item half.
        moment: C, (K, K): ``sum_u s_u y_u y_u' / sum_u s_u``, s_u the user's total weight.
        weights: s, (I,): total weights, see `shrunk_weights` and `inflated_weights`.

    Returns:
        (I, K) residuals to preconditioned residuals.
    """
    K = len(moment)
    tiny = np.finfo(np.float64).tiny
    grid = np.round(np.log(np.maximum(np.stack((weights, half.reg)), tiny)) / np.log(_GROUP_RATIO))
    # Both in one number: logarithms to this base lie within 4096 of zero.
    cells, group = np.unique(grid[0] * 8192.0 + grid[1], return_inverse=True)
    s = _GROUP_RATIO ** np.round(cells / 8192.0)
    reg = _GROUP_RATIO ** (cells - 8192.0 * np.round(cells / 8192.0))
    # The last term keeps the matrix of items without evidence, or without regularisation, invertible.
    ridge = reg + 1e-9 * (np.trace(half.gram) + s * np.trace(moment)) / K + 1e-30
    matrices = half.gram + s[:, None, None] * moment + ridge[:, None, None] * np.eye(K)
    inverses = np.linalg.inv(matrices).astype(np.float32)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])

    def precondition(g: Matrix) -> Matrix:
        z = np.empty_like(g)
        for own, inverse in zip(members, inverses, strict=True):
            z[own] = g[own].astype(np.float32) @ inverse
        return z

    return precondition


def shrunk_weights(weights: Matrix, counts: Matrix, n_features: int) -> Matrix:
    """Total weights s_i for steps whose length is found by a further pass: shrunk by ``n_i / (n_i + K)``.

    The raters of a rarely rated item say little about C (measured on MovieTweetings, explicit: up to a third fewer
    steps).
    """
    return weights * counts / (counts + n_features)


def inflated_weights(weights: Matrix, counts: Matrix, n_features: int) -> Matrix:
    """Total weights s_i for a step whose length nobody checks: inflated by ``(1 + sqrt(K / n_i))**2``.

    That is the Marchenko-Pastur edge: how far the second moment of n_i raters sticks out of the one they are drawn
    from. So inflated, the shared matrix lies above the item's own, and a full step cannot raise the loss.
    """
    return weights * (1.0 + np.sqrt(n_features / np.maximum(counts, 1.0))) ** 2


def slowness(half: ItemHalf, moment: Matrix, weights: Matrix, counts: Matrix) -> float:
    """How much shorter one-pass steps are than they could be if every item's matrix were known: 1 or more.

    The mean over all ratings of the trace of the item's inflated matrix over that of the one it stands for. Near 1
    where items have many ratings for each feature, or where unobserved pairs and regularisation decide.

    Args:
        half: the item half.
        moment: C, (K, K).
        weights: s, (I,).
        counts: n, (I,).
    """
    K = len(moment)
    shared = np.trace(half.gram) + K * np.maximum(half.reg, 0.0)
    own, inflated = weights * np.trace(moment), inflated_weights(weights, counts, K) * np.trace(moment)
    ratio = (shared + inflated) / np.maximum(shared + own, np.finfo(np.float64).tiny)
    return float(counts @ ratio / max(counts.sum(), 1.0))
