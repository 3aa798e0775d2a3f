import json
from datetime import UTC, datetime, timedelta

import numpy as np
from pyspark.sql import SparkSession

from jobs import status
from jobs.runner import JobResult, make_context, perform
from jobs.status import ContractStatus, Status, format_json, format_page
from recsys import columns as c
from recsys.alerts.book import Alert
from recsys.config import Settings
from recsys.ranking.model import trend_model
from recsys.schemas import INGEST_LEDGER, USER_BLOCKS
from recsys.store.generations import ROLLED_BACK, Generation
from recsys.store.locks import MODELS, TABLES, Holder, Lock
from recsys.store.registry import PASSED, VERDICT, ModelVersion, Registry
from tests.publications import have_published
from tests.stores import place_empty_store

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def test_the_page_of_a_new_warehouse_says_what_to_run() -> None:
    empty = Status(
        warehouse="file:/w",
        at=NOON,
        rows={"ratings": 0, "items": 0},
        alerts=[],
        messages_waiting=0,
        sources={"files": 0},
        batches=[],
        contract=ContractStatus("ratings", "1.0.0", "team, team@x", [], [], None),
        blocks_behind=0,
        models={},
        generation=None,
        generation_written_at=None,
        runs=[],
        locks=[],
    )
    assert format_page(empty) == (
        "file:/w at 2024-03-01 12:00:00 UTC\n"
        "Alerts   none open\n"
        "Sources  nothing has landed yet. Run ingest_ratings.\n"
        "Batches  none yet\n"
        "Contract ratings 1.0.0, owner team, team@x\n"
        "         consumers: none listed; registered: none\n"
        "Tables   empty\n"
        "Blocks   up to date with the ratings\n"
        "Models   none. Run train_model, then promote_model.\n"
        "Lists    none published. Run score_users.\n"
        "Runs     none yet\n"
        "Locks    none held"
    )


def test_the_page_shows_what_landed_what_is_served_what_ran_and_who_is_at_work() -> None:
    hours = timedelta(hours=1)
    full = Status(
        warehouse="file:/w",
        at=NOON,
        rows={"ratings": 97_000, "items": 0, "job_runs": 2},
        alerts=[
            Alert(
                id="a",
                kind="lag",
                subject="ratings",
                severity="warning",
                says="3 landed files wait.",
                opened=(NOON - 4 * hours).timestamp(),
                seen=NOON.timestamp(),
                runs=24,
                job="ingest_ratings",
                run_id="r",
                told=True,
            )
        ],
        messages_waiting=1,
        sources={
            "files": 12,
            "last_batch": 5,
            "last_claimed_at": NOON - 3 * hours,
            "landed": 100_000,
            "accepted": 97_000,
            "duplicate": 2_000,
            "quarantined": 1_000,
        },
        batches=[
            {
                "batch": 5,
                "claimed_at": NOON - 3 * hours,
                "files": 2,
                "landed": 1_500,
                "accepted": 1_400,
                "duplicate": 60,
                "quarantined": 40,
            }
        ],
        contract=ContractStatus("ratings", "1.1.0", "team, t@x", ["recsys (r@x)"], ["recsys since 2024"], 7200.0),
        blocks_behind=1,
        models={
            "champion": ModelVersion(
                3, "r", NOON - 50 * hours, {VERDICT: PASSED}, {"ndcg candidate": 0.14, "loss": 2.0}
            )
        },
        generation=Generation(9, 4, 3, {}, 1_234, NOON - hours / 60, ROLLED_BACK, "bad lists"),
        generation_written_at=NOON - 49 * hours,
        runs=[
            {
                "started_at": NOON - hours,
                "job": "rollback",
                "outcome": "ok",
                "exit_code": 0,
                "seconds": 4.2,
                "message": "consumers read generation 4",
            }
        ],
        locks=[Holder("models", 7, "train_model", "host-a", 42, "1", "2024-03-01 11:58:00 UTC", 0.0)],
    )
    lines = format_page(full).splitlines()
    assert lines[:14] == [
        "file:/w at 2024-03-01 12:00:00 UTC",
        "Alerts   warning lag: ratings, for 4 h, seen by 24 runs: 3 landed files wait.",
        "         1 messages wait for a channel that is down. See the log of the last run.",
        "Sources  12 files in 5 batches, the last one 3 h ago",
        "         100,000 rows landed = 97,000 accepted + 2,000 duplicate + 1,000 quarantined",
        "Batches  2024-03-01 09:00:00  batch 5: 2 files, 1,500 rows landed = "
        "1,400 accepted + 60 duplicate + 40 quarantined",
        "Contract ratings 1.1.0, owner team, t@x",
        "         consumers: recsys (r@x); registered: recsys since 2024",
        "         the newest batch is 3 h old, 2 h are allowed: NOT as fresh as promised: ask the owner",
        "Tables   ratings 97,000, job_runs 2",
        "Blocks   1 batch behind. Run ingest_ratings again.",
        "Models   champion   version 3, passed, fitted 2 d ago. ndcg candidate 0.1400",
        "Lists    generation 4 by model version 3 for 1,234 users, rolled back 60 s ago, lists 2 d old (bad lists)",
        "Runs     2024-03-01 11:00:00  rollback        ok                          4.2 s  consumers read generation 4",
    ]
    assert lines[14].startswith("Locks    models: train_model (pid 42 on host-a) since 2024-03-01 11:58:00 UTC")


def test_status_is_read_from_tables_registry_and_locks(spark: SparkSession, settings: Settings) -> None:
    place_empty_store(settings.warehouse.root)
    context = make_context(spark, settings)
    tables, registry = context.tables, Registry(settings.mlflow, context.tables.root)
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    tags = {VERDICT: PASSED}
    version = registry.log_fit(model.to_files(), fit_key="k", params={}, metrics={"ndcg candidate": 0.5}, tags=tags)
    ledger = [
        {**dict.fromkeys(INGEST_LEDGER.names, "x"), c.BATCH: batch, c.SIZE: 1, c.MODIFIED: NOON, c.CLAIMED_AT: NOON}
        | {c.LANDED: 10, c.ACCEPTED: accepted, c.DUPLICATE: 10 - accepted, c.QUARANTINED: 0}
        for batch, accepted in ((1, 9), (2, 8), (3, 0))
    ]
    tables.ledger.append(spark.createDataFrame(ledger, INGEST_LEDGER))
    block = (0, 0, 0, 1, 1, ["ann"], b"", b"", b"", b"", b"", b"", 0, 0, 1, 1)
    tables.user_blocks.append(spark.createDataFrame([block], USER_BLOCKS))
    have_published(spark, tables, {1: version})
    with Lock(context.files, settings.warehouse.root, TABLES, job="ingest_ratings", expiry_seconds=60.0):
        perform(context, "promote_model", lambda job: _promote(registry, version), locks=(MODELS,))
        found = status.run(context)
    rows = {"ingest_ledger": 3, "user_blocks": 1, "recommendations": 3, "generations": 1, "job_runs": 1}
    assert {name: count for name, count in found.rows.items() if count} == rows
    sources = {"files": 3, "last_batch": 3, "landed": 30, "accepted": 17, "duplicate": 13, "quarantined": 0}
    assert found.sources == {**sources, "last_claimed_at": NOON}
    assert [(own["batch"], own["files"], own["accepted"]) for own in found.batches] == [(3, 1, 0), (2, 1, 8), (1, 1, 9)]
    assert found.alerts == []
    assert found.contract.consumers == ["recsys (recsys-team@example.org)"]
    assert found.contract.registered == []  # nobody has read a source yet
    assert found.blocks_behind == 1  # batch 2; nothing of batch 3 was accepted
    assert (list(found.models), found.models["champion"].metrics) == (["champion"], {"ndcg candidate": 0.5})
    assert found.generation is not None
    assert found.generation.generation == 1
    assert [(run["job"], run["outcome"], run["message"]) for run in found.runs] == [("promote_model", "ok", "done")]
    assert [(holder.name, holder.job) for holder in found.locks] == [("tables", "ingest_ratings")]
    assert json.loads(format_json(found))["models"]["champion"]["version"] == version
    assert "Locks    tables: ingest_ratings" in format_page(found)


def _promote(registry: Registry, version: int) -> JobResult:
    registry.promote(version, None)
    return JobResult("done")
