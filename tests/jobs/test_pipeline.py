"""The loop as a user runs it: every turn recorded, nothing done twice, and killed anywhere it ends the same."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import train_model
from jobs.pipeline import main
from jobs.train_model import TrainReport
from tests.jobs.fingerprint import fingerprint
from tests.jobs.kills import kill_at_points
from tests.jobs.warehouses import arguments, land_csv
from tests.worlds import Event, two_tastes

# Between the commits of each job. Ingestion alone is killed at more points in its own test.
POINTS = ("ingest:after_ratings", "log_fit:after_model", "promote:before_champion", "publish:after_lists")
SETTINGS = {
    "warehouse.buckets": 2,
    "als.rank": 4,
    "als.sweeps": 3,
    "als.warm_sweeps": 2,
    "evaluation.holdout_share": 0.2,
    "evaluation.validation_slices": 1,
    "gate.min_users": 10,
}


def land(folder: Path, name: str, events: list[Event]) -> None:
    land_csv(folder, name, *(f"{e.user_id},{e.item_id},{e.value:g},{int(e.event_time.timestamp())}" for e in events))


@pytest.mark.timeout(1200)  # six turns
def test_cases_18_19_47_48_61_killed_anywhere_and_run_again_it_ends_as_if_undisturbed(
    spark: SparkSession, tmp_path: Path
) -> None:
    landing = tmp_path / "landing"
    events = two_tastes(n_users=60, n_items=30, n_rated=8)
    land(landing, "1.csv", [*events[::2], Event("u0001", "i000", 99.0, events[0].event_time)])
    land(landing, "2.csv", events[1::2])
    undisturbed = tmp_path / "undisturbed"
    assert main(arguments(undisturbed, landing, SETTINGS)) == 0
    expected = fingerprint(spark, str(undisturbed))
    assert expected["champion, challenger, previous"][0] == 1
    assert expected["quarantine"][0] == 1
    assert expected["recommendations"][0] == 60 + 1

    warehouse = tmp_path / "warehouse"
    copies = kill_at_points("jobs.pipeline", arguments(warehouse, landing, SETTINGS), warehouse, POINTS)

    for point, copy in copies.items():
        assert main(arguments(copy, landing, SETTINGS)) == 0, point
        assert fingerprint(spark, str(copy)) == expected, point
    assert main(arguments(copy, landing, SETTINGS)) == 0, "nothing is new"
    assert fingerprint(spark, str(copy)) == expected, "nothing was new, and nothing may change"


def test_a_first_model_that_is_refused_ends_the_turn_with_the_gates_word(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    landing = tmp_path / "landing"
    land(landing, "1.csv", two_tastes(n_users=4, n_items=6, n_rated=2))
    refused = TrainReport("cold", "no champion yet", 1, False, "refused", "worse than recent popularity", 3, {})
    monkeypatch.setattr(train_model, "run", lambda context, say: refused)
    assert main(arguments(tmp_path / "warehouse", landing, SETTINGS)) == 4
    assert "error: worse than recent popularity. The champion stays." in capsys.readouterr().err
    runs = spark.read.format("delta").load(str(tmp_path / "warehouse" / "job_runs"))
    assert {row.job: row.exit_code for row in runs.collect()} == {"ingest_ratings": 0, "train_model": 4, "pipeline": 4}
