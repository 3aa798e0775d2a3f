"""Tokens at the commit: a holder that slept while another took over cannot commit, wherever it fell asleep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from delta.exceptions import ConcurrentDeleteReadException, ConcurrentTransactionException
from delta.tables import DeltaOptimizeBuilder
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.types import StructType

from recsys.errors import CommitConflictError, ConfigError, GateRefusedError
from recsys.schemas import ITEMS
from recsys.session import ROOT
from recsys.store.files import Files
from recsys.store.locks import LISTS, TABLES, Lock, read_holders
from recsys.store.params import WarehouseParams
from recsys.store.tables import ATTEMPTS, SPECS, Table, Tables, Txn

LOCKED = [name for name, spec in SPECS.items() if spec.lock is not None]
EXPIRY = 1.0

# It begins a write to every table at once; each stops right before Delta is asked, or, "under way", while Delta writes.
SLEEPER = """
import json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from recsys.session import start_session
from recsys.errors import RecsysError
from recsys.store import tables as tables_module
from recsys.store.locks import LISTS, TABLES, Lock
from recsys.store.params import WarehouseParams
from recsys.store.tables import SPECS, Tables
from tests.spark.test_fences import EXPIRY, LOCKED, everything, one_row

root, folder = sys.argv[1], Path(sys.argv[2])
spark = start_session("sleeper", conf={"spark.master": "local[4]", "spark.sql.shuffle.partitions": "1"})
tables = Tables(spark, WarehouseParams(root=root))
by_name = {name: getattr(tables, {"ingest_ledger": "ledger"}.get(name, name)) for name in LOCKED}
writes = [(name, how, False) for name in LOCKED for how in ("append", "replace")]
writes += [("quarantine", "delete", False), ("ratings", "append", True), ("user_blocks", "replace", True)]
go, stopped = folder / "go", threading.Semaphore(0)
pausing = threading.local()

def wait_for_go(point):
    if getattr(pausing, "here", False):
        stopped.release()
        while not go.exists():
            time.sleep(0.02)

def slowly(batches, mark, go):
    Path(mark).touch()
    while not Path(go).exists():
        time.sleep(0.02)
    yield from batches

def write(name, how, under_way):
    table, pausing.here = by_name[name], not under_way
    rows = one_row(spark, SPECS[name].schema)
    if under_way:
        mark = folder / f"under way {name}"
        rows = rows.mapInArrow(lambda batches: slowly(batches, str(mark), str(go)), rows.schema)
    try:
        if how == "delete":
            table.delete(everything(name))
        else:
            table.append(rows) if how == "append" else table.replace(rows, everything(name))
    except RecsysError as err:
        return type(err).__name__
    return "committed"

tables_module.pause_at = wait_for_go
expiry = {"expiry_seconds": EXPIRY, "job": "sleeper", "fence": tables.fence}
locks = [Lock(tables.files, root, name, **expiry) for name in (TABLES, LISTS)]
with locks[0], locks[1], ThreadPoolExecutor(32) as pool:
    results = [pool.submit(write, *each) for each in writes]
    for each in writes:
        if not each[2]:
            stopped.acquire()
    while len(list(folder.glob("under way *"))) < 2:
        for result in results:
            if result.done():
                print("a write ended early:", result.exception() or result.result(), file=sys.stderr, flush=True)
                os._exit(1)
        time.sleep(0.02)
    (folder / "asleep").touch()
    said = {" ".join(map(str, each)): result.result() for each, result in zip(writes, results)}
print(json.dumps(said), flush=True)
"""


# A value of each type, as SQL.
PLAIN = {"string": "''", "binary": "X''", "boolean": "true", "timestamp": "timestamp_millis(0)", "array": "array()"}
PLAIN |= {"map": "map()"}


def one_row(spark: SparkSession, schema: StructType) -> DataFrame:
    """A row for any table."""
    values = [sf.expr(PLAIN.get(f.dataType.typeName(), "0")).cast(f.dataType).alias(f.name) for f in schema]
    return spark.range(0, 1, 1, 1).select(*values)


def everything(table: str) -> str:
    """A condition that every row of a table fulfils."""
    return f"{SPECS[table].schema.names[0]} IS NOT NULL"


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    return Tables(spark, WarehouseParams(root=str(tmp_path / "warehouse"), buckets=2)).open_or_create()


def a_lock(tables: Tables, name: str) -> Lock:
    return Lock(tables.files, tables.root, name, job="successor", expiry_seconds=EXPIRY, fence=tables.fence)


@contextmanager
def a_sleeper(root: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The process, when all of its writes have come as far as they should."""
    said = folder / "said"
    command = [sys.executable, "-c", SLEEPER, root, str(folder)]
    with (
        said.open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(lambda: (folder / "asleep").exists() or process.poll() is not None, "the sleeper's writes")
            assert process.poll() is None, said.read_text()
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_case_23_a_holder_stopped_before_or_during_a_commit_cannot_commit_once_another_has_taken_over(
    tables: Tables, tmp_path: Path
) -> None:
    with a_sleeper(tables.root, tmp_path) as sleeper:
        os.killpg(sleeper.pid, signal.SIGSTOP)
        holders = read_holders(tables.files, tables.root)
        assert {holder.job for holder in holders} == {"sleeper"}
        wait_until(lambda: all(time.time() - holder.heartbeat > EXPIRY for holder in holders), "expiry")
        before = tables.versions()
        with a_lock(tables, TABLES), a_lock(tables, LISTS):
            pass  # it writes nothing: its token is enough
        after = tables.versions()
        (tmp_path / "go").touch()
        os.killpg(sleeper.pid, signal.SIGCONT)
        outcomes = json.loads(sleeper.communicate(timeout=300)[0])
    assert len(outcomes) == 2 * len(LOCKED) + 3
    assert outcomes == dict.fromkeys(outcomes, "LockedError")
    assert after == {name: version + (name in LOCKED) for name, version in before.items()}
    assert tables.versions() == after
    assert tables.ratings.read().isEmpty()


def test_only_a_lock_that_was_not_given_back_in_order_costs_its_tables_a_commit(tables: Tables) -> None:
    def versions_after_the_next_holder() -> dict[str, int]:
        with a_lock(tables, LISTS):
            return tables.versions()

    made = tables.versions()
    with a_lock(tables, LISTS):
        pass
    assert versions_after_the_next_holder() == made
    with pytest.raises(GateRefusedError), a_lock(tables, LISTS):
        raise GateRefusedError("no")
    assert versions_after_the_next_holder() == made
    with pytest.raises(RuntimeError), a_lock(tables, LISTS):
        raise RuntimeError("whatever the JVM may still be doing")
    fenced = {"recommendations", "generations"}
    assert versions_after_the_next_holder() == {name: 0 + (name in fenced) for name in made}


def test_a_holder_that_could_not_show_its_token_leaves_that_to_the_next_one(tables: Tables) -> None:
    with pytest.raises(RuntimeError), a_lock(tables, LISTS):
        raise RuntimeError("the first one")

    def fail(name: str) -> None:
        raise OSError(f"no table of {name}")

    with pytest.raises(OSError, match="no table of lists"):
        Lock(tables.files, tables.root, LISTS, job="unlucky", expiry_seconds=60.0, fence=fail).acquire()
    with a_lock(tables, LISTS):
        assert tables.generations.version() == 1


def test_tokens_rise_even_when_somebody_deleted_the_folder_of_locks(tables: Tables, spark: SparkSession) -> None:
    with a_lock(tables, TABLES) as first:
        tables.items.append(one_row(spark, ITEMS))
        before = first.token
    tables.files.delete(f"{tables.root}/locks", recursive=True)
    time.sleep(1.0 - time.time() % 1.0)  # tokens count seconds
    with a_lock(tables, TABLES) as second:
        assert second.token > before
        assert tables.items.append(one_row(spark, ITEMS)) == 1


def test_a_holder_commits_as_often_as_it_likes_and_its_txns_are_known_to_the_next(
    tables: Tables, spark: SparkSession
) -> None:
    for version, rows in ((1, 1), (1, 0), (2, 1)):
        with a_lock(tables, TABLES):
            assert tables.items.append(one_row(spark, ITEMS), Txn("app", version)) == rows
            assert tables.items.append(one_row(spark, ITEMS)) == 1
            assert tables.items.last_txn("app") == version
    assert tables.items.txn_rows(Txn("app", 1)) == 1
    with a_lock(tables, TABLES):
        tables.items.delete(everything("items"))
    assert tables.items.read().isEmpty()


def replace_while(table: Table, rows: DataFrame, folder: Path, rival: Callable[[int], None]) -> int:
    """Replace a table's rows; each time they are being written, the rival does something, told how often it has."""
    mark = str(folder / "writing")

    def write_slowly(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        Path(mark).touch()
        while Path(mark).exists():
            time.sleep(0.02)
        yield from batches

    def meddle() -> None:
        for times in range(ATTEMPTS + 1):
            while not Path(mark).exists():
                if over.wait(0.02):
                    return
            rival(times)
            Path(mark).unlink()

    over = threading.Event()
    rivals = threading.Thread(target=meddle)
    rivals.start()
    try:
        return table.replace(rows.mapInArrow(write_slowly, rows.schema), everything(table.name))
    finally:
        over.set()
        rivals.join()


@pytest.mark.parametrize("conflicts", [ATTEMPTS - 1, ATTEMPTS])
def test_case_37_a_conflict_is_tried_again_and_the_third_one_is_an_error_that_says_so(
    tables: Tables, spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture, conflicts: int
) -> None:
    def rival(times: int) -> None:
        if times < conflicts:
            theirs = one_row(spark, ITEMS).withColumn("title", sf.lit(f"rival {times}"))
            theirs.write.format("delta").mode("overwrite").save(tables.items.path)

    ours = one_row(spark, ITEMS).withColumn("title", sf.lit("ours"))
    with a_lock(tables, TABLES):
        if conflicts < ATTEMPTS:
            assert replace_while(tables.items, ours, tmp_path, rival) == 1
        else:
            with pytest.raises(
                CommitConflictError, match=r"items': 3 attempts to commit failed.*\(Concurrent"
            ) as failure:
                replace_while(tables.items, ours, tmp_path, rival)
            assert failure.value.exit_code == 1
    left = "ours" if conflicts < ATTEMPTS else f"rival {conflicts - 1}"
    assert [row.title for row in tables.items.read().collect()] == [left]
    assert caplog.text.count("commit_conflict") == conflicts


def test_case_37_a_commit_that_was_made_but_reported_as_a_conflict_is_not_made_again(
    tables: Tables, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = DataFrameWriter.save

    def save_and_complain(writer: DataFrameWriter, path: str) -> None:
        save(writer, path)
        raise ConcurrentTransactionException("the answer was lost")

    monkeypatch.setattr(DataFrameWriter, "save", save_and_complain)
    with a_lock(tables, TABLES):
        assert tables.items.append(one_row(spark, ITEMS)) == 1
    assert tables.items.read().count() == 1


def test_case_38_compaction_that_writers_are_in_the_way_of_gives_up_and_they_do_not(
    tables: Tables, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, with two drivers: tests/cluster/test_concurrency.py."""
    for _ in range(2):
        tables.items.append(one_row(spark, ITEMS))
    optimize, lost = DeltaOptimizeBuilder.executeCompaction, []

    def lose(builder: DeltaOptimizeBuilder) -> DataFrame:
        lost.append(1)
        raise ConcurrentDeleteReadException("a writer was quicker")

    monkeypatch.setattr(DeltaOptimizeBuilder, "executeCompaction", lose)
    assert (tables.items.join_small_files(), len(lost), tables.items.version()) == (0, ATTEMPTS, 2)
    monkeypatch.setattr(DeltaOptimizeBuilder, "executeCompaction", optimize)
    assert tables.items.join_small_files() == 2
    assert tables.items.read().count() == 2


def test_case_37_two_who_make_the_same_table_at_once_both_go_on(spark: SparkSession, tmp_path: Path) -> None:
    table = Table(spark, Files(spark), "items", f"file:{tmp_path}/items")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: table.create(SPECS["items"], {}), range(4)))
    assert (table.version(), table.read().count()) == (0, 0)


def test_case_37_a_table_whose_maker_was_killed_before_the_first_commit_is_made(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.store.tables._MAKING_S", 0.2)
    left = tmp_path / "items" / "_delta_log" / ".00000000000000000000.json.3f1c.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    table = Table(spark, Files(spark), "items", f"file:{tmp_path}/items")
    table.create(SPECS["items"], {})
    assert (table.version(), table.read().count()) == (0, 0)
    assert not left.exists()


@pytest.mark.parametrize("name", ["notes.txt", "_delta_log/_last_checkpoint"])
def test_files_of_others_where_a_table_would_be_made_are_left_alone(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("recsys.store.tables._MAKING_S", 0.2)
    theirs = tmp_path / "items" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("")
    with pytest.raises(ConfigError, match=r"'items' cannot be made: .* holds 1 files, such as .*Move them away"):
        Table(spark, Files(spark), "items", f"file:{tmp_path}/items").create(SPECS["items"], {})
    assert theirs.exists()
