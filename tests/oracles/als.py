"""Slow, exact ALS in plain NumPy, from the papers and docs/architecture.md, section ALS; shares no code with ours.

Ratings are a dense matrix R (U, I) with NaN where there is none, and weights W (U, I).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """One factorization problem; letters as in the papers."""

    objective: str
    reg: float
    nu: float = 1.0
    alpha: float = 1.0
    a0: float = 1.0
    biases: bool = False
    mean: float = 0.0


def solve_one(problem: Problem, features: Array, r: Array, w: Array, fixed_bias: Array) -> Array:
    """One user (or item) against the other side by the normal equations: r, w, fixed_bias (I,), features (I, k)."""
    seen = ~np.isnan(r)
    f, r, w = features[seen], r[seen], w[seen]
    k = features.shape[1]
    if problem.objective == "explicit":
        A = (f.T * w) @ f
        b = f.T @ (w * (r - problem.mean - fixed_bias[seen]))
        n = len(r)
    else:
        c = problem.alpha * np.abs(r) * w
        A = problem.a0 * features.T @ features + (f.T * c) @ f
        b = f.T @ np.where(r > 0, 1 + c, 0.0)
        n = int(np.sum(r > 0))
    if n == 0:
        return np.zeros(k)
    solution: Array = np.linalg.solve(A + problem.reg * n**problem.nu * np.eye(k), b)
    return solution


def solve_side(problem: Problem, R: Array, W: Array, factors: Array, biases: Array) -> tuple[Array, Array]:
    """All rows of R against the other side's factors and biases: this side's factors and biases."""
    features = np.column_stack((factors, np.ones(len(factors)))) if problem.biases else factors
    solved = np.array([solve_one(problem, features, r, w, biases) for r, w in zip(R, W, strict=True)])
    if problem.biases:
        return solved[:, :-1], solved[:, -1]
    return solved, np.zeros(len(R))


def sweep(problem: Problem, R: Array, W: Array, Q: Array, q_bias: Array) -> tuple[Array, Array, Array, Array]:
    """User half, then item half: X, user biases, Q, item biases."""
    X, x_bias = solve_side(problem, R, W, Q, q_bias)
    Q, q_bias = solve_side(problem, R.T, W.T, X, x_bias)
    return X, x_bias, Q, q_bias


def loss(problem: Problem, R: Array, W: Array, X: Array, x_bias: Array, Q: Array, q_bias: Array) -> float:
    """What ALS minimises, from its definition. Implicit with a0 = 1 is Hu, Koren & Volinsky 2008, eq. 3."""
    S = X @ Q.T
    seen = ~np.isnan(R)
    R0 = np.where(seen, R, 0.0)
    if problem.objective == "explicit":
        total = np.sum(np.where(seen, W * (R0 - problem.mean - x_bias[:, None] - q_bias - S) ** 2, 0.0))
        evidence = seen
    else:
        p = (R0 > 0).astype(float)
        c = np.where(seen, problem.alpha * np.abs(R0) * W, 0.0)
        total = np.sum((1 + c) * (p - S) ** 2) + (problem.a0 - 1) * np.sum(S**2)
        evidence = R0 > 0
    n_u, n_i = evidence.sum(1), evidence.sum(0)
    norms_u = np.where(n_u > 0, np.maximum(n_u, 1.0) ** problem.nu, 0.0) @ (np.sum(X**2, axis=1) + x_bias**2)
    norms_i = np.where(n_i > 0, np.maximum(n_i, 1.0) ** problem.nu, 0.0) @ (np.sum(Q**2, axis=1) + q_bias**2)
    return float(total + problem.reg * (norms_u + norms_i))


def loss_of_pairs(problem: Problem, users: Array, items: Array, values: Array, X: Array, Q: Array) -> float:
    """The same loss, without weights and biases, from the observed pairs only: for data too large to be dense."""
    s = np.sum(X[users] * Q[items], axis=1)
    if problem.objective == "explicit":
        total = np.sum((values - s) ** 2)
        evidence = np.ones(len(values))
    else:
        p, c = (values > 0).astype(float), problem.alpha * np.abs(values)
        total = np.sum((1 + c) * (p - s) ** 2 - s**2) + problem.a0 * np.sum((X.T @ X) * (Q.T @ Q))
        evidence = p
    n_u, n_i = np.bincount(users, evidence, len(X)), np.bincount(items, evidence, len(Q))
    norms = n_u**problem.nu @ np.sum(X**2, axis=1) + n_i**problem.nu @ np.sum(Q**2, axis=1)
    return float(total + problem.reg * norms)


def ndcg(scores: Array, seen: NDArray[Any], relevant: NDArray[Any], k: int) -> float:
    """Mean NDCG@k over users with relevant items; seen items are not listed."""
    listed = np.where(seen, -np.inf, scores)
    values = []
    for s, r in zip(listed, relevant, strict=True):
        if r.any():
            gains = r[np.argsort(-s, kind="stable")[:k]] / np.log2(np.arange(2, k + 2))
            values.append(gains.sum() / np.sum(1 / np.log2(np.arange(2, min(k, int(r.sum())) + 2))))
    return float(np.mean(values))
