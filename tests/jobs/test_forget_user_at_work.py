"""Forgetting while producers write, and beside what others did to the tables: nothing is lost, nothing comes back."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import forget_user, ingest_ratings, repair_tables
from jobs.runner import JobContext, hold_locks, make_context
from recsys import columns as c
from recsys import erasure
from recsys.errors import TableDamagedError, UsageError
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.store.suppressed import read_suppression
from tests.jobs.warehouses import SMALL, arguments, land_csv, make_settings

DAY = 1_700_000_000
ANN, BOB, CID, DAN = "u1", "u2", "u3", "u4"


@pytest.fixture(scope="module")
def origin(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse of four users, in both buckets, and its landing folder."""
    folder = tmp_path_factory.mktemp("at-work")
    land_csv(folder / "landing", "1.csv", *(f"{user},i{n},8,{DAY}" for user in (ANN, BOB, CID, DAN) for n in (1, 2)))
    assert ingest_ratings.main(arguments(folder / "warehouse", folder / "landing", SMALL)) == 0
    return folder


@pytest.fixture
def context(spark: SparkSession, origin: Path, tmp_path: Path) -> JobContext:
    folder = Path(shutil.copytree(origin, tmp_path / "copy"))
    return make_context(spark, make_settings(folder / "warehouse", folder / "landing"))


def landing(context: JobContext) -> Path:
    return Path(str(context.settings.landing.path))


def forget(context: JobContext, *user_ids: str, now: bool = False) -> erasure.Receipt:
    with hold_locks(context, (TABLES, MODELS, LISTS), holder="test"):
        return forget_user.run(context, frozenset(user_ids), now=now).receipt


def words(context: JobContext) -> list[str]:
    return arguments(Path(context.settings.warehouse.root), landing(context), SMALL)


def users_in_blocks(context: JobContext) -> set[str]:
    return {row[0] for row in context.tables.user_blocks.read().selectExpr(f"explode({c.USER_IDS})").collect()}


def test_files_that_somebody_still_writes_are_never_replaced_and_named_where_they_name_the_user(
    context: JobContext,
) -> None:
    folder = landing(context)
    unfinished = {
        "_theirs.csv": f"user_id,item_id,rating,timestamp\n{ANN},i1,8,{DAY}\n",
        "others.csv.tmp": f"user_id,item_id,rating,timestamp\n{BOB},i1,8,{DAY}\n",
        ".columns.parquet": "PAR1\x00\x01\x02\x03" * 9,
        "_SUCCESS": "",
        ".2.csv.crc": "crc\x00\x00\x02\x00\x11\x12",
        ".old.csv.erased": f"{ANN},i1,8,{DAY}\n",
    }
    for name, text in unfinished.items():
        (folder / name).write_text(text)
    nodes = {name: (folder / name).stat().st_ino for name in unfinished}
    [consumer] = (folder / "_consumers").iterdir()
    before = consumer.read_bytes()

    receipt = forget(context, ANN, "1.0.0")

    assert set(receipt.to_remove) == {"_theirs.csv", ".columns.parquet"}
    assert "names a user" in receipt.to_remove["_theirs.csv"]
    assert not (folder / ".old.csv.erased").exists(), "of a run that was killed"
    for name in unfinished.keys() - {".old.csv.erased"}:
        assert (folder / name).read_text() == unfinished[name]
        assert (folder / name).stat().st_ino == nodes[name]
    assert consumer.read_bytes() == before, "what is there of us is no file of ratings"
    assert ANN not in (folder / "1.csv").read_text()
    (folder / "_theirs.csv").unlink()
    (folder / ".columns.parquet").unlink()
    assert forget(context, ANN).to_remove == {}


def test_a_file_that_came_anew_while_others_were_looked_through_is_not_replaced(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new = landing(context) / "1.csv", f"user_id,item_id,rating,timestamp\n{ANN},i1,8,{DAY}\n{BOB},i9,3,{DAY}\n"

    def come_anew(point: str) -> None:
        if point == "forget:before_landing" and file.read_text() != new:
            file.with_name("_1.csv").write_text(new)
            os.replace(file.with_name("_1.csv"), file)

    monkeypatch.setattr(erasure, "pause_at", come_anew)
    assert "it changed or went" in forget(context, ANN).to_remove["1.csv"]
    assert file.read_text() == new
    assert not list(landing(context).glob("*.erased"))

    assert forget(context, ANN).to_remove == {}
    ingest_ratings.run(context)
    ratings = context.tables.ratings.read().where("item_id = 'i9'").select(c.USER_ID).collect()
    assert [row[0] for row in ratings] == [BOB]
    assert users_in_blocks(context) == {BOB, CID, DAN}


def test_a_landing_folder_that_is_not_there_is_told_before_anything_is_changed(context: JobContext) -> None:
    shutil.rmtree(landing(context))
    with pytest.raises(UsageError, match=r"does not exist\. Nothing was changed"):
        forget(context, ANN)
    assert read_suppression(context.tables) is None
    assert users_in_blocks(context) == {ANN, BOB, CID, DAN}


@pytest.mark.parametrize("theirs", [ANN, BOB, CID, DAN])
def test_ratings_deleted_by_hand_leave_the_blocks_though_another_user_is_forgotten_in_between(
    spark: SparkSession, context: JobContext, theirs: str
) -> None:
    """Of four users in two buckets some share one with the other, and some do not."""
    other = DAN if theirs == ANN else ANN
    spark.sql(f"DELETE FROM delta.`{context.tables.ratings.path}` WHERE user_id = '{theirs}'")
    forget(context, other)
    ingest_ratings.run(context)
    assert users_in_blocks(context) == {ANN, BOB, CID, DAN} - {theirs, other}


def test_repair_finds_nothing_where_the_newest_batch_was_the_forgotten_user_s(
    context: JobContext, capsys: pytest.CaptureFixture[str]
) -> None:
    land_csv(landing(context), "2.csv", f"{ANN},i3,8,{DAY}", f"{ANN},i4,99,{DAY}")
    ingest_ratings.run(context)
    forget(context, ANN, now=True)
    capsys.readouterr()
    assert repair_tables.main([*words(context), "--dry-run"]) == 0
    assert "nothing is damaged" in capsys.readouterr().out
    rows = context.tables.ledger.read().where("source = '2.csv' AND state = 'accepted'").collect()
    assert [(row.landed, row.accepted, row.quarantined) for row in rows] == [(2, 1, 1)]


def test_case_42_the_list_of_forgotten_users_without_its_end_is_refused(
    context: JobContext, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(context, ANN)
    last: Callable[[Path], int] = lambda file: int(file.stem)  # noqa: E731
    folder = Path(context.settings.warehouse.root) / "suppressed_users" / "_delta_log"
    commit = max(folder.glob("0*.json"), key=last)
    commit.write_bytes(b"")
    commit.with_name(f".{commit.name}.crc").unlink(missing_ok=True)
    land_csv(landing(context), "2.csv", f"{ANN},i1,8,{DAY + 1}", f"{BOB},i1,8,{DAY + 1}")
    before = context.tables.ratings.version()
    capsys.readouterr()
    assert ingest_ratings.main(words(context)) == 1
    assert "suppressed_users" in capsys.readouterr().err
    assert repair_tables.main(words(context)) == 0
    capsys.readouterr()
    assert ingest_ratings.main(words(context)) == 1
    assert "is empty, though" in capsys.readouterr().err
    with pytest.raises(TableDamagedError, match="they would come back"):
        read_suppression(make_context(context.spark, context.settings).tables)
    ratings = context.tables.ratings
    assert not ratings.read().where(f"user_id = '{ANN}'").head(1)
    assert ratings.version() - before <= 2, "fences of two locks, and no rating"
