"""Faults of real runs reach people: once, in time, without a secret, and without a say in how a job ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from jobs import status
from jobs.ingest_ratings import main
from jobs.runner import JobContext, make_context
from recsys import columns as c
from recsys import observation
from recsys.alerts.book import Alert, MemoryStore
from recsys.alerts.channels import VARIABLE
from recsys.observation import open_book
from recsys.session import ROOT
from recsys.store.locks import TABLES, Lock
from tests.jobs.warehouses import arguments, land_csv, make_settings
from tests.receivers import webhook
from tests.sessions import TWO_TASKS
from tests.stores import place_empty_store
from tests.worlds import two_tastes

DAY = 1_700_000_000
SHAPE: dict[str, object] = {"warehouse.buckets": 2, "warehouse.users_per_block": 2}


@pytest.fixture(autouse=True)
def own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "_memory", MemoryStore())
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def empty_warehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("alerts")
    place_empty_store(root / "empty")
    make_context(spark, make_settings(root / "empty", root / "landing"))
    return root / "empty"


class World:
    """A warehouse with its landing folder, and a file that its alerts are appended to."""

    def __init__(self, spark: SparkSession, empty: Path, folder: Path) -> None:
        self.warehouse, self.landing, self.file = folder / "warehouse", folder / "landing", folder / "alerts.jsonl"
        self.landing.mkdir()
        shutil.copytree(empty, self.warehouse)
        self._spark = spark

    def ingest(self, **settings: object) -> int:
        return main(arguments(self.warehouse, self.landing, {**SHAPE, **settings}))

    def context(self) -> JobContext:
        return make_context(self._spark, make_settings(self.warehouse, self.landing))

    def open_alerts(self) -> list[Alert]:
        context = self.context()
        return open_book(context.files, context.tables.root).open_alerts()

    def told(self) -> list[tuple[str, str]]:
        return read_told(self.file)


@pytest.fixture
def world(spark: SparkSession, empty_warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(spark, empty_warehouse, tmp_path)
    monkeypatch.setenv(VARIABLE, f"file://{made.file}")
    return made


def read_told(file: Path) -> list[tuple[str, str]]:
    """What the file channel has: event and kind of each message."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [(message["event"], message["kind"]) for message in map(json.loads, lines)]


def test_cases_94_and_95_five_hundred_bad_files_are_one_alert_that_waits_for_its_channel_and_then_one_that_it_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    monkeypatch.setenv(VARIABLE, f"json://user:hunter2secret@127.0.0.1:{closed}/tokenpart")
    monkeypatch.setattr("recsys.alerts.book._FIRST_WAIT", 0.0)
    for n in range(500):
        (world.landing / f"bad{n:03}.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([n % 256, n // 256]) * 20)
    land_csv(world.landing, "good.csv", *(f"u{n},i1,8,{DAY + n}" for n in range(5000)))

    assert world.ingest() == 0, "a channel that is down has no say in how a job ends"
    [alert] = world.open_alerts()
    assert (alert.kind, alert.counts["damaged_files"], alert.counts["quarantined"]) == ("quarantine", 500, 500)
    assert "(not_text 500)" in alert.says
    said = [record.message for record in caplog.records if record.message.startswith("alert_")]
    assert [line.split()[0] for line in said][:2] == ["alert_opened", "alert_not_delivered"]
    assert "500 of 5,500 landed rows (9%) are in quarantine" in said[0]
    page = status.run(world.context())
    assert ([own.kind for own in page.alerts], page.messages_waiting) == (["quarantine"], 1)

    with webhook() as hook:
        monkeypatch.setenv(VARIABLE, hook.address("/tokenpart"))
        assert world.ingest() == 0
        assert [body["title"] for body in hook.bodies] == ["[recsys] quarantine: ratings"]
        assert "damaged_files 500" in hook.bodies[0]["message"]
        assert "owner: ratings-team" in hook.bodies[0]["message"]
        land_csv(world.landing, "good2.csv", f"v1,i1,8,{DAY}")
        assert world.ingest() == 0
        assert [body["title"] for body in hook.bodies[1:]] == ["[recsys] over: quarantine: ratings"]
    assert world.open_alerts() == []
    assert list((world.warehouse / "alerts" / "outbox").iterdir()) == []
    assert "hunter2secret" not in caplog.text


def test_cases_1_2_11_12_changed_files_and_columns_are_told_with_the_owner_of_the_data(world: World) -> None:
    land_csv(world.landing, "a.csv", *(f"u{n},i1,8,{DAY}" for n in range(100)))
    assert world.ingest() == 0
    assert world.told() == []
    with (world.landing / "a.csv").open("a") as file:
        file.write(f"u100,i1,8,{DAY}\n")
    (world.landing / "b.csv").write_text(f"user_id,item_id,stars,timestamp\nu1,i1,8,{DAY}\n")
    assert world.ingest() == 0
    assert sorted(world.told()) == [("opened", kind) for kind in ("file_changed", "quarantine", "schema_change")]
    messages = {m["kind"]: m for m in map(json.loads, world.file.read_text().splitlines())}
    assert "for example: a.csv" in messages["file_changed"]["body"]
    assert "missing_column 2" in messages["schema_change"]["body"], "the header line, too: none of the file is lost"
    assert "depending on it: recsys (recsys-team@example.org)" in messages["schema_change"]["body"]


def test_a_run_that_fails_is_told_once_until_one_ends_well_and_figures_and_run_events_follow(world: World) -> None:
    prom, events = world.file.with_name("prom"), world.file.with_name("events.jsonl")
    settings: dict[str, object] = {"metrics.folder": prom, "lineage.path": events}
    land_csv(world.landing, "bad.csv", f"u1,i1,99,{DAY}")
    old = time.time() - 7200
    os.utime(world.landing / "bad.csv", (old, old))
    assert [world.ingest(**settings) for _ in range(2)] == [3, 3]
    assert sorted(world.told()) == [("opened", "failed_run"), ("opened", "lag")]
    figures = (prom / "recsys_ingest_ratings.prom").read_text()
    assert 'recsys_job_runs_total{job="ingest_ratings",exit_code="3"} 2.0' in figures
    assert 'recsys_alerts_open{kind="lag"} 1.0' in (prom / "recsys_alerts.prom").read_text()

    (world.landing / "bad.csv").unlink()
    land_csv(world.landing, "good.csv", f"u1,i1,8,{DAY}")
    assert world.ingest(**settings) == 0
    assert sorted(world.told()[2:]) == [("resolved", "failed_run"), ("resolved", "lag")]
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert [event["eventType"] for event in found] == ["START", "FAIL", "START", "FAIL", "START", "COMPLETE"]
    assert found[4]["run"] == found[5]["run"]
    ratings = next(own for own in found[5]["outputs"] if own["name"] == f"{world.warehouse}/ratings")
    assert ratings["outputFacets"]["outputStatistics"]["rowCount"] == 1
    runs = world.context().tables.job_runs.read().orderBy(c.STARTED_AT).collect()
    assert found[5]["run"]["runId"].replace("-", "") == runs[-1][c.RUN_ID]
    assert (
        'job_rows_total{job="ingest_ratings",result="accepted"} 1.0'
        in (prom / "recsys_ingest_ratings.prom").read_text()
    )


def test_a_lock_is_told_the_second_time_and_a_missing_landing_folder_at_once(world: World) -> None:
    context = world.context()
    with Lock(context.files, str(world.warehouse), TABLES, job="another", expiry_seconds=600.0):
        assert world.ingest() == 5
        assert world.told() == []
        assert world.ingest() == 5
    assert world.told() == [("opened", "failed_run")]
    world.landing.rmdir()
    assert [world.ingest(), world.ingest()] == [2, 2], "a run that could not begin, without a row in job_runs"
    assert world.told() == [("opened", "failed_run")] * 2


def test_case_24_a_run_that_finds_no_warehouse_is_told_and_leaves_nothing_behind(world: World) -> None:
    shutil.rmtree(world.warehouse)
    world.landing.rmdir()
    assert [world.ingest(), world.ingest()] == [2, 2]
    assert world.told() == [("opened", "failed_run")], "this process remembers what no warehouse can keep"
    assert not world.warehouse.exists()


def test_a_failure_of_the_jvm_before_a_run_is_told_in_its_own_words(spark: SparkSession, world: World) -> None:
    with pytest.raises(Py4JJavaError) as caught:
        spark._jvm.java.lang.Class.forName("no.such.Class")  # type: ignore[union-attr]
    observation.observe_stray_error("ingest_ratings", lambda: world.context().settings, caught.value)
    assert world.told() == [("opened", "failed_run")]
    assert "ClassNotFoundException: no.such.Class." in world.file.read_text()


def test_stale_data_are_told_by_a_run_that_finds_nothing_new(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    land_csv(world.landing, "a.csv", f"u1,i1,8,{DAY}")
    assert world.ingest() == 0
    now = time.time()
    monkeypatch.setattr(observation.time, "time", lambda: now + 3 * 86_400)
    assert world.ingest() == 0
    assert world.told() == [("opened", "freshness")]
    assert "contract 'ratings' promises a batch every 2 d" in world.file.read_text()


_LOOP = """
import json, sys
from recsys.session import start_session
start_session("loop", conf=json.loads(sys.argv[1]))
from jobs.pipeline import main
sys.exit(main(json.loads(sys.argv[2])))
"""
SECRETS = ("hunter2secret", "tokenpart", "m1fl0wpw", "l1neagek3y")


@pytest.fixture
def loop(empty_warehouse: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Starts the loop in a process of its own, as a scheduler does."""
    started: list[subprocess.Popen[Any]] = []

    def start(argv: list[str], conf: dict[str, str], environ: dict[str, str], said: Path) -> subprocess.Popen[Any]:
        with said.open("w") as output:
            child = subprocess.Popen(
                [sys.executable, "-c", _LOOP, json.dumps({**TWO_TASKS, **conf}), json.dumps(argv)],
                cwd=ROOT,
                env={**os.environ, **environ},
                stdout=output,
                stderr=output,
            )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.wait()


def wait_for(child: subprocess.Popen[Any], said: Path, condition: Callable[[], bool], seconds: float) -> float:
    """How long it took until the condition held."""
    began = time.monotonic()
    while not condition():
        assert child.poll() is None, said.read_text()
        assert time.monotonic() - began < seconds, said.read_text()
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.timeout(900)
def test_case_96_a_loop_tells_of_a_fault_within_a_minute_and_shows_no_secret_anywhere(
    empty_warehouse: Path, tmp_path: Path, loop: Callable[..., subprocess.Popen[Any]]
) -> None:
    warehouse, landing, file = tmp_path / "warehouse", tmp_path / "landing", tmp_path / "alerts.jsonl"
    events, said, channels = tmp_path / "spark-events", tmp_path / "said", tmp_path / "channels"
    events.mkdir()
    shutil.copytree(empty_warehouse, warehouse)
    channels.write_text(f"file://{file}\n")
    channels.chmod(0o600)
    tastes = two_tastes(n_users=60, n_items=30, n_rated=8)
    land_csv(landing, "1.csv", *(f"{e.user_id},{e.item_id},8,{int(e.event_time.timestamp())}" for e in tastes))
    settings = SHAPE | {"als.rank": 4, "als.sweeps": 3, "evaluation.holdout_share": 0.2, "gate.min_users": 10}
    settings |= {
        "evaluation.validation_slices": 1,
        "ingest.max_bad_share": 1.0,
        "alerts.channels_file": channels,
        "lineage.path": tmp_path / "e.jsonl",
    }
    environ = {
        VARIABLE: "json://user:hunter2secret@127.0.0.1:9/tokenpart",  # nobody listens at that port
        "MLFLOW_TRACKING_PASSWORD": "m1fl0wpw",
        "OPENLINEAGE_API_KEY": "l1neagek3y",
        "NO_PROXY": "127.0.0.1",
    }
    conf = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file://{events}"}
    argv = [*arguments(warehouse, landing, settings), "--every", "1s", "--verbose"]
    child = loop(argv, conf, environ, said)
    wait_for(child, said, lambda: "job_done job=pipeline" in said.read_text(), 600)  # the first turn fits a model
    assert read_told(file) == []

    (landing / "torn.parquet").write_bytes(b"PAR1 torn")
    seconds = wait_for(child, said, lambda: read_told(file) == [("opened", "quarantine")], 60)
    landing.rename(tmp_path / "gone")
    seconds = max(seconds, wait_for(child, said, lambda: read_told(file)[1:] == [("opened", "failed_run")], 60))
    (tmp_path / "gone").rename(landing)
    wait_for(child, said, lambda: read_told(file)[2:] == [("resolved", "failed_run")], 60)
    land_csv(landing, "2.csv", f"u0001,i002,8,{int(tastes[-1].event_time.timestamp()) + 60}")
    wait_for(child, said, lambda: read_told(file)[3:] == [("resolved", "quarantine")], 60)
    child.send_signal(signal.SIGTERM)
    assert child.wait(120) == 0, said.read_text()
    print(f"told within {seconds:.1f} s")

    assert "alert_not_delivered" in said.read_text(), "the other channel is down, and that is in the log"
    scanned = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(scanned) > 100
    assert any("spark-events" in str(path) for path in scanned)
    assert any(path.name == "mlflow.db" for path in scanned)
    assert list((warehouse / "alerts" / "outbox").glob("*.json")), "a message waits"
    pattern = re.compile("|".join(SECRETS).encode())
    assert [path for path in scanned if pattern.search(path.read_bytes())] == []
