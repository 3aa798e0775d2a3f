"""What the landing writer lets through is accepted by ingestion, to the last rating."""

from pathlib import Path

from pyspark.sql import SparkSession

from jobs import ingest_ratings, land_ratings
from jobs.runner import make_context
from recsys.landing_writer import LandingWriter
from recsys.ratings.contract import load_contract
from recsys.session import ROOT
from tests.jobs.warehouses import make_settings

DAY = 1_700_000_000


def test_files_and_single_ratings_that_were_landed_are_all_accepted_and_a_repeated_one_once(
    spark: SparkSession, tmp_path: Path
) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    settings = make_settings(tmp_path / "warehouse", landing)
    (tmp_path / "a.csv").write_text(
        f"user_id,item_id,rating,timestamp\n007,i1,8,{DAY}\n 7,i2,7.5,2023-11-14T22:13:20Z\n"
    )
    (tmp_path / "b.dat").write_text(f"7::i1::3::{DAY}\n")
    assert (
        land_ratings.main([str(tmp_path / "a.csv"), str(tmp_path / "b.dat"), "--set", f"landing.path={landing}"]) == 0
    )
    writer = LandingWriter(str(landing), load_contract(ROOT / settings.contract), settings.landing)
    for _ in range(2):  # a producer that did not hear the answer
        writer.write(
            [
                {"user": "u", "item": "\u2028", "value": 9, "time": DAY + 1},
                {"user": "u", "item": "i1", "value": 1, "time": DAY},
            ]
        )

    report = ingest_ratings.run(make_context(spark, settings))

    counts = report.counts
    assert (report.files, counts.landed, counts.accepted, counts.duplicate, counts.quarantined) == (4, 7, 5, 2, 0)
    rows = make_context(spark, settings).tables.ratings.read().select("user_id", "item_id", "value").collect()
    assert sorted(map(tuple, rows)) == [
        (" 7", "i2", 7.5),
        ("007", "i1", 8.0),
        ("7", "i1", 3.0),
        ("u", "i1", 1.0),
        ("u", "\u2028", 9.0),
    ]
