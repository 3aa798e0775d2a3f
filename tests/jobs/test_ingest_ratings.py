"""Ingestion end to end: whatever lands, every row is accounted for, and a rerun changes nothing."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import ingest_ratings
from jobs.runner import JobContext, make_context
from recsys import ingestion
from recsys.blocks.current import current_ratings
from recsys.errors import DataRejectedError, SourceChangedError, UsageError
from tests.jobs.fingerprint import table_hash
from tests.jobs.warehouses import copy_warehouse, make_settings

HEADER = "user_id,item_id,rating,timestamp"
DAY = 1_700_000_000
Open = Callable[..., JobContext]


@pytest.fixture(scope="module")
def empty_warehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ingest")
    make_context(spark, make_settings(root / "empty", root / "landing"))
    return root / "empty"


@pytest.fixture
def open_warehouse(spark: SparkSession, empty_warehouse: Path, tmp_path: Path) -> Open:
    def open_it(**sections: dict[str, object]) -> JobContext:
        settings = make_settings(tmp_path / "warehouse", tmp_path / "landing", **sections)
        return copy_warehouse(spark, empty_warehouse, settings)

    (tmp_path / "landing").mkdir()
    return open_it


def land(context: JobContext, name: str, content: str | bytes) -> Path:
    file = Path(context.settings.landing.path) / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def csv(*rows: str) -> str:
    return "\n".join([HEADER, *rows, ""])


def parquet(values: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    n = len(values)
    columns = {"user_id": [f"p{i}" for i in range(n)], "item_id": ["i1"] * n, "timestamp": [DAY] * n, "rating": values}
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def ledger(context: JobContext) -> dict[str, tuple[int, ...]]:
    """Source → landed, accepted, duplicate, quarantined; the law holds in every row."""
    rows = context.tables.ledger.read().select("source", "landed", "accepted", "duplicate", "quarantined").collect()
    for row in rows:
        assert row.landed == row.accepted + row.duplicate + row.quarantined, row
    return {row.source: tuple(row)[1:] for row in rows}


def rules(context: JobContext) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in context.tables.quarantine.read().select("source", "rules").collect():
        found.setdefault(row.source, []).extend(row.rules)
    return {source: sorted(names) for source, names in found.items()}


def current(context: JobContext) -> dict[tuple[str, str], float]:
    rows = current_ratings(context.tables.ratings.read()).select("user_id", "item_id", "value").collect()
    return {(row.user_id, row.item_id): row.value for row in rows}


def packed(context: JobContext) -> tuple[int, int]:
    """The blocks as a hash, without what they say about their making."""
    return table_hash(context.tables.user_blocks.read(), leave_out=["through_batch"])


def test_what_is_bad_goes_to_quarantine_with_its_reason_and_the_rest_goes_on(open_warehouse: Open) -> None:
    """Cases 5, 6, 8, 10, 11, 12, 13 and 16."""
    context = open_warehouse()
    damaged = bytearray(parquet(pa.array([float(i % 10) for i in range(5000)])))
    damaged[400:800] = bytes(400)  # inside a page: the footer is whole
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    land(
        context, "a b+%20[x]{1}.csv", csv(f"u1,i1,8,{DAY}", f"u1,i2,NaN,{DAY}", f"u2,i1,11,{DAY}000", f"u2,i3,4,{DAY}")
    )
    land(context, "damaged.parquet", bytes(damaged))
    land(context, "damaged again.parquet", bytes(damaged))  # a copy of nothing that was taken in
    land(context, "day=1/more.csv.gz", gzip.compress(f"x,timestamp,rating,item_id,user_id\n1,{DAY},7,i9,u3\n".encode()))
    land(context, "empty.csv", "")
    land(context, "good.parquet", parquet(pa.array([1.5, float("nan"), None])))
    land(context, "header.csv", csv())
    land(context, "image.csv", image)
    land(context, "lines.dat", f"u4::i1::3::{DAY}\nu4::i2\n")
    land(context, "nocolumn.csv", f"user_id,item_id,stars,timestamp\nu,i,5,{DAY}\n")
    land(context, "objects.jsonl", f'{{"user": "u5", "item": "i1", "rating": 2, "time": {DAY}}}\n{{"user": "u5"\n\n')
    land(context, "text.parquet", parquet(pa.array(["8"])))
    land(context, "torn.csv.gz", gzip.compress(os.urandom(9000).hex().encode())[:3000])
    old = land(context, "z-late.csv", csv(f"u6,i1,9,{DAY}"))
    os.utime(old, (DAY, DAY))

    report = ingest_ratings.run(context)

    assert ledger(context) == {
        "a b+%20[x]{1}.csv": (4, 2, 0, 2),
        "damaged again.parquet": (1, 0, 0, 1),
        "damaged.parquet": (1, 0, 0, 1),
        "day=1/more.csv.gz": (1, 1, 0, 0),
        "empty.csv": (1, 0, 0, 1),
        "good.parquet": (3, 1, 0, 2),
        "header.csv": (0, 0, 0, 0),
        "image.csv": (1, 0, 0, 1),
        "lines.dat": (2, 1, 0, 1),
        "nocolumn.csv": (2, 0, 0, 2),
        "objects.jsonl": (2, 1, 0, 1),
        "text.parquet": (1, 0, 0, 1),
        "torn.csv.gz": (1, 0, 0, 1),
        "z-late.csv": (1, 1, 0, 0),
    }
    assert rules(context) == {
        "a b+%20[x]{1}.csv": ["event_time_in_future", "value_not_finite", "value_out_of_range"],
        "damaged again.parquet": ["unreadable"],
        "damaged.parquet": ["unreadable"],
        "empty.csv": ["empty_file"],
        "good.parquet": ["missing_value", "value_not_finite"],
        "image.csv": ["not_text"],
        "lines.dat": ["broken_line"],
        "nocolumn.csv": ["missing_column", "missing_column"],
        "objects.jsonl": ["broken_line"],
        "text.parquet": ["wrong_type"],
        "torn.csv.gz": ["unreadable"],
    }
    assert current(context) == {
        ("u1", "i1"): 8.0,
        ("u2", "i3"): 4.0,
        ("u3", "i9"): 7.0,
        ("p0", "i1"): 1.5,
        ("u4", "i1"): 3.0,
        ("u5", "i1"): 2.0,
        ("u6", "i1"): 9.0,
    }
    assert report.to_result().counts == {
        "batches": 1,
        "files": 14,
        "landed": 21,
        "accepted": 7,
        "duplicate": 0,
        "quarantined": 14,
        "new_users": 7,
        "new_items": 3,
    }
    items = context.tables.items.read().orderBy("position").select("item_id", "position").collect()
    assert [tuple(row) for row in items] == [("i1", 0), ("i3", 1), ("i9", 2)]
    raw = context.tables.quarantine.read().where("source = 'lines.dat'").select("raw", "reason").collect()
    assert [tuple(row) for row in raw] == [("u4::i2", "expected 4 fields, found 2")]


def test_redelivery_correction_and_withdrawal_leave_one_current_rating_of_each_pair(open_warehouse: Open) -> None:
    """Cases 2, 14, 15 and 27."""
    context = open_warehouse()
    first = land(context, "a.csv", csv(f"u1,i1,8,{DAY}", f"u1,i1,8,{DAY}", f"u2,i1,4,{DAY}", f"u3,i1,5,{DAY}"))
    ingest_ratings.run(context)

    shutil.copyfile(first, first.with_name("b.csv"))
    land(context, "c.csv", csv(f"u1,i1,3,{DAY + 9}", f"u2,i1,9,{DAY - 9}"))  # a correction; an older event, late
    land(context, "d.jsonl", f'{{"user": "u3", "item": "i1", "time": {DAY + 1}, "withdrawn": true}}\n')
    second = ingest_ratings.run(context)
    assert ledger(context) == {
        "a.csv": (4, 3, 1, 0),
        "b.csv": (4, 0, 4, 0),
        "c.csv": (2, 2, 0, 0),
        "d.jsonl": (1, 1, 0, 0),
    }
    assert (second.new_users, second.new_items) == (0, 0)
    assert current(context) == {("u1", "i1"): 3.0, ("u2", "i1"): 4.0}

    before = context.tables.versions()
    os.utime(first, (DAY, DAY))  # touched only
    assert ingest_ratings.run(context).counts.landed == 0
    assert context.tables.versions() == before

    first.write_text(csv(f"u1,i2,1,{DAY}"))  # the name again, with other content
    assert ingest_ratings.run(context).counts.accepted == 1
    assert current(context) == {("u1", "i1"): 3.0, ("u1", "i2"): 1.0, ("u2", "i1"): 4.0}

    # The blocks are a function of the ratings: lost, they are packed again to the same rows.
    incremental = packed(context)
    shutil.rmtree(context.settings.warehouse.root + "/user_blocks")
    again = make_context(context.spark, context.settings)
    ingest_ratings.run(again)
    assert packed(again) == incremental


def test_case_26_a_batch_with_too_many_bad_rows_is_refused_and_those_before_it_stay(open_warehouse: Open) -> None:
    context = open_warehouse(ingest={"max_bad_share": 0.5}, landing={"max_files": 1})
    land(context, "1.csv", csv(f"u1,i1,8,{DAY}"))
    land(context, "2.csv", csv(f"u2,i1,99,{DAY}", f"u2,,99,{DAY}", f"u2,i1,7,{DAY}"))
    for attempt in range(2):
        with pytest.raises(DataRejectedError) as caught:
            ingest_ratings.run(context)
        assert caught.value.exit_code == 3
        message = str(caught.value)
        assert "2 of 3 landed rows (67%) are bad, allowed are 50%" in message
        assert "'2.csv' 2 of 3 (value_out_of_range 2, missing_item_id 1)" in message
        assert ledger(context) == {"1.csv": (1, 1, 0, 0)}, attempt
        assert context.tables.quarantine.read().count() == 0
        assert context.tables.user_blocks.read().agg({"n_users": "sum"}).collect()[0][0] == 1


def test_case_17_a_file_that_vanishes_or_changes_on_the_way_stops_its_batch(
    open_warehouse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_warehouse()
    land(context, "good.csv", csv(f"u1,i1,8,{DAY}", f"u1,i1,88,{DAY}"))
    file = land(context, "moving.csv", csv(f"u2,i1,8,{DAY}", f"u2,i2,x,{DAY}"))
    for point, change in (
        ("ingest:after_listing", file.unlink),
        ("ingest:after_quarantine", lambda: file.write_text(csv(f"u3,i1,8,{DAY}"))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ingestion, "pause_at", lambda at, p=point, c=change: c() if at == p else None)
            with pytest.raises(SourceChangedError, match=r"moving\.csv.*Run the job again"):
                ingest_ratings.run(context)
        assert ledger(context) == {}
        assert context.tables.ratings.read().count() == 0
        file.write_text(csv(f"u2,i1,8,{DAY}", f"u2,i2,x,{DAY}"))
    file.write_text(csv(f"u3,i1,8,{DAY}"))
    ingest_ratings.run(context)
    assert ledger(context) == {"good.csv": (2, 1, 0, 1), "moving.csv": (1, 1, 0, 0)}
    assert rules(context) == {"good.csv": ["value_out_of_range"]}
    assert current(context) == {("u1", "i1"): 8.0, ("u3", "i1"): 8.0}


def test_case_20_a_lost_ledger_is_made_again_without_skipping_or_doubling_a_rating(open_warehouse: Open) -> None:
    context = open_warehouse()
    land(context, "a.csv", csv(f"u1,i1,8,{DAY}"))
    ingest_ratings.run(context)
    shutil.rmtree(context.settings.warehouse.root + "/ingest_ledger")
    land(context, "b.csv", csv(f"u2,i2,7,{DAY}"))
    again = make_context(context.spark, context.settings)
    report = ingest_ratings.run(again)
    assert report.counts.accepted == 2
    assert again.tables.ledger.read().select("batch").distinct().collect()[0].batch == 2
    assert current(again) == {("u1", "i1"): 8.0, ("u2", "i2"): 7.0}
    assert again.tables.user_blocks.read().agg({"n_ratings": "sum"}).collect()[0][0] == 2


def test_a_missing_folder_or_catalogue_is_a_usage_error(open_warehouse: Open, tmp_path: Path) -> None:
    """Case 24."""
    context = open_warehouse(landing={"catalogue": str(tmp_path / "none.dat")})
    with pytest.raises(UsageError, match=r"catalogue '.*none\.dat' does not exist"):
        ingest_ratings.run(context)
    Path(context.settings.landing.path).rmdir()
    with pytest.raises(UsageError, match=r"landing folder '.*landing' does not exist\. Create it"):
        ingest_ratings.run(context)
    assert table_hash(context.tables.ratings.read()) == (0, 0)
