"""User blocks brought up to date from new rating events, or built from all of them."""

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import to_arrow_schema

from recsys import columns as c
from recsys.blocks.codec import UserBlock, encode_row, iter_rows
from recsys.blocks.pack import Events, merge
from recsys.schemas import USER_BLOCKS


def update_blocks(
    blocks: DataFrame | None,
    events: DataFrame,
    items: DataFrame,
    *,
    users_per_block: int,
    through_batch: int,
    ratings_version: int,
) -> DataFrame:
    """Merge rating events into the blocks of the buckets they fall in.

    Args:
        blocks: rows of ``user_blocks``, all blocks of the buckets that ``events`` touch; None: build from ``events``.
        events: rating events in the columns of the ratings table, in any order and with repetitions.
        items: item_id and position of every item of the events; an event of an unknown item fails the job.
        users_per_block: users a block at most.
        through_batch: the last batch the result reflects.
        ratings_version: version of the ratings table the result reflects.

    Returns:
        Rows of ``recsys.schemas.USER_BLOCKS``: all blocks of the buckets that ``events`` touch, and of no others.
    """
    schema = to_arrow_schema(USER_BLOCKS)

    def merge_bucket(old: pa.Table, new: pa.Table) -> pa.Table:
        if new.num_rows == 0:
            return schema.empty_table()
        known = [UserBlock.from_row(row) for batch in old.to_batches() for row in iter_rows(batch)]
        bucket = new.column(c.BUCKET)[0].as_py()
        merged = merge(bucket, known, _read_events(new), users_per_block=users_per_block)
        stamp = {c.THROUGH_BATCH: through_batch, c.RATINGS_VERSION: ratings_version}
        return pa.Table.from_batches([encode_row(block.to_row() | stamp, schema) for block in merged], schema)

    placed = _place(events, items).groupBy(c.BUCKET)
    if blocks is None:
        nothing = schema.empty_table()
        return placed.applyInArrow(lambda new: merge_bucket(nothing, new), USER_BLOCKS)
    return blocks.groupBy(c.BUCKET).cogroup(placed).applyInArrow(merge_bucket, USER_BLOCKS)


def _place(events: DataFrame, items: DataFrame) -> DataFrame:
    """Events with their items' positions and times in microseconds."""
    position = sf.coalesce(
        c.POSITION, sf.raise_error(sf.concat(sf.lit("a rating names an item without a position: "), c.ITEM_ID))
    )
    return events.join(items.select(c.ITEM_ID, c.POSITION), c.ITEM_ID, "left").select(
        c.BUCKET,
        c.USER_ID,
        position.cast("long").alias(c.POSITION),
        sf.col(c.VALUE).cast("float").alias(c.VALUE),
        sf.unix_micros(c.EVENT_TIME).alias(c.EVENT_TIME),
        c.EVENT_ID,
    )


def _read_events(table: pa.Table) -> Events:
    return Events(
        user_ids=table.column(c.USER_ID).combine_chunks(),
        items=table.column(c.POSITION).to_numpy(),
        values=table.column(c.VALUE).fill_null(np.nan).to_numpy(),
        times=table.column(c.EVENT_TIME).to_numpy(),
        event_ids=table.column(c.EVENT_ID).combine_chunks(),
    )
