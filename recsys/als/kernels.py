"""Compiled inner loops: one block's users against fixed items, and the block's share of all items' sums.

One form for both objectives (docs/architecture.md, ALS): a rating has a weight ``w`` and a weighted target ``b``,

* explicit: ``b = w t``; the normal equations of a user are ``(sum w q q' + reg I) x = sum b q``;
* implicit (Hu, Koren & Volinsky 2008, eq. 4): ``w = c``, ``b = (1 + c) p``, and ``gram = Q'Q`` is added on the left.

Shapes: U users and N ratings in the block, I items, K features (rank, and one more with biases). ``offsets``: int64
(U + 1,); ``items``: uint16 or uint32 (N,). ``codes``: uint8 (N,) with ``w_of`` and ``b_of`` the weight and target that
a code stands for, float32 (256,); or None with ``w_of`` and ``b_of`` those of every rating, float32 (N,).
"""

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_Floats = NDArray[np.float32]

# Sums may be reassociated, which lets dot products use vector registers; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
# Rows are padded to multiples of this: what is left over of a row after full vectors costs as much as all of it.
_LANES: Final = 16
# Ratings that are taken together, so that each value of a user's vector is loaded and stored once for all of them.
_TOGETHER: Final = 4
# A step that lowers a user's loss by less than this share of what his factors already explain is rounding.
_ROUNDING: Final = 1e-10


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
def solve_users(
    q: _Floats,
    gram: NDArray[np.float64],
    offsets: NDArray[np.int64],
    items: NDArray[Any],
    codes: NDArray[np.uint8] | None,
    w_of: _Floats,
    b_of: _Floats,
    reg: NDArray[np.float64],
    biased: bool,
    exact: bool,
    steps: int,
    x: _Floats,
    weights: _Floats,
    residuals: _Floats,
) -> tuple[float, int]:
    """Solve every user of a block and add up what his ratings then leave to the items, in one pass over the ratings.

    A user's item rows are gathered once into a small buffer that everything else reads. He is solved exactly, or
    improved from where ``x`` stands by conjugate gradient (Takacs, Pilaszy & Tikk 2011, "Applications of the conjugate
    gradient method for implicit feedback collaborative filtering") in float32. Here the predictions follow the steps,
    so that the ratings' residuals cost no further product. Where steps shrink nothing in float32, which happens when
    the rows of a user with many ratings are badly scaled and lambda is tiny, the user is solved exactly instead.

    Args:
        q: (I, K), item parameters: factors, and with biases the bias in the last column.
        gram: (K, K), added to every user's matrix.
        offsets: see the module.
        items: see the module.
        codes: see the module.
        w_of: see the module.
        b_of: see the module.
        reg: (U,), each user's regularisation ``lambda n_u ** nu``; negative: a user without evidence, gets 0.
        biased: the last of a user's parameters is his bias, which is multiplied with 1 and not with the item's.
        exact: solve by Cholesky decomposition in float64.
        steps: of conjugate gradient, if not exact; 0 leaves ``x`` as it is.
        x: (U, K), start and result.
        weights: (U,), the result ``s_u = sum_i w_ui``.
        residuals: (I, K), ``sum_u (b - w s) y_u`` is added, ``s`` the prediction and y_u the user's factors, and a 1
            with biases; no rows: nothing is added.

    Returns:
        ``sum w s**2 - 2 b s`` over the block's ratings: the loss but for regularisation and its constant; and how many
        users had to be solved exactly although steps were asked for.
    """
    U, K = x.shape
    P = -(-K // _LANES) * _LANES
    longest = 0
    for u in range(U):
        longest = max(longest, offsets[u + 1] - offsets[u])
    longest = -(-longest // _TOGETHER) * _TOGETHER
    rows = np.zeros((longest, P), np.float32)
    by_rating, by_feature = np.zeros((4, longest), np.float32), np.zeros((4, P), np.float32)
    w, b, s, t = by_rating[0], by_rating[1], by_rating[2], by_rating[3]
    xu = by_feature[0]
    gram32 = np.zeros((P, P), np.float32)
    gram32[:K, :K] = gram
    with_gram = bool(np.any(gram != 0.0))
    A, v, four = np.empty((K, K)), np.empty(K), np.empty((_TOGETHER, K))
    loss, rescued = 0.0, 0
    for u in range(U):
        first, last = offsets[u], offsets[u + 1]
        m = -(-(last - first) // _TOGETHER) * _TOGETHER
        weights[u], constant = _gather(q, first, last, items, codes, w_of, b_of, biased, rows, w, b)
        for p in range(K):
            xu[p] = 0.0 if exact or reg[u] < 0.0 else x[u, p]
        if not exact or reg[u] < 0.0:
            _predict(rows, m, xu, s)
        if reg[u] >= 0.0:
            solved = not exact and (
                steps == 0 or _take_steps(rows, m, w, b, gram32, with_gram, reg[u], steps, s, t, by_feature)
            )
            if not solved:
                rescued += not exact
                _solve_exactly(rows, m, w, b, gram, reg[u], A, v, four)
                for p in range(K):
                    xu[p] = v[p]
                _predict(rows, m, xu, s)
        for p in range(K):
            x[u, p] = xu[p]
        if biased:
            xu[K - 1] = 1.0
        loss += constant + _add_residuals(first, last, items, w, b, s, xu, residuals)
    return loss, rescued


@compiled
def _gather(
    q: _Floats,
    first: int,
    last: int,
    items: NDArray[Any],
    codes: NDArray[np.uint8] | None,
    w_of: _Floats,
    b_of: _Floats,
    biased: bool,
    rows: _Floats,
    w: _Floats,
    b: _Floats,
) -> tuple[float, float]:
    """Collect the features, weights and targets of the ratings from ``first`` to ``last``.

    The row after the last counts nothing, up to a multiple of _TOGETHER. With biases the item's bias is taken off the
    target, and its place among the features is that of the user's bias: 1.

    Returns:
        The total weight, and the part of the loss that comes from the items' biases alone.
    """
    K = q.shape[1]
    weight, constant = 0.0, 0.0
    for j in range(last - first):
        row = q[items[first + j]]
        code = first + j if codes is None else np.int64(codes[first + j])
        wj, bj = w_of[code], b_of[code]
        for p in range(K):
            rows[j, p] = row[p]
        if biased:
            h = row[K - 1]
            constant += np.float64(h) * np.float64(wj * h - np.float32(2.0) * bj)
            bj -= wj * h
            rows[j, K - 1] = np.float32(1.0)
        w[j], b[j] = wj, bj
        weight += wj
    for j in range(last - first, min(last - first + _TOGETHER, len(w))):
        w[j] = b[j] = np.float32(0.0)
    return weight, constant


@compiled
def _add_residuals(
    first: int,
    last: int,
    items: NDArray[Any],
    w: _Floats,
    b: _Floats,
    s: _Floats,
    y: _Floats,
    residuals: _Floats,
) -> float:
    """Add ``(b - w s) y`` to the residuals of a user's items, unless there are none; returns ``sum w s**2 - 2 b s``."""
    loss = 0.0
    for j in range(last - first):
        loss += np.float64((w[j] * s[j] - np.float32(2.0) * b[j]) * s[j])
    if len(residuals) > 0:
        for j in range(last - first):
            error = b[j] - w[j] * s[j]
            target = residuals[items[first + j]]
            for p in range(len(target)):
                target[p] += error * y[p]
    return loss


@compiled
def _take_steps(
    rows: _Floats,
    m: int,
    w: _Floats,
    b: _Floats,
    gram: _Floats,
    with_gram: bool,
    reg: float,
    steps: int,
    s: _Floats,
    t: _Floats,
    by_feature: _Floats,
) -> bool:
    """Improve a user and his predictions ``s`` by conjugate gradient; False when that does not get anywhere.

    ``m`` rows count, a multiple of _TOGETHER, the last ones with weight 0. The first row of ``by_feature`` is the
    user, the others and ``t`` are space to work in.
    """
    x, residual, direction, image = by_feature[0], by_feature[1], by_feature[2], by_feature[3]
    known = 0.0
    for j in range(m):
        t[j] = b[j] - w[j] * s[j]
        known += np.float64(abs(b[j] * s[j]))
    _penalise(gram, with_gram, np.float32(reg), x, image)
    for p in range(len(x)):
        residual[p] = -image[p]
    _combine(rows, m, t, residual)
    direction[:] = residual
    size = first = _dot(residual, residual)
    for step in range(steps):
        if size == 0.0:
            break
        _predict(rows, m, direction, t)
        _penalise(gram, with_gram, np.float32(reg), direction, image)
        curvature = _dot(direction, image)
        for j in range(m):
            curvature += np.float64(w[j] * t[j] * t[j])
        if size * size <= _ROUNDING * known * curvature:
            return True
        if not curvature > 0.0:
            return False
        length = np.float32(size / curvature)
        _add_scaled(x, length, direction, len(x))
        _add_scaled(s, length, t, m)
        if step + 1 == steps:  # nobody needs the residual after the last step
            break
        for j in range(m):
            t[j] *= w[j]
        _combine(rows, m, t, image)
        _add_scaled(residual, -length, image, len(x))
        shrunk = _dot(residual, residual)
        ratio = np.float32(shrunk / size)
        for p in range(len(x)):
            direction[p] = residual[p] + ratio * direction[p]
        size = shrunk
    return bool(size <= first)


@compiled
def _add_scaled(a: _Floats, scale: np.float32, b: _Floats, n: int) -> None:
    """``a += scale b`` for the first n."""
    for j in range(n):
        a[j] += scale * b[j]


@compiled
def _solve_exactly(
    rows: _Floats,
    m: int,
    w: _Floats,
    b: _Floats,
    gram: NDArray[np.float64],
    reg: float,
    A: NDArray[np.float64],
    v: NDArray[np.float64],
    four: NDArray[np.float64],
) -> None:
    """``v`` becomes the solution of the user's normal equations, by Cholesky decomposition.

    A direction that neither ratings nor regularisation determine gets 0 instead of a division by zero.
    """
    K = len(v)
    for p in range(K):
        v[p] = 0.0
        for r in range(K):
            A[p, r] = gram[p, r]
        A[p, p] += reg
    for j in range(0, m, _TOGETHER):
        for p in range(K):
            v[p] += (
                np.float64(b[j]) * rows[j, p]
                + np.float64(b[j + 1]) * rows[j + 1, p]
                + np.float64(b[j + 2]) * rows[j + 2, p]
                + np.float64(b[j + 3]) * rows[j + 3, p]
            )
        for i in range(_TOGETHER):
            for p in range(K):
                four[i, p] = rows[j + i, p]
        for p in range(K):
            w0, w1 = w[j] * four[0, p], w[j + 1] * four[1, p]
            w2, w3 = w[j + 2] * four[2, p], w[j + 3] * four[3, p]
            for r in range(p + 1):
                A[p, r] += (w0 * four[0, r] + w1 * four[1, r]) + (w2 * four[2, r] + w3 * four[3, r])
    factorize(A)
    solve_factorized(A, v)


@compiled
def _predict(rows: _Floats, m: int, d: _Floats, t: _Floats) -> None:
    """``t_j = q_j.d`` for the first m rows, a multiple of _TOGETHER."""
    for j in range(0, m, _TOGETHER):
        a, b, c, e = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        s0 = s1 = s2 = s3 = np.float32(0.0)
        for p in range(len(d)):
            dp = d[p]
            s0 += a[p] * dp
            s1 += b[p] * dp
            s2 += c[p] * dp
            s3 += e[p] * dp
        t[j], t[j + 1], t[j + 2], t[j + 3] = s0, s1, s2, s3


@compiled
def _combine(rows: _Floats, m: int, t: _Floats, image: _Floats) -> None:
    """Add ``sum_j t_j q_j`` over the first m rows, a multiple of _TOGETHER."""
    for j in range(0, m, _TOGETHER):
        a, b, c, e = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        t0, t1, t2, t3 = t[j], t[j + 1], t[j + 2], t[j + 3]
        for p in range(len(image)):
            image[p] += (t0 * a[p] + t1 * b[p]) + (t2 * c[p] + t3 * e[p])


@compiled
def _penalise(gram: _Floats, with_gram: bool, reg: np.float32, d: _Floats, image: _Floats) -> None:
    """``image = (gram + reg I) d``."""
    if with_gram:
        _predict(gram, len(d), d, image)
        for p in range(len(d)):
            image[p] += reg * d[p]
    else:
        for p in range(len(d)):
            image[p] = reg * d[p]


@compiled
def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    s = 0.0  # in float64; numba's own np.dot needs SciPy
    for p in range(len(a)):
        s += np.float64(a[p]) * np.float64(b[p])
    return s


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
def count_positive(offsets: NDArray[np.int64], codes: NDArray[np.uint8] | None, b_of: _Floats) -> NDArray[np.int64]:
    """How many ratings of each user have a target above 0, int64 (U,); arguments see the module."""
    counts = np.zeros(len(offsets) - 1, np.int64)
    for u in range(len(counts)):
        for j in range(offsets[u], offsets[u + 1]):
            code = j if codes is None else np.int64(codes[j])
            counts[u] += b_of[code] > 0.0
    return counts


@compiled
def apply_ratings(
    y: _Floats,
    d: _Floats,
    offsets: NDArray[np.int64],
    items: NDArray[Any],
    codes: NDArray[np.uint8] | None,
    w_of: _Floats,
    image: _Floats,
) -> None:
    """Add the block's share of the product of all items' matrices with a direction, ``sum_u w (y_u.d_i) y_u``.

    Args:
        y: (U, K), user features: the factors, and a 1 with biases.
        d: (I, K), the direction.
        offsets: see the module.
        items: see the module.
        codes: see the module.
        w_of: see the module.
        image: (I, K), added to.
    """
    K = d.shape[1]
    for u in range(len(offsets) - 1):
        yu = y[u]
        for j in range(offsets[u], offsets[u + 1]):
            i = items[j]
            di = d[i]
            s = np.float32(0.0)
            for p in range(K):
                s += yu[p] * di[p]
            code = j if codes is None else np.int64(codes[j])
            s *= w_of[code]
            target = image[i]
            for p in range(K):
                target[p] += s * yu[p]


@compiled
def add_item_matrices(
    y: _Floats,
    offsets: NDArray[np.int64],
    items: NDArray[Any],
    codes: NDArray[np.uint8] | None,
    w_of: _Floats,
    matrices: _Floats,
) -> None:
    """Add the block's share of all items' matrices, ``sum_u w y_u y_u'``.

    Args:
        y: float32 (U, K), user features.
        offsets: see the module.
        items: see the module.
        codes: see the module.
        w_of: see the module.
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
            code = j if codes is None else np.int64(codes[j])
            wj = w_of[code]
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
