"""Ratings without the events that no current rating comes from any more, bucket by bucket.

An event is superseded when a newer one of its pair is there (of its event id, where events are summed). A withdrawal
that is the newest stays, or an older event that arrives late would bring the rating back. So do all events of the
newest batch: the ledger and what a repair makes of it count on the table to say how far it reaches.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.adoption import keeps_events
from recsys.blocks.current import event_key, keep_newest
from recsys.errors import ConservationError
from recsys.events import log_event
from recsys.store.locks import check_held
from recsys.store.pause import pause_at
from recsys.store.tables import SUPERSEDED, Table, Tables

log = logging.getLogger(__name__)

_STAYS: Final = "stays"


@dataclass(frozen=True)
class Compaction:
    """What was dropped: events, of so many buckets."""

    superseded: int = 0
    buckets: int = 0


def compact_ratings(tables: Tables, *, share: float, compression: str) -> Compaction:
    """Rewrite the buckets of ``ratings`` with many superseded events without them, each in one file.

    Costs one pass over the table, and one more over what is rewritten; as many buckets are in work as tasks run at a
    time.
    The caller holds the tables lock.

    Args:
        tables: of the warehouse.
        share: of superseded events in a bucket, from which it is rewritten; 0: with any.
        compression: of the new files.

    Raises:
        ConservationError: the newest events would not be the same afterwards; the buckets at hand stay as they are.
        LockedError, CommitConflictError: see `recsys.store.tables.Table.replace`.
    """
    rows = tables.ratings.read()
    newest = rows.agg(sf.max(c.BATCH)).collect()[0][0]
    if newest is None:
        return Compaction()
    keeps = keeps_events(tables.ratings)
    marked = _mark(rows, newest, keeps=keeps)
    counts = marked.groupBy(c.BUCKET).agg(sf.count("*").alias("n"), sf.count_if(~sf.col(_STAYS)).alias(SUPERSEDED))
    worth = sorted(row for row in counts.collect() if row[SUPERSEDED] > 0 and row[SUPERSEDED] >= share * row["n"])
    at_once = rows.sparkSession.sparkContext.defaultParallelism
    for first in range(0, len(worth), at_once):
        _compact(tables.ratings, worth[first : first + at_once], newest, compression, keeps=keeps)
    done = Compaction(sum(row[SUPERSEDED] for row in worth), len(worth))
    log_event(log, "ratings_compacted", superseded=done.superseded, buckets=done.buckets)
    return done


def _mark(rows: DataFrame, newest_batch: int, *, keeps: bool) -> DataFrame:
    """The same rows with whether each stays."""
    pair = Window.partitionBy(c.BUCKET, *event_key(keeps_events=keeps))
    # As `recsys.blocks.current`: a value wins over a withdrawal of the same time and id. Copies of one event are equal.
    newest_first = pair.orderBy(
        sf.desc(c.EVENT_TIME), sf.desc(c.EVENT_ID), sf.desc_nulls_last(c.VALUE), sf.asc(c.BATCH)
    )
    return rows.withColumn(_STAYS, (sf.row_number().over(newest_first) == 1) | (sf.col(c.BATCH) == newest_batch))


def _compact(ratings: Table, group: Sequence[Row], newest_batch: int, compression: str, *, keeps: bool) -> None:
    """Rewrite some buckets in one commit, after a look whether anybody could see a difference."""
    check_held()
    version = ratings.version()
    where = c.among(c.BUCKET, (row[c.BUCKET] for row in group))
    before = ratings.read_version(version).where(where)
    # The window needs no exchange of its own: rows of one bucket are together already.
    marked = _mark(before.repartition(len(group), c.BUCKET), newest_batch, keeps=keeps)
    kept = marked.where(_STAYS).drop(_STAYS).persist(StorageLevel.MEMORY_AND_DISK)
    superseded = sum(row[SUPERSEDED] for row in group)
    try:
        old, new = (hash_newest(rows, keeps=keeps) for rows in (before, kept))
        n, expected = kept.count(), sum(row["n"] for row in group) - superseded
        if (old, n) != (new, expected):
            raise ConservationError(
                f"table '{ratings.path}', {where}: compaction would leave {n:,} rows of {expected:,}, and newest "
                f"events {new} of {old} (number, hash). Nothing of these buckets was written. Report it, with what "
                "DESCRIBE HISTORY says; maintenance without compaction: warehouse.compact_share=1."
            )
        pause_at("maintain:before_commit")
        note = {SUPERSEDED: superseded, c.THROUGH_BATCH: newest_batch}
        ratings.replace(kept, where, note=note, options={"compression": compression}, made_of=version)
        pause_at("maintain:after_commit")
    finally:
        kept.unpersist()


def hash_newest(rows: DataFrame, *, keeps: bool) -> tuple[int, int]:
    """Number and hash of the newest events, withdrawals among them: current ratings follow from these alone.

    Without the batch, which copies of one event differ in; a decimal, because a sum of hashes leaves 64 bits.
    """
    columns = (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME, c.EVENT_ID)
    hashed = keep_newest(rows, keeps_events=keeps).select(sf.xxhash64(*columns).cast("decimal(38,0)").alias("hash"))
    [found] = hashed.agg(sf.count("*"), sf.sum("hash")).collect()
    return int(found[0]), int(found[1] or 0)
