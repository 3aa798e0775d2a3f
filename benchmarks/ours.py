"""The engine under measurement: fits, whole jobs, refreshes, lists, and what Spark says they moved and kept.

Only public functions of ``recsys`` are called, those that its jobs call.
"""

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from benchmarks import data
from benchmarks.frames import (
    FIRST_BATCH,
    LATE_BATCH,
    OPEN_FILES,
    append_batch,
    fill_tables,
    item_ids,
    make_split_blocks,
)
from benchmarks.observe import EventLog, status_of, stored_bytes, sum_exchange
from benchmarks.process import CORES, Clock, ContestantError, MemoryWatch, Result, Task, open_session, say
from benchmarks.quality import Judge, reached
from recsys import columns as c
from recsys.als.fit import SweepReport
from recsys.als.fit import fit as fit_factors
from recsys.als.model import FactorModel, initial_model, solve_users
from recsys.als.params import AlsParams
from recsys.als.plan import measure_speed, plan_fit
from recsys.als.sweep import BLOCKS_OF_A_FIT
from recsys.blocks.codec import SplitBlock
from recsys.blocks.split import split_blocks
from recsys.planning import find_resources, read_statistics
from recsys.ranking.model import ListModel
from recsys.ranking.params import RankingParams
from recsys.ranking.score import score_blocks
from recsys.store.items import read_items
from recsys.store.params import MlflowParams, WarehouseParams
from recsys.store.registry import Registry
from recsys.store.tables import Tables
from recsys.user_blocks import bring_blocks_up_to_date, read_user_blocks

_REFRESHED: Final = "refresh"  # beside a warehouse: its hard-linked copy that gets the late ratings
_FIRST_BLOCKS: Final = "user_blocks_before"  # in that copy: the blocks of the first batch
_FIRST_MODEL: Final = "first_model.npz"
_CHECKED_USERS: Final = 200


def fit(task: Task) -> Result:
    """A cold fit from cached split blocks, judged after every sweep outside the clock.

    Options: ``als`` (AlsParams), ``judged`` (False: sweeps are only timed), ``tasks`` (partitions).
    """
    params = AlsParams(**task.options["als"])
    world = data.make_world(task.shape)
    spark = open_session(task)
    tasks = task.options.get("tasks", CORES)
    _warm_up(spark, task, params)
    split = make_split_blocks(spark, world, data.BASE, tasks=tasks).persist()
    say(f"ours: {split.count():,} blocks cached")
    judge = Judge(world, params, data.BASE) if task.options.get("judged", True) else None
    with _Stages(spark) as stages:
        run = _Run(judge)
        fit_factors(split, task.shape.n_items, params, measure=run.measure if judge else None, on_sweep=run.on_sweep)
        seconds = run.clock.seconds
    return {"seconds": seconds, "curve": run.curve, "tasks_busy": stages.busy_seconds / (CORES * seconds)}


def fill(task: Task) -> Result:
    """A warehouse with generated ratings and items, made once; blocks are left to the jobs.

    Options: ``warehouse`` (its folder).
    """
    folder = Path(task.options["warehouse"])
    done = folder / "filled.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == task.shape.to_dict():
        return {"filled": False}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spark = open_session(task, OPEN_FILES)
    clock = Clock()
    fill_tables(spark, _open_tables(spark, folder, task.shape), data.make_world(task.shape))
    say(f"warehouse filled in {clock.seconds:.0f} s")
    done.write_text(json.dumps(task.shape.to_dict()), encoding="utf-8")
    return {"filled": True, "seconds": clock.seconds}


def job(task: Task) -> Result:
    """The whole job from the Delta ratings table: pack what the blocks lack, read them, fit, register the model.

    Options: ``als``, ``warehouse``, ``keep_blocks`` (True: blocks are there and nothing is packed), ``goal`` (quality
    at which the fit ends; None: after ``als.sweeps``).
    """
    params = AlsParams(**task.options["als"])
    folder = Path(task.options["warehouse"])
    world = data.make_world(task.shape)
    spark = open_session(task)
    if not task.options["keep_blocks"]:
        shutil.rmtree(folder / "user_blocks", ignore_errors=True)
    tables = _open_tables(spark, folder, task.shape)
    judge = Judge(world, params, data.BASE)
    with _Stages(spark) as stages:
        run = _Run(judge, task.options.get("goal"))
        registry = Registry(MlflowParams(), str(folder))
        registry.open_in_background()
        packed = bring_blocks_up_to_date(tables, through_batch=FIRST_BATCH)
        pack_seconds = run.clock.seconds
        say(f"ours: {packed:,} users packed in {pack_seconds:.1f} s")
        model, ids = _fit_from_tables(tables, params, run)
        fit_seconds = run.clock.seconds - pack_seconds
        run.settle(model)
        version = _register(registry, model, ids, run)
        seconds = run.clock.seconds
    say(f"ours: whole job in {seconds:.1f} s")
    return {
        "seconds": seconds,
        "stages": {"pack": pack_seconds, "fit": fit_seconds, "write": seconds - pack_seconds - fit_seconds},
        "curve": run.curve,
        "quality": run.quality,
        "model_version": version,
        "tasks_busy": stages.busy_seconds / (CORES * seconds),
    }


def prepare_refresh(task: Task) -> Result:
    """A copy of a filled warehouse with blocks and a cold fit of its first batch, to which the late ratings are added.

    Options: ``als``, ``warehouse``. Files are hard-linked; Delta never changes one.
    """
    params = AlsParams(**task.options["als"])
    source, folder = Path(task.options["warehouse"]), _refreshed(task)
    made_for = {"shape": task.shape.to_dict(), "als": params.model_dump()}
    done = folder / "prepared.json"
    if done.exists():
        known = json.loads(done.read_text(encoding="utf-8"))
        if known["made_for"] == made_for:
            return dict(known["result"])
    shutil.rmtree(folder, ignore_errors=True)
    others = shutil.ignore_patterns("mlflow", "mllib-*", "filled.json")
    shutil.copytree(source, folder, copy_function=os.link, ignore=others)
    spark = open_session(task, OPEN_FILES)
    tables = _open_tables(spark, folder, task.shape)
    world = data.make_world(task.shape)
    bring_blocks_up_to_date(tables, through_batch=FIRST_BATCH)
    first = _fit_from_tables(tables, params, _Run(None))[0]
    np.savez(folder / _FIRST_MODEL, item_factors=first.item_factors, item_biases=first.item_biases, mean=first.mean)
    shutil.copytree(folder / "user_blocks", folder / _FIRST_BLOCKS, copy_function=os.link)
    appended = append_batch(spark, tables, world, LATE_BATCH, data.LATE)
    say(f"{appended:,} late ratings appended")
    # What a refresh must come close to: a cold fit that has seen them.
    bring_blocks_up_to_date(tables, through_batch=LATE_BATCH)
    run = _Run(Judge(world, params, data.BASE, data.LATE))
    run.settle(_fit_from_tables(tables, params, run)[0])
    result = {"late": appended, "cold_quality": run.quality, "cold_curve": run.curve}
    done.write_text(json.dumps({"made_for": made_for, "result": result}), encoding="utf-8")
    return result


def refresh(task: Task) -> Result:
    """Blocks brought up to date with the late ratings, then warm sweeps from the first batch's model.

    Options: ``als``, ``warehouse``, ``goal`` (quality at which the fit ends).
    """
    params = AlsParams(**task.options["als"])
    folder = _refreshed(task)
    shutil.rmtree(folder / "user_blocks")
    shutil.copytree(folder / _FIRST_BLOCKS, folder / "user_blocks", copy_function=os.link)
    spark = open_session(task)
    tables = _open_tables(spark, folder, task.shape)
    stored = np.load(folder / _FIRST_MODEL)
    start = FactorModel(params, stored["item_factors"], stored["item_biases"], float(stored["mean"]))
    judge = Judge(data.make_world(task.shape), params, data.BASE, data.LATE)
    with _Stages(spark) as stages:
        run = _Run(judge, task.options.get("goal"))
        bring_blocks_up_to_date(tables, through_batch=LATE_BATCH)
        pack_seconds = run.clock.seconds
        run.settle(_fit_from_tables(tables, params, run, start=start)[0])
        seconds = run.clock.seconds
    say(f"ours: refresh in {seconds:.1f} s, of which blocks {pack_seconds:.1f} s")
    return {
        "seconds": seconds,
        "stages": {"pack": pack_seconds, "fit": seconds - pack_seconds},
        "curve": run.curve,
        "quality": run.quality,
        "tasks_busy": stages.busy_seconds / (CORES * seconds),
    }


def recommend(task: Task) -> Result:
    """Exact lists without seen items for all users from cached blocks, folding every user in, and a check of some.

    Options: ``rank``, ``n``. The item factors are random: the work is the same, and lists are harder to guess.
    """
    rank, n, n_items = task.options["rank"], task.options["n"], task.shape.n_items
    world = data.make_world(task.shape)
    spark = open_session(task)
    split = make_split_blocks(spark, world, data.BASE, tasks=CORES).persist()
    split.count()
    params = AlsParams(objective="implicit", rank=rank, reg=0.05, rating_half_life_days=None)
    model = _list_model(initial_model(params, n_items), item_ids(n_items), RankingParams(list_length=n))
    few = split.where(sf.col(c.BLOCK) == 0)
    checked = _check_lists(few, model)
    clock = Clock()
    score_blocks(split, model, None, 1).write.format("noop").mode("overwrite").save()
    seconds = clock.seconds
    say(f"ours: lists of {world.shape.n_users:,} users in {seconds:.1f} s")
    return {
        "seconds": seconds,
        "users": world.shape.n_users,
        "seconds_a_user": seconds / world.shape.n_users,
        **checked,
    }


def exchange(task: Task) -> Result:
    """Bytes that a sweep moves, from Spark's event log: results and shuffles of its tasks, and its broadcasts.

    Options: ``als``, ``tasks``. A first sweep is left out: users start elsewhere, and workers start at all.
    """
    params = AlsParams(**task.options["als"])
    world = data.make_world(task.shape)
    spark = open_session(task, {"spark.broadcast.compress": "false"})
    tasks = task.options.get("tasks", CORES)
    split = make_split_blocks(spark, world, data.BASE, tasks=tasks).persist()
    split.count()
    ends: list[float] = []

    def on_sweep(report: SweepReport) -> None:
        ends.append(time.time() * 1000)
        time.sleep(0.3)  # the listener is told a little later than the driver; keeps the sweeps' events apart

    with EventLog(spark, Path(task.work) / "event-logs") as log:
        fit_factors(split, task.shape.n_items, params, on_sweep=on_sweep)
    sweeps = sum_exchange(log.events, ends)[1:]
    columns = params.rank + params.biases
    expected = [s["jobs"] * (tasks + 1) * task.shape.n_items * columns * 4 for s in sweeps]
    return {"sweeps": sweeps, "expected": expected, "tasks": tasks}


def block_bytes(task: Task) -> Result:
    """Bytes a rating of the packed blocks: the columns of the table, and what a fit keeps in memory.

    Options: ``als``, ``warehouse``.
    """
    params = AlsParams(**{**task.options["als"], "sweeps": 1})
    spark = open_session(task)
    tables = _open_tables(spark, Path(task.options["warehouse"]), task.shape)
    bring_blocks_up_to_date(tables, through_batch=FIRST_BATCH)
    binary = (c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.TIMES, c.EVENT_IDS)
    sizes = [sf.sum(sf.octet_length(name)).alias(name) for name in binary]
    sizes.append(sf.sum(sf.octet_length(sf.array_join(c.USER_IDS, ""))).alias(c.USER_IDS))
    [found] = tables.user_blocks.read().agg(sf.sum(c.N_RATINGS).alias(c.N_RATINGS), *sizes).collect()
    n = found[c.N_RATINGS]
    kept: list[tuple[str, int]] = []

    def on_sweep(report: SweepReport) -> None:
        kept.extend(stored_bytes(spark))

    split = _split(tables)
    observed = int(split.agg(sf.sum(sf.octet_length(c.VALUES))).collect()[0][0])  # codes of one byte
    fit_factors(split, task.shape.n_items, params, on_sweep=on_sweep)
    blocks = [size for name, size in kept if name == BLOCKS_OF_A_FIT]
    if not blocks:
        raise ContestantError("Spark reports no stored blocks during a fit: the engine keeps them in another way now.")
    return {
        "table": {name: found[name] / n for name in (*binary, c.USER_IDS)},
        "ratings": n,
        "kept_a_rating": sum(blocks) / observed,
        "kept_in_all": sum(size for _, size in kept) / observed,
    }


def planned(task: Task) -> Result:
    """A cold fit from the blocks' table beside what was planned for it (``train_model --plan``).

    Options: ``als``, ``warehouse``. Seconds from the first read of the blocks to the last sweep, of a middle sweep,
    bytes of the kept blocks, and the most memory that the Python processes held, planned and found.
    """
    params = AlsParams(**task.options["als"])
    spark = open_session(task)
    tables = _open_tables(spark, Path(task.options["warehouse"]), task.shape)
    bring_blocks_up_to_date(tables, through_batch=FIRST_BATCH)
    n_items = len(read_items(tables.items, tables.items.version()).ids)
    statistics = read_statistics(tables.user_blocks.read(), n_items)
    plan = plan_fit(statistics, find_resources(spark), params, measure_speed(statistics, params))
    kept: list[int] = []

    def on_sweep(report: SweepReport) -> None:
        run.on_sweep(report)
        kept.append(sum(size for name, size in stored_bytes(spark) if name == BLOCKS_OF_A_FIT))

    with MemoryWatch(leave_out="java") as memory:
        run = _Run(None)
        fit_factors(_split(tables), n_items, params, on_sweep=on_sweep)
        seconds = run.clock.seconds
    middle = median(point["sweep_seconds"] for point in run.curve[1:-1])
    return {
        "plan": plan.render(),
        "planned": {
            "fit, s": plan.seconds(params.sweeps),
            "sweep, s": plan.sweep_seconds,
            "blocks, MB": plan.block_bytes / 1e6,
            "Python, MB": sum(need.size for need in plan.needs if need.where == "machine") / 1e6,
        },
        "found": {
            "fit, s": seconds,
            "sweep, s": middle,
            "blocks, MB": kept[-1] / 1e6,
            "Python, MB": memory.peak / 1e6,
        },
    }


@dataclass
class _Run:
    """The clock of a run, and its quality by sweep, measured while the clock stands."""

    judge: Judge | None
    goal: dict[str, float] | None = None
    clock: Clock = field(default_factory=Clock)
    curve: list[dict[str, float]] = field(default_factory=list)
    quality: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    def measure(self, model: FactorModel) -> float:
        """Judge after a sweep; what the fit is told rises always, because a judge must not end the run by watching."""
        seconds = self.clock.seconds
        with self.clock.paused():
            self._last = {"seconds": seconds, **(self.judge.judge_model(model) if self.judge else {})}
        return float(len(self.curve) + 1)

    def on_sweep(self, report: SweepReport) -> None:
        """Keep what was measured; end the fit when the goal is reached."""
        point = {
            **(self._last or {"seconds": self.clock.seconds}),
            "loss": report.loss,
            "sweep_seconds": report.seconds,
        }
        self.curve.append(point)
        with self.clock.paused():
            say(f"ours: sweep {report.sweep}: " + ", ".join(f"{name} {value:.5g}" for name, value in point.items()))
        if self.goal is not None and reached(point, self.goal):
            raise _GoalReachedError

    def settle(self, model: FactorModel) -> None:
        """Judge the final model, outside the clock."""
        with self.clock.paused():
            self.quality = self.judge.judge_model(model) if self.judge else {}


class _GoalReachedError(Exception):
    """Ends a fit from its callback; never leaves this module."""


class _Stages:
    """Seconds that tasks ran between entering and leaving, from Spark's status store."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self.busy_seconds = 0.0

    def __enter__(self) -> "_Stages":
        self._before = self._sum()
        return self

    def __exit__(self, *_: object) -> None:
        self.busy_seconds = self._sum() - self._before

    def _sum(self) -> float:
        context: Any = self._spark.sparkContext
        jvm, gateway = context._jvm, context._gateway
        none = jvm.java.util.ArrayList()
        stages = status_of(self._spark).stageList(none, False, False, gateway.new_array(jvm.double, 0), none)
        return float(sum(stages.apply(i).executorRunTime() for i in range(stages.size()))) / 1000


def _warm_up(spark: SparkSession, task: Task, params: AlsParams) -> None:
    """A fit of the same kind on few ratings: workers start and kernels are loaded outside the clock."""
    small = data.make_world(data.make_shape("3k"))
    if task.shape.n_ratings <= small.shape.n_ratings:
        return
    split = make_split_blocks(spark, small, data.BASE, tasks=CORES, users_per_block=64)
    fit_factors(split, small.shape.n_items, params.model_copy(update={"sweeps": 2}))


def _open_tables(spark: SparkSession, folder: Path, shape: data.Shape) -> Tables:
    return Tables(spark, WarehouseParams(root=str(folder), buckets=data.count_buckets(shape))).open_or_create()


def _split(tables: Tables) -> DataFrame:
    return split_blocks(read_user_blocks(tables), cutoff_us=data.HELD_START)


def _fit_from_tables(
    tables: Tables, params: AlsParams, run: _Run, *, start: FactorModel | None = None
) -> tuple[FactorModel, list[str]]:
    """Fit from the blocks table until the run's goal is reached; the model, and the ids of its items."""
    tables.user_blocks.read_ahead()
    ids = read_items(tables.items, tables.items.version()).ids
    last: list[FactorModel] = []

    def measure(model: FactorModel) -> float:
        last[:] = [model]
        return run.measure(model)

    try:
        fitted = fit_factors(
            _split(tables),
            len(ids),
            params,
            start=start,
            measure=measure if run.judge is not None else None,
            on_sweep=run.on_sweep,
        )
    except _GoalReachedError:
        return last[0], ids
    return fitted.model, ids


def _list_model(factors: FactorModel, ids: list[str], ranking: RankingParams) -> ListModel:
    """A model that ranks by its factors alone: what is popular and what trends play no part in it."""
    return ListModel(
        factors=factors,
        item_ids=ids,
        popularity=np.zeros(len(ids), np.int64),
        trend=np.zeros(len(ids), np.float32),
        ranking=ranking.model_copy(update={"factor_weight": None, "explained_by": 0}),
        trained_through_us=data.HELD_START - 1,
        as_of_us=data.HELD_START,
    )


def _register(registry: Registry, model: FactorModel, ids: list[str], run: _Run) -> int:
    """Log and register the model as ``train_model`` does."""
    files = _list_model(model, ids, RankingParams()).to_files()
    sweeps = [{"loss": point["loss"], "seconds": point["sweep_seconds"]} for point in run.curve]
    key = f"benchmark{time.time_ns()}"  # a repeated measurement must not find the fit of the last one
    return registry.log_fit(files, fit_key=key, params=model.params.model_dump(), sweeps=sweeps)


def _refreshed(task: Task) -> Path:
    warehouse = Path(task.options["warehouse"])
    return warehouse.with_name(f"{warehouse.name}-{_REFRESHED}")


def _check_lists(split: DataFrame, model: ListModel) -> Result:
    """Compare lists of some users with brute force: all scores sorted, seen items taken away."""
    [row] = split.collect()
    listed = {r[c.USER_ID]: r[c.ITEMS] for r in score_blocks(split, model, None, 1).collect()}
    block = SplitBlock.from_row(row.asDict())
    n, n_users = model.ranking.list_length, min(_CHECKED_USERS, len(block.user_ids))
    offsets = block.offsets[: n_users + 1]
    own = slice(0, int(offsets[-1]))
    x = solve_users(model.factors, offsets, block.items[own], block.values[own], block.weights[own]).x
    scores = x @ model.factors.item_factors.T
    equal, worst = 0, 0.0
    for u in range(n_users):
        scores[u, block.items[offsets[u] : offsets[u + 1]]] = -np.inf
        best = np.lexsort((np.arange(model.n_items), -scores[u]))[:n]
        best = best[np.isfinite(scores[u, best])]
        found = listed[block.user_ids[u]]
        equal += [entry[0] for entry in found] == [model.item_ids[i] for i in best]
        differences = np.abs(np.array([entry[1] for entry in found]) - scores[u, best])
        worst = max(worst, float(differences.max(initial=0.0)) if len(found) == len(best) else float("inf"))
    # Products of other shapes round differently, so that scores equal to six digits may change places.
    return {"checked_users": n_users, "equal_lists": equal, "worst_score_difference": worst}
