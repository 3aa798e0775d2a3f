"""The demo's steps on a part of its sample."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from demo.landing_files import plan_steps, read_sample
from demo.run import SAMPLE, demo_settings, place_catalogue, run_steps
from jobs import ingest_ratings
from jobs.pipeline import recorded_turns
from jobs.runner import make_context
from tests.stores import place_empty_store


def test_a_step_killed_after_its_ingestion_shows_what_landed_and_steps_that_are_done_are_not_made_again(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place_empty_store(tmp_path)
    place_catalogue(tmp_path)
    settings = demo_settings(tmp_path)
    small = settings.als.model_copy(update={"rank": 4, "sweeps": 2, "warm_sweeps": 1})
    context = make_context(spark, settings.model_copy(update={"als": small}))
    history, first, *_ = plan_steps(read_sample(SAMPLE)[::30], refreshes=2)
    run_steps(context, [history])
    for file in first:
        file.land(tmp_path / "landing")
    taken_in = ingest_ratings.run(context).counts  # and here it was killed
    capsys.readouterr()

    for attempt in range(2):
        run_steps(context, [history, first])
        printed = capsys.readouterr().out.splitlines()
        assert sum(line.startswith("history ") for line in printed) == 1, attempt
        [line] = [line for line in printed if line.startswith("refresh 1 ")]
        numbers = (taken_in.landed, taken_in.accepted, taken_in.duplicate, taken_in.quarantined)
        assert line.split()[2:6] == [f"{number:,}" for number in numbers], attempt
    assert [report.step for report in recorded_turns(context)] == ["history", "refresh 1"]
    assert min(taken_in.accepted, taken_in.quarantined) > 0
