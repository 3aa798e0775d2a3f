"""Hadoop's own command line tools, out of the client that Spark brings: no Hadoop has to be installed.

They speak Hadoop's protocols, so they work on secured clusters too, with the ticket of ``kinit``; the REST interfaces
of the same services would need SPNEGO there, which Python's standard library has not. A call costs a JVM, a second
(`launch.classes`).
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launch.classes import run_archived
from recsys.errors import ConfigError

_FS_SHELL: Final = "org.apache.hadoop.fs.FsShell"
_QUEUE_CLI: Final = "org.apache.hadoop.yarn.client.cli.QueueCLI"
_LOGS_CLI: Final = "org.apache.hadoop.yarn.client.cli.LogsCLI"
_JVM: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true")
_READABLE_BY_ALL: Final = "fs.permissions.umask-mode=022"
# YARN's client tries for 15 minutes by default; `launch.cluster` has just seen the ResourceManager answer.
_BRIEF: Final = "yarn.resourcemanager.connect.max-wait.ms=30000"
_AM_CONTAINER: Final = re.compile(r"^Container: (container_\S*_(\d+)_000001) on ", re.MULTILINE)
_CONTENTS: Final = re.compile(r"^Log ?Contents:\n(.*?)End of LogType:", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Hadoop:
    """Runs the tools.

    Args:
        java: The JVM.
        spark_home: Where Spark's jars are.
        conf: ``HADOOP_CONF_DIR``.
        log4j: What the tools log, and how.
        environ: Their environment.
        build: Folder for what makes them start sooner.
    """

    java: Path
    spark_home: Path
    conf: Path
    log4j: Path
    environ: Mapping[str, str]
    build: Path

    def list_names(self, folder: str) -> frozenset[str] | None:
        """Names of the files in a folder; None where there is no folder.

        Raises:
            ConfigError: it cannot be listed.
        """
        done = self._run(_FS_SHELL, "-ls", "-C", folder)
        if done.returncode and "No such file or directory" in done.stderr:
            return None
        _expect_success(done, f"the folder '{folder}' cannot be listed")
        return frozenset(line.rpartition("/")[2] for line in done.stdout.splitlines() if line)

    def make_folder(self, folder: str) -> None:
        """Create a folder and those above it, readable by all.

        Raises:
            ConfigError: it cannot be created.
        """
        done = self._run(_FS_SHELL, "-D", _READABLE_BY_ALL, "-mkdir", "-p", folder)
        _expect_success(done, f"the folder '{folder}' cannot be created")

    def upload(self, files: Sequence[Path], folder: str) -> None:
        """Copy local files into a folder, readable by all; each appears whole or not at all.

        ``-put`` writes under another name and renames (CommandWithDestination.copyStreamToTarget).

        Raises:
            ConfigError: they are not all there at the end.
        """
        words = ("-D", _READABLE_BY_ALL, "-put", *(file.as_uri() for file in files), f"{folder}/")
        done = self._run(_FS_SHELL, *words, seconds=3600.0)
        if done.returncode:  # another launcher may have been faster
            there = self.list_names(folder) or frozenset()
            if not there.issuperset(file.name for file in files):
                _expect_success(done, f"'{folder}' cannot be written")

    def read(self, path: str) -> str | None:
        """The text of a small file; None where there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        done = self._run(_FS_SHELL, "-cat", path)
        if done.returncode and "No such file or directory" in done.stderr:
            return None
        _expect_success(done, f"'{path}' cannot be read")
        return done.stdout

    def remove(self, path: str) -> None:
        """Remove a file; what cannot be removed stays."""
        self._run(_FS_SHELL, "-rm", "-f", "-skipTrash", path)

    def check_queue(self, queue: str) -> None:
        """Ask the ResourceManager for a queue.

        Raises:
            ConfigError: there is none of this name, or the question could not be put.
        """
        done = self._run(_QUEUE_CLI, "-D", _BRIEF, "-status", queue)
        if "Cannot get queue from RM" in done.stdout:
            raise ConfigError(f"queue '{queue}' does not exist. Name one with --queue, or set spark.yarn.queue.")
        _expect_success(done, f"the ResourceManager did not say whether queue '{queue}' exists")

    def driver_log(self, application: str, *, n_bytes: int) -> str:
        """The end of what the driver printed in its last attempt; empty where YARN has no logs of it (yet).

        All containers are asked for, because ``-am`` needs an HTTP client that is not among Spark's jars.
        """
        done = self._run(_LOGS_CLI, "-applicationId", application, "-log_files", "stdout", "-size", str(-n_bytes))
        return "" if done.returncode else last_driver_output(done.stdout)

    def _run(self, main: str, *words: str, seconds: float = 120.0) -> "subprocess.CompletedProcess[str]":
        jars = self.spark_home / "jars"
        classpath = os.pathsep.join((f"{jars}/*", str(self.conf)))
        log = f"-Dlog4j2.configurationFile=file:{self.log4j}"

        def run(options: Sequence[str]) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [str(self.java), *_JVM, *options, log, "-cp", classpath, main, *words],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=seconds,
                env=self.environ,
            )

        try:
            return run_archived(run, self.java, jars, main, self.build / "classes")
        except subprocess.TimeoutExpired as err:
            tool = " ".join((main.rpartition(".")[2], *words[:6]))
            raise ConfigError(f"Hadoop's {tool} did not end in {seconds:.0f} s. Is the cluster healthy?") from err


def last_driver_output(text: str) -> str:
    """Out of all containers' logs, those of the last application master.

    A container's log begins with ``Container: container_<time>_<application>_<attempt>_<number> on <node>``; the
    application master is number 1 of its attempt.
    """
    found: dict[int, str] = {}
    for block in re.split(r"^(?=Container: )", text, flags=re.MULTILINE):
        master = _AM_CONTAINER.match(block)
        if master is not None:
            found[int(master[2])] = "".join(match[1] for match in _CONTENTS.finditer(block))
    return found[max(found)].strip() if found else ""


def _expect_success(done: "subprocess.CompletedProcess[str]", what: str) -> None:
    if done.returncode:
        raise ConfigError(f"{what}: {_reason(done)}")


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """The line in which a tool says what is wrong: the first that is no trace and no warning."""
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines()]
    said = [line for line in lines if line and not line.startswith(("at ", "WARN", "...", "Caused by"))]
    return said[0] if said else f"it ended with {done.returncode} and said nothing"
