"""User blocks brought up to date from new rating events, or built from all of them.

The ratings table is partitioned by bucket, so its files are the unit that travels: whole and still compressed, about
ten bytes a rating. Read, joined and shuffled row by row by Spark, 8.9 million ratings took three times as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema

from recsys import columns as c
from recsys.blocks.codec import Events, UserBlock, encode_row, iter_rows
from recsys.blocks.pack import merge
from recsys.schemas import USER_BLOCKS


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How new rating events are packed.

    Attributes:
        item_ids: of all items by position; an event of another item fails the job.
        after_batch: events of this batch and those before it are in the blocks already.
        through_batch: the last batch the result reflects.
        ratings_version: version of the ratings table the result reflects.
        users_per_block: users a block at most.
        keeps_events: whether events are to be summed, so that each has to stay.
    """

    item_ids: Sequence[str] = field(kw_only=False)
    after_batch: int
    through_batch: int
    ratings_version: int
    users_per_block: int
    keeps_events: bool = False


def update_blocks(blocks: DataFrame | None, files: DataFrame, packing: Packing) -> DataFrame:
    """Merge rating events into the blocks of the buckets they fall in.

    Args:
        blocks: rows of ``user_blocks``, of all layers of the buckets that ``files`` are of; None: build from ``files``.
        files: bucket and content of Parquet files of the ratings table, in any order.
        packing: how.

    Returns:
        Rows of ``recsys.schemas.USER_BLOCKS``: all blocks of the buckets of ``files``, and of no others.
    """
    schema = to_arrow_schema(USER_BLOCKS)
    positions = pa.array(packing.item_ids, pa.string())

    def merge_bucket(old: pa.Table, new: pa.Table) -> pa.Table:
        if new.num_rows == 0:
            return schema.empty_table()
        bucket = new.column(c.BUCKET)[0].as_py()
        sources = [UserBlock.from_row(row).events() for batch in old.to_batches() for row in iter_rows(batch)]
        sources += [
            read_events(content.as_buffer(), positions, packing.after_batch) for content in new.column(c.CONTENT)
        ]
        merged = merge(bucket, sources, users_per_block=packing.users_per_block, keeps_events=packing.keeps_events)
        stamp = {c.THROUGH_BATCH: packing.through_batch, c.RATINGS_VERSION: packing.ratings_version}
        return pa.Table.from_batches([encode_row(block.to_row() | stamp, schema) for block in merged], schema)

    new_files = files.select(c.BUCKET, c.CONTENT).groupBy(c.BUCKET)
    if blocks is None:
        nothing = schema.empty_table()
        return new_files.applyInArrow(lambda new: merge_bucket(nothing, new), USER_BLOCKS)
    return blocks.groupBy(c.BUCKET).cogroup(new_files).applyInArrow(merge_bucket, USER_BLOCKS)


def read_events(content: Any, item_ids: pa.StringArray, after_batch: int) -> Events:
    """The events of a file of the ratings table.

    Args:
        content: of the Parquet file, bytes or a buffer.
        item_ids: of all items by position.
        after_batch: events of this batch and those before it are left out.

    Raises:
        ValueError: an event of an item without a position.
    """
    read = [c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME, c.EVENT_ID, c.BATCH]
    table = pq.read_table(
        pa.BufferReader(content),
        columns=read,
        read_dictionary=[c.USER_ID, c.ITEM_ID],
        coerce_int96_timestamp_unit="us",  # in nanoseconds the year 2263 is out of range
        use_threads=False,
        partitioning=None,
    )
    is_new = pc.greater(table.column(c.BATCH), after_batch)
    if not pc.all(is_new).as_py():
        table = table.filter(is_new)
    table = table.unify_dictionaries().combine_chunks()
    users, items = (_one_array(table.column(name)) for name in (c.USER_ID, c.ITEM_ID))
    item_indices = items.indices.to_numpy()
    positions = pc.index_in(items.dictionary, value_set=item_ids)
    if positions.null_count:
        unknown = np.flatnonzero(positions.is_null().to_numpy(zero_copy_only=False)[item_indices])
        if len(unknown):
            raise ValueError(f"a rating names an item without a position: {items[int(unknown[0])].as_py()}")
    value = _one_array(table.column(c.VALUE)).cast(pa.float32()).fill_null(np.nan)
    time = _one_array(table.column(c.EVENT_TIME)).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return Events(
        user_ids=users.dictionary,
        users=users.indices.to_numpy().astype(np.int64),
        items=positions.fill_null(0).to_numpy().astype(np.int64)[item_indices],
        values=value.to_numpy(zero_copy_only=False),
        times=time.to_numpy(),
        event_ids=_one_array(table.column(c.EVENT_ID)),
    )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
