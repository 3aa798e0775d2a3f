"""Cases 18 and 19: an ingestion that is killed anywhere and run again ends with the tables of an undisturbed one."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.ingest_ratings import main
from tests.jobs.fingerprint import hash_tables
from tests.jobs.kills import kill_at_points
from tests.jobs.warehouses import SMALL, arguments, land_csv

POINTS = ("claim", "quarantine", "ratings", "items", "ledger", "blocks")  # the commits of a batch, in their order
DAY = 1_700_000_000


@pytest.mark.parametrize(("earlier_batches", "points"), [(1, POINTS), (0, ("quarantine", "ratings"))])
def test_cases_18_and_19_killed_at_any_point_and_run_again_the_tables_are_those_of_an_undisturbed_run(
    spark: SparkSession, tmp_path: Path, earlier_batches: int, points: Sequence[str]
) -> None:
    landing, warehouse, undisturbed = tmp_path / "landing", tmp_path / "warehouse", tmp_path / "undisturbed"
    if earlier_batches:
        land_csv(landing, "1.csv", f"u1,i1,8,{DAY}", f"u2,i2,7,{DAY}")
        assert main(arguments(warehouse, landing, SMALL)) == 0
        shutil.copytree(warehouse, undisturbed)
    repeated = f"u3,i3,5,{DAY}"
    land_csv(landing, "2.csv", f"u1,i1,3,{DAY + 9}", repeated, repeated, f"u3,,5,{DAY}", f"u4,i0,1e400,{DAY}")
    land_csv(landing, "3.csv")
    (landing / "4.csv").write_bytes(b"")
    assert main(arguments(undisturbed, landing, SMALL)) == 0
    expected = hash_tables(spark, str(undisturbed))
    rows = {name: found[0] for name, found in expected.items()}
    new = {"ratings": 2, "quarantine": 3, "ingest_ledger": 3, "items": 2 - earlier_batches}
    old = {"ratings": 2, "quarantine": 0, "ingest_ledger": 1, "items": 2}
    for name, count in new.items():
        assert rows[name] == count + old[name] * earlier_batches, name

    commits = [f"ingest:after_{point}" for point in points]
    copies = kill_at_points("jobs.ingest_ratings", arguments(warehouse, landing, SMALL), warehouse, commits)

    for point, copy in copies.items():
        assert main(arguments(copy, landing, SMALL)) == 0, point
        assert hash_tables(spark, str(copy)) == expected, point
        assert not (copy / "claims" / "ingest_ratings.json").exists()
