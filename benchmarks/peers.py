"""The rivals: MLlib, implicit and cmfrec, each asked the same of the same data.

A rival keeps its own defaults in all that does not define the problem. Everyone gets a small fit first, so that no one
pays for compiling inside the clock.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.feature import StringIndexer, StringIndexerModel
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from benchmarks import data
from benchmarks.frames import ITEM, RATING, USER, make_ratings, user_number
from benchmarks.process import CORES, Clock, PeerMissingError, Result, Task, open_session, say
from benchmarks.quality import Factors, Judge, implicit_loss
from recsys import columns as c
from recsys.als.params import AlsParams

# MLlib with the settings Spark comes with: conf/spark-local.conf is made for short jobs and would slow it down.
_MLLIB: Final = {
    "spark.driver.extraJavaOptions": "-Djava.net.preferIPv4Stack=true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "10000",
    "spark.sql.inMemoryColumnarStorage.compressed": "true",
    "spark.sql.shuffle.partitions": "10",
    "spark.default.parallelism": str(CORES),
}
_RANDOM_FACTORS: Final = 7  # seed


def mllib_fit(task: Task) -> Result:
    """Fits of MLlib's ALS from a cached DataFrame, or with ``warehouse`` in the options from the Delta table.

    Options: ``als`` (AlsParams), ``iterations`` (list: one fit of each), ``blocks`` (None: MLlib's default).
    From the table the clock includes reading it, numbering users and items, and saving the model.
    """
    params = AlsParams(**task.options["als"])
    world = data.make_world(task.shape)
    spark = open_session(task, _MLLIB)
    fits = []
    if "warehouse" in task.options:
        for iterations in task.options["iterations"]:
            fits.append(_mllib_job(spark, task, world, params, iterations))
        return {"fits": fits}
    small = data.make_world(data.make_shape("3k"))
    if task.shape.n_ratings > small.shape.n_ratings:
        _mllib_als(task, params, 1).fit(make_ratings(spark, small, data.BASE, tasks=CORES))
    ratings = make_ratings(spark, world, data.BASE, tasks=CORES).persist()
    say(f"MLlib: {ratings.count():,} ratings cached")
    for iterations in task.options["iterations"]:
        clock = Clock()
        model = _mllib_als(task, params, iterations).fit(ratings)
        fits.append({"iterations": iterations, "seconds": clock.seconds})
        say(f"MLlib: {iterations} iterations in {clock.seconds:.1f} s")
        fits[-1]["quality"] = _judge(world, params, _mllib_factors(model, world))
    return {"fits": fits}


def mllib_recommend(task: Task) -> Result:
    """``recommendForUserSubset`` of a sample of users, on factors as large as a fit's.

    Options: ``rank``, ``n``, ``users`` (how many in the sample). The factors are random: the work is the same.
    """
    rank, n, n_users = task.options["rank"], task.options["n"], min(task.options["users"], task.shape.n_users)
    spark = open_session(task, _MLLIB)
    users, items = _random_factors(n_users, rank), _random_factors(task.shape.n_items, rank, 1)
    jvm: Any = spark._jvm
    frames = [_factor_frame(spark, factors).persist() for factors in (users, items)]
    for frame in frames:
        frame.count()
    java = jvm.org.apache.spark.ml.recommendation.ALSModel("benchmark", rank, *(frame._jdf for frame in frames))
    model = ALSModel(java.setUserCol(USER).setItemCol(ITEM))
    clock = Clock()
    model.recommendForAllUsers(n).write.format("noop").mode("overwrite").save()
    seconds = clock.seconds
    return {"seconds": seconds, "users": n_users, "seconds_a_user": seconds / n_users}


def implicit_fit(task: Task) -> Result:
    """One fit of implicit's AlternatingLeastSquares (conjugate gradient) on two threads.

    Options: ``als`` (AlsParams, flat regularisation), ``iterations``. implicit adds ``confidence - 1`` to a pair's
    weight, so ``1 + alpha r`` as its data is the problem of Hu, Koren & Volinsky.
    """
    implicit_als = _import("implicit", "implicit.cpu.als")
    sparse = _import("scipy", "scipy.sparse")
    params = AlsParams(**task.options["als"])
    if params.reg_exponent != 0:
        raise ValueError("implicit's regularisation does not grow with ratings: set reg_exponent to 0.")
    world = data.make_world(task.shape)
    ratings = data.load(world, data.BASE)
    shape = (task.shape.n_users, task.shape.n_items)
    matrix = sparse.csr_matrix((1 + np.float32(params.alpha) * ratings.values, ratings.items, ratings.offsets), shape)

    def fit(on: Any, iterations: int) -> Any:
        model = implicit_als.AlternatingLeastSquares(
            factors=params.rank,
            regularization=params.reg,
            alpha=1.0,
            iterations=iterations,
            num_threads=CORES,
            random_state=params.seed,
        )
        model.fit(on, show_progress=False)
        return model

    fit(matrix[:100], 1)
    clock = Clock()
    model = fit(matrix, task.options["iterations"])
    seconds = clock.seconds
    say(f"implicit: {task.options['iterations']} iterations in {seconds:.1f} s")
    factors = Factors(np.asarray(model.user_factors), np.asarray(model.item_factors))
    return _in_memory_result(task, seconds, world, params, factors)


def implicit_recommend(task: Task) -> Result:
    """Implicit's ``recommend`` without seen items for a sample of users, on two threads; options as for MLlib."""
    implicit_als = _import("implicit", "implicit.cpu.als")
    sparse = _import("scipy", "scipy.sparse")
    rank, n, n_users = task.options["rank"], task.options["n"], min(task.options["users"], task.shape.n_users)
    world = data.make_world(task.shape)
    ratings = data.generate(world, np.arange(n_users, dtype=np.int64)).take(data.BASE)
    matrix = sparse.csr_matrix((ratings.values, ratings.items, ratings.offsets), (n_users, task.shape.n_items))
    model = implicit_als.AlternatingLeastSquares(factors=rank, num_threads=CORES)
    model.user_factors = _random_factors(n_users, rank)
    model.item_factors = _random_factors(task.shape.n_items, rank, 1)
    numbers = np.arange(n_users)
    model.recommend(numbers[:10], matrix[:10], N=n, filter_already_liked_items=True)
    clock = Clock()
    model.recommend(numbers, matrix, N=n, filter_already_liked_items=True)
    seconds = clock.seconds
    return {"seconds": seconds, "users": n_users, "seconds_a_user": seconds / n_users}


def cmfrec_fit(task: Task) -> Result:
    """One fit of cmfrec's explicit model by conjugate gradient on two threads.

    Options: ``als`` (AlsParams, regularisation that grows with ratings), ``iterations``. Biases and centring are as in
    ``als``, so that everybody fits the same model.
    """
    cmfrec = _import("cmfrec", "cmfrec")
    sparse = _import("scipy", "scipy.sparse")
    params = AlsParams(**task.options["als"])
    if params.biases or params.reg_exponent not in (0, 1):
        raise ValueError("cmfrec is compared without biases and with reg_exponent 0 or 1. Set them so.")
    world = data.make_world(task.shape)
    ratings = data.load(world, data.BASE)
    shape = (task.shape.n_users, task.shape.n_items)
    matrix = sparse.coo_matrix((ratings.values, (ratings.owners(), ratings.items)), shape)

    def fit(on: Any, iterations: int) -> Any:
        return cmfrec.CMF(
            k=params.rank,
            lambda_=params.reg,
            scale_lam=params.reg_exponent == 1,
            use_cg=True,
            finalize_chol=False,  # its default, a last iteration by Cholesky, gains nothing here and takes 13 s of 18
            user_bias=False,
            item_bias=False,
            center=False,
            niter=iterations,
            precompute_for_predictions=False,
            include_all_X=False,
            random_state=params.seed,
            nthreads=CORES,
            verbose=False,
            handle_interrupt=False,
        ).fit(on)

    few = ratings.offsets[100]
    head = ratings.owners()[:few], ratings.items[:few]
    fit(sparse.coo_matrix((ratings.values[:few], head), (100, task.shape.n_items)), 1)
    clock = Clock()
    model = fit(matrix, task.options["iterations"])
    seconds = clock.seconds
    say(f"cmfrec: {task.options['iterations']} iterations in {seconds:.1f} s")
    return _in_memory_result(task, seconds, world, params, Factors(np.asarray(model.A_), np.asarray(model.B_)))


def _in_memory_result(task: Task, seconds: float, world: data.World, params: AlsParams, factors: Factors) -> Result:
    return {
        "fits": [
            {
                "iterations": task.options["iterations"],
                "seconds": seconds,
                "quality": _judge(world, params, factors),
            }
        ]
    }


def _judge(world: data.World, params: AlsParams, factors: Factors) -> dict[str, float]:
    quality = Judge(world, params, data.BASE).judge_factors(factors)
    if params.objective == "implicit":
        quality["loss"] = implicit_loss(data.load(world, data.BASE), factors, params)
    say(f"quality: {quality}")
    return quality


def _mllib_als(task: Task, params: AlsParams, iterations: int) -> ALS:
    if params.reg_exponent != 1 or params.biases or params.unobserved_weight != 1:
        raise ValueError("MLlib's regularisation grows with ratings, without biases: reg_exponent 1, biases false.")
    als = ALS(
        rank=params.rank,
        maxIter=iterations,
        regParam=params.reg,
        implicitPrefs=params.objective == "implicit",
        alpha=params.alpha,
        userCol=USER,
        itemCol=ITEM,
        ratingCol=RATING,
        seed=params.seed,
    )
    blocks = task.options.get("blocks")
    return als if blocks is None else als.setNumBlocks(blocks)


def _mllib_job(
    spark: SparkSession, task: Task, world: data.World, params: AlsParams, iterations: int
) -> dict[str, Any]:
    """Read the Delta table, number users and items, fit, save."""
    folder = Path(task.options["warehouse"])
    clock = Clock()
    events = spark.read.format("delta").load(str(folder / "ratings"))
    kept = events.where(sf.col(c.EVENT_TIME) < sf.timestamp_micros(sf.lit(data.HELD_START)))
    indexer = StringIndexer(
        inputCols=[c.USER_ID, c.ITEM_ID], outputCols=[USER, ITEM], stringOrderType="alphabetAsc"
    ).fit(kept)
    ratings = indexer.transform(kept).select(
        sf.col(USER).cast("int"), sf.col(ITEM).cast("int"), sf.col(c.VALUE).cast("float").alias(RATING)
    )
    indexed = clock.seconds
    model = _mllib_als(task, params, iterations).fit(ratings)
    fitted = clock.seconds
    model.write().overwrite().save(str(folder / "mllib-model"))
    indexer.write().overwrite().save(str(folder / "mllib-index"))
    seconds = clock.seconds
    say(f"MLlib from the table: {iterations} iterations in {seconds:.1f} s")
    quality = _judge(world, params, _mllib_factors(model, world, indexer))
    stages = {"index": indexed, "fit": fitted - indexed, "write": seconds - fitted}
    return {"iterations": iterations, "seconds": seconds, "stages": stages, "quality": quality}


def _mllib_factors(model: ALSModel, world: data.World, indexer: StringIndexerModel | None = None) -> Factors:
    """Factors by number and position; zeros where MLlib has none."""
    labels: Sequence[Sequence[str] | None] = indexer.labelsArray if indexer is not None else (None, None)
    sides = zip((model.userFactors, model.itemFactors), (world.shape.n_users, world.shape.n_items), labels, strict=True)
    return Factors(*(_read_factors(frame, n, model.rank, names) for frame, n, names in sides))


def _read_factors(frame: DataFrame, n: int, rank: int, labels: Sequence[str] | None) -> NDArray[np.float32]:
    table = frame.select("id", "features").toArrow()
    ids = table.column("id").to_numpy()
    if labels is not None:
        ids = np.array([user_number(label) for label in labels])[ids]
    factors = np.zeros((n, rank), np.float32)
    features: Any = table.column("features").combine_chunks()
    factors[ids] = features.flatten().to_numpy().reshape(-1, rank)
    return factors


def _random_factors(n: int, rank: int, stream: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng((_RANDOM_FACTORS, stream)).standard_normal((n, rank), np.float32) * np.float32(0.3)


def _factor_frame(spark: SparkSession, factors: NDArray[np.float32]) -> DataFrame:
    n, rank = factors.shape
    features = pa.ListArray.from_arrays(np.arange(0, n * rank + 1, rank, dtype=np.int32), factors.reshape(-1))
    table = pa.table({"id": np.arange(n, dtype=np.int32), "features": features})
    return spark.createDataFrame(table).repartition(CORES)


def _import(package: str, module: str) -> Any:
    """A rival's module.

    Raises:
        PeerMissingError: it is not installed.
    """
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as err:
        raise PeerMissingError(
            f"{package} is not installed, so it was not measured. Install requirements/bench.txt in an environment "
            "and run the benchmark with its Python."
        ) from err
    return importlib.import_module(module)
