"""Folding in and the model around it, against the exact oracle; no JVM."""

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.als.model import FactorModel, SolvedUsers, initial_model, solve_users
from recsys.als.params import AlsParams
from tests.oracles import als as oracle
from tests.oracles.blocks import csr

NAN = np.nan
# Users: two ratings; none; all; only a dislike (implicit: no evidence); one.
R = np.array(
    [
        [5.0, NAN, 1.0, NAN],
        [NAN, NAN, NAN, NAN],
        [4.0, 3.0, -2.0, 1.0],
        [NAN, -1.0, NAN, NAN],
        [NAN, NAN, NAN, 2.0],
    ]
)
W = np.linspace(0.2, 1.0, R.size).reshape(R.shape)
Q = np.array([[0.9, -0.3, 0.1], [0.2, 0.8, -0.5], [-0.4, 0.1, 0.7], [0.3, 0.3, 0.2]])
BIAS = np.array([0.5, -0.25, 0.0, 1.0])


def model_of(params: AlsParams, mean: float = 0.0) -> FactorModel:
    bias = BIAS if params.biases else np.zeros(4)
    return FactorModel(params, Q.astype(np.float32), bias.astype(np.float32), mean)


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("objective", "biases"), [("explicit", False), ("explicit", True), ("implicit", False)])
def test_folding_in_solves_the_normal_equations_of_every_user(objective: str, biases: bool, nu: float) -> None:
    params = AlsParams.model_validate(
        {
            "objective": objective,
            "rank": 3,
            "reg": 0.3,
            "reg_exponent": nu,
            "alpha": 2.0,
            "unobserved_weight": 0.7,
            "biases": biases,
        }
    )
    mean = 2.5 if biases else 0.0
    problem = oracle.Problem(objective, reg=0.3, nu=nu, alpha=2.0, a0=0.7, biases=biases, mean=mean)
    x, x_bias = oracle.solve_side(problem, R, W, Q, BIAS if biases else np.zeros(4))

    solved = solve_users(model_of(params, mean), *csr(R, W))

    np.testing.assert_allclose(solved.x, x, atol=1e-5)
    np.testing.assert_allclose(solved.biases, x_bias, atol=1e-5)


@pytest.mark.parametrize("objective", ["explicit", "implicit"])
def test_conjugate_gradient_from_the_last_factors_ends_at_the_exact_solution(objective: str) -> None:
    exact = AlsParams.model_validate({"objective": objective, "rank": 3, "biases": objective == "explicit"})
    steps = exact.model_copy(update={"user_solver": "cg", "cg_steps": 8})
    known = SolvedUsers(np.full((5, 3), 0.5, np.float32), np.zeros(5, np.float32))

    solved = solve_users(model_of(steps), *csr(R, W), start=known)
    expected = solve_users(model_of(exact), *csr(R, W))

    np.testing.assert_allclose(solved.x, expected.x, atol=1e-4)
    np.testing.assert_allclose(solved.biases, expected.biases, atol=1e-4)


def test_without_regularisation_what_ratings_do_not_determine_is_zero() -> None:
    params = AlsParams(objective="explicit", rank=3, reg=0.0)
    items = FactorModel(params, np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 0.0)
    solved = solve_users(items, *csr(np.array([[4.0, NAN, NAN]])))
    np.testing.assert_allclose(solved.x, [[4.0, 0.0, 0.0]], atol=1e-6)


def test_a_prediction_is_the_product_and_with_biases_mean_and_both_biases() -> None:
    params = AlsParams(objective="explicit", rank=1, biases=True)
    items = FactorModel(params, np.array([[2.0], [-1.0]], np.float32), np.array([0.5, 0.0], np.float32), 3.0)
    users = SolvedUsers(np.array([[1.0], [0.5]], np.float32), np.array([0.25, -0.25], np.float32))
    np.testing.assert_allclose(items.predict(users), [[5.75, 2.25], [4.25, 2.25]])


def test_new_items_leave_every_user_as_he_was() -> None:
    params = AlsParams(objective="implicit", rank=3)
    grown = model_of(params).extended_to(6)
    assert grown.n_items == 6
    before = solve_users(model_of(params), *csr(R, W))
    np.testing.assert_array_equal(solve_users(grown, *csr(R, W)).x, before.x)


def test_positions_are_never_taken_away() -> None:
    with pytest.raises(ValueError, match="4 items and cannot be cut to 3"):
        model_of(AlsParams(rank=3)).extended_to(3)


def test_an_item_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(IndexError, match="position 4 is not below the model's 4 items"):
        solve_users(model_of(AlsParams(rank=3)), *csr(np.array([[NAN, NAN, NAN, NAN, 1.0]])))


def test_the_start_depends_on_the_seed_and_not_on_later_items() -> None:
    params = AlsParams(rank=3, seed=7)
    start = initial_model(params, 5)
    np.testing.assert_allclose(np.linalg.norm(start.item_factors, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(initial_model(params, 9).item_factors[:5], start.item_factors)
    other = initial_model(AlsParams(rank=3, seed=8), 5)
    assert not np.allclose(other.item_factors, start.item_factors)


def test_biases_are_refused_with_the_implicit_objective() -> None:
    with pytest.raises(ValidationError, match="biases are for the explicit objective only"):
        AlsParams(objective="implicit", biases=True)
