"""Cases 44, 45 and 46: who deletes or restores ratings by hand finds blocks that hold what is there, and is told."""

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import ingest_ratings, repair_tables
from jobs.runner import JobContext, make_context
from recsys import columns as c
from recsys.user_blocks import find_reflected
from tests.jobs.fingerprint import table_hash
from tests.jobs.warehouses import SMALL, arguments, land_csv, make_settings

DAY = 1_700_000_000
FIRST = [f"u{user},i{item},{1 + item},{DAY + user}" for user in range(8) for item in range(2)]
SECOND = [f"u{user},i1,4,{DAY + 90}" for user in range(4)] + [f"n1,i3,5,{DAY}"]
STAMPS = ["through_batch"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warehouses ``one`` and ``two``, of one and two batches, and the landing folder."""
    folder = tmp_path_factory.mktemp("rewritten")
    land_csv(folder / "landing", "1.csv", *FIRST)
    assert ingest_ratings.main(arguments(folder / "one", folder / "landing", SMALL)) == 0
    shutil.copytree(folder / "one", folder / "two")
    land_csv(folder / "landing", "2.csv", *SECOND)
    assert ingest_ratings.main(arguments(folder / "two", folder / "landing", SMALL)) == 0
    return folder


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(origin, tmp_path / "copy"))


@pytest.fixture
def context(spark: SparkSession, folder: Path) -> JobContext:
    return make_context(spark, make_settings(folder / "two", folder / "landing"))


def blocks(context: JobContext) -> tuple[int, int]:
    return table_hash(context.tables.user_blocks.read(), STAMPS)


def blocks_packed_anew(context: JobContext, folder: Path) -> tuple[int, int]:
    """Those of a copy of the warehouse whose blocks were thrown away."""
    shutil.copytree(context.settings.warehouse.root, folder / "anew")
    shutil.rmtree(folder / "anew" / "user_blocks")
    anew = make_context(context.spark, make_settings(folder / "anew", folder / "landing"))
    ingest_ratings.run(anew)
    return blocks(anew)


def users(context: JobContext) -> set[str]:
    rows = context.tables.user_blocks.read().selectExpr(f"explode({c.USER_IDS})").collect()
    return {row[0] for row in rows}


def test_case_46_ratings_deleted_by_hand_leave_the_blocks_with_the_next_ingestion(
    spark: SparkSession, context: JobContext, folder: Path
) -> None:
    assert "u1" in users(context)
    spark.sql(f"DELETE FROM delta.`{context.tables.ratings.path}` WHERE user_id = 'u1'")

    [note] = ingest_ratings.run(context).notes

    assert "deleted or replaced by DELETE (version " in note
    assert users(context) == {*(f"u{n}" for n in range(8)), "n1"} - {"u1"}
    assert blocks(context) == blocks_packed_anew(context, folder)
    assert ingest_ratings.run(context).notes == ()


def test_case_46_a_batch_that_comes_at_once_with_a_deletion_loses_no_block(
    spark: SparkSession, context: JobContext, folder: Path
) -> None:
    """The deletion rewrites files in which the batch has no rating: their buckets have to stay."""
    spark.sql(f"DELETE FROM delta.`{context.tables.ratings.path}` WHERE item_id = 'i0'")
    land_csv(folder / "landing", "3.csv", f"n1,i3,1,{DAY + 99}")
    [_] = ingest_ratings.run(context).notes
    assert users(context) == {*(f"u{n}" for n in range(8)), "n1"}
    assert blocks(context) == blocks_packed_anew(context, folder)


def test_case_44_a_restored_table_is_noticed_told_and_its_batch_comes_again_once(
    spark: SparkSession, context: JobContext, folder: Path
) -> None:
    one = make_context(spark, make_settings(folder / "one", folder / "landing"))
    expected, version = blocks(context), one.tables.ratings.version()
    spark.sql(f"RESTORE TABLE delta.`{context.tables.ratings.path}` TO VERSION AS OF {version}")

    [note] = ingest_ratings.run(context).notes

    assert "deleted or replaced by RESTORE (version " in note
    assert "Run repair_tables" in note
    assert blocks(context) == blocks(one)
    assert find_reflected(context.tables).batch == 1
    assert ingest_ratings.run(context).notes == ()

    words = arguments(folder / "two", folder / "landing", SMALL)
    assert repair_tables.main(words) == 0
    assert ingest_ratings.main(words) == 0
    assert blocks(context) == expected


def test_case_45_a_history_that_is_gone_is_made_good_by_packing_everything_anew(
    spark: SparkSession, context: JobContext, folder: Path
) -> None:
    for user in ("u1", "u2"):
        spark.sql(f"DELETE FROM delta.`{context.tables.ratings.path}` WHERE user_id = '{user}'")
    context.tables.ratings.forget_log()  # all but the second deletion's commit

    [note] = ingest_ratings.run(context).notes

    assert "does not reach back to version " in note
    assert users(context).isdisjoint({"u1", "u2"})
    assert blocks(context) == blocks_packed_anew(context, folder)
    assert ingest_ratings.run(context).notes == ()
