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

_GUARD = "spark.databricks.delta.retentionDurationCheck.enabled"
_LISTING_TASKS = "spark.sql.sources.parallelPartitionDiscovery.parallelism"


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


def vacuum(spark: SparkSession, tables: Sequence[Table], hours: float) -> None:
    """Remove files that no version of the last `hours` refers to. A reader that started longer ago fails."""
    with _vacuum_settings(spark, hours):
        for table in tables:
            DeltaTable.forPath(spark, table.path).vacuum(hours)


@contextmanager
def _vacuum_settings(spark: SparkSession, hours: float) -> Iterator[None]:
    """Delta refuses less than a week unless told that nobody reads for so long: the configuration says so.

    It lists folders in as many tasks as Spark discovers partitions with, 10,000 by default, which on few cores takes
    minutes to do nothing.
    """
    wanted = {_GUARD: str(hours >= 168).lower(), _LISTING_TASKS: str(spark.sparkContext.defaultParallelism)}
    before = {key: spark.conf.get(key, None) for key in wanted}
    for key, value in wanted.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, old in before.items():
            if old is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, old)
