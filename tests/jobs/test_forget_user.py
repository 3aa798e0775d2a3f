"""Users who are forgotten are nowhere any more, and nothing brings them back."""

import gzip
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import forget_user, ingest_ratings, pipeline, rollback
from recsys import columns as c
from recsys.store.generations import read_generation
from recsys.store.params import WarehouseParams
from recsys.store.tables import Tables
from tests.jobs.fingerprint import hash_tables
from tests.jobs.kills import rename_in_store, stand_at_points
from tests.jobs.warehouses import arguments, land_csv
from tests.scans import find_texts
from tests.worlds import Event, two_tastes

LEAST, GREATEST = "!-forgotten-7f3a", "~-forgotten-7f3a"  # of all ids, so that statistics hold them, too
FORGOTTEN = (LEAST, GREATEST)
DAY = 86_400
SETTINGS = {
    "warehouse.buckets": 2,
    "ingest.max_bad_share": 0.2,
    "als.rank": 4,
    "als.sweeps": 2,
    "evaluation.holdout_share": 0.2,
    "evaluation.validation_slices": 1,
    "gate.min_users": 10,
    "warehouse.recent_from": 100,
    "warehouse.recent_share": 0.5,
}
COMPARED = ("ratings", "quarantine", "items", "user_blocks", "recommendations")


def lines_of(events: Sequence[Event]) -> list[str]:
    return [f"{e.user_id},{e.item_id},{e.value:g},{int(e.event_time.timestamp())}" for e in events]


def land_everything(landing: Path, events: Sequence[Event]) -> None:
    """The events in four formats, a bad row and a broken line of a user who will be forgotten among them."""
    head = "user_id,item_id,rating,timestamp"
    last = int(events[-1].event_time.timestamp())
    lines = [*lines_of(events[::4]), f"{LEAST},i000,99,{last}", f"{LEAST};i000;5", f"u0001,i000,99,{last}"]
    land_csv(landing, "1.csv", *lines)
    (landing / "2.csv.gz").write_bytes(gzip.compress("\n".join([head, *lines_of(events[1::4]), ""]).encode()))
    objects = [
        {"user_id": e.user_id, "item_id": e.item_id, "rating": e.value, "timestamp": int(e.event_time.timestamp())}
        for e in events[2::4]
    ]
    (landing / "3.jsonl").write_text("".join(f"{json.dumps(own)}\n" for own in objects))
    table = pa.table(
        {
            "user_id": [e.user_id for e in events[3::4]],
            "item_id": [e.item_id for e in events[3::4]],
            "rating": [e.value for e in events[3::4]],
            "timestamp": [int(e.event_time.timestamp()) for e in events[3::4]],
        }
    )
    pq.write_table(table, landing / "4.parquet")


def tables_of(spark: SparkSession, warehouse: Path) -> Tables:
    return Tables(spark, WarehouseParams(root=str(warehouse), buckets=2)).open()


def run_arguments(warehouse: Path) -> list[str]:
    return arguments(warehouse, warehouse / "landing", SETTINGS)


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ids") / "ids"
    file.touch(mode=0o600)
    file.write_text("\n".join([*FORGOTTEN, ""]))
    return file


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with its landing folder, after two generations."""
    warehouse = tmp_path_factory.mktemp("forget") / "warehouse"
    landing = warehouse / "landing"
    landing.mkdir(parents=True)
    events = two_tastes(n_users=40, n_items=24, n_rated=8)
    theirs = [replace(e, user_id=own) for own in FORGOTTEN for e in events if e.user_id == "u0003"]
    everything = sorted([*events, *theirs], key=lambda event: event.event_time)
    land_everything(landing, everything)
    assert pipeline.main(run_arguments(warehouse)) == 0
    after = int(events[-1].event_time.timestamp()) + DAY
    land_csv(landing, "5.csv", f"{GREATEST},i000,8,{after}", f"u0002,i001,8,{after}")
    assert pipeline.main(run_arguments(warehouse)) == 0
    return warehouse


def copy(origin: Path, target: Path) -> Path:
    shutil.copytree(origin, target)
    rename_in_store(target / "mlflow", {str(origin): str(target)})
    return target


@dataclass(frozen=True)
class Forgotten:
    warehouse: Path
    before: set[str]
    receipt: dict[str, Any]
    said: str
    holds: dict[str, Any]


@pytest.fixture(scope="module")
def forgotten(spark: SparkSession, trained: Path, ids: Path) -> Forgotten:
    """The warehouse after both users were forgotten at once."""
    warehouse = copy(trained, trained.with_name("forgotten"))
    before = find_texts(warehouse, *FORGOTTEN)
    assert forget_user.main([*run_arguments(warehouse), "--ids", str(ids), "--now"]) == 0
    [receipt] = (warehouse / "erasures").iterdir()
    text = receipt.read_text()
    return Forgotten(warehouse, before, json.loads(text), text, hash_tables(spark, str(warehouse), COMPARED))


def test_case_91_a_forgotten_user_is_in_no_file_of_the_warehouse_the_landing_folder_and_the_models(
    spark: SparkSession, forgotten: Forgotten
) -> None:
    places = {name.split("/")[0] for name in forgotten.before}
    assert places == {"landing", "ratings", "user_blocks", "quarantine", "recommendations"}, "no model is among them"
    assert any("_delta_log" in name for name in forgotten.before), "statistics"

    assert find_texts(forgotten.warehouse, *FORGOTTEN) == set()

    removed = forgotten.receipt["removed"]
    # Two users in blocks, and of one a recent rating beside them.
    assert removed == {"ratings": 17, "user_blocks": 3, "quarantine": 2, "recommendations": 4, "landed_rows": 19}
    assert forgotten.receipt["to_remove"] == forgotten.receipt["to_come"] == {}
    assert set(forgotten.receipt["versions"]) >= {"ratings", "user_blocks"}
    lists = tables_of(spark, forgotten.warehouse).recommendations.read()
    assert lists.where(f"{c.GENERATION} = 2").count() == 40 + 1, "everybody else has a list"


@pytest.mark.long
def test_case_91_killed_half_way_and_run_again_it_leaves_what_an_undisturbed_run_leaves(
    spark: SparkSession, trained: Path, forgotten: Forgotten, ids: Path, tmp_path: Path
) -> None:
    points = ("forget:after_ratings", "forget:before_landing")
    warehouse = copy(trained, trained.with_name("killed-00"))
    command = [*run_arguments(warehouse), "--ids", str(ids), "--now"]
    copies: dict[str, Path] = {}

    def keep(point: str) -> None:
        copies[point] = copy(warehouse, warehouse.with_name(f"killed-{len(copies) + 1:02}"))

    stand_at_points("jobs.forget_user", command, tmp_path / "warehouse", points, keep)

    said = (tmp_path / "warehouse.said").read_text()
    assert not any(own in said for own in FORGOTTEN)
    for point, left in copies.items():
        assert find_texts(left, *FORGOTTEN), point
        assert forget_user.main([*run_arguments(left), "--ids", str(ids), "--now"]) == 0, point
        assert find_texts(left, *FORGOTTEN) == set(), point
        assert hash_tables(spark, str(left), COMPARED) == forgotten.holds, point


def test_case_93_a_rollback_to_a_generation_from_before_does_not_bring_a_forgotten_user_back(
    spark: SparkSession, forgotten: Forgotten
) -> None:
    warehouse = forgotten.warehouse
    assert rollback.main(run_arguments(warehouse)) == 0
    pinned, lists = read_generation(tables_of(spark, warehouse))
    users = {row[0] for row in lists.select(c.USER_ID).collect()}
    assert pinned.generation == 1
    assert users == {f"u{n:04}" for n in range(40)} | {c.FALLBACK_USER_ID}, "whoever is not there gets the fallback"
    assert find_texts(warehouse, *FORGOTTEN) == set()


def test_case_92_what_arrives_of_a_forgotten_user_again_is_refused_counted_and_not_kept(
    spark: SparkSession, trained: Path, forgotten: Forgotten
) -> None:
    warehouse = copy(forgotten.warehouse, forgotten.warehouse.with_name("again-000"))
    tables = tables_of(spark, warehouse)

    def counts() -> dict[str, int]:
        runs = tables.job_runs.read().where(f"{c.JOB} = 'ingest_ratings'").orderBy(c.STARTED_AT)
        return dict(runs.collect()[-1][c.COUNTS])

    assert ingest_ratings.main(run_arguments(warehouse)) == 0
    assert (counts()["files"], counts()["landed"]) == (0, 0), "the ledger knows the files that were rewritten"

    before = (trained / "landing" / "5.csv").read_text()
    (warehouse / "landing" / "copy.csv").write_text(before)
    (warehouse / "landing" / "late.csv").write_text(f"{before}{LEAST},i000\n")
    assert ingest_ratings.main(run_arguments(warehouse)) == 0, "two of three rows are refused, and it is no bad file"
    ledger = tables.ledger.read().where(f"{c.SOURCE} IN ('copy.csv', 'late.csv')").orderBy(c.SOURCE).collect()
    found = [[row[name] for name in (c.LANDED, c.ACCEPTED, c.DUPLICATE, c.QUARANTINED)] for row in ledger]
    assert found == [[2, 0, 2, 0], [3, 1, 0, 2]], "the copy is known by its checksum, and not read"
    refused = tables.quarantine.read().where(f"{c.SOURCE} = 'late.csv'").collect()
    assert [(row[c.RULES], row[c.RAW]) for row in refused] == [(["suppressed_user"], None)] * 2
    assert find_texts(warehouse, *FORGOTTEN) == {"landing/copy.csv", "landing/late.csv"}, "who landed them removes them"
