"""What the engine promises of many executors, on four of YARN's: exchange, popular items, a lost executor, the plan."""

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterable
from statistics import median
from typing import Any

import pytest

from recsys.session import ROOT
from tests.cluster.engine import EXECUTORS, KILLED_IN, PARAMS, Asked, ask
from tests.cluster.hadoop import Hadoop

pytestmark = pytest.mark.long

CODE = 500_000  # bytes, at most

Found = dict[str, Any]
Rows = Iterable[dict[str, Any]]


@pytest.fixture(scope="module")
def found(hadoop: Hadoop, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one application of four executors found; all tests read it."""
    folder = tmp_path_factory.mktemp("engine")
    work, answer, asked = folder / "work", folder / "answer.json", folder / "asked.json"
    work.mkdir()
    warehouse = f"{hadoop.fs}/recsys/{folder.name}-{uuid.uuid4().hex[:8]}"  # a cluster may have files of earlier runs
    nodemanager = int((hadoop.folder / "nodemanager.pid").read_text())
    asked.write_text(ask(Asked(warehouse, str(work), nodemanager, str(answer))))
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.engine", str(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | hadoop.environment | {"PYTHONPATH": str(ROOT)},
    )
    assert answer.exists(), done.stderr[-3000:]
    result: Found = json.loads(answer.read_text())
    return result


def per_partition(done: Rows, what: str) -> list[int]:
    """What the tasks of the last pass had to do."""
    last = max(each["pass"] for each in done)
    return [each[what] for each in sorted(done, key=lambda each: each["partition"]) if each["pass"] == last]


def test_a_sweep_moves_the_factors_to_every_executor_and_a_part_of_the_sums_from_every_task(found: Found) -> None:
    for moved in found["sweeps"]:
        formula = moved["jobs"] * EXECUTORS * found["factors"]  # as many tasks as executors
        assert formula <= moved["results"] + moved["shuffled"] < 1.1 * formula
    # Besides, every executor receives the code of a pass, 0.1 to 0.3 MB. A second copy of the factors is 1.2 MB.
    # What executors tell of their blocks has no time: on a busy machine it comes late, and counts for the next sweep.
    received = median(moved["broadcast"] / (moved["jobs"] * EXECUTORS) for moved in found["sweeps"])
    assert found["factors"] <= received < found["factors"] + CODE


def test_an_item_that_nearly_everyone_has_rated_makes_no_straggler(found: Found) -> None:
    """Where an item belongs to one task, that one has all its ratings."""
    without, favoured = (per_partition(found[name], "ratings") for name in ("without", "with"))
    favourites = per_partition(found["with"], "favourites")
    assert len(without) == len(favoured) == EXECUTORS
    assert sum(favourites) > 10 * sum(per_partition(found["without"], "favourites"))
    assert max(favourites) < 1.2 * sum(favourites) / EXECUTORS
    assert max(favoured) < 1.2 * median(favoured)
    assert max(without) < 1.2 * median(without)


def test_case_80_an_executor_killed_in_mid_fit_changes_no_bit_and_costs_the_passes_since_the_last_checkpoint(
    found: Found,
) -> None:
    killed = found["killed"]
    assert killed["died"]
    assert killed["same"]
    assert killed["same losses"]
    times = Counter((each["pass"], each["partition"]) for each in killed["done"])
    assert set(times) == {(at, part) for at in range(1, PARAMS.sweeps + 1) for part in range(EXECUTORS)}
    again = {each for each, n in times.items() if n > 1}
    assert {at for at, _ in again} == {KILLED_IN - 2, KILLED_IN - 1}
    assert max(times.values()) == 2
    assert len({part for _, part in again}) < EXECUTORS
    assert max(Counter((each["pass"], each["partition"]) for each in found["undisturbed"]).values()) == 1


@pytest.mark.parametrize("what", ["tasks", "exchange", "blocks", "workers", "driver"])
def test_the_plan_of_a_fit_is_within_two_of_what_is_found(found: Found, what: str) -> None:
    """But for seconds: four executors of this machine share its cores, which no setting of Spark's tells."""
    planned, measured = found["planned"][what], found["found"][what]
    assert measured / 2 <= planned <= measured * 2, found["page"]
