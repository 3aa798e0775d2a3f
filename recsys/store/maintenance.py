"""What keeps the tables small and quick: old generations dropped, small files joined, unreferenced files removed."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.events import log_event
from recsys.store.generations import read_history, served_stack
from recsys.store.locks import check_held
from recsys.store.tables import Table, Tables

log = logging.getLogger(__name__)

_GUARD = "spark.databricks.delta.retentionDurationCheck.enabled"
_LOOKED_BACK = "INTERVAL 60 DAYS"  # for the longest run: what took a day once must not keep files for ever
_LISTING_TASKS = "spark.sql.sources.parallelPartitionDiscovery.parallelism"
_COMMITS_OF_ITS_OWN = "spark.databricks.delta.vacuum.logging.enabled"


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
        tables.recommendations.delete(c.among(c.GENERATION, dropped))
        log_event(log, "generations_dropped", generations=dropped, kept=sorted(kept))
    return dropped


def choose_vacuum_hours(tables: Tables, hours: float) -> float:
    """The hours that `vacuum` must leave so that no job as long as those recorded loses a file it reads or writes.

    At least twice the longest run of the last weeks. The locks keep our own jobs away from a vacuum, but not one that
    lost its lock and lives on, nor what others run for as long on the same tables.

    Args:
        tables: of the warehouse.
        hours: as configured.
    """
    runs = tables.job_runs.read().where(sf.col(c.STARTED_AT) > sf.expr(f"current_timestamp() - {_LOOKED_BACK}"))
    # What runs on for weeks holds no file for longer than the runs inside it.
    single = sf.try_element_at(c.COUNTS, sf.lit(c.INNER_RUNS)).isNull()
    longest = runs.where(single).orderBy(sf.desc(c.SECONDS)).select(c.JOB, c.SECONDS).first()
    if longest is None or 2 * longest[c.SECONDS] <= hours * 3600:
        return hours
    log_event(
        log,
        "vacuum_hours_raised",
        level=logging.WARNING,
        configured=hours,
        job=longest[c.JOB],
        took_hours=longest[c.SECONDS] / 3600,
    )
    return 2 * float(longest[c.SECONDS]) / 3600


def keep_logs(tables: Sequence[Table], days: int) -> int:
    """Let tables made under another setting keep their logs as long as this one says; returns how many they were."""
    changed = 0
    for table in tables:
        check_held()
        changed += table.set_log_retention(days)
    return changed


def vacuum(spark: SparkSession, tables: Sequence[Table], hours: float) -> None:
    """Remove files that no version of the last `hours` refers to.

    The lists of generations that are kept are never rewritten: whoever reads one of those reads on, whatever the hours.
    Anybody else who started longer ago fails, and so does a commit under way that has written files for longer.

    Raises:
        LockedError: the caller's lock was lost; the tables that are left are not touched.
    """
    with _vacuum_settings(spark, hours):
        for table in tables:
            check_held()
            DeltaTable.forPath(spark, table.path).vacuum(hours)


@contextmanager
def _vacuum_settings(spark: SparkSession, hours: float) -> Iterator[None]:
    """Delta refuses less than a week unless told that nobody reads for so long: the configuration says so.

    It lists folders in as many tasks as Spark discovers partitions with, 10,000 by default, which on few cores takes
    minutes to do nothing. And it would write two commits a table that say when it began and ended, for half of its
    time: `job_runs` says that.
    """
    wanted = {
        _GUARD: str(hours >= 168).lower(),
        _LISTING_TASKS: str(spark.sparkContext.defaultParallelism),
        _COMMITS_OF_ITS_OWN: "false",
    }
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
