"""The examples for schedulers: what Airflow, cron and systemd make of the jobs' exit codes. No cluster here."""

import configparser
import json
import os
import shutil
import subprocess
from pathlib import Path
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
    (home / "code").write_text(f"{code}\\n")
    for tries in (1, 2):
        try:
            task.execute({"ti": SimpleNamespace(try_number=tries)})
            end = "done"
        except Exception as err:
            end = type(err).__name__
        told["codes"][f"{code}, try {tries}"] = end
Path(sys.argv[3]).write_text(json.dumps(told))
"""
# Says how it was called, and ends with the first code that is written there and not yet used.
LAUNCHER = """#!/bin/sh
echo "$@" >> calls
code=$(head -n 1 code)
[ "$(wc -l < code)" -gt 1 ] && sed -i 1d code
echo "the job ended with $code"
exit "$code"
"""
EXAMPLES = ROOT / "examples"
SUBMITTED = "--env yarn --deploy-mode cluster jobs/pipeline.py -- --conf /etc/recsys.yaml"


def place_launcher(home: Path) -> None:
    """What stands for the launcher of an installation."""
    (home / "spark-submit.sh").write_text(LAUNCHER)
    (home / "spark-submit.sh").chmod(0o755)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow says of the folder."""
    try:
        python = make_environment()
    except NoNetworkError as err:
        pytest.skip(str(err))
    home, answer = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("airflow") / "answer.json"
    place_launcher(home)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "AIRFLOW_HOME": str(answer.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "RECSYS_HOME": str(home),
        "RECSYS_CONF": "/etc/recsys.yaml",
    }
    command = [str(python), "-c", PARSE, str(home), str(EXAMPLES / "airflow"), str(answer)]
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


def test_a_task_of_airflow_is_what_docs_cluster_tells_to_type(told: dict[str, Any]) -> None:
    assert set(told["calls"]) == {SUBMITTED}
    assert f"./spark-submit.sh {SUBMITTED}" in (ROOT / "docs" / "cluster.md").read_text()
    assert (ROOT / "jobs" / "pipeline.py").exists()
    assert (ROOT / "jobs" / "maintain_tables.py").exists()


def test_exit_codes_become_airflows_retries_or_failures_as_they_ask_for(told: dict[str, Any]) -> None:
    retried, final = "AirflowException", "AirflowFailException"
    assert told["codes"] == {
        **{f"0, try {tries}": "done" for tries in (1, 2)},
        **{f"{code}, try {tries}": final for code in (2, 3, 4) for tries in (1, 2)},
        **{f"5, try {tries}": retried for tries in (1, 2)},
        # Anything else is tried once more.
        **{f"{code}, try 1": retried for code in (1, 143)},
        **{f"{code}, try 2": final for code in (1, 143)},
    }


@pytest.mark.parametrize(
    ("codes", "ends", "calls"),
    [
        ([0], 0, 1),
        ([5], 0, 1),  # locked: the next turn does it, and nobody is told
        ([2], 2, 1),
        ([3], 3, 1),
        ([4], 4, 1),
        ([1, 0], 0, 2),  # anything else once more
        ([1, 5], 0, 2),
        ([143, 1], 1, 2),
    ],
)
def test_cron_is_told_of_what_a_person_must_see_and_of_nothing_else(
    tmp_path: Path, codes: list[int], ends: int, calls: int
) -> None:
    place_launcher(tmp_path)
    (tmp_path / "code").write_text("".join(f"{code}\n" for code in codes))
    settings = {"RECSYS_HOME": str(tmp_path), "RECSYS_LOCK": str(tmp_path / "lock"), "RECSYS_PAUSE": "0"}
    done = subprocess.run(
        [str(EXAMPLES / "cron" / "recsys-turn")],
        env=os.environ | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ends
    assert done.stdout == ("" if ends == 0 else f"exit code {ends}\nthe job ended with {ends}\n")
    assert (tmp_path / "calls").read_text().splitlines() == [SUBMITTED] * calls


def test_cron_does_not_start_a_turn_while_the_last_one_runs(tmp_path: Path) -> None:
    place_launcher(tmp_path)
    lock = tmp_path / "lock"
    settings = {"RECSYS_HOME": str(tmp_path), "RECSYS_LOCK": str(lock)}
    command = ["flock", str(lock), str(EXAMPLES / "cron" / "recsys-turn")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert not (tmp_path / "calls").exists()


def test_the_systemd_units_are_sound_and_restart_what_a_retry_can_help() -> None:
    folder = EXAMPLES / "systemd"
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(folder / "recsys-pipeline.service")
    service = unit["Service"]
    assert service["ExecStart"] == f"/opt/recsys/spark-submit.sh {SUBMITTED}"
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "4"]
    assert service["SuccessExitStatus"] == "5"
    if shutil.which("systemd-analyze") is None:
        return
    units = [str(folder / f"recsys-pipeline.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "recsys-pipeline" in line]
    # That nothing is installed at /opt on this machine is no fault of the unit.
    assert [line for line in said if "not executable" not in line and "No such file" not in line] == []
