"""An application on YARN that a test stops at pause points, and whose processes it kills, by their ids."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tests.cluster.hadoop import Hadoop
from tests.cluster.jobs import SHARED, Ended, submit
from tests.jobs.pauses import Pauses

_EXECUTOR: Final = "org.apache.spark.executor.YarnCoarseGrainedExecutorBackend"
_DRIVER: Final = "org.apache.spark.deploy.yarn.ApplicationMaster"
_WAIT_SECONDS: Final = 900.0  # a busy machine


class Application:
    """One submission, while it runs; made by `started`."""

    def __init__(self, hadoop: Hadoop, pauses: Pauses, ended: "Future[Ended]", known: Collection[str]) -> None:
        """``known``: applications that were there before it."""
        self.hadoop = hadoop
        self.pauses = pauses
        self.ended = ended
        self._known = known

    @cached_property
    def id(self) -> str:
        """YARN's name for it."""

        def find() -> str | None:
            new = [each["id"] for each in self.hadoop.applications() if each["id"] not in self._known]
            assert new or not self.ended.done(), self.ended.result().err
            return new[0] if new else None

        return str(wait_for("application", find))

    def stands_at(self, point: str) -> bool:
        """Wait until the driver stands at a point, past others; False when it ended before."""
        while True:
            at = self.pauses.wait(self.ended.done)
            if at in (point, None):
                return at == point
            self.pauses.go_on()

    def result(self) -> Ended:
        """What the launcher left at the application's end; the driver stops at no point any more."""
        while self.pauses.wait(self.ended.done) is not None:
            self.pauses.go_on()
        return self.ended.result()

    def attempts(self) -> list[dict[str, Any]]:
        """What YARN says of every start of the driver."""
        found: list[dict[str, Any]] = self._ask(f"/ws/v1/cluster/apps/{self.id}/appattempts")["appAttempts"][
            "appAttempt"
        ]
        return found

    def executors(self) -> dict[str, int]:
        """The process of each living executor, by the executor's number."""
        found = processes(self.id, _EXECUTOR)
        return {words[words.index("--executor-id") + 1]: process for process, words in found.items()}

    def kill_driver(self) -> None:
        """SIGKILL to the application master, in which the driver's JVM is; then everything of its container has to go.

        Nobody may be left who could go on to write what a second attempt writes.
        """
        [driver] = processes(self.id, _DRIVER)
        container = Path(f"/proc/{driver}/cwd").readlink().name
        os.kill(driver, signal.SIGKILL)
        wait_until_gone(container)

    def kill_executor_at_work(self) -> None:
        """SIGKILL to an executor that has been given tasks; the driver stands at a pause point and goes on.

        Both executors are stopped before, so that what the driver asks of them next cannot be done before the kill.
        """
        wait_for("two executors", lambda: len(self._active()) == 2)
        executors = self.executors()
        for process in executors.values():
            os.kill(process, signal.SIGSTOP)
        try:
            self.pauses.go_on()
            wait_for("tasks", lambda: any(self._active().values()))
            at_work = max(self._active().items(), key=lambda each: each[1])[0]
            os.kill(executors[at_work], signal.SIGKILL)
        finally:
            for process in self.executors().values():
                os.kill(process, signal.SIGCONT)

    def kill_all_executors(self) -> None:
        """SIGKILL to all executors, and to those that come in their place, until the application has ended."""
        while not self.ended.done():
            for process in self.executors().values():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.2)

    def _active(self) -> dict[str, int]:
        """Number of tasks that the driver waits for, by executor."""
        listed = self._ask(f"/proxy/{self.id}/api/v1/applications/{self.id}/executors")
        return {each["id"]: int(each["activeTasks"]) for each in listed if each["id"] != "driver" and each["isActive"]}

    def _ask(self, path: str) -> Any:
        return ask(self.hadoop, path)


@contextmanager
def started(
    hadoop: Hadoop,
    job: str,
    words: Sequence[str],
    folder: Path,
    *,
    points: Sequence[str] = (),
    conf: Mapping[str, str] | None = None,
) -> Iterator[Application]:
    """Submit a job in cluster mode; at the end of the block it is over, one way or the other.

    Args:
        hadoop: the cluster.
        job: its name.
        words: its arguments.
        folder: for the pause file.
        points: where the driver stops.
        conf: Spark's properties beside the tests' usual ones.
    """
    pauses = Pauses(folder / "paused", points)
    environment = {f"spark.yarn.appMasterEnv.{name}": value for name, value in pauses.environment.items()}
    known = {each["id"] for each in hadoop.applications()}
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(submit, hadoop, job, *words, conf={**SHARED, **environment, **(conf or {})})
        application = Application(hadoop, pauses, ended, known)
        try:
            yield application
        finally:
            if not ended.done():
                end(hadoop, application.id)
                pauses.go_on()


def end(hadoop: Hadoop, application: str) -> None:
    """Let YARN end an application."""
    ask(hadoop, f"/ws/v1/cluster/apps/{application}/state", {"state": "KILLED"}, method="PUT")


def occupy(hadoop: Hadoop, queue: str, memory_mb: int) -> str:
    """An application that holds one container of this size and does nothing; returns its id."""
    new = ask(hadoop, "/ws/v1/cluster/apps/new-application", {}, method="POST")["application-id"]
    request = {
        "application-id": new,
        "application-name": "occupies memory",
        "application-type": "YARN",
        "queue": queue,
        "max-app-attempts": 1,
        "am-container-spec": {"commands": {"command": "sleep 600"}},
        "resource": {"memory": memory_mb, "vCores": 1},
    }
    ask(hadoop, "/ws/v1/cluster/apps", request, method="POST")
    return str(new)


@contextmanager
def enforced_memory(hadoop: Hadoop) -> Iterator[None]:
    """The NodeManager, restarted, ends containers that take more memory than they were given; it looks twice a second.

    Not for all tests: their containers are small, and processes of this machine share it.
    """
    site, check = hadoop.conf / "yarn-site.xml", "<name>yarn.nodemanager.pmem-check-enabled</name>"
    before = site.read_text()
    # By its default cgroups are taken to see to memory, also where there are none, and nothing is ended.
    properties = {
        "yarn.nodemanager.container-monitor.interval-ms": "500",
        "yarn.nodemanager.resource.memory.enforced": "false",
    }
    more = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>" for name, value in properties.items()
    )
    after = before.replace(f"{check}<value>false</value>", f"{check}<value>true</value>")
    assert after != before
    try:
        _restart_node(hadoop, after.replace("</configuration>", f"{more}</configuration>"))
        yield
    finally:
        _restart_node(hadoop, before)


def _restart_node(hadoop: Hadoop, site: str) -> None:
    (hadoop.conf / "yarn-site.xml").write_text(site)
    hadoop.kill("nodemanager")
    hadoop.restart("nodemanager")


def ask(hadoop: Hadoop, path: str, content: Mapping[str, Any] | None = None, *, method: str = "GET") -> Any:
    """The ResourceManager's answer over HTTP; None where it says nothing."""
    request = urllib.request.Request(
        f"http://localhost:{hadoop.ports['resourcemanager-http']}{path}",
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def processes(application: str, main: str) -> dict[int, list[str]]:
    """Living Java processes of an application with this main class, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
        except (OSError, ValueError):  # not a process, or one that has ended meanwhile
            continue
        # The shells that start them have the same words in one.
        if Path(words[0]).name == "java" and main in words and any(application in word for word in words):
            found[int(folder.name)] = words
    return found


def processes_in(container: str) -> dict[int, str]:
    """Processes that work in a container's folder, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if container in str((folder / "cwd").readlink()):
                found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")[:200]
        except OSError:  # not a process, or one that has ended
            continue
    return found


def wait_until_gone(container: str) -> None:
    """Wait until nothing works in a container's folder any more."""
    try:
        wait_for("end", lambda: not processes_in(container), seconds=60)
    except AssertionError as err:
        raise AssertionError(f"in {container} there is still {processes_in(container)}") from err


def wait_for(what: str, find: Callable[[], Any], seconds: float = _WAIT_SECONDS) -> Any:
    """What a function finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while True:
        found = find()
        if found:
            return found
        assert time.monotonic() < deadline, f"there was no {what} in {seconds:.0f} s"
        time.sleep(0.1)
