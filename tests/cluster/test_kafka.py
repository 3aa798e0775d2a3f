"""Messages of a real Kafka broker: each is accounted for once, whatever breaks on the way."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import ingest_ratings
from jobs.runner import JobContext, make_context
from recsys.blocks.current import current_ratings
from tests.cluster.kafka import Kafka, rating
from tests.jobs.warehouses import copy_warehouse, make_settings

DAY = 1_700_000_000
Open = Callable[..., JobContext]


@pytest.fixture(scope="module")
def empty_warehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kafka-ingest")
    make_context(spark, make_settings(root / "empty", root / "landing"))
    return root / "empty"


@pytest.fixture
def open_warehouse(spark: SparkSession, broker: Kafka, empty_warehouse: Path, tmp_path: Path) -> Open:
    def open_it(topic: str, name: str = "warehouse", **sections: dict[str, object]) -> JobContext:
        own: dict[str, object] = {"bootstrap_servers": broker.servers, "topic": topic, "timeout_seconds": 20.0}
        kafka = own | sections.pop("kafka", {})
        settings = make_settings(tmp_path / name, tmp_path / "landing", kafka=kafka, **sections)
        return copy_warehouse(spark, empty_warehouse, settings)

    (tmp_path / "landing").mkdir()
    return open_it


def ledger(context: JobContext) -> dict[str, tuple[int, ...]]:
    """Source → landed, accepted, duplicate, quarantined; the law holds in every row."""
    rows = context.tables.ledger.read().select("source", "landed", "accepted", "duplicate", "quarantined").collect()
    for row in rows:
        assert row.landed == row.accepted + row.duplicate + row.quarantined, row
    return {row.source: tuple(row)[1:] for row in rows}


def current(context: JobContext) -> dict[tuple[str, str], float]:
    rows = current_ratings(context.tables.ratings.read()).select("user_id", "item_id", "value").collect()
    return {(row.user_id, row.item_id): row.value for row in rows}


def test_smoke(broker: Kafka, open_warehouse: Open) -> None:
    import time
    t = time.time()
    broker.create_topic("smoke", 2)
    context = open_warehouse("smoke")
    print("prepared", time.time() - t)
    for n in range(3):
        t = time.time()
        broker.send("smoke", [rating(f"u{n}", "i1", 8, DAY), "{}{}"], n % 2)
        report = ingest_ratings.run(context)
        print(report, time.time() - t)
        print(ledger(context))
    context.tables.quarantine.read().show(truncate=60)
    import subprocess
    print(subprocess.run(f"find {context.settings.warehouse.root}/streams -type f | grep -v crc | xargs tail -n +1", shell=True, capture_output=True, text=True).stdout)
