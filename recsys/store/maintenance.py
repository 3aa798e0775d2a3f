"""What keeps the tables small and quick: old generations dropped, small files joined, unreferenced files removed."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from recsys import columns as c
from recsys.events import log_event
from recsys.store.generations import read_history, served_stack
from recsys.store.tables import Table, Tables

log = logging.getLogger(__name__)

_VACUUM_GUARD = "spark.databricks.delta.retentionDurationCheck.enabled"


def drop_old_generations(tables: Tables, keep: int) -> list[int]:
    """Delete the lists that neither consumers nor the next rollbacks can reach.

    Args:
        tables: The warehouse.
        keep: Generations to keep, the current one and those below it; at least 1.

    Returns:
        The generations whose lists are gone now.
    """
    history = read_history(tables)
    kept = set(served_stack(history)[-keep:])
    published = {entry.generation for entry in history}
    stored = {row[0] for row in tables.recommendations.read().select(c.GENERATION).distinct().collect()}
    dropped = sorted((stored & published) - kept)  # what is not published yet belongs to a scoring run
    if dropped:
        tables.recommendations.delete(f"{c.GENERATION} IN ({', '.join(map(str, dropped))})")
        log_event(log, "generations_dropped", generations=dropped, kept=sorted(kept))
    return dropped


def join_small_files(spark: SparkSession, tables: Sequence[Table]) -> int:
    """Join the small files that appends leave.

    Returns:
        The number of files that were joined into larger ones.
    """
    joined = 0
    for table in tables:
        [metrics] = DeltaTable.forPath(spark, table.path).optimize().executeCompaction().collect()
        joined += metrics["metrics"]["numFilesRemoved"]
    return joined


def vacuum(spark: SparkSession, tables: Sequence[Table], hours: float) -> None:
    """Remove files that no version of the last `hours` refers to. A reader that started longer ago fails."""
    with _vacuum_guard(spark, hours):
        for table in tables:
            DeltaTable.forPath(spark, table.path).vacuum(hours)


@contextmanager
def _vacuum_guard(spark: SparkSession, hours: float) -> Iterator[None]:
    """Delta refuses less than a week unless told that nobody reads for so long; the configuration says so."""
    before = spark.conf.get(_VACUUM_GUARD, "true")
    spark.conf.set(_VACUUM_GUARD, "true" if hours >= 168 else "false")
    try:
        yield
    finally:
        spark.conf.set(_VACUUM_GUARD, before or "true")
