"""Warehouses for tests of jobs: made once, then copied, because making eight tables costs seconds."""

import shutil
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from jobs.runner import JobContext, make_context
from recsys.config import Settings

# What a rerun may change: clocks.
_CLOCKS = {"claimed_at", "modified"}


def make_settings(root: Path, folder: Path, /, **sections: dict[str, Any]) -> Settings:
    """Settings of a small warehouse: two buckets, users in blocks of two, no limit on bad rows."""
    content: dict[str, Any] = {
        "warehouse": {"root": str(root), "buckets": 2, "users_per_block": 2},
        "landing": {"path": str(folder)},
        "ingest": {"max_bad_share": 1.0},
    }
    for name, section in sections.items():
        content[name] = content.get(name, {}) | section
    return Settings.model_validate(content)


def copy_warehouse(spark: SparkSession, origin: Path, settings: Settings) -> JobContext:
    """A copy of a warehouse, opened."""
    shutil.copytree(origin, settings.warehouse.root)
    return make_context(spark, settings)


def table_hash(rows: DataFrame) -> tuple[int, int]:
    """Number of rows and the sum of their hashes, whatever their order; clocks left out."""
    names = [name for name in rows.columns if name not in _CLOCKS]
    row = rows.agg(sf.count("*"), sf.sum(sf.xxhash64(*names).cast("decimal(38, 0)"))).collect()[0]
    return int(row[0]), int(row[1] or 0)


def ingested_hashes(context: JobContext) -> dict[str, tuple[int, int]]:
    """What ingestion writes, as hashes."""
    tables = context.tables
    written = (tables.ratings, tables.quarantine, tables.ledger, tables.items, tables.user_blocks)
    return {table.name: table_hash(table.read()) for table in written}
