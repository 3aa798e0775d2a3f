"""What happens to the servers under a job of this process, at a moment that a test chooses, and how they show it."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from tests.cluster.applications import wait_for
from tests.cluster.hadoop import Hadoop
from tests.jobs.pauses import Pauses


@contextmanager
def disturbed(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    point: str,
    do: Callable[[], object],
    then: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Run a job of this process in the block; ``do`` happens once, while it stands at a point.

    Args:
        monkeypatch: for the environment.
        folder: of the pause file.
        point: a name in `recsys.store.pause`.
        do: what happens there; when it returns False it happens again when the job comes by again.
        then: what happens after it while the job goes on.
    """
    pauses, is_over = Pauses(folder / "paused", [point]), threading.Event()

    def act() -> None:
        try:
            is_done = False
            while not is_done:
                assert pauses.wait(is_over.is_set) == point, f"{point} was not reached, or nothing could be done there"
                try:
                    is_done = do() is not False
                finally:
                    pauses.go_on()
            then()
        finally:
            while pauses.wait(is_over.is_set):
                pauses.go_on()

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        for name, value in pauses.environment.items():
            patch.setenv(name, value)
        acting = pool.submit(act)
        try:
            yield
        finally:
            is_over.set()
        acting.result()


@contextmanager
def hdfs_client(spark: SparkSession, hadoop: Hadoop, settings: Mapping[str, str]) -> Iterator[None]:
    """In the block, new clients of HDFS have these settings; Hadoop keeps one for all, which is closed around it."""
    context: Any = spark.sparkContext
    conf = context._jsc.hadoopConfiguration()
    before = {key: conf.get(key) for key in settings}
    _close_client(spark, hadoop)
    for key, value in settings.items():
        conf.set(key, value)
    try:
        yield
    finally:
        _close_client(spark, hadoop)
        for key, old in before.items():
            conf.unset(key) if old is None else conf.set(key, old)


def _close_client(spark: SparkSession, hadoop: Hadoop) -> None:
    jvm: Any = spark._jvm
    context: Any = spark.sparkContext
    jvm.org.apache.hadoop.fs.Path(hadoop.fs).getFileSystem(context._jsc.hadoopConfiguration()).close()


@contextmanager
def as_user(spark: SparkSession, name: str) -> Iterator[None]:
    """In the block, this process is somebody else to HDFS; the one who started the NameNode may do everything."""
    jvm: Any = spark._jvm
    users = jvm.org.apache.hadoop.security.UserGroupInformation
    before = users.getLoginUser()
    users.setLoginUser(users.createRemoteUser(name))
    try:
        yield
    finally:
        users.setLoginUser(before)


def kill_amid_a_request(spark: SparkSession, hadoop: Hadoop) -> tuple[Callable[[], None], Callable[[], None]]:
    """Two steps for `disturbed`: the NameNode stands still, and it is killed when this process's request waits there.

    It is started again then.
    """
    namenode = int((hadoop.folder / "namenode.pid").read_text())
    jvm: Any = spark._jvm
    driver = int(jvm.java.lang.ProcessHandle.current().pid())

    def stop() -> None:
        os.kill(namenode, signal.SIGSTOP)

    def kill() -> None:
        try:
            wait_for("request", lambda: unread_bytes(hadoop.ports["namenode"], driver))
        finally:
            hadoop.kill("namenode")
            hadoop.launch("namenode")

    return stop, kill


def unread_bytes(port: int, process: int) -> int:
    """What a process has sent to a server of this machine that the server has not read."""
    sockets = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            sockets.add(str(entry.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = {_port(row[1]) for row in rows if _port(row[2]) == port and f"socket:[{row[9]}]" in sockets}
    return sum(int(row[4].partition(":")[2], 16) for row in rows if _port(row[1]) == port and _port(row[2]) in own)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def refused_in_safe_mode(hadoop: Hadoop) -> int:
    """How many requests the NameNode has refused because it is in safe mode."""
    bean = f"Hadoop:service=NameNode,name=RpcDetailedActivityForPort{hadoop.ports['namenode']}"
    with urllib.request.urlopen(f"http://localhost:{hadoop.ports['namenode-http']}/jmx?qry={bean}", timeout=10) as said:
        [found] = json.loads(said.read())["beans"]
    return int(found.get("SafeModeExceptionNumOps", 0))
