"""Executors that die in the middle of a fit. In processes of their own: the shared session has no executors to kill."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys.als.fit import fit
from recsys.als.params import AlsParams
from recsys.als.sweep import BlockPasses
from recsys.schemas import SPLIT_BLOCKS
from recsys.session import ROOT
from recsys.store.checkpoints import drop_checkpoints, keep_checkpoints
from tests.oracles.blocks import csr, split_rows

# Fits the same ratings undisturbed and with executors killed; prints what came of each.
FITS = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from recsys.als import sweep
from recsys.als.fit import fit
from recsys.als.params import AlsParams
from recsys.schemas import SPLIT_BLOCKS
from recsys.session import start_session
from recsys.store.checkpoints import keep_checkpoints
from tests.oracles.blocks import csr, split_rows

solvers, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
conf = {"spark.master": "local-cluster[2,1,1024]", "spark.executor.memory": "1g", "spark.default.parallelism": "2"}
spark = start_session("executors", conf=conf)
context = spark.sparkContext
context.setLogLevel("OFF")
rng = np.random.default_rng(5)
R = np.clip(np.round(3 + rng.normal(size=(400, 4)) @ rng.normal(size=(4, 50)) + rng.normal(size=(400, 50))), 1, 5)
R[rng.random(R.shape) > 0.3] = np.nan
rows = spark.createDataFrame(split_rows(*csr(R), users_per_block=20), SPLIT_BLOCKS)
params = AlsParams(objective="explicit", rank=8, sweeps=7, **solvers)


def kill_an_executor():
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\\0")
        except OSError:
            continue
        if context.applicationId in words and "CoarseGrained" in str(words) and "bash" not in words[0]:
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise RuntimeError("no executor found")


def dying_in(task, once):
    # The task, whose executor dies once under it: the worker's parent is a daemon, and the daemon's the executor.
    def run(pairs):
        for number, element in enumerate(task(pairs)):
            if number == 3 and not once.exists():
                once.touch()
                daemon = Path(f"/proc/{os.getppid()}/stat").read_text()
                os.kill(int(daemon.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
            yield element
    return run


def fit_and_kill(name, at=0, inside=False):
    user_pass, passes, once = sweep._user_pass, [], folder / name
    def disturbed(shared, **ways):
        passes.append(shared)
        task = user_pass(shared, **ways)
        if len(passes) != at:
            return task
        if inside:
            return dying_in(task, once)
        kill_an_executor()
        once.touch()
        return task
    sweep._user_pass = disturbed
    try:
        with keep_checkpoints(spark, str(folder)):
            result = fit(rows, R.shape[1], params)
            checkpoints = len(list(folder.glob("checkpoints/**/part-*")))
    finally:
        sweep._user_pass = user_pass
    return {"factors": result.model.item_factors.tobytes().hex(), "losses": [s.loss for s in result.sweeps],
            "killed": once.exists(), "checkpoints": checkpoints, "left": len(list(folder.glob("checkpoints/*")))}


print(json.dumps({
    "undisturbed": fit_and_kill("undisturbed"),
    "between": fit_and_kill("between", at=4),
    "inside": fit_and_kill("inside", at=4, inside=True),
    "after a checkpoint": fit_and_kill("after", at=7, inside=True),
}))
spark.stop()
"""


@pytest.mark.parametrize(
    "solvers",
    [
        pytest.param({"user_solver": "exact", "item_solver": "exact"}, marks=pytest.mark.long),
        {"user_solver": "cg", "item_solver": "cg", "item_steps": 2},
    ],
    ids=["exact", "cg"],
)
def test_case_80_an_executor_that_is_killed_in_mid_fit_does_not_change_a_bit(
    tmp_path: Path, solvers: dict[str, object]
) -> None:
    command = [sys.executable, "-c", FITS, json.dumps(solvers), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    undisturbed = outcomes.pop("undisturbed")
    assert not undisturbed["killed"]
    for name, outcome in outcomes.items():
        assert outcome["killed"], name
        assert outcome["factors"] == undisturbed["factors"], name
        assert outcome["losses"] == undisturbed["losses"], name
        assert outcome["left"] == 0  # checkpoints go with the fit
        # Warm users are kept on disk once in five sweeps, in a file a task.
        assert outcome["checkpoints"] == (2 if solvers["user_solver"] == "cg" else 0)


def test_checkpoints_bound_what_a_lost_executor_costs(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Users solved from those of the sweep before hang on all sweeps before, unless some are kept on disk."""
    rng = np.random.default_rng(1)
    R = np.where(rng.random((20, 8)) < 0.6, rng.integers(1, 6, (20, 8)).astype(float), np.nan)
    blocks = spark.createDataFrame(split_rows(*csr(R)), SPLIT_BLOCKS).repartition(2)
    params = AlsParams(objective="explicit", rank=2, sweeps=12, user_solver="cg", item_solver="cg", item_steps=1)
    generations: list[int] = []
    apply_ratings = BlockPasses.apply_ratings

    def count_first(passes: BlockPasses, direction: np.ndarray) -> np.ndarray:
        assert passes._users is not None
        lineage = passes._users.toDebugString()
        assert lineage is not None
        generations.append(lineage.count(b"ZippedPartitionsRDD"))
        return apply_ratings(passes, direction)

    monkeypatch.setattr(BlockPasses, "apply_ratings", count_first)
    fit(blocks, 8, params)
    without = generations.copy()
    assert max(without) >= 10
    generations.clear()
    monkeypatch.setattr("recsys.store.checkpoints.is_one_process", lambda spark: False)
    with keep_checkpoints(spark, str(tmp_path)):
        fit(blocks, 8, params)
        assert list(tmp_path.glob("checkpoints/*/*"))
    assert max(generations) <= 5
    assert not list(tmp_path.glob("checkpoints/*"))
    assert not drop_checkpoints(spark, str(tmp_path))
    (tmp_path / "checkpoints" / "of-a-killed-fit").mkdir()
    assert drop_checkpoints(spark, str(tmp_path))
    assert not list(tmp_path.glob("checkpoints/*"))
