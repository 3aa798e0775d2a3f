"""Hadoop's tools start with classes that an earlier run has read; a JVM that has none, or others, does as well."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pyspark
import pytest

from launch.classes import Done, run_archived
from launch.java import find_java
from recsys.session import ROOT
from tests.launches import write_site

FS_SHELL = "org.apache.hadoop.fs.FsShell"


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    """Spark's, in a folder that a test may change."""
    folder = tmp_path / "jars"
    folder.mkdir()
    for jar in (Path(pyspark.__file__).parent / "jars").glob("*.jar"):
        (folder / jar.name).hardlink_to(jar)
    return folder


def list_folder(jars: Path, folder: Path, archives: Path) -> Done:
    """``hadoop fs -ls -C``; it tells where each class came from."""
    java, conf = find_java(ROOT, os.environ), archives.parent / "conf"
    write_site(conf / "core-site.xml", {})

    def run(options: Sequence[str]) -> Done:
        told = f"-Xlog:class+load:file={archives.parent}/loaded"
        return subprocess.run(
            [str(java), *options, told, "-cp", f"{jars}/*:{conf}", FS_SHELL, "-ls", "-C", folder.as_uri()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run_archived(run, java, jars, FS_SHELL, archives)


def archived(archives: Path) -> int:
    """How many of Hadoop's classes the last run took from its own archive."""
    lines = (archives.parent / "loaded").read_text().splitlines()
    return sum("org.apache.hadoop" in line and "shared objects file (top)" in line for line in lines)


def test_the_second_run_of_a_tool_reads_no_class_of_its_jars_and_says_the_same(jars: Path, tmp_path: Path) -> None:
    archives, shown = tmp_path / "archives", tmp_path / "shown"
    shown.mkdir()
    (shown / "a").touch()
    failed = list_folder(jars, tmp_path / "nothing", archives)
    assert failed.returncode == 1
    assert list(archives.iterdir()) == []  # what a failing run loads is not what is needed

    first = list_folder(jars, shown, archives)
    assert archived(archives) == 0
    second = list_folder(jars, shown, archives)
    assert archived(archives) > 100
    assert (first.returncode, first.stdout, first.stderr) == (second.returncode, second.stdout, second.stderr)
    assert second.stdout.splitlines() == [f"file://{shown}/a"]


def test_an_archive_of_other_jars_is_replaced_and_one_that_kills_its_jvm_is_made_again(
    jars: Path, tmp_path: Path
) -> None:
    archives, shown = tmp_path / "archives", tmp_path / "shown"
    shown.mkdir()
    (shown / "a").touch()
    list_folder(jars, shown, archives)
    [old] = archives.iterdir()
    shutil.copy(next(jars.glob("hadoop-client-api-*.jar")), jars / "another.jar")
    list_folder(jars, shown, archives)
    [new] = archives.iterdir()
    assert new != old

    new.chmod(0o644)
    new.write_bytes(new.read_bytes()[:100_000])
    done = list_folder(jars, shown, archives)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"file://{shown}/a\n", "")
    assert len(list(archives.glob("died-*.log"))) == 1  # HotSpot writes into the working directory where it is not told
    list_folder(jars, shown, archives)
    assert archived(archives) > 100  # it was made again
