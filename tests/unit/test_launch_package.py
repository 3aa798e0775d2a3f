"""The code that travels with every application."""

import io
import tarfile
from pathlib import Path

from launch.package import pack_package, write_package
from recsys.session import ROOT


def make_project(root: Path) -> Path:
    for name in (
        "recsys/als/kernels.py",
        "recsys/als/__pycache__/kernels.cpython-311.pyc",
        "recsys/als/__pycache__/kernels.solve-1.py311.nbi",
        "recsys/als/__pycache__/kernels.solve-1.py311.1.nbc",
        "jobs/status.py",
        "jobs/.secret",
        "conf/base.yaml",
        "conf/contracts/ratings.yaml",
        "tests/test_it.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(data: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return set(archive.getnames())


def test_code_settings_and_compiled_kernels_travel_and_nothing_else(tmp_path: Path) -> None:
    _, data = pack_package(make_project(tmp_path))
    assert names(data) == {
        "recsys/als/kernels.py",
        "recsys/als/__pycache__/kernels.solve-1.py311.nbi",
        "recsys/als/__pycache__/kernels.solve-1.py311.1.nbc",
        "jobs/status.py",
        "conf/base.yaml",
        "conf/contracts/ratings.yaml",
    }


def test_the_same_code_has_the_same_name_wherever_and_whenever_it_is_packed(tmp_path: Path) -> None:
    one, two = make_project(tmp_path / "one"), make_project(tmp_path / "two")
    (two / "jobs" / "status.py").touch()
    assert pack_package(one) == pack_package(two)
    assert pack_package(one)[1][4:8] == bytes(4)  # gzip's own time stamp
    (two / "jobs" / "status.py").write_text("changed")
    assert pack_package(one)[0] != pack_package(two)[0]


def test_the_project_itself_is_shipped_with_what_its_jobs_read() -> None:
    name, data = pack_package(ROOT)
    assert name.endswith(".tar.gz")  # by this YARN knows how to unpack it
    needed = {"conf/base.yaml", "conf/yarn.yaml", "conf/spark-yarn.conf", "conf/contracts/ratings.yaml"}
    assert needed | {"recsys/session.py", "jobs/runner.py"} <= names(data)


def test_writing_it_twice_leaves_one_file(tmp_path: Path) -> None:
    file = tmp_path / "build" / "x.tar.gz"
    write_package(file, b"data")
    before = file.stat().st_ino
    write_package(file, b"data")
    assert file.stat().st_ino == before
    assert list(file.parent.iterdir()) == [file]
