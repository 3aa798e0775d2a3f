"""Compiled inner loops: one block's users against fixed items, and the block's share of all items' sums.

One form for both objectives (docs/architecture.md, ALS): a rating has a weight ``w`` and a weighted target ``b``,

* explicit: ``b = w t``; the normal equations of a user are ``(sum w q q' + reg I) x = sum b q``;
* implicit (Hu, Koren & Volinsky 2008, eq. 4): ``w = c``, ``b = (1 + c) p``, and ``gram = Q'Q`` is added on the left.

Shapes: U users and N ratings in the block, I items, K features (rank, and one more with biases). ``offsets``: int64
(U + 1,); ``items``: int32 (N,); ``w``, ``b``: float32 (N,). Arithmetic is float64 per user, stored as float32.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

# Sums may be reassociated, which lets dot products use vector registers; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def compiled(kernel: _Kernel) -> _Kernel:
    """Compile a loop with numba, without the GIL; arguments as annotated."""
    # Compiled code is kept beside this file, or in the user's cache when that place is read-only. Inside a zip numba
    # finds no place, or one that fails on first use: ship the package unpacked, or every process compiles for itself.
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        return cast(_Kernel, numba.njit(kernel, cache=os.path.exists(__file__), **options))
    except RuntimeError:  # no writable place at all
        return cast(_Kernel, numba.njit(kernel, **options))


@compiled
def solve_exact(
    features: NDArray[np.float32],
    gram: NDArray[np.float64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    b: NDArray[np.float32],
    reg: NDArray[np.float64],
    x: NDArray[np.float32],
) -> None:
    """Solve every user's normal equations by Cholesky decomposition.

    A direction that neither ratings nor regularisation determine (``reg = 0``) gets 0 instead of a division by zero.

    Args:
        features: float32 (I, K).
        gram: float64 (K, K), added to every user's matrix.
        offsets: see the module.
        items: see the module.
        w: see the module.
        b: see the module.
        reg: float64 (U,), each user's regularisation ``lambda n_u ** nu``; negative: a user without evidence, gets 0.
        x: float32 (U, K), the result.
    """
    K = features.shape[1]
    A = np.empty((K, K))
    v = np.empty(K)
    f = np.empty(K)
    for u in range(len(offsets) - 1):
        if reg[u] < 0.0:
            for p in range(K):
                x[u, p] = 0.0
            continue
        for p in range(K):
            v[p] = 0.0
            for r in range(K):
                A[p, r] = gram[p, r]
        for j in range(offsets[u], offsets[u + 1]):
            wj, bj = np.float64(w[j]), np.float64(b[j])
            row = features[items[j]]
            for p in range(K):
                f[p] = row[p]
            for p in range(K):
                v[p] += bj * f[p]
                wf = wj * f[p]
                for r in range(p + 1):
                    A[p, r] += wf * f[r]
        for p in range(K):
            A[p, p] += reg[u]
        factorize(A)
        solve_factorized(A, v)
        for p in range(K):
            x[u, p] = v[p]


@compiled
def factorize(A: NDArray[np.float64]) -> None:
    """Cholesky decomposition of a symmetric (K, K) in place; only its lower triangle is read and overwritten.

    The diagonal keeps the inverse of the root. A direction that nothing determines gets 0, not a division by zero.
    """
    K = len(A)
    largest = 0.0
    for p in range(K):
        largest = max(largest, A[p, p])
    for p in range(K):
        for r in range(p):
            s = A[p, r]
            for t in range(r):
                s -= A[p, t] * A[r, t]
            A[p, r] = s * A[r, r]
        s = A[p, p]
        for t in range(p):
            s -= A[p, t] * A[p, t]
        A[p, p] = 1.0 / np.sqrt(s) if s > 1e-12 * largest else 0.0


@compiled
def solve_factorized(A: NDArray[np.float64], v: NDArray[np.float64]) -> None:
    """Replace ``v`` (K,) by the solution of ``A z = v``, given what `factorize` made of A."""
    K = len(v)
    for p in range(K):
        s = v[p]
        for t in range(p):
            s -= A[p, t] * v[t]
        v[p] = s * A[p, p]
    for p in range(K - 1, -1, -1):
        s = v[p]
        for t in range(p + 1, K):
            s -= A[t, p] * v[t]
        v[p] = s * A[p, p]


@compiled
def solve_cg(
    features: NDArray[np.float32],
    gram: NDArray[np.float64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    b: NDArray[np.float32],
    reg: NDArray[np.float64],
    steps: int,
    x: NDArray[np.float32],
) -> None:
    """Improve every user's factors by conjugate gradient steps from where ``x`` stands.

    Takacs, Pilaszy & Tikk 2011, "Applications of the conjugate gradient method for implicit feedback collaborative
    filtering", without a preconditioner. Arguments as in ``solve_exact``.
    """
    K = features.shape[1]
    xu = np.empty(K)
    residual = np.empty(K)
    direction = np.empty(K)
    image = np.empty(K)
    for u in range(len(offsets) - 1):
        first, last = offsets[u], offsets[u + 1]
        for p in range(K):
            xu[p] = x[u, p] if reg[u] >= 0.0 else 0.0
            residual[p] = 0.0
        if reg[u] >= 0.0:
            for j in range(first, last):
                row = features[items[j]]
                for p in range(K):
                    residual[p] += b[j] * row[p]
            _apply(features, gram, first, last, items, w, reg[u], xu, image)
            for p in range(K):
                residual[p] -= image[p]
                direction[p] = residual[p]
        size = _dot(residual, residual)
        for _ in range(steps):
            if size < 1e-20:
                break
            _apply(features, gram, first, last, items, w, reg[u], direction, image)
            step = size / _dot(direction, image)
            for p in range(K):
                xu[p] += step * direction[p]
                residual[p] -= step * image[p]
            shrunk = _dot(residual, residual)
            for p in range(K):
                direction[p] = residual[p] + shrunk / size * direction[p]
            size = shrunk
        for p in range(K):
            x[u, p] = xu[p]


@compiled
def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    s = 0.0  # numba's own np.dot needs SciPy
    for p in range(len(a)):
        s += a[p] * b[p]
    return s


@compiled
def _apply(
    features: NDArray[np.float32],
    gram: NDArray[np.float64],
    first: int,
    last: int,
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    reg: float,
    d: NDArray[np.float64],
    image: NDArray[np.float64],
) -> None:
    """``image = (gram + sum w q q' + reg I) d`` over the ratings from ``first`` to ``last``."""
    K = len(d)
    for p in range(K):
        s = reg * d[p]
        for r in range(K):
            s += gram[p, r] * d[r]
        image[p] = s
    for j in range(first, last):
        row = features[items[j]]
        s = 0.0
        for p in range(K):
            s += row[p] * d[p]
        s *= w[j]
        for p in range(K):
            image[p] += s * row[p]


@compiled
def add_item_residuals(
    y: NDArray[np.float32],
    q: NDArray[np.float32],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    b: NDArray[np.float32],
    residuals: NDArray[np.float32],
) -> float:
    """Add the block's share of all items' residuals, ``residuals[i] += sum_u (b - w y_u.q_i) y_u``.

    With ``b = 0`` and a direction for ``q`` it is the negative product of the items' matrices with that direction.

    Args:
        y: float32 (U, K), user features: the factors, and a 1 with biases.
        q: float32 (I, K), item parameters.
        offsets: see the module.
        items: see the module.
        w: see the module.
        b: see the module.
        residuals: float32 (I, K), added to.

    Returns:
        ``sum w s**2 - 2 b s`` over the block's ratings, ``s = y_u.q_i``: the loss but for its constant.
    """
    K = q.shape[1]
    loss = 0.0
    for u in range(len(offsets) - 1):
        yu = y[u]
        for j in range(offsets[u], offsets[u + 1]):
            i = items[j]
            qi = q[i]
            s = np.float32(0.0)
            for p in range(K):
                s += yu[p] * qi[p]
            loss += (w[j] * s - np.float32(2.0) * b[j]) * s
            e = b[j] - w[j] * s
            ri = residuals[i]
            for p in range(K):
                ri[p] += e * yu[p]
    return loss


@compiled
def add_item_matrices(
    y: NDArray[np.float32],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    w: NDArray[np.float32],
    matrices: NDArray[np.float32],
) -> None:
    """Add the block's share of all items' matrices, ``sum_u w y_u y_u'``.

    Args:
        y: float32 (U, K), user features.
        offsets: see the module.
        items: see the module.
        w: see the module.
        matrices: float32 (I, K (K + 1) / 2), added to; lower triangles, row after row.
    """
    K = y.shape[1]
    outer = np.empty(K * (K + 1) // 2, np.float32)
    for u in range(len(offsets) - 1):
        at = 0
        for p in range(K):
            for r in range(p + 1):
                outer[at] = y[u, p] * y[u, r]
                at += 1
        for j in range(offsets[u], offsets[u + 1]):
            matrix = matrices[items[j]]
            wj = w[j]
            for t in range(len(outer)):
                matrix[t] += wj * outer[t]


@compiled
def solve_packed(
    matrices: NDArray[np.float64],
    gram: NDArray[np.float64],
    reg: NDArray[np.float64],
    v: NDArray[np.float64],
) -> None:
    """Replace every row of ``v`` by the solution of ``(matrix_i + gram + reg_i I) z = v_i``.

    Args:
        matrices: float64 (I, K (K + 1) / 2), lower triangles, row after row.
        gram: float64 (K, K).
        reg: float64 (I,).
        v: float64 (I, K), right-hand sides, overwritten.
    """
    K = v.shape[1]
    A = np.empty((K, K))
    for i in range(len(v)):
        at = 0
        for p in range(K):
            for r in range(p + 1):
                A[p, r] = matrices[i, at] + gram[p, r]
                at += 1
            A[p, p] += reg[i]
        factorize(A)
        solve_factorized(A, v[i])
