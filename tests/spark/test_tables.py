"""Files and tables: what must be atomic is, and what a commit says is read back."""

import gzip
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys.errors import ConfigError
from recsys.schemas import ITEMS, RATINGS
from recsys.store.files import Files
from recsys.store.items import read_items
from recsys.store.params import WarehouseParams
from recsys.store.tables import SPECS, Changes, Table, Tables, Txn

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def rows(spark: SparkSession, batch: int, *ids: str) -> DataFrame:
    return spark.createDataFrame([(name, n, None, None, True, batch) for n, name in enumerate(ids)], ITEMS).coalesce(1)


@pytest.fixture
def items(spark: SparkSession, tmp_path: Path) -> Table:
    table = Table(spark, Files(spark), "items", f"file:{tmp_path}/items")
    table.create(SPECS["items"], {"recsys.buckets": "3"})
    return table


def test_of_many_who_create_one_file_exactly_one_succeeds_and_its_content_stays(
    spark: SparkSession, tmp_path: Path
) -> None:
    files = Files(spark)
    path = files.resolve(f"{tmp_path}/locks/a b%[1].json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: files.create(path, f"{n}".encode()), range(8)))
    assert sum(won) == 1
    assert files.read_text(path) == str(won.index(True))
    files.write(path, b"other")
    assert files.read_text(path) == "other"
    assert [status.path for status in files.list_files(f"{tmp_path}/locks")] == [path]  # no drafts are left


def test_files_are_measured_and_their_absence_is_an_error_of_python(spark: SparkSession, tmp_path: Path) -> None:
    files = Files(spark)
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(b"abc" * 100))
    assert files.sha256(str(tmp_path / "a.gz")) == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert files.head(str(packed), 4, unpack=True) == b"abca"
    assert (files.unpacked_size(str(packed), 1000), files.unpacked_size(str(packed), 7)) == (300, 7)
    packed.write_bytes(packed.read_bytes()[:15])
    with pytest.raises(OSError, match=r"a\.gz"):
        files.unpacked_size(str(packed), 1000)
    for ask in (files.read, files.status, files.sha256, lambda path: list(files.list_files(path))):
        with pytest.raises(FileNotFoundError):
            ask(f"{tmp_path}/none")
    assert not files.delete(f"{tmp_path}/none")


def test_a_write_that_is_repeated_with_its_txn_is_made_once(spark: SparkSession, items: Table) -> None:
    assert items.last_txn("app") is None
    assert items.append(rows(spark, 1, "a", "b"), Txn("app", 1)) == 2
    assert items.append(rows(spark, 1, "a", "b"), Txn("app", 1)) == 0
    assert items.append(rows(spark, 2, "c")) == 1
    assert (items.version(), items.last_txn("app")) == (2, 1)
    assert (items.txn_rows(Txn("app", 1)), items.txn_rows(Txn("app", 2))) == (2, None)
    assert items.read().count() == 3
    assert items.read_version(1).count() == 2


def test_rows_are_replaced_where_the_condition_holds_and_the_commit_keeps_a_note(
    spark: SparkSession, items: Table
) -> None:
    items.append(rows(spark, 1, "a", "b"))
    items.append(rows(spark, 2, "c"))
    assert items.last_note() is None
    items.replace(rows(spark, 1, "d"), "batch = 1", note={"through": 7})
    assert sorted(row.item_id for row in items.read().collect()) == ["c", "d"]
    assert items.last_note() == {"through": 7}
    for foreign in ("by hand", "[1]"):
        rows(spark, 1, "e").write.format("delta").mode("append").option("userMetadata", foreign).save(items.path)
        assert items.last_note() is None


def test_items_are_read_by_position_and_once_a_version(spark: SparkSession, items: Table) -> None:
    items.append(spark.createDataFrame([("b", 1, None, None, False, 1), ("c", 0, None, None, True, 1)], ITEMS))
    first = read_items(items, 1)
    assert (first.ids, first.batches.tolist(), first.available.tolist()) == (["c", "b"], [1, 1], [True, False])
    assert read_items(items, 1) is first
    items.append(spark.createDataFrame([("a", 2, None, None, True, 2)], ITEMS))
    assert read_items(items, 2).ids == ["c", "b", "a"]
    assert read_items(items, 1).ids == ["c", "b"], "a version that is not the latest any more"
    items.append(spark.createDataFrame([("d", 4, None, None, True, 2)], ITEMS))
    with pytest.raises(ValueError, match="version 3: positions of 4 items have gaps"):
        read_items(items, 3)


def test_reading_ahead_changes_nothing_and_its_failure_is_left_to_the_read(
    spark: SparkSession, items: Table, tmp_path: Path
) -> None:
    items.append(rows(spark, 1, "a"))
    items.read_ahead().result()
    assert (items.version(), items.read().count()) == (1, 1)
    Table(spark, Files(spark), "none", f"file:{tmp_path}/none").read_ahead().result()


def test_the_log_says_which_partitions_got_rows(spark: SparkSession, tmp_path: Path) -> None:
    path = f"{tmp_path}/parts"
    for bucket in (0, 1, 5):
        spark.range(1).selectExpr(f"{bucket} AS bucket", "id").write.format("delta").partitionBy("bucket").mode(
            "append"
        ).save(path)
    table = Table(spark, Files(spark), "parts", path)
    assert table.changes("bucket", after=0, through=2) == Changes(frozenset({"1", "5"}))
    (tmp_path / "parts/_delta_log/00000000000000000001.json").unlink()
    assert table.changes("bucket", after=0, through=2) is None


@pytest.fixture
def ratings(spark: SparkSession, tmp_path: Path) -> Table:
    """A table of ratings at a path that is hard to spell; two batches, of users ann and bob in buckets 1 and 2."""
    table = Table(spark, Files(spark), "ratings", f"file:{tmp_path}/a b%[1]*é/ratings")
    table.create(SPECS["ratings"], {})
    for batch, user, bucket in ((1, "ann", 1), (2, "bob", 2), (2, "ann", 1)):
        table.append(spark.createDataFrame([(user, "i", 4.0, NOON, f"e{batch}", batch, bucket)], RATINGS))
    return table


def test_files_of_a_table_are_read_whole_and_only_those_that_may_hold_the_rows(
    spark: SparkSession, ratings: Table
) -> None:
    def users_of(rows: DataFrame) -> list[tuple[int, str, str]]:
        found = []
        for file in ratings.read_files(rows).collect():
            [row] = pq.read_table(pa.BufferReader(file.content)).to_pylist()
            found.append((file.bucket, row["user_id"], row["event_id"]))
        return sorted(found)

    everything = [(1, "ann", "e1"), (1, "ann", "e2"), (2, "bob", "e2")]
    assert users_of(ratings.read()) == everything
    assert users_of(ratings.read().where("batch > 1")) == everything[1:]
    assert users_of(ratings.read().where("batch > 1 AND bucket IN (2)")) == everything[2:]
    assert users_of(ratings.read().where("batch > 2")) == []
    assert users_of(ratings.read_version(1)) == everything[:1]


def test_files_that_do_not_tell_all_rows_are_refused(spark: SparkSession, ratings: Table) -> None:
    spark.sql(f"ALTER TABLE delta.`{ratings.path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    with pytest.raises(ConfigError, match=r"deletion vectors.*DROP FEATURE"):
        ratings.read_files(ratings.read())


def test_a_warehouse_keeps_the_shape_it_was_made_with(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Tables(spark, WarehouseParams(root=str(tmp_path), buckets=2, users_per_block=7)).open_or_create()
    again = Tables(spark, WarehouseParams(root=str(tmp_path), buckets=9, users_per_block=7)).open_or_create()
    assert (made.buckets, again.buckets, again.users_per_block) == (2, 2, 7)
    assert "warehouse_shape_kept" in caplog.text
    assert set(again.versions().values()) == {0}
    assert {path.name for path in tmp_path.iterdir()} == set(SPECS)
