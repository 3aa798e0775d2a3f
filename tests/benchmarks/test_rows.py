"""A tiny version of every benchmark runs end to end, so that none rots. No timing is asserted."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from benchmarks import process, rows
from benchmarks.data import make_shape
from benchmarks.measure import Measured, read_results, update_docs, write_result
from benchmarks.process import ContestantError, PeerMissingError, Result, Task
from benchmarks.rows import TARGETS, Plan, measure_target

PEERS = ("implicit", "cmfrec")


def in_this_process(task: Task) -> Result:
    """As `process.run`, through the same JSON, but in the tests' Spark session: a JVM for each would take minutes."""
    result: Result = json.loads(json.dumps(process.perform(Task.from_json(task.to_json()))))
    return {**result, "wall_seconds": 0.0}


@pytest.fixture(scope="module")
def measure(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Measured, Path]]:
    work = tmp_path_factory.mktemp("work")

    def run(target: int) -> tuple[Measured, Path]:
        plan = Plan("3k", repeat=1, iterations=1, rank=3, als={"sweeps": 3}, work=work, users=20, blocks=1)
        return measure_target(target, plan), work

    return run


@pytest.fixture(autouse=True)
def _no_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "run", in_this_process)


def targets() -> list[Any]:
    """All; that of ingestion takes two minutes."""
    return [pytest.param(n, marks=pytest.mark.long) if n == 12 else n for n in sorted(TARGETS)]


@pytest.mark.filterwarnings("default")  # the rivals' warnings are their own affair
@pytest.mark.parametrize("target", targets())
def test_every_target_can_be_measured(
    target: int, measure: Callable[[int], tuple[Measured, Path]], tmp_path: Path
) -> None:
    measured, _ = measure(target)
    assert measured.target == target
    assert measured.rows
    for row in measured.rows:
        if row.value is None:
            # Two fits of so few ratings may take the same time.
            assert "is not installed" in row.note or "cannot be extrapolated" in row.note, row
            continue
        assert row.label
        assert row.size
        assert row.value >= 0
    assert re.match(rf"^target {target}: (\d[\d.]*(x| s| B| GiB) |not measured)", measured.line())
    # What the table needs is in the file, and the table holds every row.
    write_result(measured, tmp_path / "results", "3k")
    assert read_results(tmp_path / "results") == [measured]
    update_docs(read_results(tmp_path / "results"), tmp_path / "benchmarks.md")
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert all(f"| {target} | {row.label} |" in page for row in measured.rows)


def test_a_slow_rival_runs_as_often_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(task: Task) -> Result:
        asked.append(task.contestant)
        if task.contestant == "ours.fit":
            curve = [
                {"seconds": 1.0, "rmse": 0.96, "sweep_seconds": 1.0},
                {"seconds": 2.0, "rmse": 0.94, "sweep_seconds": 1.0},
                {"seconds": 2.5, "rmse": 0.93, "sweep_seconds": 0.5},
            ]
            return {"seconds": 2.5, "curve": curve}
        return {"fits": [{"iterations": 6, "seconds": 100.0, "quality": {"rmse": 0.95}}]}

    monkeypatch.setattr(rows, "run", answer)
    [row] = measure_target(1, Plan(repeat=3, rival_repeat=1)).rows
    assert sorted(asked) == ["ours.fit", "ours.fit", "ours.fit", "peers.mllib_fit"]
    # The rival's quality after two seconds, and its users' factors by one more sweep at most.
    assert (row.value, row.ours, row.rival) == (40.0, (2.5, 2.5, 2.5), (100.0,))


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_is_not_installed_is_one_clear_line(peer: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(peer) is not None:
        pytest.skip(f"{peer} is installed: nothing is missing")
    als = {"rank": 2, "objective": "explicit", "reg_exponent": 0.0}
    task = Task(f"peers.{peer}_fit", make_shape("3k"), {"als": als, "iterations": 1}, 2, str(tmp_path))
    with pytest.raises(PeerMissingError, match=rf"^{peer} is not installed.*requirements/bench.txt"):
        process.run(task)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_fits_in_a_process_of_its_own(peer: str, tmp_path: Path) -> None:
    pytest.importorskip(peer, reason=f"{peer} is not installed: install requirements/bench.txt")
    is_implicit = peer == "implicit"
    als = {
        "rank": 2,
        "objective": "implicit" if is_implicit else "explicit",
        "reg_exponent": 0.0 if is_implicit else 1.0,
    }
    task = Task(f"peers.{peer}_fit", make_shape("3k"), {"als": als, "iterations": 2}, 2, str(tmp_path))
    [fitted] = process.run(task)["fits"]
    assert fitted["quality"].keys() == ({"ndcg", "loss"} if is_implicit else {"rmse"})


def test_an_unknown_contestant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContestantError, match=r"There are: ingest\.adopt, .*ours\.fit"):
        process.perform(Task("ours.magic", make_shape("3k"), {}, 1, str(tmp_path)))
