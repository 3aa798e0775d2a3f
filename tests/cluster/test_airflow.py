"""The example for Airflow, parsed by Airflow, and what it makes of the jobs' exit codes."""

import json
import os
import subprocess
from typing import Any

import pytest

from recsys.session import ROOT
from tests.cluster.airflow import NoNetworkError, make_environment

# Parses the folder as Airflow's processor does, then runs a task with a launcher that ends with every code.
PARSE = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace
from airflow.models.dagbag import DagBag

home, folder = Path(sys.argv[1]), sys.argv[2]
bag = DagBag(folder, include_examples=False)
told = {"errors": bag.import_errors, "dags": {}, "codes": {}}
for name, dag in bag.dags.items():
    told["dags"][name] = {
        "tasks": dag.task_ids, "runs": dag.max_active_runs, "catchup": dag.catchup,
        "retries": [task.retries for task in dag.tasks],
        "pause": [task.retry_delay.total_seconds() for task in dag.tasks],
    }
task = bag.dags["recsys_pipeline"].get_task("pipeline")
for code in (0, 1, 2, 3, 4, 5, 143):
    (home / "code").write_text(str(code))
    for tries in (1, 2):
        try:
            task.execute({"ti": SimpleNamespace(try_number=tries)})
            end = "done"
        except Exception as err:
            end = type(err).__name__
        told["codes"][f"{code}, try {tries}"] = end
Path(sys.argv[3]).write_text(json.dumps(told))
"""
LAUNCHER = """#!/bin/sh
echo "$@" >> calls
exit $(cat code)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow says of the folder."""
    try:
        python = make_environment()
    except NoNetworkError as err:
        pytest.skip(str(err))
    home, answer = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("airflow") / "answer.json"
    (home / "spark-submit.sh").write_text(LAUNCHER)
    (home / "spark-submit.sh").chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "AIRFLOW_HOME": str(answer.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "RECSYS_HOME": str(home),
        "RECSYS_CONF": "/etc/recsys.yaml",
    }
    command = [str(python), "-c", PARSE, str(home), str(ROOT / "examples" / "airflow"), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=answer.parent)
    assert answer.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    return {**found, "calls": (home / "calls").read_text().splitlines(), "home": str(home)}


def test_airflow_parses_the_example_and_runs_one_turn_at_a_time(told: dict[str, Any]) -> None:
    assert told["errors"] == {}
    assert {name: dag["tasks"] for name, dag in told["dags"].items()} == {
        "recsys_pipeline": ["pipeline"],
        "recsys_maintenance": ["maintain_tables"],
    }
    for dag in told["dags"].values():
        assert (dag["runs"], dag["catchup"]) == (1, False)
        # A retry finds the lock of a driver that died expired (conf/base.yaml).
        assert min(dag["pause"]) > 120
        assert min(dag["retries"]) >= 1


def test_a_task_is_what_docs_cluster_tells_to_type(told: dict[str, Any]) -> None:
    expected = "--env yarn --deploy-mode cluster jobs/pipeline.py -- --conf /etc/recsys.yaml"
    assert set(told["calls"]) == {expected}
    assert f"./spark-submit.sh {expected}" in (ROOT / "docs" / "cluster.md").read_text()
    assert (ROOT / "jobs" / "pipeline.py").exists()
    assert (ROOT / "jobs" / "maintain_tables.py").exists()


def test_exit_codes_become_retries_or_failures_as_they_ask_for(told: dict[str, Any]) -> None:
    retried, final = "AirflowException", "AirflowFailException"
    assert told["codes"] == {
        **{f"0, try {tries}": "done" for tries in (1, 2)},
        **{f"{code}, try {tries}": final for code in (2, 3, 4) for tries in (1, 2)},
        **{f"5, try {tries}": retried for tries in (1, 2)},
        # Anything else is tried once more.
        **{f"{code}, try 1": retried for code in (1, 143)},
        **{f"{code}, try 2": final for code in (1, 143)},
    }
