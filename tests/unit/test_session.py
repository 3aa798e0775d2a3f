"""What a session is started with, by spark-submit and from Python; the session itself is played."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from py4j.protocol import Py4JJavaError

from recsys import session
from recsys.session import ROOT, start_session


class Builder:
    """Notes the settings; every call returns it."""

    def __init__(self) -> None:
        self.conf: dict[str, str] = {}

    def getActiveSession(self) -> None:  # noqa: N802
        return None

    def appName(self, name: str) -> "Builder":  # noqa: N802
        return self

    def config(self, key: str, value: str) -> "Builder":
        self.conf[key] = value
        return self

    def getOrCreate(self) -> dict[str, str]:  # noqa: N802
        return self.conf

    @property
    def builder(self) -> "Builder":
        return self


class _Failing(Builder):
    """Fails with these traces, one after the other, and then has a session."""

    def __init__(self, *traces: str) -> None:
        super().__init__()
        self.traces = list(traces)

    def getOrCreate(self) -> dict[str, str]:  # noqa: N802
        if self.traces:
            raise _JavaError(self.traces.pop(0))
        return super().getOrCreate()


def start(
    monkeypatch: pytest.MonkeyPatch, *, submitted: bool, builder: Builder | None = None, **arguments: Any
) -> dict[str, str]:
    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_LOCAL_IP", "JAVA_HOME", *session.ONE_THREAD):
        monkeypatch.setenv(name, "kept")
    if submitted:
        monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    else:
        monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setattr(session, "SparkSession", builder or Builder())
    monkeypatch.setattr(session, "bundled_jars", lambda: [Path("/delta.jar")])
    started: Any = start_session("test", **arguments)
    return dict(started)


@pytest.mark.parametrize("submitted", [True, False])
def test_sparks_own_warehouse_is_not_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, submitted: bool) -> None:
    where = urlparse(start(monkeypatch, submitted=submitted)["spark.sql.warehouse.dir"])
    assert where.scheme == "file"  # on a cluster a path alone would be one of its file system
    assert Path(where.path).is_dir()
    assert Path.cwd() not in Path(where.path).parents


def test_whoever_starts_a_session_may_say_where_its_warehouse_is(monkeypatch: pytest.MonkeyPatch) -> None:
    conf = start(monkeypatch, submitted=False, conf={"spark.sql.warehouse.dir": "/mine"})
    assert conf["spark.sql.warehouse.dir"] == "/mine"


def test_the_properties_file_is_read_once_by_spark_submit_or_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "spark.master" not in start(monkeypatch, submitted=True)
    assert start(monkeypatch, submitted=False)["spark.master"] == "local[*]"


def test_what_a_session_made_for_itself_is_gone_when_its_process_ends() -> None:
    script = "from recsys.session import _scratch_folder; print(_scratch_folder())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "recsys-catalog-" in done.stdout
    assert not Path(done.stdout.strip()).exists()


class _JavaError(Py4JJavaError):
    """What came out of the JVM, without one."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __str__(self) -> str:
        return self.trace


IN_THE_WAY = """java.util.ConcurrentModificationException
\tat org.apache.spark.ui.SparkUI.attachAllHandlers(SparkUI.scala:79)
\tat org.apache.spark.SparkContext.<init>(SparkContext.scala:700)"""


@pytest.mark.parametrize("submitted", [True, False])
def test_a_session_that_sparks_own_web_pages_were_in_the_way_of_is_started_once_more_and_no_other(
    monkeypatch: pytest.MonkeyPatch, submitted: bool
) -> None:
    undisturbed = start(monkeypatch, submitted=submitted)
    once = start(monkeypatch, submitted=submitted, builder=_Failing(IN_THE_WAY))
    assert once.keys() == undisturbed.keys()
    for builder in (_Failing(IN_THE_WAY, IN_THE_WAY), _Failing("java.util.ConcurrentModificationException")):
        with pytest.raises(_JavaError):
            start(monkeypatch, submitted=submitted, builder=builder)
        assert builder.traces == []
