"""What a SIGKILL leaves at each of several points of one run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from recsys.session import ROOT
from tests.sessions import TWO_TASKS

# A process of its own, as a scheduler starts it; two tasks at once as in the shared session.
_CHILD = """
import json, sys
from recsys.session import start_session
start_session("killed", conf=json.loads(sys.argv[1]))
from {module} import main
sys.exit(main(json.loads(sys.argv[2])))
"""


def kill_at_points(module: str, arguments: Sequence[str], warehouse: Path, points: Sequence[str]) -> dict[str, Path]:
    """Run a job, copy its warehouse at every point while the job stands there, and SIGKILL job and JVM at the last one.

    A copy holds what a kill at its point would leave: on a local file system a kill takes back nothing that was
    written, and nobody writes while the job stands.

    Args:
        module: of the job, with a ``main``.
        arguments: of the job.
        warehouse: a folder called ``warehouse``.
        points: names in `recsys.store.pause`, in the order in which the job comes by.

    Returns:
        The copy of each point, beside the warehouse.
    """
    paused, said = warehouse.with_suffix(".paused"), warehouse.with_suffix(".said")
    with said.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(module=module), json.dumps(TWO_TASKS), json.dumps(list(arguments))],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "RECSYS_PAUSE_AT": ",".join(points), "RECSYS_PAUSE_FILE": str(paused)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    copies: dict[str, Path] = {}
    try:
        for point in points:
            deadline = time.monotonic() + 300
            while not paused.exists():
                assert child.poll() is None, f"ended before {point}: {said.read_text()}"
                assert time.monotonic() < deadline, f"{point} was never reached: {said.read_text()}"
                time.sleep(0.05)
            assert paused.read_text() == point
            copies[point] = warehouse.with_name(f"killed-{len(copies):02}")
            if point == points[-1]:
                os.killpg(child.pid, signal.SIGKILL)
            shutil.copytree(warehouse, copies[point])
            _move_store(copies[point], warehouse)
            paused.unlink()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return copies


def _move_store(copy: Path, warehouse: Path) -> None:
    """Tell MLflow where its store is now: it keeps absolute paths. (SQLite allows it for a path of the same length.)"""
    old, new = str(warehouse).encode(), str(copy).encode()
    assert len(old) == len(new)
    for file in (copy / "mlflow").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            if old in content:
                file.write_bytes(content.replace(old, new))
