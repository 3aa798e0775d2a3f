"""Several drivers on one warehouse on HDFS, which promises what a local file system does not: an exclusive rename."""

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from demo.read_lists import fetch_published
from jobs import ingest_ratings, pipeline, score_users
from recsys import columns as c
from recsys.errors import CommitConflictError
from recsys.ranking.model import trend_model
from recsys.store.files import Files
from recsys.store.locks import TABLES, Lock, read_holders
from recsys.store.params import MlflowParams, WarehouseParams
from recsys.store.registry import ATTEMPT, PARENT, PASSED, VERDICT, Registry
from recsys.store.tables import ATTEMPTS, Tables
from tests.cluster.drivers import Driver, start_drivers, wait_until
from tests.cluster.hadoop import Hadoop
from tests.cluster.jobs import Ended
from tests.jobs.fingerprint import hash_tables
from tests.jobs.test_pipeline import SETTINGS, land
from tests.spark.test_fences import replace_while
from tests.tracking_server import tracking_server
from tests.worlds import Event, two_tastes

EXPIRY = 3.0  # seconds; only for holders that are stopped
BAD = Event("u0001", "i000", 99.0, two_tastes(1, 2, 1)[0].event_time)


@dataclass(frozen=True)
class World:
    """A warehouse after one turn of the loop, here and on HDFS; every test goes on from copies of it."""

    spark: SparkSession
    folder: Path
    hdfs: str
    settings: Mapping[str, object]
    events: Sequence[Event]

    def copy(self, name: str) -> str:
        """A copy on HDFS."""
        jvm: Any = self.spark._jvm
        conf = self.spark.sparkContext._jsc.hadoopConfiguration()  # type: ignore[attr-defined]
        origin, target = (jvm.org.apache.hadoop.fs.Path(f"{self.hdfs}/{each}") for each in ("base", name))
        fs = origin.getFileSystem(conf)
        assert jvm.org.apache.hadoop.fs.FileUtil.copy(fs, origin, fs, target, False, conf)
        return f"{self.hdfs}/{name}"

    def copy_here(self, name: str) -> Path:
        """A copy on this machine's disk, for an undisturbed run."""
        return Path(shutil.copytree(self.folder / "base", self.folder / name))

    def land(self, landing: Path, number: int) -> None:
        """Let one more file land: new users, new items, later ratings, a bad row, a row twice."""
        day = timedelta(days=100 + number)
        later = [Event(e.user_id, e.item_id, 6.0, e.event_time + day) for e in self.events[number::7]]
        new = [Event(f"n{number}{e.user_id}", f"{e.item_id}-{number}", 7.0, e.event_time + day) for e in later[:20]]
        land(landing, f"{number}.csv", [*later, *new, new[0], BAD])

    def words(self, root: str | Path, landing: Path, **more: object) -> list[str]:
        """A job's arguments."""
        extra = {key.replace("__", "."): value for key, value in more.items()}
        # A driver's default file system is HDFS.
        settings = {**self.settings, "landing.path": f"file://{landing}", **extra}
        return [f"--warehouse={root}", *(f"--set={key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="module")
def world(hadoop: Hadoop, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("concurrency")
    events = two_tastes(n_users=60, n_items=30, n_rated=8)
    (folder / "landing").mkdir()
    land(folder / "landing", "1.csv", events)
    with tracking_server(folder / "server" / "kept") as address:
        hdfs = f"{hadoop.fs}/{folder.name}-{uuid.uuid4().hex[:8]}"  # a cluster may have files of earlier runs
        made = World(spark, folder, hdfs, {**SETTINGS, "mlflow.tracking_uri": address}, events)
        assert pipeline.main(made.words(folder / "base", folder / "landing")) == 0
        hadoop.shell("-mkdir", "-p", made.hdfs)
        hadoop.shell("-put", str(folder / "base"), f"{made.hdfs}/base")
        yield made


@pytest.fixture(scope="module")
def drivers(hadoop: Hadoop, world: World) -> Iterator[list[Driver]]:
    with start_drivers(world.folder / "drivers", 4, hadoop.environment) as started:
        yield started


def landing_of(world: World, tmp_path: Path) -> Path:
    """A landing folder with what the base has taken in."""
    return Path(shutil.copytree(world.folder / "landing", tmp_path / "landing"))


def wait_for_silence(world: World, root: str) -> None:
    """Until those who hold locks have given no sign for as long as it takes to lose them."""
    holders = read_holders(Files(world.spark), root)
    assert holders
    wait_until(lambda: all(time.time() - holder.heartbeat > EXPIRY for holder in holders), "expiry")


def recorded(world: World, root: str, job: str) -> list[tuple[str, int]]:
    """Outcomes and exit codes of a job's runs, oldest first."""
    rows = world.spark.read.format("delta").load(f"{root}/job_runs").where(sf.col(c.JOB) == job)
    return [(row[0], row[1]) for row in rows.orderBy(c.STARTED_AT).select(c.OUTCOME, c.EXIT_CODE).collect()]


def test_cases_22_23_an_ingestion_that_was_stopped_until_another_had_finished_its_batch_changes_nothing(
    world: World, drivers: list[Driver], tmp_path: Path
) -> None:
    landing = landing_of(world, tmp_path)
    world.land(landing, 2)
    undisturbed = world.copy_here("undisturbed-23")
    assert ingest_ratings.main(world.words(undisturbed, landing)) == 0
    expected = hash_tables(world.spark, str(undisturbed))

    module, points = "jobs.ingest_ratings", ("commit:quarantine", "commit:ratings", "commit:ingest_ledger")
    roots = [world.copy(f"stopped-{number}") for number in range(len(points))]
    words = [world.words(root, landing, warehouse__lock_expiry_seconds=EXPIRY) for root in roots]
    sleepers, other = drivers[: len(points)], drivers[-1]
    runs = [
        sleeper.begin(module, each, pause_at=point)
        for sleeper, each, point in zip(sleepers, words, points, strict=True)
    ]
    refused = other.run(module, words[0])
    assert refused.code == 5
    assert "lock 'tables' is held by ingest_ratings (pid" in refused.err
    for sleeper in sleepers:
        sleeper.stop()
    for root in roots:
        wait_for_silence(world, root)
    for each in words:
        ended = other.run(module, each)
        assert ended.code == 0, ended.err
    for sleeper, run in zip(sleepers, runs, strict=True):
        run.go_on()
        sleeper.wake()
    for run, root in zip(runs, roots, strict=True):
        late = run.end()
        assert late.code == 5, late.err
        assert "error: lock 'tables' was lost while this job gave no sign for 3 s: another job has taken it" in late.err
        assert hash_tables(world.spark, root) == expected
        assert recorded(world, root, "ingest_ratings").count(("LockedError", 5)) == 1 + (root == roots[0])


# Reads without a JVM, as consumers do, until a file is there; a line a reading. In a process of its own: delta-rs may
# abort an interpreter that ends.
READER = """
import hashlib, json, sys
from pathlib import Path
from deltalake import DeltaTable
root, stop = sys.argv[1], Path(sys.argv[2])
while True:
    last = stop.exists()
    pointer = max(DeltaTable(f"{root}/generations").to_pyarrow_table().to_pylist(), key=lambda row: row["sequence"])
    lists = DeltaTable(f"{root}/recommendations").to_pyarrow_table(filters=[("generation", "=", pointer["generation"])])
    rows = sorted(json.dumps(row, sort_keys=True) for row in lists.to_pylist())
    read = [pointer["generation"], pointer["n_users"], len(rows), hashlib.sha256("".join(rows).encode()).hexdigest()]
    print(json.dumps(read), flush=True)
    if last:
        break
"""


def test_cases_22_62_jobs_of_separate_drivers_at_once_lose_nothing_and_a_reader_sees_whole_generations_only(
    world: World, drivers: list[Driver], tmp_path: Path
) -> None:
    landing, root = landing_of(world, tmp_path), world.copy("at-once")
    undisturbed = world.copy_here("one-after-the-other")
    jobs = ("ingest_ratings", "train_model", "score_users", "maintain_tables")
    may_end_with = {"train_model": {0, 4}}  # the gate may not like what little is new
    force = {"score_users": ["--force"]}
    stop = tmp_path / "stop"
    with subprocess.Popen(
        [sys.executable, "-c", READER, root, str(stop)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        world.land(landing, 2)
        words = {job: [*world.words(root, landing), *force.get(job, [])] for job in jobs}
        runs = [driver.begin(f"jobs.{job}", words[job]) for job, driver in zip(jobs, drivers, strict=True)]
        ends = [run.end() for run in runs]
        for job, driver, first in zip(jobs, drivers, ends, strict=True):
            assert first.code != 5 or "is held by" in first.err
            # Once more where a lock said so, now that the others have ended.
            ended = driver.run(f"jobs.{job}", words[job]) if first.code == 5 else first
            assert ended.code in may_end_with.get(job, {0}), (job, ended.err[-3000:])
        assert ingest_ratings.main(world.words(undisturbed, landing)) == 0
        assert drivers[0].run("jobs.score_users", words["score_users"]).code == 0
        stop.touch()
        said, errors = reader.communicate(timeout=300)
    assert score_users.main([*world.words(undisturbed, landing), "--force"]) == 0

    assert hash_tables(world.spark, root) == hash_tables(world.spark, str(undisturbed))
    assert fetch_published(root).lists == fetch_published(str(undisturbed)).lists
    ledger = world.spark.read.format("delta").load(f"{root}/ingest_ledger")
    assert ledger.where("landed != accepted + duplicate + quarantined").isEmpty()
    readings = [json.loads(line) for line in said.splitlines()]
    numbers = [reading[0] for reading in readings]
    assert numbers == sorted(numbers), errors
    assert len(set(numbers)) > 1, "it saw publications"
    assert all(n_rows == n_users + 1 for _, n_users, n_rows, _ in readings)
    assert len({(number, content) for number, _, _, content in readings}) == len(set(numbers))


def test_case_38_compaction_without_the_lock_during_ingestion_costs_no_row(
    world: World, drivers: list[Driver], tmp_path: Path
) -> None:
    landing, root, stop = landing_of(world, tmp_path), world.copy("compacted"), tmp_path / "stop"
    undisturbed = world.copy_here("not-compacted")
    compaction = drivers[1].begin("tests.cluster.rivals", ["compact", root, str(stop)])
    try:
        for number in (2, 3):
            world.land(landing, number)
            ended = drivers[0].run("jobs.ingest_ratings", world.words(root, landing))
            assert ended.code == 0, ended.err
            assert ingest_ratings.main(world.words(undisturbed, landing)) == 0
    finally:
        stop.touch()
    assert compaction.end().code == 0
    operations = {
        row[0] for row in world.spark.sql(f"DESCRIBE HISTORY delta.`{root}/ratings`").select("operation").collect()
    }
    assert {"OPTIMIZE", "WRITE"} <= operations
    assert hash_tables(world.spark, root) == hash_tables(world.spark, str(undisturbed))


@pytest.mark.parametrize("conflicts", [ATTEMPTS - 1, ATTEMPTS])
def test_case_37_a_commit_that_another_driver_is_in_the_way_of_is_tried_again_and_not_for_ever(
    world: World, drivers: list[Driver], tmp_path: Path, conflicts: int
) -> None:
    root = world.copy(f"contested-{conflicts}")
    tables = Tables(world.spark, WarehouseParams(root=root))

    def rival(times: int) -> None:
        if times < conflicts:
            words = ["overwrite", tables.items.path, f"rival {times}"]
            assert drivers[0].run("tests.cluster.rivals", words).code == 0

    ours = tables.items.read().limit(3).withColumn("title", sf.lit("ours")).coalesce(1).localCheckpoint()
    with Lock(tables.files, root, TABLES, job="test", expiry_seconds=60.0, fence=tables.fence):
        if conflicts < ATTEMPTS:
            assert replace_while(tables.items, ours, tmp_path, rival) == 3
        else:
            with pytest.raises(CommitConflictError, match="3 attempts to commit failed"):
                replace_while(tables.items, ours, tmp_path, rival)
    left = ["ours"] * 3 if conflicts < ATTEMPTS else [f"rival {conflicts - 1}"]
    assert [row.title for row in tables.items.read().collect()] == left


# It pins the lists of a generation, says so, and reads them when it is told to.
PINNED_READER = """
import sys, time
from pathlib import Path
from deltalake import DeltaTable
root, generation, go = sys.argv[1], sys.argv[2], Path(sys.argv[3])
lists = DeltaTable(f"{root}/recommendations")
print("pinned", lists.version(), flush=True)
while not go.exists():
    time.sleep(0.05)
print(lists.to_pyarrow_table(filters=[("generation", "=", int(generation))]).num_rows, flush=True)
"""


def test_case_39_a_reader_that_pinned_a_generation_reads_on_while_maintenance_removes_older_ones(
    world: World, drivers: list[Driver], tmp_path: Path
) -> None:
    landing, root, go = landing_of(world, tmp_path), world.copy("vacuumed"), tmp_path / "go"
    words = world.words(root, landing, warehouse__keep_generations=2, warehouse__vacuum_hours=0)
    assert drivers[0].run("jobs.score_users", [*words, "--force"]).code == 0
    with subprocess.Popen(
        [sys.executable, "-c", PINNED_READER, root, "2", str(go)], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().startswith("pinned")
        assert drivers[0].run("jobs.score_users", [*words, "--force"]).code == 0
        maintained = drivers[1].run("jobs.maintain_tables", words)
        go.touch()
        assert maintained.code == 0, maintained.err
        assert "dropped generations: [1]" in maintained.out
        assert int(reader.communicate(timeout=300)[0]) == 60 + 1
    files = Files(world.spark)
    assert not [f.path for f in files.list_files(f"{root}/recommendations/generation=1") if f.path.endswith(".parquet")]


def log_fit(registry: Registry, key: str, parent: int | None) -> int:
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    tags = {VERDICT: PASSED, PARENT: str(parent or "none")}
    return registry.log_fit(model.to_files(), fit_key=key, params={}, tags=tags)


def test_cases_23_52_of_promotions_that_race_or_come_too_late_one_wins_and_all_are_recorded(
    world: World, drivers: list[Driver], tmp_path: Path
) -> None:
    landing, root = landing_of(world, tmp_path), world.copy("promoted")
    registry = Registry(MlflowParams(tracking_uri=str(world.settings["mlflow.tracking_uri"]), model="race"), root)
    registry.promote(log_fit(registry, "first", None), None)
    for key in ("second", "third"):
        log_fit(registry, key, 1)
    words = world.words(root, landing, mlflow__model="race", warehouse__lock_expiry_seconds=EXPIRY)

    def attempts(version: int) -> list[str]:
        tags = registry.describe(version).tags
        found = (json.loads(tags[key])["outcome"] for key in sorted(tags) if key.startswith(ATTEMPT))
        return [outcome.partition(":")[0] for outcome in found]

    def promote(driver: Driver, version: int) -> Ended:
        return driver.run("jobs.promote_model", [*words, "--version", str(version)])

    runs = [
        driver.begin("jobs.promote_model", [*words, "--version", str(version)])
        for driver, version in ((drivers[0], 2), (drivers[1], 3))
    ]
    codes = [run.end().code for run in runs]
    assert sorted(codes) in ([0, 1], [0, 5])
    winner, loser = (2, 3) if codes[0] == 0 else (3, 2)
    again = promote(drivers[0], loser)
    assert again.code == 1
    assert f"judged against champion 1, but the champion is {winner}" in again.err
    assert (registry.champion, registry.previous) == (winner, 1)
    assert attempts(winner) == ["promoted"]
    assert set(attempts(loser)) == {"ConcurrentPromotionError"}
    outcomes = recorded(world, root, "promote_model")
    assert outcomes.count(("ok", 0)) == 2  # the base's and the winner's
    assert {code for _, code in outcomes} <= {0, 1, 5}
    assert len(outcomes) == 4

    for key in ("fourth", "fifth"):
        log_fit(registry, key, winner)
    late = drivers[0].begin("jobs.promote_model", [*words, "--version", "4"], pause_at="champion:before_alias")
    drivers[0].stop()
    wait_for_silence(world, root)
    taken = promote(drivers[1], 5)
    assert taken.code == 0, taken.err
    late.go_on()
    drivers[0].wake()
    ended = late.end()
    assert ended.code == 5, ended.err
    assert "error: lock 'models' was lost" in ended.err
    assert (registry.champion, registry.previous) == (5, winner)
    assert (attempts(4), attempts(5)) == (["LockedError"], ["promoted"])
    assert recorded(world, root, "promote_model").count(("LockedError", 5)) == 1 + codes.count(5)
