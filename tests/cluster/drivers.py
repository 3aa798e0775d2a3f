"""Drivers: processes with a session of their own that run one job after another, as tests tell them.

A process a job would cost a JVM each; who shares tables with whom, and when, is the same.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recsys.session import ROOT
from tests.cluster.jobs import Ended

_SECONDS = 600.0

# One line of standard input a job; what it ended with goes into a file of its number.
_DRIVER = """
import importlib, io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from recsys.session import start_session
from tests.sessions import TWO_TASKS

folder = Path(sys.argv[1])
spark = start_session("driver", conf={**TWO_TASKS, "spark.master": "local[1]", "spark.driver.memory": "1g"})
spark.range(1).collect()
(folder / "ready").touch()
for number, line in enumerate(sys.stdin):
    job = json.loads(line)
    os.environ.update(job["environment"])
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = importlib.import_module(job["module"]).main(job["arguments"])
        except SystemExit as ended:
            code = ended.code
    for key in job["environment"]:
        del os.environ[key]
    written = folder / f"{number}.new"
    written.write_text(json.dumps([code, out.getvalue(), err.getvalue()]))
    written.rename(folder / f"{number}.json")
"""


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = _SECONDS) -> None:
    """Wait for a condition that another process brings about."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


@dataclass
class Driver:
    """One process; it and its JVM are a process group."""

    folder: Path
    process: "subprocess.Popen[str]"
    _started: int = field(default=0)

    def begin(self, module: str, arguments: Sequence[str], *, pause_at: str = "") -> "Running":
        """Let it run a job, which stops at a pause point if one is named."""
        paused = self.folder / f"{self._started}.paused"
        environment = {"RECSYS_PAUSE_AT": pause_at, "RECSYS_PAUSE_FILE": str(paused)} if pause_at else {}
        job = {"module": module, "arguments": list(arguments), "environment": environment}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        self._started += 1
        running = Running(self, self.folder / f"{self._started - 1}.json", paused)
        if pause_at:
            wait_until(lambda: paused.exists() or running.has_ended, f"{module} at {pause_at}")
            assert not running.has_ended, running.end()
        return running

    def run(self, module: str, arguments: Sequence[str]) -> Ended:
        """Let it run a job to its end."""
        return self.begin(module, arguments).end()

    def stop(self) -> None:
        """Give it no more time, like a machine that is swapping or a virtual one that is being moved."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        os.killpg(self.process.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Running:
    """A job that a driver has begun."""

    driver: Driver
    result: Path
    paused: Path

    @property
    def has_ended(self) -> bool:
        """Whether it has, with whatever code."""
        assert self.driver.process.poll() is None, (self.driver.folder / "said").read_text()[-4000:]
        return self.result.exists()

    def go_on(self) -> None:
        """Let it leave its pause point."""
        self.paused.unlink()

    def end(self) -> Ended:
        """Wait for its end."""
        wait_until(lambda: self.has_ended, f"the end of {self.result}")
        return Ended(*json.loads(self.result.read_text()))


@contextmanager
def start_drivers(folder: Path, count: int, environment: Mapping[str, str]) -> Iterator[list[Driver]]:
    """Start so many drivers at once, and kill them at the end."""
    drivers = []
    try:
        for number in range(count):
            own = folder / f"driver-{number}"
            own.mkdir(parents=True)
            with (own / "said").open("w") as said:
                process = subprocess.Popen(
                    [sys.executable, "-c", _DRIVER, str(own)],
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=said,
                    text=True,
                    start_new_session=True,
                )
            drivers.append(Driver(own, process))
        for driver in drivers:
            wait_until(
                lambda own=driver: (own.folder / "ready").exists() or own.process.poll() is not None, "a session"
            )
            assert driver.process.poll() is None, (driver.folder / "said").read_text()[-4000:]
        yield drivers
    finally:
        for driver in drivers:
            if driver.process.poll() is None:
                os.killpg(driver.process.pid, signal.SIGKILL)
            driver.process.wait()
            if driver.process.stdin is not None:
                driver.process.stdin.close()
