"""Whole fits in Spark against the exact oracle, and the laws a fit keeps."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from recsys.als.fit import FitResult, fit
from recsys.als.model import FactorModel, SolvedUsers, initial_model, solve_users
from recsys.als.params import AlsParams
from recsys.als.sweep import BlockPasses
from recsys.errors import NothingToTrainError
from recsys.schemas import SPLIT_BLOCKS
from tests.oracles import als as oracle
from tests.oracles.blocks import csr, split_rows

Array = NDArray[Any]
NAN = np.nan


def frame(spark: SparkSession, R: Array, W: Array | None = None, *, partitions: int = 2) -> DataFrame:
    return spark.createDataFrame(split_rows(*csr(R, W)), SPLIT_BLOCKS).repartition(partitions)


def empty(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([], SPLIT_BLOCKS)


def some_ratings(seed: int = 3, n_users: int = 24, n_items: int = 10) -> tuple[Array, Array]:
    """Ratings 1 to 5, some dislikes, one user and one item without any, and weights."""
    rng = np.random.default_rng(seed)
    R = rng.integers(1, 6, (n_users, n_items)).astype(float)
    R[rng.random(R.shape) < 0.05] = -1.0
    R[rng.random(R.shape) < 0.5] = NAN
    R[7, :] = NAN
    R[:, 4] = NAN
    return R, rng.uniform(0.3, 1.0, R.shape)


def folded_in(model: FactorModel, R: Array, W: Array | None = None) -> SolvedUsers:
    return solve_users(model, *csr(R, W))


CASES: list[dict[str, Any]] = [
    {"objective": "explicit", "reg_exponent": 1.0},
    {"objective": "explicit", "reg_exponent": 0.0, "biases": True},
    {"objective": "explicit", "reg_exponent": 0.5, "biases": True, "item_solver": "cg"},
    {"objective": "implicit", "reg_exponent": 1.0},
    {"objective": "implicit", "reg_exponent": 0.5, "unobserved_weight": 0.2, "item_solver": "cg"},
    {"objective": "implicit", "reg_exponent": 0.0, "alpha": 10.0, "unobserved_weight": 0.2},
    {"objective": "implicit", "reg_exponent": 1.0, "user_solver": "cg", "cg_steps": 12},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_every_sweep_equals_exact_als(spark: SparkSession, case: dict[str, Any]) -> None:
    R, W = some_ratings()
    thorough = {"rank": 3, "reg": 0.3, "item_steps": 30, "item_tolerance": 1e-5}
    params = AlsParams.model_validate(thorough | case)
    mean = float(np.nansum(W * R) / W[~np.isnan(R)].sum()) if params.biases else 0.0
    problem = oracle.Problem(
        params.objective, params.reg, params.reg_exponent, params.alpha, params.unobserved_weight, params.biases, mean
    )
    evidence = (R > 0) if params.objective == "implicit" else ~np.isnan(R)
    Q = initial_model(params, R.shape[1]).item_factors.astype(float) * evidence.any(axis=0)[:, None]
    bias = np.zeros(R.shape[1])
    losses = []
    for _ in range(3):
        X, x_bias, Q, bias = oracle.sweep(problem, R, W, Q, bias)
        losses.append(oracle.loss(problem, R, W, X, x_bias, Q, bias))

    result = fit(frame(spark, R, W), R.shape[1], params, max_sweeps=3)

    np.testing.assert_allclose(result.model.item_factors, Q, atol=1e-4)
    np.testing.assert_allclose(result.model.item_biases, bias, atol=1e-4)
    np.testing.assert_allclose([report.loss for report in result.sweeps], losses, rtol=1e-4)
    assert result.model.mean == pytest.approx(mean)
    assert result.stopped == "sweeps"


@pytest.mark.parametrize("solvers", [("exact", "cg"), ("cg", "one-pass")], ids=" ".join)
def test_the_number_of_partitions_changes_nothing_and_a_repetition_not_a_bit(
    spark: SparkSession, solvers: tuple[Any, Any]
) -> None:
    R, W = some_ratings(n_users=60)
    params = AlsParams(rank=4, sweeps=3, user_solver=solvers[0], item_solver=solvers[1], item_steps=2)
    fits = [fit(frame(spark, R, W), R.shape[1], params, tasks=n) for n in (1, 2, 7)]
    for other in fits[1:]:
        np.testing.assert_allclose(other.model.item_factors, fits[0].model.item_factors, atol=1e-5)
    blocks = frame(spark, R, W, partitions=2).cache()
    first, again = (fit(blocks, R.shape[1], params).model.item_factors for _ in range(2))
    blocks.unpersist()
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("user_solver", ["exact", "cg"])
def test_users_lost_between_two_passes_are_computed_again(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, user_solver: str
) -> None:
    """As when the executor that kept them dies. With cg they hang on the users of all sweeps before."""
    R, W = some_ratings()
    params = AlsParams.model_validate({"rank": 3, "item_solver": "cg", "item_steps": 2, "user_solver": user_solver})
    blocks = frame(spark, R, W).cache()
    undisturbed = fit(blocks, 10, params, max_sweeps=2)
    apply_ratings = BlockPasses.apply_ratings

    def lose_users_first(passes: BlockPasses, direction: Array) -> Array:
        assert passes._users is not None
        passes._users.unpersist(blocking=True)
        return apply_ratings(passes, direction)

    monkeypatch.setattr(BlockPasses, "apply_ratings", lose_users_first)
    disturbed = fit(blocks, 10, params, max_sweeps=2)
    blocks.unpersist()
    np.testing.assert_array_equal(disturbed.model.item_factors, undisturbed.model.item_factors)


def test_a_fit_leaves_nothing_in_the_executors_memory(spark: SparkSession) -> None:
    R, _ = some_ratings()
    before = spark.sparkContext._jsc.getPersistentRDDs().size()
    fit(frame(spark, R), 10, AlsParams(rank=2, sweeps=2, item_solver="cg", user_solver="cg"))
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == before


def test_the_loss_never_rises_from_sweep_to_sweep(spark: SparkSession) -> None:
    R, W = some_ratings()
    for objective, item_solver in itertools.product(("explicit", "implicit"), ("exact", "one-pass")):
        params = AlsParams.model_validate(
            {"objective": objective, "rank": 4, "reg": 0.02, "sweeps": 8, "item_solver": item_solver}
        )
        losses = [report.loss for report in fit(frame(spark, R, W), R.shape[1], params).sweeps]
        assert np.all(np.diff(losses) <= 1e-5 * losses[0])


def test_factors_that_made_the_data_are_recovered(spark: SparkSession) -> None:
    """Of 80 x 30 ratings made by rank 3, half are seen; the unseen half is predicted."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 30))
    R = np.where(rng.random(truth.shape) < 0.5, truth, NAN)
    params = AlsParams(objective="explicit", rank=3, reg=1e-4, sweeps=30)
    result = fit(frame(spark, R), 30, params)
    predicted = result.model.predict(folded_in(result.model, R))
    np.testing.assert_allclose(predicted, truth, atol=0.05)


def test_a_warm_fit_continues_where_the_start_stopped(spark: SparkSession) -> None:
    R, _ = some_ratings()
    blocks, params = frame(spark, R), AlsParams(rank=3, warm_sweeps=1)
    first = fit(blocks, 10, params, max_sweeps=2)
    warm = fit(blocks, 10, params, start=first.model)
    whole = fit(blocks, 10, params, max_sweeps=3)
    assert len(warm.sweeps) == 1
    np.testing.assert_allclose(warm.model.item_factors, whole.model.item_factors, atol=1e-6)


def test_a_warm_fit_takes_new_users_and_items_in(spark: SparkSession) -> None:
    R, _ = some_ratings(n_users=40)
    params = AlsParams(rank=3, sweeps=10)
    before = fit(frame(spark, R[:30, :8]), 8, params)
    warm = fit(frame(spark, R), 10, params, start=before.model, max_sweeps=3)
    cold = fit(frame(spark, R), 10, params, max_sweeps=3)
    assert warm.model.n_items == 10
    assert warm.model.item_factors[9].any()
    assert warm.sweeps[-1].loss < cold.sweeps[-1].loss


def test_a_start_of_another_rank_is_refused(spark: SparkSession) -> None:
    R, _ = some_ratings()
    start = initial_model(AlsParams(rank=2), 10)
    with pytest.raises(ValueError, match="rank 2, the fit 3"):
        fit(frame(spark, R), 10, AlsParams(rank=3), start=start)


def test_a_fit_stops_when_the_metric_stops_gaining_and_keeps_the_best_sweep(spark: SparkSession) -> None:
    R, _ = some_ratings()
    told: list[int] = []
    metrics = iter([0.10, 0.20, 0.19, 0.90])
    models: list[FactorModel] = []

    def measure(model: FactorModel) -> float:
        models.append(model)
        return next(metrics)

    result = fit(
        frame(spark, R), 10, AlsParams(rank=2), measure=measure, on_sweep=lambda report: told.append(report.sweep)
    )
    assert (result.stopped, told) == ("tolerance", [1, 2, 3])
    assert [report.metric for report in result.sweeps] == [0.10, 0.20, 0.19]
    assert result.model is models[1]


@pytest.mark.parametrize("objective", ["explicit", "implicit"])
@pytest.mark.parametrize("item_solver", ["exact", "cg"])
def test_one_user_one_item_or_one_rating_is_enough(spark: SparkSession, objective: str, item_solver: str) -> None:
    params = AlsParams.model_validate({"objective": objective, "rank": 3, "item_solver": item_solver, "sweeps": 2})
    for R in (np.array([[5.0, 3.0, NAN]]), np.array([[5.0], [NAN], [1.0]]), np.array([[2.0]])):
        result: FitResult = fit(frame(spark, R), R.shape[1], params)
        scores = result.model.predict(folded_in(result.model, R))
        assert np.isfinite(scores).all()
        assert (scores[~np.isnan(R)] > 0).all()


def test_nothing_to_train_on_says_what_was_found(spark: SparkSession) -> None:
    with pytest.raises(NothingToTrainError, match="0 users with 0 ratings"):
        fit(empty(spark), 5, AlsParams(rank=2))
    with pytest.raises(NothingToTrainError, match="1 users with 2 ratings before the cut-off, none of them above 0"):
        fit(frame(spark, np.array([[-1.0, 0.0, NAN]])), 3, AlsParams(rank=2))
