"""Small worlds with a known taste: users of two groups who only rate their own group's items."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from recsys import columns as c
from recsys.blocks.update import Packing, update_blocks
from recsys.schemas import RATINGS

START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    user_id: str
    item_id: str
    value: float | None
    event_time: datetime


def two_tastes(n_users: int, n_items: int, n_rated: int, *, days: int = 60, seed: int = 1) -> list[Event]:
    """Events in time order: user u rates ``n_rated`` random items of the parity of u, spread over ``days``."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(n_users):
        own = rng.permutation(np.arange(user % 2, n_items, 2))[:n_rated]
        for item, day in zip(own, rng.uniform(0, days, len(own)), strict=True):
            events.append(Event(f"u{user:04}", f"i{item:03}", 8.0, START + timedelta(days=float(day))))
    return sorted(events, key=lambda event: event.event_time)


def item_ids(n_items: int) -> list[str]:
    return [f"i{item:03}" for item in range(n_items)]


def make_blocks(spark: SparkSession, events: Sequence[Event], ids: Sequence[str]) -> DataFrame:
    """User blocks of the events, in two buckets, kept in memory."""
    rows = [
        (e.user_id, e.item_id, e.value, e.event_time, f"{n:06}", 1, int(e.user_id[1:]) % 2)
        for n, e in enumerate(events)
    ]
    frame = spark.createDataFrame(rows, RATINGS)
    packing = Packing(ids, after_batch=0, through_batch=1, ratings_version=1, users_per_block=4096)
    return update_blocks(None, rating_files(frame), packing).localCheckpoint()


def rating_files(ratings: DataFrame) -> DataFrame:
    """The files of rows of the ratings table: one a bucket."""
    table = ratings.toArrow()
    files = []
    for bucket in table.column(c.BUCKET).unique().to_pylist():
        sink = pa.BufferOutputStream()
        pq.write_table(table.filter(pc.equal(table.column(c.BUCKET), bucket)), sink)
        files.append((bucket, bytes(sink.getvalue())))
    return ratings.sparkSession.createDataFrame(files, f"{c.BUCKET} INT, {c.CONTENT} BINARY")
