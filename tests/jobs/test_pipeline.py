"""The loop as a user runs it: every turn recorded, nothing done twice, and killed anywhere it ends the same."""

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import train_model
from jobs.pipeline import main
from jobs.train_model import TrainReport
from recsys import columns as c
from recsys.config import load_settings
from recsys.evaluation.report import StepReport
from recsys.session import ROOT
from recsys.store.params import MlflowParams
from recsys.store.registry import PARENT, PASSED, Registry
from tests.jobs.fingerprint import fingerprint
from tests.jobs.kills import kill_at_points
from tests.jobs.warehouses import arguments, land_csv
from tests.worlds import START, Event, two_tastes

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


@dataclass(frozen=True)
class FirstTurn:
    """A warehouse after one undisturbed turn, and what it held then: later tests may go on from it."""

    warehouse: Path
    landing: Path
    holds: dict[str, Any]


@pytest.fixture(scope="module")
def first_turn(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> FirstTurn:
    folder = tmp_path_factory.mktemp("pipeline")
    warehouse, landing = folder / "undisturbed", folder / "landing"
    events = two_tastes(n_users=60, n_items=30, n_rated=8)
    land(landing, "1.csv", [*events[::2], Event("u0001", "i000", 99.0, events[0].event_time)])
    land(landing, "2.csv", events[1::2])
    assert main(arguments(warehouse, landing, SETTINGS)) == 0
    return FirstTurn(warehouse, landing, fingerprint(spark, str(warehouse)))


@pytest.mark.timeout(1200)  # five turns
def test_cases_18_19_47_48_61_killed_anywhere_and_run_again_it_ends_as_if_undisturbed(
    spark: SparkSession, first_turn: FirstTurn, tmp_path: Path
) -> None:
    landing, expected = first_turn.landing, first_turn.holds
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


def test_a_fit_is_logged_with_what_it_was_made_from_and_how_it_did(first_turn: FirstTurn) -> None:
    registry = Registry(MlflowParams(), str(first_turn.warehouse))
    logged = registry.describe(1)
    settings = load_settings([ROOT / "conf" / "base.yaml"], {key: str(value) for key, value in SETTINGS.items()})
    assert (logged.verdict, logged.tags[PARENT], logged.tags["policy"]) == (PASSED, "none", "cold")
    assert logged.tags["configuration"] == settings.digest()
    assert re.fullmatch("[0-9a-f]{40}|unknown", logged.tags["git_commit"])
    assert logged.table_versions == {"ratings": 2, "user_blocks": 1, "items": 1}  # made, under contract; written once
    figures = registry._client.list_artifacts(logged.run_id, "figures")
    assert {file.path for file in figures} == {"figures/learning_curve.png", "figures/metric_by_activity.png"}
    assert {"loss", "metric", "candidate/ndcg_at_10", "difference", "judged_users"} <= set(logged.metrics)
    run = registry._client.get_run(logged.run_id)
    assert (run.info.status, run.data.params["als.rank"], run.data.params["policy"]) == ("FINISHED", "4", "cold")


def last_turn(spark: SparkSession, warehouse: Path) -> StepReport:
    runs = spark.read.format("delta").load(f"{warehouse}/job_runs").where(f"{c.JOB} = 'pipeline'")
    return StepReport.from_dict(json.loads(runs.orderBy(c.STARTED_AT).collect()[-1][c.DETAILS]))


def later(events: Sequence[Event], days: float) -> list[Event]:
    return [replace(event, event_time=event.event_time + timedelta(days=days)) for event in events]


def test_later_turns_refresh_the_model_fold_few_ratings_in_and_keep_the_champion_when_few_judge(
    spark: SparkSession, first_turn: FirstTurn, tmp_path: Path
) -> None:
    """Two months of ratings are known; each turn brings the days after them."""
    warehouse = first_turn.warehouse
    registry = Registry(MlflowParams(), str(warehouse))

    def turn(number: int, events: list[Event]) -> StepReport:
        land(tmp_path, f"{number}.csv", events)
        assert main(arguments(warehouse, tmp_path, SETTINGS)) == 0
        return last_turn(spark, warehouse)

    # With other seeds the gate refuses: 45 users and 4 factors leave much to chance.
    warm = turn(2, later(two_tastes(n_users=60, n_items=30, n_rated=2, days=10, seed=6), days=61))
    assert (warm.policy, warm.accepted, warm.verdict, warm.generation) == ("warm", 120, "passed", 2)
    assert warm.ndcg_champion is not None
    assert (registry.champion, registry.previous, registry.describe(2).tags[PARENT]) == (2, 1, "1")

    day = START + timedelta(days=75)
    folded = turn(3, [Event("late", "i000", 8.0, day)])
    assert (folded.policy, folded.new_users, folded.verdict, folded.generation) == ("fold-in", 1, "no fit", 3)

    users = [f"u{n:04}" for n in range(6)]
    few = turn(4, [Event(user, f"i{n:03}", 8.0, day + timedelta(hours=n)) for n, user in enumerate(users, 1)])
    assert (few.policy, few.verdict, few.generation) == ("warm", "not judged", 4)
    assert "Lower gate.min_users, or wait for more ratings" in registry.describe(3).tags["reasons"]
    outcomes = spark.read.format("delta").load(f"{warehouse}/job_runs").where(f"{c.JOB} = 'train_model'")
    last = outcomes.orderBy(c.STARTED_AT).collect()[-1]
    assert (last[c.OUTCOME], last[c.EXIT_CODE]) == ("not judged", 0)

    assert registry.champion == 2
    published = spark.read.format("delta").load(f"{warehouse}/generations").orderBy(c.GENERATION).collect()
    lists = [(row[c.GENERATION], row[c.MODEL_VERSION], row[c.N_USERS]) for row in published]
    assert lists == [(1, 1, 60), (2, 2, 60), (3, 2, 61), (4, 2, 61)]


@dataclass(frozen=True)
class EmptyTurn:
    """What came of a turn with an empty landing folder."""

    warehouse: Path
    code: int
    said: str
    models: list[int]


@pytest.fixture(scope="module")
def empty_turn(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> EmptyTurn:
    folder = tmp_path_factory.mktemp("no ratings")
    (folder / "landing").mkdir()
    with redirect_stdout(StringIO()) as said:
        code = main(arguments(folder / "warehouse", folder / "landing", SETTINGS))
    models = Registry(MlflowParams(), str(folder / "warehouse")).versions()  # waits until MLflow's store is made
    return EmptyTurn(folder / "warehouse", code, said.getvalue(), models)


def exit_codes(spark: SparkSession, warehouse: Path) -> dict[str, int]:
    rows = spark.read.format("delta").load(f"{warehouse}/job_runs").orderBy(c.STARTED_AT).collect()
    return {row[c.JOB]: row[c.EXIT_CODE] for row in rows}


def test_case_27_a_turn_before_any_rating_is_a_success_that_says_so(spark: SparkSession, empty_turn: EmptyTurn) -> None:
    assert empty_turn.code == 0
    assert "no rating accepted yet" in empty_turn.said.splitlines()[-1]
    assert exit_codes(spark, empty_turn.warehouse) == {"ingest_ratings": 0, "pipeline": 0}
    assert empty_turn.models == []


def test_a_first_model_that_is_refused_ends_the_turn_with_the_gates_word(
    spark: SparkSession,
    empty_turn: EmptyTurn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    landing, warehouse = tmp_path / "landing", tmp_path / "warehouse"
    shutil.copytree(empty_turn.warehouse, warehouse)
    land(landing, "1.csv", two_tastes(n_users=4, n_items=6, n_rated=2))
    refused = TrainReport("cold", "no champion yet", 1, False, "refused", "worse than recent popularity", 3, {})
    monkeypatch.setattr(train_model, "run", lambda context, say: refused)
    assert main(arguments(warehouse, landing, SETTINGS)) == 4
    assert "error: worse than recent popularity. The champion stays." in capsys.readouterr().err
    assert exit_codes(spark, warehouse) == {"ingest_ratings": 0, "train_model": 4, "pipeline": 4}
