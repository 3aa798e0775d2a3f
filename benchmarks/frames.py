"""Generated ratings where Spark reads them: DataFrames, split blocks, and the Delta tables of a warehouse.

Every task draws its own users' ratings, so nothing is collected and any size works.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from benchmarks import data
from recsys import columns as c
from recsys.blocks.codec import encode_row, gather_batches, pack_items, pack_values
from recsys.ratings.validate import bucket_of
from recsys.schemas import NO_EVENT_ID, RATINGS, SPLIT_BLOCKS
from recsys.store.tables import Tables

# What MLlib reads: 12 bytes a rating.
USER: Final = "user"
ITEM: Final = "item"
RATING: Final = "rating"

FIRST_BATCH: Final = 1  # base and held-out ratings
LATE_BATCH: Final = 2

_USERS_AT_ONCE: Final = 4096  # about 850,000 ratings
_CHUNK: Final = "chunk"
_NUMBER: Final = "number"
# Tasks write many buckets at once instead of sorting all their rows by bucket first.
OPEN_FILES: Final = {"spark.sql.maxConcurrentOutputFileWriters": "256"}

_Batches = Iterator[pa.RecordBatch]


def user_ids(numbers: NDArray[np.integer]) -> pa.StringArray:
    """Ids of users by number; their order is that of the numbers."""
    return pa.array([f"u{number:09}" for number in numbers.tolist()], pa.string())


def item_ids(n_items: int) -> list[str]:
    """Ids of all items by position."""
    return [f"m{position:06}" for position in range(n_items)]


def user_number(user_id: str) -> int:
    """The number in a user's id, or the position in an item's."""
    return int(user_id[1:])


def make_ratings(spark: SparkSession, world: data.World, *parts: int, tasks: int) -> DataFrame:
    """Rows (user, item, rating) of some parts, in ``tasks`` partitions."""

    def to_rows(chunk: data.Chunk) -> pa.RecordBatch:
        taken = chunk.take(*parts)
        users = chunk.users.astype(np.int32)[taken.owners()]
        return pa.RecordBatch.from_arrays([users, taken.items, taken.values], [USER, ITEM, RATING])

    return _map_chunks(spark, world, to_rows, f"{USER} INT, {ITEM} INT, {RATING} FLOAT", tasks, _USERS_AT_ONCE)


def make_split_blocks(
    spark: SparkSession, world: data.World, *observed: int, tasks: int, users_per_block: int | None = None
) -> DataFrame:
    """Rows of ``SPLIT_BLOCKS`` as if packed from the ratings and cut at ``HELD_START``, in ``tasks`` partitions.

    Blocks have ``users_per_block`` users; None: 4,096, or fewer so that every task has at least two blocks.
    """
    users_per_block = users_per_block or min(4096, -(-world.shape.n_users // (2 * tasks)))
    schema = to_arrow_schema(SPLIT_BLOCKS)

    def to_rows(chunk: data.Chunk) -> pa.RecordBatch:
        kept, held = chunk.take(*observed), chunk.take(data.HELD)
        dictionary, codes = pack_values(kept.values)
        block = {
            c.BUCKET: 0,
            c.BLOCK: int(chunk.users[0]) // users_per_block,
            c.USER_IDS: user_ids(chunk.users),
            c.OFFSETS: kept.offsets.tobytes(),
            c.ITEMS: pack_items(kept.items).tobytes(),
            c.VALUES: codes.tobytes(),
            c.DICTIONARY: dictionary.tobytes(),
            c.WEIGHTS: b"",
            c.HELD_OFFSETS: held.offsets.tobytes(),
            c.HELD_ITEMS: pack_items(held.items).tobytes(),
            c.HELD_VALUES: held.values.tobytes(),
        }
        return encode_row(block, schema)

    return _map_chunks(spark, world, to_rows, SPLIT_BLOCKS, tasks, users_per_block)


def fill_tables(spark: SparkSession, tables: Tables, world: data.World) -> None:
    """Append the first batch, base and held-out ratings, and all items to empty tables (Spark jobs)."""
    tables.items.append(_make_items(spark, world.shape.n_items))
    append_batch(spark, tables, world, FIRST_BATCH, data.BASE, data.HELD)


def append_batch(spark: SparkSession, tables: Tables, world: data.World, batch: int, *parts: int) -> int:
    """Append some parts to the ratings table as one batch and return how many rows they have (a Spark job).

    Users are exchanged by bucket, one row each; their ratings are drawn where they are written.
    """
    shipped = spark.sparkContext.broadcast((world, item_ids(world.shape.n_items)))

    def to_events(batches: _Batches) -> _Batches:
        drawn_from, ids = shipped.value
        names = pa.array(ids, pa.string())
        for numbers, buckets in _regroup(batches):
            chunk = data.generate(drawn_from, numbers)
            wanted = np.isin(chunk.parts, parts)
            owners = np.repeat(np.arange(len(numbers)), np.diff(chunk.offsets))[wanted]
            yield pa.RecordBatch.from_arrays(
                [
                    user_ids(numbers).take(pa.array(owners)),
                    names.take(pa.array(chunk.items[wanted])),
                    pa.array(chunk.values[wanted].astype(np.float64)),
                    pa.array(chunk.times[wanted], pa.timestamp("us", tz="UTC")),
                    pa.array(buckets[owners]),
                ],
                [c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME, c.BUCKET],
            )

    user_id = sf.concat(sf.lit("u"), sf.lpad(sf.col(_NUMBER).cast("string"), 9, "0"))
    bucket = bucket_of(user_id, tables.buckets)
    drawn = StructType([RATINGS[name] for name in (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME, c.BUCKET)])
    users = spark.range(world.shape.n_users).select(sf.col("id").alias(_NUMBER)).select(_NUMBER, bucket.alias(c.BUCKET))
    events = (
        users.repartition(min(tables.buckets, 16), c.BUCKET)
        .mapInArrow(to_events, drawn)
        .withColumns({c.EVENT_ID: sf.lit(NO_EVENT_ID), c.BATCH: sf.lit(batch).cast("long")})
        .select(*RATINGS.names)
    )
    appended = tables.ratings.append(events, options={"compression": "zstd"})
    shipped.destroy()
    return appended


def _make_items(spark: SparkSession, n_items: int) -> DataFrame:
    position = sf.col("id")
    return spark.range(n_items).select(
        sf.concat(sf.lit("m"), sf.lpad(position.cast("string"), 6, "0")).alias(c.ITEM_ID),
        position.cast("int").alias(c.POSITION),
        sf.lit(None).cast("string").alias(c.TITLE),
        sf.lit(None).cast("array<string>").alias(c.GENRES),
        sf.lit(True).alias(c.AVAILABLE),
        sf.lit(FIRST_BATCH).cast("long").alias(c.BATCH),
    )


def _map_chunks(
    spark: SparkSession,
    world: data.World,
    to_rows: Callable[[data.Chunk], pa.RecordBatch],
    schema: Any,
    tasks: int,
    users_at_once: int,
) -> DataFrame:
    """One batch of rows for every run of ``users_at_once`` users."""
    n_users = world.shape.n_users
    shipped = spark.sparkContext.broadcast(world)

    def draw(batches: _Batches) -> _Batches:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                first = number * users_at_once
                users = np.arange(first, min(first + users_at_once, n_users), dtype=np.int64)
                yield to_rows(data.generate(shipped.value, users))

    chunks = spark.range(0, -(-n_users // users_at_once), numPartitions=tasks).select(sf.col("id").alias(_CHUNK))
    return chunks.mapInArrow(draw, schema)


def _regroup(batches: _Batches) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Numbers and buckets of users, so many at once, from batches that Spark made small."""
    return map(_numbers_and_buckets, gather_batches(batches, _USERS_AT_ONCE))


def _numbers_and_buckets(batches: list[pa.RecordBatch]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    table = pa.Table.from_batches(batches)
    return table.column(_NUMBER).to_numpy(), table.column(c.BUCKET).to_numpy()
