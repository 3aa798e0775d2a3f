"""Whole fits without Spark: the three ways of the item half against each other and the exact oracle."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.als.descent import is_exact
from recsys.als.fit import FitResult, fit
from recsys.als.model import FactorModel, initial_model, solve_users
from recsys.als.params import AlsParams
from recsys.als.sums import RatingSums, UserSums
from tests.oracles import als as oracle
from tests.oracles.blocks import csr, split_rows
from tests.passes import LocalPasses

Array = NDArray[Any]


def some_ratings(density: float, seed: int = 2, n_users: int = 300, n_items: int = 60) -> Array:
    """Rank 3 around 3 with noise, rounded to 1 to 5; at low density many items have one or two ratings."""
    rng = np.random.default_rng(seed)
    R = (
        3
        + rng.normal(size=(n_users, 3)) @ rng.normal(size=(3, n_items)) / 2
        + 0.5 * rng.normal(size=(n_users, n_items))
    )
    R = np.clip(np.round(R), 1, 5)
    popularity = np.linspace(1.0, 0.1, n_items) if density < 0.2 else np.ones(n_items)
    R[rng.random(R.shape) > density * popularity] = np.nan
    return R


def problem_of(params: AlsParams, mean: float) -> oracle.Problem:
    return oracle.Problem(
        *(
            params.objective,
            params.reg,
            params.reg_exponent,
            params.alpha,
            params.unobserved_weight,
            params.biases,
            mean,
        )
    )


def passes_over(R: Array, params: AlsParams) -> LocalPasses:
    return LocalPasses(split_rows(*csr(R)).to_pylist(), params)


def descend(R: Array, params: AlsParams, sweeps: int) -> tuple[list[float], float, LocalPasses]:
    """The losses told by the sweeps; the loss of the final items with their exact users, from its definition."""
    passes = passes_over(R, params)
    model, losses = passes.fit(R.shape[1], sweeps)
    users = solve_users(model, *csr(R, None))
    sides = (users.x, users.biases, model.item_factors, model.item_biases)
    exact = oracle.loss(problem_of(params, model.mean), R, np.ones_like(R), *(side.astype(float) for side in sides))
    return losses, exact, passes


@pytest.mark.parametrize(
    "problem",
    [
        {"objective": "explicit", "reg": 0.1},
        {"objective": "explicit", "reg": 0.1, "biases": True},
        {"objective": "implicit", "reg": 0.1},
        {"objective": "implicit", "reg": 0.1, "alpha": 3.0, "unobserved_weight": 0.8, "reg_exponent": 0.5},
    ],
    ids=["explicit", "biases", "implicit", "weighty"],
)
def test_one_pass_ends_no_higher_than_exact_als_on_dense_ratings(problem: dict[str, Any]) -> None:
    """On the average of four: two descents from one start may end in different valleys, some 0.3 % apart."""
    ends = {"exact": 0.0, "one-pass": 0.0}
    for seed in range(4):
        R = some_ratings(density=0.5, seed=seed)
        for item_solver in ends:
            solvers = {"user_solver": "cg", "item_solver": item_solver, "seed": seed}
            _, end, passes = descend(R, AlsParams.model_validate({"rank": 4} | problem | solvers), 15)
            ends[item_solver] += end
            assert passes.user_passes <= 15 + 2
    assert ends["one-pass"] <= 1.001 * ends["exact"]


@pytest.mark.parametrize("objective", ["explicit", "implicit"])
def test_what_sweeps_tell_is_the_loss_from_its_definition(objective: str) -> None:
    """Of the items a one-pass sweep begins with: the first is that of the start."""
    R = some_ratings(density=0.3)
    params = AlsParams.model_validate({"objective": objective, "rank": 3, "item_solver": "one-pass"})
    [first, *_], _, _ = descend(R, params, 2)
    problem, Q = problem_of(params, 0.0), initial_model(params, R.shape[1]).item_factors.astype(float)
    X, x_bias = oracle.solve_side(problem, R, np.ones_like(R), Q, np.zeros(len(Q)))
    expected = oracle.loss(problem, R, np.ones_like(R), X, x_bias, Q, np.zeros(len(Q)))
    assert first == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_that_raises_the_loss_is_taken_back(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Sparse ratings, tiny lambda, and steps much too long: without the safeguard they diverge."""
    monkeypatch.setattr("recsys.als.items._STEP", 20.0)
    R = some_ratings(density=0.05, seed=seed)
    params = AlsParams(objective="explicit", rank=3, reg=1e-3, user_solver="exact", item_solver="one-pass")
    losses, final, passes = descend(R, params, 10)
    assert passes.user_passes > 10
    assert passes.further_passes > 0
    # What is told of a sweep that went wrong is the loss after it was taken back and mended.
    assert np.all(np.diff(losses) <= 1e-5 * np.array(losses[:-1]))
    assert final <= losses[-1] * (1 + 1e-5)


def test_a_fit_by_steps_ends_with_an_exact_half() -> None:
    R = some_ratings(density=0.5)
    params = AlsParams(objective="implicit", rank=4, item_solver="one-pass")
    losses, final, passes = descend(R, params, 6)
    assert passes.user_passes == 6
    assert passes.further_passes > 0
    assert final < losses[-1]


def fit_measured(
    monkeypatch: pytest.MonkeyPatch, params: AlsParams, metrics: list[float]
) -> tuple[FitResult, list[FactorModel], list[int]]:
    """A fit whose sweeps are told these metrics: what came of it, the measured models, further passes at each."""
    R = some_ratings(density=0.5)
    passes = passes_over(R, params)
    models: list[FactorModel] = []
    further: list[int] = []

    @contextmanager
    def local_passes(*_: object) -> Iterator[LocalPasses]:
        yield passes

    def measure(model: FactorModel) -> float:
        models.append(model)
        further.append(passes.further_passes)
        return metrics[len(models) - 1]

    monkeypatch.setattr(passes, "count_ratings", lambda: passes.ratings(R.shape[1]), raising=False)
    monkeypatch.setattr("recsys.als.fit.BlockPasses", local_passes)
    return fit(cast(Any, None), R.shape[1], params, measure=measure), models, further


@pytest.mark.parametrize(("closing", "best"), [(0.30, 3), (0.15, 1)], ids=["the best", "not the best"])
def test_a_fit_by_steps_that_stops_gaining_ends_with_an_exact_half_measured_like_the_others(
    monkeypatch: pytest.MonkeyPatch, closing: float, best: int
) -> None:
    params = AlsParams(objective="explicit", rank=4, item_solver="one-pass")
    metrics = [0.10, 0.20, 0.19, closing]
    result, models, further = fit_measured(monkeypatch, params, metrics)
    assert result.stopped == "tolerance"
    assert [(report.sweep, report.metric) for report in result.sweeps] == list(enumerate(metrics, 1))
    assert further[:3] == [0, 0, 0]
    assert further[3] > 0
    assert result.model is models[best]


@pytest.mark.parametrize(
    ("item_solver", "sweeps"), [("exact", 12), ("cg", 12), ("one-pass", 3)], ids=["exact", "cg", "at the last sweep"]
)
def test_a_fit_that_stops_after_an_exact_half_makes_no_other(
    monkeypatch: pytest.MonkeyPatch, item_solver: str, sweeps: int
) -> None:
    params = AlsParams.model_validate(
        {"objective": "explicit", "rank": 4, "item_solver": item_solver, "sweeps": sweeps}
    )
    result, models, _ = fit_measured(monkeypatch, params, [0.10, 0.20, 0.19])
    assert (result.stopped, len(result.sweeps)) == ("tolerance", 3)
    assert result.model is models[1]


def sums_of(counts: Array) -> RatingSums:
    return RatingSums(10, int(counts.sum()), counts.astype(float), counts.astype(float), 3.0, 0.0)


def test_auto_is_exact_while_that_is_little_work() -> None:
    """100,000 ratings, 16 features: 3e7; 10 million: 3e9. Users cost the same with many items, matrices do not."""
    params = AlsParams(rank=16)
    assert is_exact(params, sums_of(np.full(1000, 100))) == (True, True)
    assert is_exact(params, sums_of(np.full(1000, 10_000))) == (False, False)
    assert is_exact(params, sums_of(np.ones(200_000))) == (True, False)
    asked = AlsParams(rank=16, user_solver="cg", item_solver="exact")
    assert is_exact(asked, sums_of(np.full(1000, 100))) == (False, True)


@pytest.mark.parametrize(("density", "steps"), [(0.9, True), (0.05, False)])
def test_auto_takes_steps_where_items_have_ratings_enough(
    monkeypatch: pytest.MonkeyPatch, density: float, steps: bool
) -> None:
    monkeypatch.setattr("recsys.als.descent._EXACT_WORK", 0)
    R = some_ratings(density=density)
    params = AlsParams(objective="explicit", rank=4, reg=0.02)
    _, _, passes = descend(R, params, 2)
    alike = params.model_copy(update={"item_solver": "one-pass" if steps else "cg"})
    assert passes.further_passes == descend(R, alike, 2)[2].further_passes


@pytest.mark.parametrize("objective", ["explicit", "implicit"])
def test_ratings_weigh_the_same_by_code_one_by_one_and_with_ages_of_nothing(objective: str) -> None:
    R = some_ratings(density=0.3, n_users=40)
    R[R == 1.0] = -1.0  # dislikes, which are no evidence for the implicit objective
    params = AlsParams.model_validate({"objective": objective, "rank": 3, "user_solver": "cg"})
    coded = passes_over(R, params).blocks[0]
    assert coded.codes is not None
    values, ones = coded.decoded()
    sums = []
    for block in (
        coded,
        replace(coded, codes=None, values=values),
        replace(coded, weights=ones),
        replace(coded, items=coded.items.astype(np.uint32)),
    ):
        added = UserSums(initial_model(params, R.shape[1]), exact_users=False, with_matrices=True)
        users = added.add(block, None)
        sums.append((users.x, *added.part()))
    for other in sums[1:]:
        for array, expected in zip(other, sums[0], strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)
