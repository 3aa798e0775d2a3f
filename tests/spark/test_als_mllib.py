"""The same data, the same regularisation, the same number of sweeps: Spark's own ALS.

An iteration of Spark's is an item half from the users, then a user half; it starts from random users. A sweep of ours
is a user half, then an item half; it starts from random items, and users are folded in last. So that random starts play
no part (on MovieTweetings two seeds of either differ by 0.02 RMSE after ten iterations), ours starts from the item
factors of Spark's first iteration and makes the other n - 1 sweeps: both then have made the same n item halves.
"""

import gzip
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession

from recsys.als.fit import fit
from recsys.als.model import FactorModel, solve_users
from recsys.als.params import AlsParams
from recsys.schemas import SPLIT_BLOCKS
from recsys.session import ROOT
from tests.oracles import als as oracle
from tests.oracles.blocks import split_rows

Array = NDArray[Any]
SWEEPS = 5


@dataclass(frozen=True)
class Data:
    """Ratings for training, users ascending, and held-out ones of known users and items."""

    users: Array
    items: Array
    values: Array
    held_users: Array
    held_items: Array
    held_values: Array

    @cached_property
    def n_users(self) -> int:
        return int(self.users.max()) + 1

    @cached_property
    def n_items(self) -> int:
        return int(self.items.max()) + 1

    @cached_property
    def offsets(self) -> Array:
        return np.concatenate(([0], np.cumsum(np.bincount(self.users, minlength=self.n_users)))).astype(np.int64)

    def blocks(self, spark: SparkSession) -> DataFrame:
        rows = split_rows(self.offsets, self.items, self.values, users_per_block=2048)
        return spark.createDataFrame(rows, SPLIT_BLOCKS).repartition(2)

    def ratings(self, spark: SparkSession) -> DataFrame:
        columns = {"user": self.users.astype(np.int32), "item": self.items, "rating": self.values}
        return spark.createDataFrame(pa.table(columns)).repartition(2)

    def fold_in(self, model: FactorModel) -> Array:
        ones = np.ones(len(self.items), np.float32)
        return solve_users(model, self.offsets, self.items, self.values, ones).x.astype(float)

    def rmse(self, X: Array, Q: Array) -> float:
        errors = self.held_values - np.sum(X[self.held_users] * Q[self.held_items], axis=1)
        return float(np.sqrt(np.mean(errors**2)))

    def ndcg(self, X: Array, Q: Array, n_users: int = 300) -> float:
        judged = np.unique(self.held_users)[:n_users]
        row = np.full(self.n_users, -1)
        row[judged] = np.arange(len(judged))
        seen, relevant = np.zeros((2, len(judged), self.n_items), np.bool_)
        for marks, users, items in ((seen, self.users, self.items), (relevant, self.held_users, self.held_items)):
            own = row[users] >= 0
            marks[row[users[own]], items[own]] = True
        return oracle.ndcg(X[judged] @ Q.T, seen, relevant, 10)


def split_data(users: Array, items: Array, values: Array, held: Array) -> Data:
    """Users and items renumbered by first training rating; held-out ratings of unknown ones dropped."""
    known_users, train_users = np.unique(users[~held], return_inverse=True)
    known_items, train_items = np.unique(items[~held], return_inverse=True)
    order = np.lexsort((train_items, train_users))
    known = held & np.isin(users, known_users) & np.isin(items, known_items)
    return Data(
        train_users[order],
        train_items[order].astype(np.int32),
        values[~held][order].astype(np.float32),
        np.searchsorted(known_users, users[known]),
        np.searchsorted(known_items, items[known]),
        values[known],
    )


def movietweetings() -> Data:
    """The sample in data/, its newest tenth held out."""
    with gzip.open(ROOT / "data" / "movietweetings-100k" / "ratings.dat.gz", "rt", encoding="utf-8") as lines:
        table = np.array([line.strip().split("::") for line in lines], dtype=np.int64)
    users, items, values, times = table.T
    return split_data(users, items, values.astype(float), times >= np.quantile(times, 0.9))


def generated() -> Data:
    """Five factors around 3 with noise 0.1; one in four pairs rated, one in ten of these held out."""
    rng = np.random.default_rng(11)
    truth = 3 + rng.normal(size=(500, 5)) @ rng.normal(size=(5, 200)) / np.sqrt(5)
    users, items = np.nonzero(rng.random(truth.shape) < 0.25)
    values = truth[users, items] + rng.normal(scale=0.1, size=len(users))
    return split_data(users, items, values, rng.random(len(users)) < 0.1)


def spark_als(spark: SparkSession, data: Data, params: AlsParams, iterations: int) -> tuple[Array, Array]:
    """User and item factors of Spark's ALS after so many iterations."""
    model: ALSModel = ALS(
        rank=params.rank,
        maxIter=iterations,
        regParam=params.reg,
        implicitPrefs=params.objective == "implicit",
        alpha=params.alpha,
        numUserBlocks=2,
        numItemBlocks=2,
        seed=1,
    ).fit(data.ratings(spark))
    sides = []
    for frame, n in ((model.userFactors, data.n_users), (model.itemFactors, data.n_items)):
        factors = np.zeros((n, params.rank))
        rows = frame.collect()
        factors[[row["id"] for row in rows]] = [row["features"] for row in rows]
        sides.append(factors)
    return sides[0], sides[1]


def ours_from(spark: SparkSession, data: Data, params: AlsParams, Q: Array, sweeps: int) -> FactorModel:
    start = FactorModel(params, Q.astype(np.float32), np.zeros(len(Q), np.float32), 0.0)
    return fit(data.blocks(spark), data.n_items, params, start=start, max_sweeps=sweeps).model


@pytest.mark.parametrize(("make_data", "item_solver"), [(movietweetings, "exact"), (generated, "cg")])
def test_explicit_als_has_the_held_out_error_of_sparks_after_as_many_sweeps(
    spark: SparkSession, make_data: Any, item_solver: Any
) -> None:
    data, params = make_data(), AlsParams(objective="explicit", rank=16, reg=0.1, item_solver=item_solver)
    _, first = spark_als(spark, data, params, 1)
    X, Q = spark_als(spark, data, params, SWEEPS)
    model = ours_from(spark, data, params, first, SWEEPS - 1)

    assert data.rmse(data.fold_in(model), model.item_factors) == pytest.approx(data.rmse(X, Q), abs=0.002)
    # Spark solves users last, so folding its users in against its items returns them as they are.
    sparks = FactorModel(params, Q.astype(np.float32), np.zeros(len(Q), np.float32), 0.0)
    np.testing.assert_allclose(data.fold_in(sparks), X, atol=2e-3)


@pytest.mark.parametrize(("make_data", "item_solver"), [(movietweetings, "cg"), (generated, "exact")])
def test_implicit_als_has_the_loss_and_the_ndcg_of_sparks_after_as_many_sweeps(
    spark: SparkSession, make_data: Any, item_solver: Any
) -> None:
    data = make_data()
    params = AlsParams(objective="implicit", rank=16, reg=0.05, alpha=2.0, item_solver=item_solver)
    _, first = spark_als(spark, data, params, 1)
    X, Q = spark_als(spark, data, params, SWEEPS)
    model = ours_from(spark, data, params, first, SWEEPS - 1)

    problem = oracle.Problem("implicit", reg=0.05, alpha=2.0)
    ours_x, ours_q = data.fold_in(model), model.item_factors.astype(float)
    ours, theirs = (
        oracle.loss_of_pairs(problem, data.users, data.items, data.values, x, q) for x, q in ((ours_x, ours_q), (X, Q))
    )
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert data.ndcg(ours_x, ours_q) == pytest.approx(data.ndcg(X, Q), abs=0.002)
    sparks = FactorModel(params, Q.astype(np.float32), np.zeros(len(Q), np.float32), 0.0)
    np.testing.assert_allclose(data.fold_in(sparks), X, atol=2e-3)


def test_from_its_own_start_a_fit_reaches_the_error_of_sparks_where_the_data_determine_it(spark: SparkSession) -> None:
    data, params = generated(), AlsParams(objective="explicit", rank=6, reg=0.001)
    X, Q = spark_als(spark, data, params, 6)
    model = fit(data.blocks(spark), data.n_items, params, max_sweeps=6).model
    assert data.rmse(data.fold_in(model), model.item_factors) == pytest.approx(data.rmse(X, Q), abs=0.002)
    assert data.rmse(X, Q) < 0.13
