"""What happens to an application's own processes on HDFS and YARN: each time it ends as if undisturbed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from pyspark.sql import Row, SparkSession

from jobs import ingest_ratings, pipeline, promote_model, score_users, train_model
from recsys import columns as c
from tests.cluster.applications import ask, end, enforced_memory, occupy, started, wait_until_gone
from tests.cluster.hadoop import Hadoop
from tests.cluster.undisturbed import Warehouse, World, read_once, watch
from tests.jobs.fingerprint import INGESTED, PUBLISHED, hash_models, hash_tables
from tests.jobs.kills import stand_at_points

pytestmark = pytest.mark.long

Main = Callable[[list[str]], int]

# Commits of a turn, each with the job that makes good for a kill after it (before it, for the champion's alias). The
# other points are those of the test with YARN; local tests (tests/jobs) kill at the commits of ingestion and of a turn.
POINTS: Final[dict[str, Main]] = {
    "ingest:after_ratings": ingest_ratings.main,
    "ingest:after_blocks": ingest_ratings.main,
    "train:after_version": train_model.main,
    "promote:after_champion": promote_model.main,
    "score:after_publish": score_users.main,
}


def runs_of(spark: SparkSession, warehouse: Warehouse) -> dict[str, Row]:
    """The last run of every job."""
    rows = spark.read.format("delta").load(f"{warehouse.root}/job_runs").orderBy(c.STARTED_AT).collect()
    return {row[c.JOB]: row for row in rows}


def test_case_80_an_executor_killed_at_work_in_ingest_sweep_and_scoring_changes_nothing_and_is_counted(
    spark: SparkSession, hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    points = ("ingest:after_listing", "train:after_sweep", "score:before_lists")
    warehouse = world.copy()
    with (
        watch(warehouse.root) as seen,
        started(hadoop, "pipeline", warehouse.words(), tmp_path, points=points) as application,
    ):
        for point in points:
            assert application.stands_at(point), application.result().err
            application.kill_executor_at_work()
        ended = application.result()
        assert ended.code == 0, ended.err
        assert len(application.attempts()) == 1
    assert world.fingerprint(warehouse) == world.holds
    assert set(seen) <= set(world.generations)
    assert seen[0] == world.generations[0]
    runs = runs_of(spark, warehouse)
    lost = {job: runs[job][c.COUNTS]["executors_lost"] for job in ("ingest_ratings", "train_model", "score_users")}
    assert lost == {"ingest_ratings": 1, "train_model": 1, "score_users": 1}
    assert runs["pipeline"][c.COUNTS]["executors_lost"] == 3


def test_case_81_a_driver_killed_between_commits_is_started_again_and_finishes_what_it_had_begun(
    hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    """Each of two attempts is killed, the third comes to the end."""
    points = ("ingest:after_quarantine", "log_fit:after_model")
    warehouse = world.copy()
    conf = {"spark.yarn.maxAppAttempts": "3"}
    with (
        watch(warehouse.root) as seen,
        started(hadoop, "pipeline", warehouse.words(), tmp_path, points=points, conf=conf) as application,
    ):
        for point in points:
            assert application.stands_at(point), application.result().err
            application.kill_driver()
            application.pauses.go_on()
        ended = application.result()
        assert ended.code == 0, ended.err
        assert len(application.attempts()) == 3
    assert world.fingerprint(warehouse) == world.holds
    assert set(seen) <= set(world.generations)


def test_cases_18_47_48_61_and_81_killed_between_commits_and_run_again_it_ends_as_if_undisturbed(
    spark: SparkSession, world: World
) -> None:
    """One turn stands at each point while its warehouse is copied; in each copy the killed job runs again."""
    warehouse = world.copy()
    copies: dict[str, Warehouse] = {}

    def copy(point: str) -> None:
        copies[point] = world.copy(warehouse)

    with watch(warehouse.root) as seen:
        stand_at_points("jobs.pipeline", warehouse.words(), warehouse.local, list(POINTS), copy)
    assert set(seen) <= set(world.generations)

    for point, killed in copies.items():
        assert POINTS[point](killed.words()) == 0, point
        found = what_it_made(spark, POINTS[point], killed)
        assert found == {name: world.holds[name] for name in found}, point
    last = copies["score:after_publish"]
    assert pipeline.main(last.words()) == 0
    assert world.fingerprint(last) == world.holds


def what_it_made(spark: SparkSession, job: Main, warehouse: Warehouse) -> dict[str, Any]:
    """Hashes of what a job is there for."""
    if job is ingest_ratings.main:
        return hash_tables(spark, warehouse.root, INGESTED)
    if job is score_users.main:
        return hash_tables(spark, warehouse.root, PUBLISHED)
    models = hash_models(warehouse.root, warehouse.mlflow)
    return models if job is promote_model.main else {"versions": models["versions"]}


def test_case_83_a_preempted_driver_is_started_again_and_that_is_no_failure(
    hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    """The queue `batch` has 30 % of 8 GB; its driver takes more than that, and `default` wants its share back.

    Two attempts are allowed (conf/spark-yarn.conf). That the second may be killed, too, shows that the first was not
    counted.
    """
    points = ("ingest:after_ratings", "publish:after_lists")
    warehouse = world.copy()
    conf = {"spark.yarn.queue": "batch", "spark.driver.memoryOverhead": "2g"}
    with (
        watch(warehouse.root) as seen,
        started(hadoop, "pipeline", warehouse.words(), tmp_path, points=points, conf=conf) as application,
    ):
        assert application.stands_at(points[0]), application.result().err
        [first] = application.attempts()
        others = [occupy(hadoop, "default", memory) for memory in (4096, 1536)]
        try:
            wait_until_gone(first["containerId"])
        finally:
            for other in others:
                end(hadoop, other)
        application.pauses.go_on()
        assert application.stands_at(points[1]), application.result().err
        application.kill_driver()
        application.pauses.go_on()
        ended = application.result()
        assert ended.code == 0, ended.err
        assert len(application.attempts()) == 3
        assert ask(hadoop, f"/ws/v1/cluster/apps/{application.id}")["app"]["numAMContainerPreempted"] == 1
    assert world.fingerprint(warehouse) == world.holds
    assert set(seen) <= set(world.generations)


def test_case_84_executors_lost_again_and_again_end_the_application_with_a_word_on_where_to_look(
    hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    warehouse = world.copy()
    conf = {"spark.executor.maxNumFailures": "3", "spark.yarn.maxAppAttempts": "1"}
    points = ("train:after_sweep",)
    with started(hadoop, "pipeline", warehouse.words(), tmp_path, points=points, conf=conf) as application:
        assert application.stands_at(points[0]), application.result().err
        application.kill_executor_at_work()
        application.kill_all_executors()
        ended = application.result()
    assert ended.code == 1
    assert "Max number of executor failures (3) reached" in ended.err
    assert "'Lost executor' in the driver's log says why" in ended.err
    assert read_once(warehouse.root) == world.generations[0]

    assert pipeline.main(warehouse.words()) == 0
    assert world.fingerprint(warehouse) == world.holds


def test_case_88_a_container_that_needs_more_memory_than_it_has_ends_the_job_with_the_setting_to_raise(
    hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    """Its heap, touched from the start, is larger than was said: what is left beside it is too little for Python.

    Nor is there an executor that could write the run's row of `job_runs`: what the launcher prints is all.
    """
    warehouse = world.copy()
    heap = "-Xms740m -XX:MaxHeapSize=740m -XX:+AlwaysPreTouch"
    conf = {
        "spark.executor.memory": "512m",
        "spark.executor.memoryOverhead": "384m",
        "spark.executor.extraJavaOptions": f"{heap} -Djava.net.preferIPv4Stack=true",
        "spark.executor.maxNumFailures": "20",
        "spark.task.maxFailures": "1",
        "spark.yarn.maxAppAttempts": "1",
        "spark.driver.memoryOverhead": "1g",
    }
    with (
        enforced_memory(hadoop),
        started(hadoop, "pipeline", warehouse.words(), tmp_path, conf=conf) as application,
    ):
        ended = application.result()
    advice = "raise spark.executor.memoryOverhead"
    assert ended.code == 1
    assert advice in ended.err
    assert read_once(warehouse.root) == world.generations[0]

    assert pipeline.main(warehouse.words()) == 0
    assert world.fingerprint(warehouse) == world.holds
