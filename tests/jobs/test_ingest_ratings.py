"""Ingestion end to end: whatever lands, every row is accounted for, and a rerun changes nothing."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from jobs import ingest_ratings
from jobs.runner import JobContext, make_context
from recsys import ingestion
from recsys.blocks.codec import iter_split_blocks
from recsys.blocks.current import current_ratings
from recsys.blocks.split import split_blocks
from recsys.errors import DataRejectedError, SourceChangedError, UsageError
from recsys.session import ROOT
from tests.jobs.fingerprint import table_hash
from tests.jobs.warehouses import copy_warehouse, make_settings

HEADER = "user_id,item_id,rating,timestamp"
DAY = 1_700_000_000
Open = Callable[..., JobContext]


@pytest.fixture(scope="module")
def new_warehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables that nothing was ever written to."""
    root = tmp_path_factory.mktemp("ingest")
    make_context(spark, make_settings(root / "new", root / "landing"))
    return root / "new"


@pytest.fixture(scope="module")
def empty_warehouse(spark: SparkSession, new_warehouse: Path) -> Path:
    """Tables under the contract for ratings, without rows."""
    empty, landing = new_warehouse.with_name("empty"), new_warehouse.with_name("landing")
    landing.mkdir()
    assert ingest_ratings.run(copy_warehouse(spark, new_warehouse, make_settings(empty, landing))).files == 0
    return empty


@pytest.fixture
def open_warehouse(spark: SparkSession, empty_warehouse: Path, tmp_path: Path) -> Open:
    def open_it(contract: Path | None = None, **sections: dict[str, object]) -> JobContext:
        settings = make_settings(tmp_path / "warehouse", tmp_path / "landing", **sections)
        if contract is not None:
            settings = settings.model_copy(update={"contract": str(contract)})
        return copy_warehouse(spark, empty_warehouse, settings)

    (tmp_path / "landing").mkdir()
    return open_it


def changed_contract(folder: Path, base: str, **keys: object) -> Path:
    """A copy of a shipped contract; keys are those of its schema, custom ones where it knows no other."""
    content = yaml.safe_load((ROOT / "conf/contracts" / base).read_text())
    [schema] = content["schema"]
    for name, value in keys.items():
        if name in schema:
            schema[name] = value
        else:
            kept = [own for own in schema["customProperties"] if own["property"] != name]
            schema["customProperties"] = [*kept, {"property": name, "value": value}]
    file = folder / f"changed-{base}"
    file.write_text(yaml.safe_dump(content))
    return file


def land(context: JobContext, name: str, content: str | bytes) -> Path:
    file = Path(context.settings.landing.path) / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def csv(*rows: str) -> str:
    return "\n".join([HEADER, *rows, ""])


def parquet(values: pa.Array, **options: bool | str) -> bytes:
    sink = pa.BufferOutputStream()
    n = len(values)
    columns = {"user_id": [f"p{i}" for i in range(n)], "item_id": ["i1"] * n, "timestamp": [DAY] * n, "rating": values}
    pq.write_table(pa.table(columns), sink, **options)
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


def test_case_5_6_8_10_11_12_13_and_16_what_is_bad_goes_to_quarantine_with_its_reason_and_the_rest_goes_on(
    open_warehouse: Open,
) -> None:
    context = open_warehouse()
    damaged = bytearray(parquet(pa.array([float(i % 10) for i in range(5000)])))
    damaged[400:800] = bytes(400)  # inside a page: the footer is whole
    other = bytearray(parquet(pa.array([float(i % 9) for i in range(6000)])))
    other[400:800] = bytes(400)
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    land(
        context, "a b+%20[x]{1}.csv", csv(f"u1,i1,8,{DAY}", f"u1,i2,NaN,{DAY}", f"u2,i1,11,{DAY}000", f"u2,i3,4,{DAY}")
    )
    land(context, "damaged.parquet", bytes(damaged))
    land(context, "damaged again.parquet", bytes(damaged))  # a copy of nothing that was taken in
    land(context, "day=1/more.csv.gz", gzip.compress(f"x,timestamp,rating,item_id,user_id\n1,{DAY},7,i9,u3\n".encode()))
    land(context, "day=2/good.parquet", bytes(other))  # nothing is wrong with the one whose path ends its own
    land(context, "empty.csv", "")
    land(context, "good.parquet", parquet(pa.array([1.5, float("nan"), None])))
    land(context, "header.csv", csv())
    land(context, "image.csv", image)
    land(context, "lines.dat", f"u4::i1::3::{DAY}\nu4::i2\n")
    land(context, "nanoseconds.parquet", parquet(pa.array([DAY * 10**9], pa.timestamp("ns"))))
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
        "day=2/good.parquet": (1, 0, 0, 1),
        "empty.csv": (1, 0, 0, 1),
        "good.parquet": (3, 1, 0, 2),
        "header.csv": (0, 0, 0, 0),
        "image.csv": (1, 0, 0, 1),
        "lines.dat": (2, 1, 0, 1),
        "nanoseconds.parquet": (1, 0, 0, 1),
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
        "day=2/good.parquet": ["unreadable"],
        "empty.csv": ["empty_file"],
        "good.parquet": ["missing_value", "value_not_finite"],
        "image.csv": ["not_text"],
        "lines.dat": ["broken_line"],
        "nanoseconds.parquet": ["unreadable"],
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
        "files": 16,
        "landed": 23,
        "accepted": 7,
        "duplicate": 0,
        "quarantined": 16,
        "new_users": 7,
        "new_items": 3,
    }
    items = context.tables.items.read().orderBy("position").select("item_id", "position").collect()
    assert [tuple(row) for row in items] == [("i1", 0), ("i3", 1), ("i9", 2)]
    raw = context.tables.quarantine.read().where("source = 'lines.dat'").select("raw", "reason").collect()
    assert [tuple(row) for row in raw] == [("u4::i2", "expected 4 fields, found 2")]


def test_case_2_14_15_and_27_redelivery_correction_and_withdrawal_leave_one_current_rating_of_each_pair(
    open_warehouse: Open,
) -> None:
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


def entries(context: JobContext) -> list[tuple[object, ...]]:
    """Batch, source and counts of every file that ever came, also when it came again."""
    columns = ("batch", "source", "landed", "accepted", "duplicate", "quarantined")
    return sorted(tuple(row) for row in context.tables.ledger.read().select(*columns).collect())


def test_case_1_3_and_4_a_file_that_is_read_half_copied_and_then_grows_loses_no_row(
    open_warehouse: Open, caplog: pytest.LogCaptureFixture
) -> None:
    context = open_warehouse()
    whole = csv(f"u1,i1,8,{DAY}", f"u2,i1,7,{DAY}", f"u3,i2,6,{DAY}")
    for hidden in ("_SUCCESS", ".x.csv", "x.csv.tmp", "y.csv._COPYING_", "_tmp/z.csv"):
        land(context, hidden, whole)
    land(context, "slow.csv", whole[: whole.index(f",{DAY}\nu3")])  # in the middle of a row
    ingest_ratings.run(context)
    assert entries(context) == [(1, "slow.csv", 2, 1, 0, 1)]
    assert rules(context) == {"slow.csv": ["broken_line"]}

    land(context, "slow.csv", whole)
    ingest_ratings.run(context)
    land(context, "slow.csv", whole + f"u4,i1,5,{DAY}\n")
    ingest_ratings.run(context)
    assert entries(context)[1:] == [(2, "slow.csv", 3, 3, 0, 0), (3, "slow.csv", 4, 4, 0, 0)]
    assert current(context) == {("u1", "i1"): 8.0, ("u2", "i1"): 7.0, ("u3", "i2"): 6.0, ("u4", "i1"): 5.0}
    assert caplog.text.count("file_came_again_with_other_content file=slow.csv") == 2

    fresh = open_rebuilt(context)
    assert packed(fresh) == packed(context)


def open_rebuilt(context: JobContext) -> JobContext:
    """The same warehouse, its blocks packed again from all ratings."""
    before = Path(context.settings.warehouse.root)
    shutil.copytree(before, before.with_name("rebuilt"), dirs_exist_ok=True)
    shutil.rmtree(before.with_name("rebuilt") / "user_blocks")
    root = context.settings.warehouse.model_copy(update={"root": str(before.with_name("rebuilt"))})
    rebuilt = make_context(context.spark, context.settings.model_copy(update={"warehouse": root}))
    ingest_ratings.run(rebuilt)
    return rebuilt


def test_case_7_a_bomb_and_a_huge_line_are_quarantined_whole_and_the_rest_goes_on(open_warehouse: Open) -> None:
    context = open_warehouse(landing={"max_file_bytes": 4_000_000, "max_line_bytes": 1000})
    land(context, "bomb.csv.gz", gzip.compress(bytes(100_000_000)))  # 100 kB
    zeros = parquet(pa.array(np.zeros(300_000)), use_dictionary=False, compression="zstd")
    assert len(zeros) < 4_000_000
    land(context, "bomb.parquet", zeros)
    land(context, "good.csv", csv(f"u1,i2,8,{DAY}"))
    land(context, "line.csv", csv(f"u2,{'i' * 2_000_000},8,{DAY}"))
    land(context, "line.jsonl.gz", gzip.compress(f'{{"user": "{"u" * 2_000_000}"}}\n'.encode()))
    land(context, "long but good.csv", csv(*[f"u{n},i1,8,{DAY}" for n in range(100)]))
    ingest_ratings.run(context)
    assert rules(context) == {
        "bomb.csv.gz": ["too_large"],
        "bomb.parquet": ["too_large"],
        "line.csv": ["long_line"],
        "line.jsonl.gz": ["long_line"],
    }
    counts = ledger(context)
    assert {source: found[-1] for source, found in counts.items() if found[-1]} == dict.fromkeys(rules(context), 1)
    assert counts["long but good.csv"] == (100, 100, 0, 0)


def test_case_9_no_two_users_are_merged_on_the_way_to_their_blocks_and_damaged_ids_are_refused(
    open_warehouse: Open,
) -> None:
    context = open_warehouse()
    good = ["007", "7", " 7", "7 ", "７", "é", "e\u0301"]  # the last two look alike
    bad = {"7\x00": "bad_user_id", "7\ufffd": "bad_user_id", "7" * 10_000: "long_user_id", "": "missing_user_id"}
    land(context, "ids.csv", csv(*[f"{user},i1,8,{DAY}" for user in [*good, *bad]]))
    land(context, "latin.csv", csv("x").encode() + f"\xfcser,i1,8,{DAY}\n".encode("latin-1"))  # no UTF-8
    ingest_ratings.run(context)
    ids = [row[0] for row in context.tables.user_blocks.read().select(sf.explode("user_ids")).collect()]
    assert sorted(ids) == sorted(good)
    assert rules(context) == {"ids.csv": sorted(bad.values()), "latin.csv": ["bad_user_id", "broken_line"]}


def test_case_11_an_unknown_column_rejects_its_batch_where_the_contract_says_so(
    open_warehouse: Open, tmp_path: Path
) -> None:
    contract = changed_contract(tmp_path, "ratings.yaml", unknownColumns="reject")
    context = open_warehouse(contract)
    land(context, "a.csv", csv(f"u1,i1,8,{DAY}"))
    for name, content in (
        ("b.csv", f"{HEADER},mood\nu2,i1,8,{DAY},good\n"),
        ("b.jsonl", f'{{"user": "u2", "item": "i1", "rating": 8, "time": {DAY}, "mood": "good"}}\n'),
    ):
        file = land(context, name, content)
        with pytest.raises(DataRejectedError) as caught:
            ingest_ratings.run(context)
        message = str(caught.value)
        assert f"'{name}': the contract has no column mood" in message
        assert "Owner: ratings-team, ratings-team@example.org" in message
        assert "recsys (recsys-team@example.org)" in message
        assert entries(context) == []
        file.unlink()
    ingest_ratings.run(context)
    assert entries(context) == [(1, "a.csv", 1, 1, 0, 0)]


def test_case_15_and_16_events_add_up_to_the_same_blocks_in_any_order_and_however_often_they_come(
    spark: SparkSession, new_warehouse: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = "user,item,type,time,id,withdrawn"
    views = [f"u1,i1,view,{DAY},e1,", f"u1,i1,view,{DAY + 9},e2,", f"u2,i2,view,{DAY},e1,"]
    bought = [f"u1,i1,purchase,{DAY + 5},e3,", f"u3,i1,cart,{DAY},e4,", f"u3,i1,cart,{DAY + 1},e4,true"]
    deliveries = {
        "ordered": [[*views, *bought]],
        "late": [bought[2:], [views[2], bought[0], views[1]], [*views, *bought[::-1]]],
    }
    contract = changed_contract(
        tmp_path, "events.yaml", quality=[{"metric": "rowCount", "mustBeBetween": [4, 9], "unit": "rows"}]
    )
    found = {}
    for name, files in deliveries.items():
        landing = tmp_path / f"landing-{name}"
        landing.mkdir()
        settings = make_settings(tmp_path / name, landing, landing={"max_files": 1})
        context = copy_warehouse(spark, new_warehouse, settings.model_copy(update={"contract": str(contract)}))
        for n, rows in enumerate(files):
            land(context, f"{n}.csv", "\n".join([header, *rows]))
        ingest_ratings.run(context)
        found[name] = packed(context)
        summed = current_ratings(context.tables.ratings.read(), keeps_events=True).select("user_id", "item_id", "value")
        assert {(row.user_id, row.item_id): row.value for row in summed.collect()} == {
            ("u1", "i1"): 1.0 + 1.0 + 10.0,
            ("u2", "i2"): 1.0,
        }, name
    assert found["late"] == found["ordered"]
    assert caplog.text.count("volume_outside_contract") == 2  # the batches of 1 and of 3 rows
    seen = split_blocks(context.tables.user_blocks.read(), cutoff_us=None).toArrow().to_batches()
    blocks = [block for batch in seen for block in iter_split_blocks(batch)]
    sums = {user: float(own.values[own.offsets[n]]) for own in blocks for n, user in enumerate(own.user_ids)}
    assert sums == {"u1": 12.0, "u2": 1.0}


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


def test_case_24_a_missing_folder_or_catalogue_is_a_usage_error(open_warehouse: Open, tmp_path: Path) -> None:
    context = open_warehouse(landing={"catalogue": str(tmp_path / "none.dat")})
    with pytest.raises(UsageError, match=r"catalogue '.*none\.dat' does not exist"):
        ingest_ratings.run(context)
    Path(context.settings.landing.path).rmdir()
    with pytest.raises(UsageError, match=r"landing folder '.*landing' does not exist\. Create it"):
        ingest_ratings.run(context)
    assert table_hash(context.tables.ratings.read()) == (0, 0)
