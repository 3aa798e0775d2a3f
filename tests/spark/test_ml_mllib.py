"""recsys.ml beside pyspark.ml: the same code, the same data, the same answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml import recommendation as spark_ml
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import DataFrame, Row, SparkSession

from recsys.ml import ALS, ALSModel, ItemSide, _Users
from tests.oracles import als as oracle
from tests.spark.test_als_mllib import Array, Data, generated


@pytest.fixture(scope="module")
def data() -> Data:
    return generated()


def factors(model: Any, data: Data) -> tuple[Array, Array]:
    """X, Q of either model, by id."""
    sides = []
    for frame, n in ((model.userFactors, data.n_users), (model.itemFactors, data.n_items)):
        rows = frame.collect()
        side = np.zeros((n, model.rank))
        side[[row.id for row in rows]] = [row.features for row in rows]
        sides.append(side)
    return sides[0], sides[1]


def as_ours(model: Any) -> ALSModel:
    """A model of Spark's as an initialModel of ours."""
    rows = sorted(model.itemFactors.collect())
    q = np.array([row.features for row in rows], np.float32)
    ids = pa.array([row.id for row in rows], pa.int32())
    return ALSModel(ItemSide(ids, q, np.zeros(len(q), np.float32), 0.0, False), _Users(model.userFactors))


def listed(recommendations: DataFrame, owner: str, other: str) -> dict[int, list[int]]:
    return {row[owner]: [entry[other] for entry in row.recommendations] for row in recommendations.collect()}


def guide(spark: SparkSession, file: Path, als_class: Any) -> tuple[float, dict[str, DataFrame]]:
    """The ALS example of Spark's guide on collaborative filtering, but for the file and two seeds.

    Without a seed pyspark takes the hash of the class's name, another one in every process, and with some of them
    MLlib's own five iterations end at twice the error of others.
    """
    lines = spark.read.text(str(file)).rdd
    parts = lines.map(lambda row: row.value.split("::"))
    ratings_rdd = parts.map(lambda p: Row(userId=int(p[0]), movieId=int(p[1]), rating=float(p[2]), timestamp=int(p[3])))
    ratings = spark.createDataFrame(ratings_rdd)
    (training, test) = ratings.randomSplit([0.8, 0.2], seed=1)

    als = als_class(
        maxIter=5,
        regParam=0.01,
        userCol="userId",
        itemCol="movieId",
        ratingCol="rating",
        coldStartStrategy="drop",
        seed=1,
    )
    model = als.fit(training)

    predictions = model.transform(test)
    evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating", predictionCol="prediction")
    rmse = evaluator.evaluate(predictions)

    user_recs = model.recommendForAllUsers(10)
    movie_recs = model.recommendForAllItems(10)

    users = ratings.select(als.getUserCol()).distinct().limit(3)
    user_subset_recs = model.recommendForUserSubset(users, 10)
    movies = ratings.select(als.getItemCol()).distinct().limit(3)
    movie_subset_recs = model.recommendForItemSubset(movies, 10)
    return rmse, {
        "user": user_recs,
        "movie": movie_recs,
        "users": user_subset_recs,
        "movies": movie_subset_recs,
    }


def test_the_example_of_sparks_guide_runs_with_only_the_import_changed(
    spark: SparkSession, data: Data, tmp_path: Path
) -> None:
    file = tmp_path / "ratings.txt"
    with file.open("w", encoding="utf-8") as out:
        for user, item, value in zip(data.users, data.items, data.values, strict=True):
            if user < 200:
                out.write(f"{user}::{item}::{value}::0\n")
    spark_rmse, sparks = guide(spark, file, spark_ml.ALS)
    rmse, ours = guide(spark, file, ALS)
    # Ten factors for data made of five: what is left over differs by start. Answers are compared in the tests below.
    assert max(rmse, spark_rmse) < 0.5 * np.std(data.values)
    for name, recommendations in ours.items():
        assert [f.name for f in recommendations.schema] == [f.name for f in sparks[name].schema]
        entry = recommendations.schema["recommendations"].dataType.elementType
        assert [f.name for f in entry] == ["movieId" if name.startswith("user") else "userId", "rating"]
        assert entry["rating"].dataType.simpleString() == "float"
        lengths = [len(row.recommendations) for row in recommendations.collect()]
        assert set(lengths) == {10}
        assert len(lengths) == {"user": 200, "movie": data.n_items}.get(name, 3)


def test_explicit_ratings_give_the_error_and_the_lists_of_sparks(spark: SparkSession, data: Data) -> None:
    ratings = data.ratings(spark)
    options: dict[str, Any] = {"rank": 6, "maxIter": 8, "regParam": 0.001, "seed": 1}
    theirs = spark_ml.ALS(numUserBlocks=2, numItemBlocks=2, **options).fit(ratings)
    ours = ALS(**options).fit(ratings)
    rmse = [data.rmse(*factors(model, data)) for model in (ours, theirs)]
    assert rmse[0] == pytest.approx(rmse[1], abs=0.002)
    assert rmse[1] < 0.13

    for method, owner, other in (
        ("recommendForAllUsers", "user", "item"),
        ("recommendForAllItems", "item", "user"),
    ):
        expected = listed(getattr(theirs, method)(10), owner, other)
        found = listed(getattr(ours, method)(10), owner, other)
        assert found.keys() == expected.keys()
        overlap = [len({*found[key]} & {*expected[key]}) / 10 for key in expected]
        assert np.mean(overlap) > 0.95
    schemas = [model.recommendForAllUsers(3).schema.simpleString() for model in (ours, theirs)]
    assert schemas[0] == schemas[1]  # int ids: the same types as well


def test_implicit_ratings_give_the_loss_and_the_ndcg_of_sparks(spark: SparkSession, data: Data) -> None:
    # Random starts play no part: ours goes on from Spark's first iteration and makes the other n - 1.
    ratings = data.ratings(spark)
    options: dict[str, Any] = {"rank": 8, "regParam": 0.05, "implicitPrefs": True, "alpha": 2.0, "seed": 1}
    sparks = spark_ml.ALS(numUserBlocks=2, numItemBlocks=2, **options)
    first, theirs = (sparks.copy({sparks.maxIter: n}).fit(ratings) for n in (1, 5))
    ours = ALS(maxIter=4, initialModel=as_ours(first), **options).fit(ratings)
    problem = oracle.Problem("implicit", reg=0.05, alpha=2.0)
    (x, q), (x_sparks, q_sparks) = factors(ours, data), factors(theirs, data)
    loss = oracle.loss_of_pairs(problem, data.users, data.items, data.values, x, q)
    expected = oracle.loss_of_pairs(problem, data.users, data.items, data.values, x_sparks, q_sparks)
    assert loss == pytest.approx(expected, rel=1e-3)
    assert data.ndcg(x, q) == pytest.approx(data.ndcg(x_sparks, q_sparks), abs=0.002)


@pytest.mark.parametrize("implicit", [False, True])
def test_users_are_sparks_for_sparks_items_with_repeated_and_negative_ratings(
    spark: SparkSession, implicit: bool
) -> None:
    rng = np.random.default_rng(3)
    rows = [(int(u), int(i), float(r)) for u, i, r in zip(*rng.integers(0, [[9], [6], [5]], (3, 60)), strict=True)]
    rows = [(u, i, r - (2.0 if implicit and i != u % 6 else 0.0)) for u, i, r in rows]
    rows += [(u, u % 6, 3.0) for u in range(9)]  # everyone has something above 0, without which Spark's fails
    rows += rows[:20]  # repeated, as terms of their own
    ratings = spark.createDataFrame(rows, "user int, item int, rating double")
    options: dict[str, Any] = {"rank": 3, "regParam": 0.1, "implicitPrefs": implicit, "alpha": 1.5, "seed": 5}
    theirs = spark_ml.ALS(maxIter=2, numUserBlocks=2, numItemBlocks=2, **options).fit(ratings)
    ours = ALS(maxIter=0, initialModel=as_ours(theirs), **options).fit(ratings)
    expected = {row.id: row.features for row in theirs.userFactors.collect()}
    found = {row.id: row.features for row in ours.userFactors.collect()}
    assert found.keys() == expected.keys()
    for user, x in expected.items():
        np.testing.assert_allclose(found[user], x, atol=2e-4)
