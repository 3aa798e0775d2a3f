"""recsys.ml in Spark: what it promises beyond and beside pyspark.ml's ALS."""

import gc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import SQLTransformer
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys.als.fit import SweepReport
from recsys.blocks.partials import sum_parts
from recsys.errors import DataRejectedError, ModelArtifactError, NothingToTrainError, RatingsSchemaError
from recsys.ml import ALS, ALSModel
from tests.oracles import als as oracle

N_USERS, N_ITEMS = 30, 12


def matrix() -> Any:
    """Two factors around 3; two in three pairs rated, NaN the others."""
    rng = np.random.default_rng(8)
    truth = 3 + rng.normal(size=(N_USERS, 2)) @ rng.normal(size=(2, N_ITEMS))
    return np.where(rng.random(truth.shape) < 0.67, truth.round(1), np.nan)


R = matrix()


def user_name(u: int) -> str:
    return f"user {u:02}"


def item_name(i: int) -> str:
    return f"ítem {i:02}"


def frame(
    spark: SparkSession,
    users: Callable[[int], Any] = user_name,
    items: Callable[[int], Any] = item_name,
    types: tuple[str, str] = ("string", "string"),
) -> DataFrame:
    rows = [(users(int(u)), items(int(i)), float(R[u, i])) for u, i in zip(*np.nonzero(~np.isnan(R)), strict=True)]
    return spark.createDataFrame(rows, f"user {types[0]}, item {types[1]}, rating double")


@pytest.fixture(scope="module")
def ratings(spark: SparkSession) -> DataFrame:
    return frame(spark).cache()


@pytest.fixture(scope="module")
def als() -> ALS:
    """Three partitions and blocks of four users: every list is put together from parts."""
    return ALS(rank=3, maxIter=4, regParam=0.05, numUserBlocks=3, blockSize=4)


@pytest.fixture(scope="module")
def model(als: ALS, ratings: DataFrame) -> ALSModel:
    return als.fit(ratings)


def side(rows: DataFrame, name: Callable[[int], Any], n: int) -> tuple[Any, Any]:
    """Factors and biases in the order of the matrix."""
    found = {row.id: row for row in rows.collect()}
    assert found.keys() == {name(k) for k in range(n)}
    ordered = [found[name(k)] for k in range(n)]
    return np.array([row.features for row in ordered]), np.array([getattr(row, "bias", 0.0) for row in ordered])


def sides(model: ALSModel) -> tuple[Any, Any, Any, Any]:
    return *side(model.userFactors, user_name, N_USERS), *side(model.itemFactors, item_name, N_ITEMS)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, oracle.Problem("explicit", reg=0.05)),
        ({"regScaling": "flat"}, oracle.Problem("explicit", reg=0.05, nu=0.0)),
        (
            {"regScaling": 0.5, "implicitPrefs": True, "alpha": 2.0},
            oracle.Problem("implicit", reg=0.05, nu=0.5, alpha=2.0),
        ),
        ({"biases": True}, oracle.Problem("explicit", reg=0.05, biases=True, mean=float(np.nanmean(R)))),
    ],
    ids=["count", "flat", "exponent, implicit", "biases"],
)
def test_users_are_the_exact_solutions_for_the_items(
    als: ALS, ratings: DataFrame, options: dict[str, Any], problem: oracle.Problem
) -> None:
    fitted = als.copy().setParams(maxIter=2, **options).fit(ratings)
    x, x_bias, q, q_bias = sides(fitted)
    expected = oracle.solve_side(problem, R, np.ones_like(R), q, q_bias)
    np.testing.assert_allclose(x, expected[0], atol=2e-4)
    np.testing.assert_allclose(x_bias, expected[1], atol=2e-4)
    scores = problem.mean + x_bias[:, None] + q_bias + x @ q.T
    predictions = {(row.user, row.item): row.prediction for row in fitted.transform(ratings).collect()}
    assert len(predictions) == ratings.count()
    for u, i in zip(*np.nonzero(~np.isnan(R)), strict=True):
        assert predictions[user_name(u), item_name(i)] == pytest.approx(scores[u, i], abs=1e-4)
    best = {
        row.user: [entry.rating for entry in row.recommendations] for row in fitted.recommendForAllUsers(4).collect()
    }
    for u in range(N_USERS):
        np.testing.assert_allclose(best[user_name(u)], -np.sort(-scores[u])[:4], atol=1e-4)
    best = {
        row.item: [entry.rating for entry in row.recommendations] for row in fitted.recommendForAllItems(4).collect()
    }
    for i in range(N_ITEMS):
        np.testing.assert_allclose(best[item_name(i)], -np.sort(-scores[:, i])[:4], atol=1e-4)


@pytest.mark.parametrize("n", [4, 100])
@pytest.mark.parametrize("exclude", [False, True])
def test_lists_are_those_of_brute_force_and_without_seen_ones_where_asked(
    model: ALSModel, ratings: DataFrame, n: int, exclude: bool
) -> None:
    x, _, q, _ = sides(model)
    scores = x @ q.T
    if exclude:
        scores[~np.isnan(R)] = -np.inf
    some_users = ratings.where("user < 'user 07'").select("user")
    some_items = ratings.where("item >= 'ítem 09'").select("item")
    cases = [
        (model.recommendForAllUsers(n, exclude), "user", "item", scores, user_name, item_name, range(N_USERS)),
        (model.recommendForAllItems(n, exclude), "item", "user", scores.T, item_name, user_name, range(N_ITEMS)),
        (model.recommendForUserSubset(some_users, n, exclude), "user", "item", scores, user_name, item_name, range(7)),
        (
            model.recommendForItemSubset(some_items, n, exclude),
            "item",
            "user",
            scores.T,
            item_name,
            user_name,
            range(9, N_ITEMS),
        ),
    ]
    for lists, owner, other, expected, name, other_name, owners in cases:
        found = {row[owner]: [entry[other] for entry in row.recommendations] for row in lists.collect()}
        brute = {}
        for k in owners:
            order = [j for j in np.argsort(-expected[k], kind="stable") if expected[k, j] > -np.inf]
            brute[name(k)] = [other_name(j) for j in order[:n]]
        assert found == brute


@pytest.mark.parametrize(("blocks", "tasks"), [(1, 1), (2, 2), (5, 2)])
def test_ratings_and_users_are_in_num_user_blocks_and_a_pass_has_no_more_tasks_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, ratings: DataFrame, blocks: int, tasks: int
) -> None:
    passes = []

    def sum_and_note(parts: Any, shapes: Any) -> Any:
        passes.append(parts.getNumPartitions())
        return sum_parts(parts, shapes)

    monkeypatch.setattr("recsys.als.sweep.sum_parts", sum_and_note)
    fitted = ALS(rank=2, maxIter=2, numUserBlocks=blocks).fit(ratings)
    assert fitted.userFactors.rdd.getNumPartitions() == blocks
    assert len(passes) > 2
    assert set(passes) == {tasks}


def test_ids_of_any_type_give_the_same_factors(spark: SparkSession, als: ALS) -> None:
    # One partition, and ids that keep their order: the same blocks, byte for byte.
    one = als.copy({als.numUserBlocks: 1, als.maxIter: 2})
    relabelled = {
        "int": frame(spark, lambda u: u, lambda i: i - 5, ("int", "short")),
        "bigint": frame(spark, lambda u: u + 2**40, lambda i: i - 2**50, ("long", "long")),
        "double": frame(spark, float, float, ("double", "double")),
        "string": frame(spark),
    }
    factors = {}
    for name, data in relabelled.items():
        fitted = one.fit(data)
        kept = {"double": "bigint"}.get(name, name)
        assert fitted.userFactors.schema["id"].dataType.simpleString() == kept
        assert fitted.itemFactors.schema["id"].dataType.simpleString() == kept
        factors[name] = [
            [row.features for row in rows.orderBy("id").collect()] for rows in (fitted.userFactors, fitted.itemFactors)
        ]
        # An unknown id, for the model of ints one that no int holds.
        wide = "string" if name == "string" else "long"
        asked = data.limit(2).withColumn("user", sf.col("user").cast(wide))
        asked = asked.union(asked.limit(1).withColumn("user", sf.lit(9 * 10**11).cast(wide)))
        assert fitted.transform(asked).where("isnan(prediction)").count() == 1
    assert all(each == factors["string"] for each in factors.values())


def test_a_fit_that_is_done_is_not_moved_by_another_from_its_model(als: ALS, ratings: DataFrame) -> None:
    seen: list[SweepReport] = []
    until_done = als.copy({als.regParam: 0.3, als.maxIter: 40}).setProgress(seen.append)
    done = until_done.fit(ratings)
    assert [report.sweep for report in seen] == list(range(1, 41))
    assert all(later.loss <= before.loss * 1.000001 for before, later in pairwise(seen))
    again = until_done.copy({als.maxIter: 1, als.initialModel: done}).fit(ratings)
    for after, before in zip(sides(again), sides(done), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-3)
    only_users = until_done.copy({als.maxIter: 0, als.initialModel: done}).fit(ratings)
    for after, before in zip(sides(only_users), sides(done), strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_warm_fit_takes_new_users_and_items_in_and_is_ahead_of_a_cold_one(als: ALS, ratings: DataFrame) -> None:
    known = ratings.where("item < 'ítem 10' and user < 'user 25'")
    before = als.copy({als.maxIter: 15}).fit(known)
    losses: dict[str, list[float]] = {"cold": [], "warm": []}
    one_sweep = als.copy({als.maxIter: 1})
    one_sweep.setProgress(lambda report: losses["cold"].append(report.loss)).fit(ratings)
    one_sweep.setProgress(lambda report: losses["warm"].append(report.loss))
    warm = one_sweep.copy({als.initialModel: before}).fit(ratings)
    assert losses["warm"][0] < losses["cold"][0]
    x, _, q, _ = sides(warm)  # holds everyone
    assert x.any(axis=1).all()
    assert q.any(axis=1).all()
    # Items without ratings in the data are not in a model, as in Spark's.
    less = one_sweep.copy({als.initialModel: warm, als.maxIter: 0}).fit(known)
    assert less.itemFactors.count() == 10
    with pytest.raises(ValueError, match=r"initialModel has rank 3, the fit rank 2. Set rank=3"):
        one_sweep.copy({als.initialModel: before, als.rank: 2}).fit(ratings)


def test_unknown_users_and_items_have_nan_or_no_row(spark: SparkSession, model: ALSModel) -> None:
    asked = spark.createDataFrame(
        [(1, "user 01", "ítem 01"), (2, "nobody", "ítem 01"), (3, "user 01", "nothing"), (4, "nobody", "nothing")],
        "n int, user string, item string",
    )
    rows = model.transform(asked).orderBy("n").collect()
    assert [np.isnan(row.prediction) for row in rows] == [False, True, True, True]
    kept = model.transform(asked, {model.coldStartStrategy: "drop", model.predictionCol: "p"}).collect()
    assert [(row.n, row.p) for row in kept] == [(1, rows[0].prediction)]
    assert model.getColdStartStrategy() == "nan"
    nobody = model.recommendForUserSubset(asked.where("n = 2"), 3)
    assert nobody.collect() == []


def test_a_model_and_a_pipeline_come_back_from_files_as_they_were(
    als: ALS, model: ALSModel, ratings: DataFrame, tmp_path: Path
) -> None:
    rename = SQLTransformer(statement="SELECT user AS who, item, rating FROM __THIS__")
    stage = als.copy({als.userCol: "who", als.maxIter: 2, als.initialModel: model})
    pipeline = Pipeline(stages=[rename, stage])
    pipeline.save(str(tmp_path / "pipeline"))
    loaded = Pipeline.load(str(tmp_path / "pipeline"))
    read = loaded.getStages()[1]
    assert isinstance(read, ALS)
    assert (read.uid, read.getUserCol(), read.getRank(), read.isSet("seed")) == (stage.uid, "who", 3, False)

    fitted = loaded.fit(ratings)
    expected = sorted(pipeline.fit(ratings).transform(ratings).collect())  # from the same initial model
    path = str(tmp_path / "fitted")
    fitted.save(path)
    fitted.write().overwrite().save(path)
    back = PipelineModel.load(path)
    assert sorted(back.transform(ratings).collect()) == expected
    ours, theirs = (stages[1] for stages in (back.stages, fitted.stages))
    for rows in ("userFactors", "itemFactors"):
        assert sorted(getattr(ours, rows).collect()) == sorted(getattr(theirs, rows).collect())
    seen = [sorted(each.recommendForAllUsers(3, excludeSeen=True).collect()) for each in (ours, theirs)]
    assert seen[0] == seen[1]
    files = [file for file in tmp_path.rglob("*") if file.is_file() and not file.name.startswith((".", "_"))]
    assert {file.suffix for file in files} == {".parquet", ".txt"}  # metadata is JSON in text files

    with pytest.raises(ModelArtifactError, match=r"holds a recsys.ml.ALSModel, not a recsys.ml.ALS\."):
        ALS.load(f"{path}/stages/1_{stage.uid}")


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # Spark's validators
def test_a_cross_validator_picks_what_brute_force_picks(als: ALS, ratings: DataFrame, tmp_path: Path) -> None:
    folded = ratings.withColumn("fold", sf.pmod(sf.hash("user", "item"), sf.lit(2)).cast("int"))
    few = als.copy({als.coldStartStrategy: "drop", als.maxIter: 2, als.numUserBlocks: 1})
    grid = ParamGridBuilder().addGrid(few.regParam, [0.03, 3.0]).build()
    rmse = RegressionEvaluator(labelCol="rating")
    brute = []
    for point in grid:
        errors = []
        for fold in (0, 1):
            fitted = few.fit(folded.where(sf.col("fold") != fold), point)
            errors.append(rmse.evaluate(fitted.transform(folded.where(sf.col("fold") == fold))))
        brute.append(np.mean(errors))
    validator = CrossValidator(
        estimator=few, estimatorParamMaps=grid, evaluator=rmse, numFolds=2, foldCol="fold", parallelism=2
    )
    validated = validator.fit(folded)
    np.testing.assert_allclose(validated.avgMetrics, brute, rtol=1e-5)
    best, one = validated.bestModel, few.fit(folded, grid[int(np.argmin(brute))])
    assert isinstance(best, ALSModel)
    for found, expected in ((best.itemFactors, one.itemFactors), (best.userFactors, one.userFactors)):
        assert sorted(found.collect()) == sorted(expected.collect())
    validated.save(str(tmp_path / "validated"))
    loaded = CrossValidatorModel.load(str(tmp_path / "validated"))
    assert loaded.avgMetrics == validated.avgMetrics
    assert sorted(loaded.transform(folded).collect()) == sorted(best.transform(folded).collect())

    split = TrainValidationSplit(estimator=few, estimatorParamMaps=grid[:1], evaluator=rmse, trainRatio=0.7, seed=1)
    validated = split.fit(ratings)
    assert np.isfinite(validated.validationMetrics).all()
    assert isinstance(validated.bestModel, ALSModel)
    gc.collect()  # the pools, while their warnings are expected


def test_without_a_rating_column_all_ratings_are_one(als: ALS, ratings: DataFrame) -> None:
    ones = als.copy({als.maxIter: 1}).fit(ratings.withColumn("rating", sf.lit(1)))
    for nothing in ("", None):
        found = als.copy().setParams(maxIter=1, ratingCol=nothing).fit(ratings.drop("rating"))
        for after, before in zip(sides(found), sides(ones), strict=True):
            np.testing.assert_array_equal(after, before)


def test_data_that_cannot_be_used_are_refused_in_one_message(
    spark: SparkSession, als: ALS, model: ALSModel, ratings: DataFrame
) -> None:
    with pytest.raises(RatingsSchemaError, match=r"column 'user' is missing \(found: who, item, rating\)"):
        als.fit(ratings.withColumnRenamed("user", "who"))
    with pytest.raises(RatingsSchemaError, match="column 'rating' has type string, but ratings are numbers"):
        als.fit(ratings.withColumn("rating", sf.lit("good")))
    with pytest.raises(RatingsSchemaError, match="column 'item' has type boolean"):
        als.fit(ratings.withColumn("item", sf.lit(True)))
    bad = spark.createDataFrame(
        [(None, 1.0, 1.0), (1, 1.5, 1.0), (1, None, 1.0), (1, 2.0, float("nan")), (2, 2.0, None), (2, 2.0, 3.0)],
        "user int, item double, rating double",
    )
    with pytest.raises(DataRejectedError) as refused:
        als.fit(bad)
    message = str(refused.value)
    assert "'user' holds ids that are null or not whole numbers (1 rows)" in message
    assert "'item' holds ids that are null or not whole numbers (2 rows)" in message
    assert "'rating' holds ratings that are null, NaN or infinite (2 rows)" in message
    with pytest.raises(NothingToTrainError, match="the dataset has no rows"):
        als.fit(ratings.where("false"))

    with pytest.raises(RatingsSchemaError, match=r"column 'user' has type int, the model's ids string. Cast"):
        model.transform(ratings.withColumn("user", sf.lit(1)))
    with pytest.raises(RatingsSchemaError, match="already has a column 'prediction'"):
        model.transform(ratings.withColumn("prediction", sf.lit(1)))
    with pytest.raises(PySparkException, match="'item' holds ids that are null"):
        model.transform(ratings.withColumn("item", sf.lit(None).cast("string"))).collect()


def test_cached_users_are_released_after_their_model(spark: SparkSession, als: ALS, ratings: DataFrame) -> None:
    quick = als.copy({als.maxIter: 1})
    first = quick.fit(ratings)
    rows = first._users.rows
    assert rows.is_cached
    assert rows.storageLevel.useMemory
    del first
    quick.copy({als.finalStorageLevel: "NONE"}).fit(ratings)
    assert not rows.storageLevel.useMemory
