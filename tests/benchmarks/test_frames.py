"""Generated ratings in Spark and in the tables are the ones that the generator makes in memory."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from benchmarks.data import BASE, HELD, HELD_START, LATE, World, generate, make_shape, make_world
from benchmarks.frames import LATE_BATCH, append_batch, fill_tables, make_ratings, make_split_blocks, user_number
from recsys import columns as c
from recsys.blocks.codec import SplitBlock
from recsys.blocks.split import split_blocks
from recsys.schemas import NO_EVENT_ID
from recsys.store.params import WarehouseParams
from recsys.store.tables import Tables
from recsys.user_blocks import bring_blocks_up_to_date

Rated = dict[int, tuple[list[tuple[int, float]], list[tuple[int, float]]]]  # user → (observed, held out)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(make_shape("3k"))


def by_user(split: DataFrame) -> Rated:
    found: Rated = {}
    for row in split.collect():
        block = SplitBlock.from_row(row.asDict())
        for n, user in enumerate(block.user_ids):
            own, held = slice(*block.offsets[n : n + 2]), slice(*block.held_offsets[n : n + 2])
            found[user_number(user)] = (
                list(zip(block.items[own].tolist(), block.values[own].tolist(), strict=True)),
                list(zip(block.held_items[held].tolist(), block.held_values[held].tolist(), strict=True)),
            )
    return found


def expected(world: World, *observed: int) -> Rated:
    found: Rated = {}
    for user in range(world.shape.n_users):
        chunk = generate(world, np.array([user]))
        kept, held = chunk.take(*observed), chunk.take(HELD)
        found[user] = (
            list(zip(kept.items.tolist(), kept.values.tolist(), strict=True)),
            list(zip(held.items.tolist(), held.values.tolist(), strict=True)),
        )
    return found


def test_the_frame_for_mllib_has_the_generators_ratings(spark: SparkSession, world: World) -> None:
    rows = make_ratings(spark, world, BASE, tasks=3).collect()
    truth = {(user, item, value) for user, (kept, _) in expected(world, BASE).items() for item, value in kept}
    assert len(rows) == len(truth)
    assert {tuple(row) for row in rows} == truth


def test_split_blocks_have_the_generators_ratings(spark: SparkSession, world: World) -> None:
    assert by_user(make_split_blocks(spark, world, BASE, tasks=2)) == expected(world, BASE)


def test_the_tables_are_packed_into_the_same_blocks_batch_after_batch(
    spark: SparkSession, world: World, tmp_path: Path
) -> None:
    tables = Tables(spark, WarehouseParams(root=str(tmp_path / "warehouse"), buckets=3)).open_or_create()
    fill_tables(spark, tables, world)
    first = tables.ratings.read()
    hashed = sf.pmod(sf.xxhash64(c.USER_ID), sf.lit(3))  # what ingestion does
    assert first.where(sf.col(c.BUCKET) != hashed).count() == 0
    assert first.select(c.USER_ID, c.ITEM_ID).distinct().count() == first.count()
    assert first.where(sf.col(c.EVENT_ID) != NO_EVENT_ID).count() == 0  # what ingestion does without ids
    bring_blocks_up_to_date(tables, through_batch=1)
    assert by_user(split_blocks(tables.user_blocks.read(), cutoff_us=HELD_START)) == expected(world, BASE)

    late = append_batch(spark, tables, world, LATE_BATCH, LATE)
    assert late == int((generate(world, np.arange(world.shape.n_users)).parts == LATE).sum())
    bring_blocks_up_to_date(tables, through_batch=LATE_BATCH)
    assert by_user(split_blocks(tables.user_blocks.read(), cutoff_us=HELD_START)) == expected(world, BASE, LATE)
