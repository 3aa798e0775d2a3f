"""A small project, Spark and Hadoop for tests of the launcher: scripts that write down how they were called. No JVM."""

import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import launch.main
from recsys.session import ROOT

APPLICATION = "application_1700000000000_0001"

JOB = """
import sys
def run_job(): ...
if "--bad" in sys.argv:
    print("error: --bad is no setting", file=sys.stderr)
    sys.exit(2)
print("the job ran here:", *sys.argv[1:])
"""

RECORD = """#!{python} -SE
import json, os, pathlib, shutil, sys
world = pathlib.Path({world!r})
def record(**call):
    with (world / "calls.jsonl").open("a") as file:
        file.write(json.dumps(call) + "\\n")
def hdfs(path): return world / "hdfs" / path.split("://", 1)[1].lstrip("/")
"""

JAVA = (
    RECORD
    + """
main = next(i for i, word in enumerate(sys.argv) if word.startswith("org.apache.hadoop"))
tool, words = sys.argv[main].rpartition(".")[2], sys.argv[main + 1:]
record(tool=tool, words=words, jvm=sys.argv[1:main])
def fail(text, code=1): print(text, file=sys.stderr); sys.exit(code)
if (world / tool).exists():  # scripted
    print((world / tool).read_text())
    sys.exit(int((world / f"{{tool}}.code").read_text()) if (world / f"{{tool}}.code").exists() else 0)
while words[:1] == ["-D"]: words = words[2:]
if tool == "FsShell":
    verb, last = words[0], hdfs(words[-1])
    if verb == "-ls":
        if not last.exists(): fail(f"ls: `{{words[-1]}}': No such file or directory")
        for file in last.iterdir(): print(words[-1] + "/" + file.name)
    elif verb == "-mkdir": last.mkdir(parents=True)
    elif verb == "-put":
        for word in words[1:-1]: shutil.copy(word.removeprefix("file://"), last)
    elif verb == "-cat":
        if not last.exists(): fail(f"cat: `{{words[-1]}}': No such file or directory")
        print(last.read_text())
    elif verb == "-rm": last.unlink(missing_ok=True)
elif tool == "QueueCLI":
    if words[-1] not in ("default", "batch"):
        print(f"Cannot get queue from RM by queueName = {{words[-1]}}, please check.")
        sys.exit(255)
"""
)

SPARK_SUBMIT = (
    RECORD
    + """
file = pathlib.Path(sys.argv[sys.argv.index("--properties-file") + 1])
record(tool="spark-submit", words=sys.argv[1:], properties=file.read_text(), mode=file.stat().st_mode & 0o777,
       environ=dict(os.environ))
if (world / "log").exists(): print((world / "log").read_text(), file=sys.stderr, end="")
if (world / "outcome").exists():
    [path] = [w.partition("RECSYS_OUTCOME=")[2] for w in sys.argv if "RECSYS_OUTCOME=" in w]
    hdfs(path).parent.mkdir(parents=True, exist_ok=True)
    hdfs(path).write_text((world / "outcome").read_text())
sys.exit(int((world / "code").read_text()) if (world / "code").exists() else 0)
"""
)


class Became(Exception):  # noqa: N818 - not an error
    """The launcher would be another program now: its path, arguments and environment."""


@dataclass(frozen=True)
class World:
    """Where everything is: ``root`` is the project, the scripts read and write beside it."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "project"

    @property
    def hdfs(self) -> Path:
        """What stands for HDFS."""
        return self.folder / "hdfs"

    def script(self, name: str, content: str) -> None:
        """Decide what spark-submit does (``log``, ``outcome``, ``code``), or what a tool prints (its name)."""
        (self.folder / name).write_text(content)

    def calls(self, tool: str | None = None) -> list[dict[str, Any]]:
        """What was called, in order."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if tool in (None, call["tool"])]

    def environ(self, **more: str) -> dict[str, str]:
        """The submitter's environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": f"{self.root}:{ROOT}",
            "SPARK_HOME": str(self.folder / "spark"),
            "JAVA_HOME": str(self.folder / "java"),
            "HADOOP_CONF_DIR": str(self.folder / "hadoop"),
            **more,
        }


def make_world(folder: Path, *, port: int) -> World:
    """Build it; ``port`` answers for NameNode and ResourceManager."""
    world = World(folder)
    for name in ("project/jobs", "project/recsys", "project/.jars", "project/requirements"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(ROOT / "conf", world.root / "conf")
    (world.root / "jobs" / "status.py").write_text(JOB)
    (world.root / "recsys" / "__init__.py").write_text("")
    (world.root / "requirements" / "runtime.txt").write_text("")
    for name in ("delta-spark_1.jar", "delta-storage-1.jar"):
        (world.root / ".jars" / name).write_text(name)
    for name in (
        "spark/jars/spark-core_2.13-4.2.0.jar",
        "spark/python/lib/pyspark.zip",
        "spark/python/lib/py4j-src.zip",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    _executable(folder / "spark" / "bin" / "spark-submit", SPARK_SUBMIT, folder)
    _executable(folder / "java" / "bin" / "java", JAVA, folder)
    (folder / "java" / "release").write_text('JAVA_VERSION="17.0.15"\n')
    write_site(folder / "hadoop" / "core-site.xml", {"fs.defaultFS": f"hdfs://localhost:{port}"})
    write_site(folder / "hadoop" / "yarn-site.xml", {"yarn.resourcemanager.address": f"localhost:{port}"})
    (folder / "hdfs").mkdir()
    return world


def write_site(file: Path, properties: dict[str, str]) -> None:
    """One of Hadoop's site files."""
    rows = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in properties.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<configuration>{rows}</configuration>")


@contextmanager
def listening() -> Iterator[int]:
    """A port that accepts connections."""
    with socket.create_server(("localhost", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    """A port that refuses them."""
    with listening() as port:
        return port


def report(state: str, *, status: str = "UNDEFINED", diagnostics: str = "N/A") -> str:
    """What Spark's ``Client`` logs when an application's state changes."""
    return (
        f"INFO Client: Application report for {APPLICATION} (state: {state})\n"
        f"INFO Client: \n\t client token: N/A\n\t diagnostics: {diagnostics}\n\t ApplicationMaster host: N/A\n"
        f"\t ApplicationMaster RPC port: -1\n\t queue: default\n\t start time: 1\n\t final status: {status}\n"
        f"\t tracking URL: http://rm:8088/proxy/{APPLICATION}/\n\t user: someone\n"
    )


SUBMITTED = f"INFO Client: Submitting application {APPLICATION} to ResourceManager\n"
SUCCEEDED = SUBMITTED + report("ACCEPTED") + report("RUNNING") + report("FINISHED", status="SUCCEEDED")


def run_launcher(monkeypatch: pytest.MonkeyPatch, world: World, *words: str, **environ: str) -> int:
    """The launcher in this process, in the world's project."""
    monkeypatch.setattr(launch.main, "ROOT", world.root)
    monkeypatch.setattr(os, "execve", _become)
    monkeypatch.chdir(world.folder)
    wanted = world.environ(**environ)
    for name in list(os.environ):
        if not name.startswith("PYTEST"):
            monkeypatch.delenv(name)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    return launch.main.main(words)


def _become(*call: Any) -> None:
    """In the place of ``execve``, which would end the tests."""
    raise Became(call)


def _executable(file: Path, script: str, world: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script.format(python=sys.executable, world=str(world)))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
