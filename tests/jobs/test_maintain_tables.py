"""Maintenance takes away what nobody can reach, and consumers do not notice."""

from datetime import UTC, datetime, timedelta

import numpy as np
from pyspark.sql import SparkSession

from jobs import maintain_tables
from jobs.maintain_tables import MaintenanceReport
from jobs.runner import hold_locks, make_context
from recsys import columns as c
from recsys.config import Settings
from recsys.ranking.model import trend_model
from recsys.schemas import JOB_RUNS
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.store.maintenance import choose_vacuum_hours, keep_logs
from recsys.store.registry import ORPHAN, PASSED, VERDICT, Registry
from recsys.store.tables import SPECS, Tables
from tests.publications import have_published, lists_of, read_lists
from tests.stores import place_empty_store


def test_old_generations_go_and_abandoned_models_are_tagged_while_the_lists_stay_as_they_are(
    spark: SparkSession, settings: Settings
) -> None:
    place_empty_store(settings.warehouse.root)
    two_kept = settings.warehouse.model_copy(update={"keep_generations": 2})
    context = make_context(spark, settings.model_copy(update={"warehouse": two_kept}))
    registry = Registry(settings.mlflow, context.tables.root)
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    for key in ("champion", "abandoned"):  # whoever logged the second one was killed before it did anything with it
        registry.log_fit(model.to_files(), fit_key=key, params={}, tags={VERDICT: PASSED})
    registry.promote(1, None)
    have_published(spark, context.tables, {1: 1, 2: 1, 3: 1})

    report = maintain_tables.run(context)

    assert (report.dropped_generations, report.orphans) == ([1], [2])
    assert read_lists(context.tables) == (3, lists_of(3))
    stored = context.tables.recommendations.read().select(c.GENERATION).distinct().collect()
    assert sorted(row[0] for row in stored) == [2, 3]
    assert ORPHAN in registry.describe(2).tags
    assert registry.champion == 1
    message = report.to_result().message
    assert message.startswith("dropped generations: [1]; joined ")
    assert "; dropped 0 superseded events of 0 buckets; " in message
    assert "; orphaned model versions tagged: [2]; " in message
    assert message.endswith("; kept unreferenced files of the last 168.0 hours")

    assert maintain_tables.run(context) == MaintenanceReport([], 0, [], kept_hours=168.0)
    assert read_lists(context.tables) == (3, lists_of(3))


def test_files_are_kept_for_twice_the_longest_run_that_held_any(spark: SparkSession, settings: Settings) -> None:
    hour = 3600.0
    runs = [  # job, days ago, hours, runs inside it
        ("train_model", 3, 5.0, 0),
        ("score_users", 1, 2.0, 0),
        ("ingest_ratings", 40, 700.0, 9),  # --continuous: its batches have rows of their own
        ("train_model", 90, 30.0, 0),  # when the cluster was smaller
    ]
    tables = Tables(spark, settings.warehouse)
    tables.job_runs.create(SPECS["job_runs"], {})
    assert choose_vacuum_hours(tables, 1.0) == 1.0
    now = datetime.now(UTC)
    rows = [
        (str(n), job, "{}", {}, {}, {c.INNER_RUNS: inner} if inner else {}, "{}", "ok", 0, "", at, hours * hour)
        for n, (job, days, hours, inner) in enumerate(runs)
        for at in [now - timedelta(days=days)]
    ]
    tables.job_runs.append(spark.createDataFrame(rows, JOB_RUNS))
    assert choose_vacuum_hours(tables, 1.0) == 10.0
    assert choose_vacuum_hours(tables, 168.0) == 168.0


def test_logs_reach_back_as_configured_and_what_the_last_commit_says_of_blocks_stays(
    spark: SparkSession, settings: Settings
) -> None:
    key = "delta.logRetentionDuration"
    context = make_context(spark, settings)
    tables = context.tables
    assert {table.properties()[key] for table in tables.all()} == {"interval 30 days"}
    with hold_locks(context, (TABLES, MODELS, LISTS), holder="test"):
        tables.user_blocks.fence(note={c.THROUGH_BATCH: 7})
        before = tables.versions()
        assert keep_logs(tables.all(), 30) == 0
        assert tables.versions() == before
        assert keep_logs(tables.all(), 60) == len(before)
        assert {table.properties()[key] for table in tables.all()} == {"interval 60 days"}
        assert tables.user_blocks.last_note() == {c.THROUGH_BATCH: 7}
        assert keep_logs(tables.all(), 60) == 0
