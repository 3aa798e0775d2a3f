"""The environment archive: what is packed, and what is refused before anything is submitted (case 89)."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from launch import environment
from launch.environment import MINOR, archive_name, check_archive, inspect_archive, pack_environment, pins
from recsys.errors import ConfigError
from recsys.session import ROOT

METADATA = f"lib/python{MINOR}/site-packages/{{}}.dist-info/METADATA"


def make_archive(file: Path, links: Mapping[str, str], files: tuple[str, ...] = ()) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        for name in files:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return file


def refusal(archive: Path, wanted: Mapping[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        check_archive(inspect_archive(archive), archive, wanted)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_case_89_an_environment_whose_base_python_was_removed_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base" / "bin" / "python3"
    base.parent.mkdir(parents=True)
    base.symlink_to(sys.executable)
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(base)
    archive = tmp_path / "environment.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(venv / "bin" / "python", "bin/python")
    check_archive(inspect_archive(archive), archive, {})  # the base is there
    shutil.rmtree(tmp_path / "base")
    said = refusal(archive, {})
    assert f"bin/python, is a link to '{base}', which does not exist" in said
    assert "spark.recsys.python" in said


@pytest.mark.parametrize(
    ("links", "files"),
    [
        ({"bin/python": "python3"}, ()),
        ({"bin/python": "python3", "bin/python3": "../../outside/python"}, ()),
        ({"bin/python": "python3", "bin/python3": "python"}, ()),
    ],
)
def test_case_89_a_link_that_ends_nowhere_in_the_archive_is_refused(
    links: dict[str, str], files: tuple[str, ...], tmp_path: Path
) -> None:
    assert "does not exist" in refusal(make_archive(tmp_path / "e.tar.gz", links, files), {})


def test_links_are_followed_inside_the_archive(tmp_path: Path) -> None:
    links = {"bin/python": "python3", "bin/python3": "../opt/python"}
    archive = make_archive(tmp_path / "e.tar.gz", links, ("opt/python",))
    assert inspect_archive(archive).python == "opt/python"


def test_case_89_another_python_version_is_refused(tmp_path: Path) -> None:
    other = "lib/python3.9/site-packages/numpy-2.0.dist-info/METADATA"
    archive = make_archive(tmp_path / "e.tar.gz", {}, ("bin/python", other))
    assert f"is for Python 3.9, the jobs run on {MINOR}" in refusal(archive, {"numpy": "2.0"})


def test_case_89_missing_packages_are_named(tmp_path: Path) -> None:
    packages = (METADATA.format("numpy-2.4.6"), METADATA.format("PyYAML-6.0.3"))
    archive = make_archive(tmp_path / "e.tar.gz", {}, ("bin/python", *packages))
    wanted = {"numpy": "2.4.6", "pyyaml": "6.0.3"}
    check_archive(inspect_archive(archive), archive, wanted)
    assert "lacks numba, pyarrow." in refusal(archive, wanted | {"numba": "1", "pyarrow": "1"})
    many = dict.fromkeys("abcdefgh", "1")
    assert "lacks a, b, c, d, e and 3 more." in refusal(archive, many)


def test_case_89_a_torn_archive_and_one_without_python_are_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "e.tar.gz", {}, ("lib/x",))
    assert "there is no bin/python in it" in refusal(archive, {})
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(ConfigError, match="cannot be read"):
        inspect_archive(archive)


def test_pins_are_read_from_the_lock_file_and_pyspark_comes_with_spark(tmp_path: Path) -> None:
    lock = tmp_path / "runtime.txt"
    lock.write_text(
        "numpy==2.4.6 \\\n    --hash=sha256:aa==bb\nPy_YAML[x]==6.0.3 ; python_version > '3'\npyspark==4.2.0\n"
    )
    assert pins(lock) == {"numpy": "2.4.6", "py-yaml": "6.0.3"}
    found = pins(ROOT / "requirements" / "runtime.txt")
    assert {"numba", "pyarrow", "py4j", "delta-spark", "mlflow"} <= found.keys()
    assert "pyspark" not in found


def test_the_name_follows_the_requirements_and_nothing_else(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("numpy==1\nnumba==2\n")
    two.write_text("# a comment\nnumba==2\nnumpy==1\n")
    assert archive_name(one) == archive_name(two)
    two.write_text("numba==2\nnumpy==2\n")
    assert archive_name(one) != archive_name(two)
    assert archive_name(one).startswith(f"environment-py{MINOR}-")


def test_a_packed_environment_passes_its_own_check_and_has_real_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_interpreter_files", lambda: [(f"bin/python{MINOR}", Path(sys.executable))])
    lock = tmp_path / "runtime.txt"
    lock.write_text("".join(f"{name}=={version}\n" for name, version in installed("six", "PyYAML").items()))
    target = tmp_path / "build" / archive_name(lock)
    pack_environment(target, lock)
    assert [file.name for file in target.parent.iterdir()] == [target.name]  # no draft stays
    with tarfile.open(target) as archive:
        members = {member.name: member for member in archive}
    assert members[f"bin/python{MINOR}"].isfile()  # the interpreter itself, not a link to it
    assert f"lib/python{MINOR}/site-packages/yaml/__init__.py" in members
    assert f"lib/python{MINOR}/site-packages/six.py" in members
    assert not any(name.startswith(("bin/pip", "lib/python3/pip")) or "numpy" in name for name in members)
    assert {(member.uid, member.uname) for member in members.values()} == {(0, "")}


def test_a_packed_python_runs_from_wherever_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the modules that Python needs to start are packed here, which keeps the test short."""
    stdlib = Path(os.__file__).parent
    start = [file for file in stdlib.iterdir() if file.suffix == ".py"]
    start += [file for name in ("encodings", "collections", "re", "importlib") for file in (stdlib / name).glob("*.py")]
    whole = dict(environment._interpreter_files())
    home = f"lib/python{MINOR}"
    few = {f"{home}/{file.relative_to(stdlib)}": file for file in start}
    few |= {name: file for name, file in whole.items() if not name.startswith(f"{home}/")}
    assert few.keys() <= whole.keys()
    monkeypatch.setattr(environment, "_interpreter_files", few.items)
    lock = tmp_path / "runtime.txt"
    lock.write_text("".join(f"{name}=={version}\n" for name, version in installed("six").items()))
    pack_environment(tmp_path / "e.tar.gz", lock)
    with tarfile.open(tmp_path / "e.tar.gz") as archive:
        archive.extractall(tmp_path / "elsewhere", filter="tar")
    (tmp_path / "environment").symlink_to(tmp_path / "elsewhere")  # as YARN links archives
    ask = "import six, sys; print(sys.prefix, six.__file__)"
    command = ["./environment/bin/python", "-c", ask]
    environ = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prefix, six = (Path(word).resolve() for word in done.stdout.split())
    assert prefix == tmp_path / "elsewhere"
    assert six.is_relative_to(prefix)


def test_the_whole_standard_library_is_packed_but_for_what_no_job_needs() -> None:
    names = dict(environment._interpreter_files())
    home = f"lib/python{MINOR}"
    assert {f"{home}/os.py", f"{home}/json/__init__.py", f"bin/python{MINOR}"} <= names.keys()
    assert any(name.startswith(f"{home}/lib-dynload/_ssl") for name in names)
    folders = {name.split("/")[2] for name in names if name.count("/") > 2}
    assert folders.isdisjoint({"test", "site-packages", "idlelib", "ensurepip"})


@pytest.mark.parametrize(("line", "said"), [("six==0.1", "pins 0.1"), ("no-such-thing==1", "not installed")])
def test_an_environment_other_than_the_pinned_one_is_not_packed(line: str, said: str, tmp_path: Path) -> None:
    lock = tmp_path / "runtime.txt"
    lock.write_text(line)
    with pytest.raises(ConfigError, match=said):
        pack_environment(tmp_path / "e.tar.gz", lock)
    assert not (tmp_path / "e.tar.gz").exists()


def installed(*names: str) -> dict[str, str]:
    wanted = pins(ROOT / "requirements" / "runtime.txt")
    return {name: wanted[name.lower()] for name in names}
