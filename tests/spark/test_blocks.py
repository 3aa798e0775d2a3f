"""User blocks by way of real DataFrames: brought up to date, cut, counted."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from chispa import assert_df_equality
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.blocks.codec import iter_split_blocks, to_micros
from recsys.blocks.current import current_ratings
from recsys.blocks.split import count_events, find_times, split_blocks
from recsys.blocks.update import Packing, update_blocks
from recsys.errors import NothingToTrainError
from recsys.schemas import RATINGS, USER_BLOCKS
from tests.oracles.blocks import Event, newest_events
from tests.worlds import rating_files

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
BUCKETS = 3


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def ratings_of(spark: SparkSession, events: Sequence[Event]) -> DataFrame:
    """Events with times in minutes after noon and item positions 0, 1, ... for items i0, i1, ..."""
    rows = [(user, f"i{item}", value, at(time), event_id, 1, 0) for user, item, value, time, event_id in events]
    bucket = sf.pmod(sf.xxhash64(c.USER_ID), sf.lit(BUCKETS)).cast("int")
    return spark.createDataFrame(rows, RATINGS).withColumn(c.BUCKET, bucket)


def updated(blocks: DataFrame | None, events: DataFrame, n_items: int) -> DataFrame:
    """Blocks of four users; items i0, i1, ... have positions 0, 1, ..."""
    ids = [f"i{i}" for i in range(n_items)]
    packing = Packing(ids, after_batch=0, through_batch=7, ratings_version=9, users_per_block=4)
    return update_blocks(blocks, rating_files(events), packing)


def random_events(seed: int, n: int) -> list[Event]:
    """Corrections, withdrawals and ties among 20 users and 6 items; an event's id is its own."""
    rng = random.Random(seed)
    return [
        (f"u{rng.randrange(20)}", rng.randrange(6), rng.choice([None, 1.0, 2.5, 5.0]), rng.randrange(5), f"e{number}")
        for number in range(n)
    ]


def test_blocks_brought_up_to_date_in_any_order_equal_a_rebuild(spark: SparkSession) -> None:
    events = random_events(1, 200)
    rebuilt = updated(None, ratings_of(spark, events), 6).cache()

    arrivals = random.Random(2).sample(events, len(events))
    redelivered = arrivals[:30]
    blocks: DataFrame = spark.createDataFrame([], USER_BLOCKS)
    for batch in (arrivals[:120], arrivals[120:123], arrivals[123:] + redelivered):
        new = updated(blocks, ratings_of(spark, batch), 6)
        touched = ratings_of(spark, batch).select(c.BUCKET).distinct()
        kept = blocks.join(touched, c.BUCKET, "left_anti").select(*USER_BLOCKS.names)
        blocks = spark.createDataFrame(kept.union(new).collect(), USER_BLOCKS)

    assert_df_equality(blocks, rebuilt, ignore_row_order=True)
    current = newest_events(events).values()
    assert sum(row[c.N_RATINGS] for row in rebuilt.collect()) == len(current)
    rebuilt.unpersist()


def test_buckets_without_events_are_left_alone(spark: SparkSession) -> None:
    blocks = updated(None, ratings_of(spark, [(f"u{n}", 0, 1.0, 0, "a") for n in range(20)]), 2)
    touched = updated(blocks, ratings_of(spark, [("u0", 1, 2.0, 0, "b")]), 2).select(c.BUCKET).distinct().collect()
    bucket_of_u0 = ratings_of(spark, [("u0", 1, 2.0, 0, "b")]).head()[c.BUCKET]
    assert [row[c.BUCKET] for row in touched] == [bucket_of_u0]


def test_a_rating_of_an_item_without_a_position_fails_loudly(spark: SparkSession) -> None:
    with pytest.raises(PySparkException, match="names an item without a position: i5"):
        updated(None, ratings_of(spark, [("u", 5, 1.0, 0, "a")]), 2).collect()


def test_current_ratings_are_the_newest_events_that_withdrew_nothing(spark: SparkSession) -> None:
    events = random_events(3, 100)
    rows = current_ratings(ratings_of(spark, events)).collect()
    found = {(row[c.USER_ID], row[c.ITEM_ID], row[c.VALUE], row[c.EVENT_ID]) for row in rows}
    newest = newest_events(events).values()
    assert found == {(user, f"i{item}", value, event_id) for user, item, value, _, event_id in newest if value}
    assert len(rows) == len(found)


@pytest.fixture
def ten_minutes(spark: SparkSession) -> Iterator[DataFrame]:
    """Ten ratings, one a minute, of items 0 and 1 in turn, and a later withdrawal."""
    events: list[Event] = [(f"u{n}", n % 2, 1.0, n, "a") for n in range(10)]
    blocks = updated(None, ratings_of(spark, [*events, ("u3", 2, None, 60, "w")]), 3).cache()
    yield blocks
    blocks.unpersist()


def test_a_share_of_the_newest_ratings_is_held_out(ten_minutes: DataFrame) -> None:
    times = find_times(ten_minutes, [0.3, 0.1])
    start, later = times.starts
    assert times.newest == to_micros(at(9))
    assert to_micros(at(6)) < start <= to_micros(at(7))
    assert to_micros(at(8)) < later <= to_micros(at(9))
    batches = split_blocks(ten_minutes, cutoff_us=start).toArrow().to_batches()
    blocks = [block for batch in batches for block in iter_split_blocks(batch)]
    assert sum(len(block.items) for block in blocks) == 7
    assert sum(len(block.held_items) for block in blocks) == 3
    assert sorted(user for block in blocks for user in block.user_ids) == [f"u{n}" for n in range(10)]


def test_events_are_counted_by_item_plainly_and_by_age(ten_minutes: DataFrame) -> None:
    now = to_micros(at(9) + timedelta(days=2))
    counts = count_events(ten_minutes, 3, as_of_us=now, half_lives_days=[1.0, 2.0])
    np.testing.assert_array_equal(counts[0], [5, 5, 0])
    np.testing.assert_allclose(counts[1:], [[1.25, 1.25, 0], [2.5, 2.5, 0]], rtol=0.01)
    before = count_events(ten_minutes, 3, as_of_us=now, before_us=to_micros(at(3)))
    np.testing.assert_array_equal(before, [[2, 1, 0]])


def test_without_ratings_there_is_no_time_to_cut_at(spark: SparkSession) -> None:
    nothing = spark.createDataFrame([], USER_BLOCKS)
    with pytest.raises(NothingToTrainError, match="hold no rating"):
        find_times(nothing, [0.1])
