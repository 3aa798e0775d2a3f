"""A contestant runs in a process of its own, so that nobody inherits another's warm caches, memory or threads.

The parent writes a task as JSON, the child (``python -m benchmarks.contestant TASK RESULT``) looks up the contestant's
function, runs it, and writes its result as JSON. What a contestant may not do in this process, such as choosing the
threads of a library that is already loaded, it can do in its own.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyspark.sql import SparkSession

from benchmarks.data import Shape
from recsys.errors import RecsysError
from recsys.session import ONE_THREAD, ROOT, start_session

CORES: Final = 2
WORK: Final = ROOT / "build" / "benchmarks"

# Name → module; the function has the name's last part. Nothing else can be asked for.
CONTESTANTS: Final = {
    **dict.fromkeys(("ours.fit", "ours.job", "ours.fill", "ours.prepare_refresh", "ours.refresh"), "benchmarks.ours"),
    **dict.fromkeys(("ours.recommend", "ours.exchange", "ours.block_bytes", "ours.planned"), "benchmarks.ours"),
    **dict.fromkeys(("peers.mllib_fit", "peers.mllib_recommend", "peers.cmfrec_fit"), "benchmarks.peers"),
    **dict.fromkeys(("peers.implicit_fit", "peers.implicit_recommend"), "benchmarks.peers"),
    **dict.fromkeys(
        ("ingest.land", "ingest.plain", "ingest.ours", "ingest.backlog", "ingest.adopt"), "benchmarks.ingest"
    ),
}
_MEMORY_PERIOD: Final = 0.25  # seconds between two looks at memory
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Result = dict[str, Any]


class ContestantError(RecsysError):
    """A contestant failed; the message says which and what to do."""


class PeerMissingError(ContestantError):
    """A rival is not installed, so its rows stay empty."""


@dataclass(frozen=True)
class Task:
    """What a contestant is asked.

    Attributes:
        contestant: a name in CONTESTANTS.
        shape: of the generated ratings.
        options: what else its function reads.
        threads: of OpenMP and numba libraries; BLAS has one everywhere. Spark contestants have one a task.
        work: folder for warehouses and logs.
    """

    contestant: str
    shape: Shape
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    work: str = str(WORK)

    def to_json(self) -> str:
        """The task, for the child."""
        return json.dumps({**self.__dict__, "shape": self.shape.to_dict(), "options": dict(self.options)})

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """The task, in the child."""
        fields = json.loads(text)
        return cls(**{**fields, "shape": Shape(**fields["shape"])})


class Clock:
    """Seconds since it was made, less what was spent in ``paused``."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._paused = 0.0

    @property
    def seconds(self) -> float:
        """Seconds that count."""
        return time.monotonic() - self._began - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do something that does not count, such as judging."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began


class MemoryWatch:
    """The most memory that a process and everything it started held at once, in bytes.

    Resident sets are added up, so pages that processes share count for each of them: an upper bound.

    Args:
        leave_out: name of processes that do not count, such as ``java``.
        root: id of the process; None: this one.
    """

    def __init__(self, leave_out: str = "", *, root: int | None = None) -> None:
        self.peak = 0
        self._leave_out = leave_out
        self._root = os.getpid() if root is None else root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_MEMORY_PERIOD):
            self.peak = max(self.peak, resident_bytes(self._root, self._leave_out))


def resident_bytes(root: int, leave_out: str = "") -> int:
    """Resident sets of a process and all its descendants together, in bytes (Linux), but for those of that name."""
    parents: dict[int, int] = {}
    resident: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name in brackets may hold anything, so what follows is counted from its end.
            name, _, rest = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        stat = rest.split()
        counts = not leave_out or name.partition("(")[2] != leave_out
        parents[int(folder.name)], resident[int(folder.name)] = int(stat[1]), counts * int(stat[21]) * _PAGE
    total = 0
    for process, size in resident.items():
        at = process
        while at not in (root, 0):
            at = parents.get(at, 0)
        total += size if at == root else 0
    return total


def run(task: Task) -> Result:
    """Run one contestant and return its result with ``wall_seconds`` and ``peak_bytes`` added.

    Its messages go to this process's stderr.

    Raises:
        PeerMissingError: it is a rival that is not installed.
        ContestantError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "task.json", Path(folder) / "result.json"
        asked.write_text(task.to_json(), encoding="utf-8")
        # Libraries that run threads of their own call BLAS from each: a BLAS with threads too would run over them.
        threads = {**ONE_THREAD, **dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(task.threads))}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **threads, "PYTHONPATH": path}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.contestant", str(asked), str(answered)],
            cwd=ROOT,
            env=environment,
            stdout=sys.stderr,
            check=False,
        )
        if not answered.exists():
            raise ContestantError(
                f"{task.contestant} on {task.shape.n_ratings:,} ratings ended with exit code {done.returncode} and "
                "without a result. Its own messages are above; 137 means that memory ran out."
            )
        result: Result = json.loads(answered.read_text(encoding="utf-8"))
    if "missing" in result:
        raise PeerMissingError(result["missing"])
    return {**result, "wall_seconds": time.monotonic() - began}


def perform(task: Task) -> Result:
    """Run a contestant's function in this process and measure its memory.

    Raises:
        ContestantError: there is no contestant of that name.
    """
    module = CONTESTANTS.get(task.contestant)
    if module is None:
        raise ContestantError(f"no contestant '{task.contestant}'. There are: {', '.join(sorted(CONTESTANTS))}.")
    function = getattr(importlib.import_module(module), task.contestant.rpartition(".")[2])
    with MemoryWatch() as memory:
        result: Result = function(task)
    return {**result, "peak_bytes": memory.peak}


def open_session(task: Task, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The Spark session of a contestant: ``local[2]``, the settings of conf/spark-local.conf, then ``conf``."""
    common = {
        "spark.master": f"local[{CORES}]",
        "spark.driver.memory": task.options.get("driver_memory", "4g"),
        "spark.sql.warehouse.dir": str(Path(task.work) / "spark-warehouse"),
        "spark.executorEnv.PYTHONPATH": str(ROOT),
    }
    spark = start_session(f"benchmark {task.contestant}", conf={**common, **(conf or {})})
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def say(line: str) -> None:
    """Tell who waits what happens."""
    print(f"  {line}", file=sys.stderr, flush=True)
