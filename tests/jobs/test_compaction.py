"""Compaction drops what no current rating comes from, and neither blocks nor ledger nor a repair can tell."""

import shutil
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from jobs import ingest_ratings, maintain_tables, repair_tables
from jobs.runner import JobContext, make_context
from recsys import columns as c
from recsys import compaction
from recsys.blocks.current import current_ratings
from recsys.compaction import Compaction, compact_ratings
from recsys.errors import CommitConflictError, ConservationError
from recsys.store.tables import Table
from tests.jobs.fingerprint import hash_tables, table_hash
from tests.jobs.kills import kill_at_points
from tests.jobs.warehouses import SMALL, arguments, land_csv, make_settings

DAY = 1_700_000_000
# u1 i1: three events, the newest in the first batch. u2 i1: withdrawn. u3: nothing superseded.
FIRST = [f"u1,i1,5,{DAY + 50}", f"u2,i1,4,{DAY}", f"u3,i1,3,{DAY}"]
SECOND = [f"u1,i1,2,{DAY}", f"u4,i2,2,{DAY}"]
WITHDRAWAL = f'{{"user": "u2", "item": "i1", "time": {DAY + 9}, "withdrawn": true}}\n'  # comes with the second
THIRD = [f"u1,i1,1,{DAY + 1}", f"u4,i2,5,{DAY + 5}"]
STAMPS = ["through_batch"]


@pytest.fixture(scope="module")
def origin(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse of three batches, and beside it the landing folder."""
    folder = tmp_path_factory.mktemp("compaction")
    for number, rows in enumerate((FIRST, SECOND, THIRD), 1):
        land_csv(folder / "landing", f"{number}.csv", *rows)
        if rows is SECOND:
            (folder / "landing" / "2.jsonl").write_text(WITHDRAWAL)
        assert ingest_ratings.main(arguments(folder / "warehouse", folder / "landing", SMALL)) == 0
    return folder


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(origin, tmp_path / "copy"))


@pytest.fixture
def context(spark: SparkSession, folder: Path) -> JobContext:
    return make_context(spark, make_settings(folder / "warehouse", folder / "landing"))


def events(context: JobContext) -> list[tuple[str, str, float | None, int, int]]:
    """The rows of ratings; times in seconds since the day."""
    at = (sf.unix_seconds(c.EVENT_TIME) - DAY).alias("at")
    rows = context.tables.ratings.read().select(c.USER_ID, c.ITEM_ID, c.VALUE, at, c.BATCH)
    return sorted((tuple(row) for row in rows.collect()), key=repr)


def blocks(context: JobContext) -> tuple[int, int]:
    return table_hash(context.tables.user_blocks.read(), STAMPS)


def test_what_is_left_is_the_newest_event_of_each_pair_and_the_newest_batch(context: JobContext, folder: Path) -> None:
    before = table_hash(current_ratings(context.tables.ratings.read()))
    packed = blocks(context)

    report = maintain_tables.run(context)

    assert report.compaction.superseded == 3
    assert events(context) == [
        ("u1", "i1", 1.0, 1, 3),  # superseded, but of the newest batch
        ("u1", "i1", 5.0, 50, 1),
        ("u2", "i1", None, 9, 2),  # an older event that comes late must not bring the rating back
        ("u3", "i1", 3.0, 0, 1),
        ("u4", "i2", 5.0, 5, 3),
    ]
    assert table_hash(current_ratings(context.tables.ratings.read())) == before
    assert maintain_tables.run(context).compaction == Compaction()

    assert ingest_ratings.run(context).notes == ()
    assert blocks(context) == packed
    assert repair_tables.main([*arguments(folder / "warehouse", folder / "landing", SMALL), "--dry-run"]) == 0
    shutil.rmtree(folder / "warehouse" / "user_blocks")
    again = make_context(context.spark, context.settings)
    ingest_ratings.run(again)
    assert blocks(again) == packed


def test_blocks_brought_up_to_date_after_compaction_are_those_of_a_warehouse_without(
    spark: SparkSession, context: JobContext, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "warehouse", tmp_path / "twin")
    twin = make_context(spark, make_settings(tmp_path / "twin", folder / "landing"))
    maintain_tables.run(context)
    # Late for a withdrawn rating, late for one that is there, newer, and a newcomer: of one user each.
    land_csv(folder / "landing", "4.csv", f"u2,i1,5,{DAY + 5}", f"u1,i1,3,{DAY + 2}")
    land_csv(folder / "landing", "5.csv", f"u3,i2,4,{DAY + 60}", f"u5,i1,4,{DAY}")
    for own in (context, twin):
        assert ingest_ratings.run(own).notes == ()
    assert blocks(context) == blocks(twin)
    assert table_hash(current_ratings(context.tables.ratings.read())) == table_hash(
        current_ratings(twin.tables.ratings.read())
    )


def test_a_bucket_with_a_smaller_share_of_superseded_events_stays_as_it_is(context: JobContext) -> None:
    before = events(context)
    assert compact_ratings(context.tables, share=1.0, compression="zstd") == Compaction()
    assert events(context) == before


def test_of_events_that_are_summed_one_of_each_id_stays(spark: SparkSession, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    settings = make_settings(tmp_path / "warehouse", landing).model_copy(
        update={"contract": "conf/contracts/events.yaml"}
    )
    # The first purchase of u3 is withdrawn later; all but u9's come twice.
    rows = [
        f"u1,i1,view,{DAY},e1,",
        f"u1,i1,view,{DAY + 9},e2,",
        f"u3,i1,cart,{DAY},e4,",
        f"u3,i1,cart,{DAY + 1},e4,true",
    ]
    landing.mkdir()
    context = make_context(spark, settings)
    for number, own in enumerate((rows, rows[::-1], [f"u9,i1,view,{DAY},e9,"]), 1):
        (landing / f"{number}.csv").write_text("\n".join(["user,item,type,time,id,withdrawn", *own, ""]))
        ingest_ratings.run(context)
    packed = blocks(context)

    # Seven rows: a batch keeps one of the two of e4 already.
    assert compact_ratings(context.tables, share=0, compression="zstd").superseded == 3

    left = context.tables.ratings.read().select(c.USER_ID, c.EVENT_ID, sf.isnull(c.VALUE)).collect()
    assert sorted(map(tuple, left)) == [
        ("u1", "e1", False),
        ("u1", "e2", False),
        ("u3", "e4", True),
        ("u9", "e9", False),
    ]
    shutil.rmtree(tmp_path / "warehouse" / "user_blocks")
    again = make_context(spark, settings)
    ingest_ratings.run(again)
    assert blocks(again) == packed


def test_a_difference_in_the_newest_events_stops_before_the_commit(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_withdrawals(rows: DataFrame, newest_batch: int, *, keeps: bool) -> DataFrame:
        return marked(rows, newest_batch, keeps=keeps).withColumn(
            "stays", sf.col(c.VALUE).isNotNull() & sf.col("stays")
        )

    marked = compaction._mark
    monkeypatch.setattr(compaction, "_mark", lose_withdrawals)
    with pytest.raises(ConservationError, match="Nothing of these buckets was written"):
        compact_ratings(context.tables, share=0, compression="zstd")
    assert ("u2", "i1", None, 9, 2) in events(context)


def test_rows_that_somebody_adds_meanwhile_are_not_lost(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_one(name: str) -> None:
        if name == "maintain:before_commit":
            row = context.tables.ratings.read().where("user_id = 'u3'").withColumn(c.USER_ID, sf.lit("u9"))
            Table.append(context.tables.ratings, row)

    monkeypatch.setattr(compaction, "pause_at", add_one)
    with pytest.raises(CommitConflictError, match="made of version"):
        compact_ratings(context.tables, share=0, compression="zstd")
    assert ("u9", "i1", 3.0, 0, 1) in events(context)


@pytest.mark.long
def test_killed_around_the_commit_and_run_again_it_ends_as_if_undisturbed(
    spark: SparkSession, folder: Path, tmp_path: Path
) -> None:
    words = arguments(folder / "warehouse", folder / "landing", SMALL)
    undisturbed = Path(shutil.copytree(folder / "warehouse", tmp_path / "undisturbed"))
    before = hash_tables(spark, str(undisturbed))
    assert maintain_tables.main(arguments(undisturbed, folder / "landing", SMALL)) == 0
    expected = hash_tables(spark, str(undisturbed))
    assert expected["ratings"] != before["ratings"]

    points = ("maintain:before_commit", "maintain:after_commit")
    copies = kill_at_points("jobs.maintain_tables", words, folder / "warehouse", points)

    assert hash_tables(spark, str(copies["maintain:before_commit"])) == before
    for point, copy in copies.items():
        assert maintain_tables.main(arguments(copy, folder / "landing", SMALL)) == 0, point
        assert hash_tables(spark, str(copy)) == expected, point
