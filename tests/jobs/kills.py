"""What a SIGKILL leaves at each of several points of one run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recsys.session import ROOT
from tests.jobs.pauses import Pauses
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
    copies: dict[str, Path] = {}

    def copy(point: str) -> None:
        copies[point] = warehouse.with_name(f"killed-{len(copies):02}")
        shutil.copytree(warehouse, copies[point])
        rename_in_store(copies[point] / "mlflow", {str(warehouse): str(copies[point])})

    stand_at_points(module, arguments, warehouse, points, copy)
    return copies


def stand_at_points(
    module: str, arguments: Sequence[str], beside: Path, points: Sequence[str], at_point: Callable[[str], None]
) -> None:
    """Run a job, call ``at_point`` while it stands at each point for the first time, and at the last after a SIGKILL.

    Args:
        module: of the job, with a ``main``.
        arguments: of the job.
        beside: path that gives the pause file and the job's output their names.
        points: names in `recsys.store.pause`, in the order in which the job first comes by.
        at_point: told where the job stands; may copy what it has written.
    """
    pauses, said = Pauses(beside.with_suffix(".paused"), points), beside.with_suffix(".said")
    with said.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(module=module), json.dumps(TWO_TASKS), json.dumps(list(arguments))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | pauses.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    seen: list[str] = []
    try:
        while len(seen) < len(points):
            point = pauses.wait(lambda: child.poll() is not None)
            assert point is not None, f"ended before {points[len(seen)]}: {said.read_text()}"
            if point not in seen:
                seen.append(point)
                assert seen == list(points[: len(seen)]), said.read_text()
                if point == points[-1]:
                    os.killpg(child.pid, signal.SIGKILL)
                at_point(point)
            pauses.go_on()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def rename_in_store(store: Path, names: Mapping[str, str]) -> None:
    """Tell a copy of MLflow's store where it is now: it keeps absolute paths. SQLite allows it for equal lengths."""
    pairs = [(old.encode(), new.encode()) for old, new in names.items()]
    assert all(len(old) == len(new) for old, new in pairs)
    for file in store.rglob("*"):
        if file.is_file():
            content = before = file.read_bytes()
            for old, new in pairs:
                content = content.replace(old, new)
            if content != before:
                file.write_bytes(content)
