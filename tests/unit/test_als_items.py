"""The item half on its own: exact, by conjugate gradient, and the law that no exact half raises the loss."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.als import kernels
from recsys.als.items import ItemHalf, improve_items, shared_preconditioner, shrunk_weights, solve_items
from recsys.als.model import FactorModel, scaled_reg, solve_users, weigh
from recsys.als.params import AlsParams
from tests.oracles import als as oracle
from tests.oracles.blocks import csr

Array = NDArray[Any]


def random_ratings(seed: int, n_users: int = 30, n_items: int = 12) -> tuple[Array, Array]:
    """Ratings 1 to 5 and some dislikes, items from everywhere to never rated, and weights."""
    rng = np.random.default_rng(seed)
    R = rng.integers(1, 6, (n_users, n_items)).astype(float)
    R[rng.random(R.shape) < 0.1] *= -1
    R[rng.random(R.shape) > np.linspace(0.0, 0.9, n_items)] = np.nan
    return R, rng.uniform(0.1, 1.0, R.shape)


def item_half(params: AlsParams, R: Array, W: Array, x: Array, q: Array) -> tuple[ItemHalf, Any]:
    """The sums that Spark's passes make, here of one block; and the pass that applies all ratings to a direction."""
    offsets, items, values, weights = csr(R, W)
    w, b = weigh(params, values, weights, 0.0)
    residuals = np.zeros(q.shape, np.float32)
    items, n = items.astype(np.uint16), len(x)
    no_gram, no_steps = np.zeros((q.shape[1],) * 2), 0
    kernels.solve_users(
        *(q, no_gram, offsets, items, None, w, b, np.zeros(n), False, False, no_steps),
        *(x.copy(), np.empty(n, np.float32), residuals),
    )
    gram = params.unobserved_weight * (x.T @ x) * (params.objective == "implicit")
    evidence = R > 0 if params.objective == "implicit" else ~np.isnan(R)
    reg = scaled_reg(params, evidence.sum(axis=0))

    def apply_ratings(direction: Array) -> Array:
        image = np.zeros(q.shape, np.float32)
        kernels.apply_ratings(x, direction.astype(np.float32), offsets, items, None, w, image)
        return image.astype(np.float64)

    rated = (reg >= 0)[:, None]
    return ItemHalf(
        q.astype(np.float64) * rated, residuals.astype(np.float64), gram.astype(np.float64), reg
    ), apply_ratings


def half_from(params: AlsParams, seed: int) -> tuple[Array, Array, Array, Array, ItemHalf, Any]:
    R, W = random_ratings(seed)
    rng = np.random.default_rng(seed + 1)
    q = rng.normal(size=(R.shape[1], params.rank)).astype(np.float32)
    q[~(R > 0).any(axis=0)] = 0
    x = solve_users(FactorModel(params, q, np.zeros(len(q), np.float32), 0.0), *csr(R, W)).x
    half, apply_ratings = item_half(params, R, W, x, q)
    return R, W, x, q, half, apply_ratings


def preconditioner(params: AlsParams, R: Array, W: Array, x: Array, half: ItemHalf) -> Any:
    w = np.where(np.isnan(R), 0.0, W * (np.abs(R) * params.alpha if params.objective == "implicit" else 1.0))
    s = w.sum(axis=1)
    moment = (x.T * s) @ x / s.sum()
    counts = (~np.isnan(R)).sum(axis=0).astype(float)
    return shared_preconditioner(half, moment, shrunk_weights(w.sum(axis=0), counts, params.rank))


@pytest.mark.parametrize("objective", ["explicit", "implicit"])
def test_the_exact_item_half_solves_the_normal_equations_of_every_item(objective: str) -> None:
    params = AlsParams.model_validate({"objective": objective, "rank": 3, "reg": 0.2, "reg_exponent": 0.5})
    R, W, x, q, half, _ = half_from(params, seed=5)
    offsets, items, values, weights = csr(R, W)
    matrices = np.zeros((len(q), 6), np.float32)
    w, _ = weigh(params, values, weights, 0.0)
    kernels.add_item_matrices(x, offsets, items.astype(np.uint16), None, w, matrices)

    solved, fall = solve_items(half, matrices.astype(np.float64))

    problem = oracle.Problem(objective, reg=0.2, nu=0.5)
    expected, _ = oracle.solve_side(problem, R.T, W.T, x.astype(float), np.zeros(len(x)))
    np.testing.assert_allclose(solved, expected, atol=1e-4)
    zeros = np.zeros(len(x)), np.zeros(len(q))
    before = oracle.loss(problem, R, W, x, zeros[0], q.astype(float), zeros[1])
    after = oracle.loss(problem, R, W, x, zeros[0], expected, zeros[1])
    assert fall == pytest.approx(before - after, rel=1e-4)


@pytest.mark.parametrize("objective", ["explicit", "implicit"])
def test_conjugate_gradient_steps_end_at_the_exact_item_half(objective: str) -> None:
    params = AlsParams.model_validate({"objective": objective, "rank": 3, "reg": 0.2})
    R, W, x, _, half, apply_ratings = half_from(params, seed=6)
    precondition = preconditioner(params, R, W, x, half)

    solved, _, steps = improve_items(half, apply_ratings, precondition, steps=20, tolerance=1e-5)

    problem = oracle.Problem(objective, reg=0.2)
    expected, _ = oracle.solve_side(problem, R.T, W.T, x.astype(float), np.zeros(len(x)))
    np.testing.assert_allclose(solved, expected, atol=1e-3)
    assert steps < 20


def test_a_half_that_is_already_solved_takes_no_step() -> None:
    params = AlsParams(objective="explicit", rank=2)
    half = ItemHalf(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((2, 2)), scaled_reg(params, np.ones(3)))

    def never(_: Array) -> Array:
        raise AssertionError("a pass was made for nothing")

    solved, fall, steps = improve_items(half, never, lambda g: g, steps=5, tolerance=0.01)
    assert (fall, steps) == (0.0, 0)
    np.testing.assert_array_equal(solved, 0.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    objective=st.sampled_from(["explicit", "implicit"]),
    nu=st.sampled_from([0.0, 0.5, 1.0]),
    reg=st.sampled_from([1e-3, 0.1, 5.0]),
    a0=st.sampled_from([0.05, 1.0]),
    steps=st.integers(1, 4),
)
def test_no_half_sweep_raises_the_loss_and_every_fall_is_as_told(
    seed: int, objective: str, nu: float, reg: float, a0: float, steps: int
) -> None:
    """The user half is exact; of the item half a single conjugate gradient step already may not raise it."""
    params = AlsParams.model_validate(
        {"objective": objective, "rank": 4, "reg": reg, "reg_exponent": nu, "unobserved_weight": a0}
    )
    problem = oracle.Problem(objective, reg=reg, nu=nu, a0=a0)
    R, W = random_ratings(seed)
    rng = np.random.default_rng(seed + 1)
    evidence = R > 0 if objective == "implicit" else ~np.isnan(R)
    q = (rng.normal(size=(R.shape[1], 4)) * evidence.any(axis=0)[:, None]).astype(np.float32)
    x = (rng.normal(size=(len(R), 4)) * evidence.any(axis=1)[:, None]).astype(np.float32)

    def loss(x: Array, q: Array) -> float:
        return oracle.loss(problem, R, W, x.astype(float), np.zeros(len(x)), q.astype(float), np.zeros(len(q)))

    start = loss(x, q)
    x = solve_users(FactorModel(params, q, np.zeros(len(q), np.float32), 0.0), *csr(R, W)).x
    users_solved = loss(x, q)
    half, apply_ratings = item_half(params, R, W, x, q)
    precondition = preconditioner(params, R, W, x, half)
    improved, fall, _ = improve_items(half, apply_ratings, precondition, steps=steps, tolerance=1e-6)
    items_improved = loss(x, improved)

    rounding = 1e-5 * (start + 1)
    assert users_solved <= start + rounding
    assert items_improved <= users_solved + rounding
    assert fall == pytest.approx(users_solved - items_improved, rel=1e-3, abs=rounding)
