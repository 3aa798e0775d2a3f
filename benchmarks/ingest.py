"""Ingestion of CSV files, against the plainest thing that Spark does with them: read, append to a Delta table.

Both read the same files in a session that has done the same once with a small file. Ours is what the job
``ingest_ratings`` calls, without the blocks: files are inspected, every rule is applied, duplicates are found,
quarantine, ratings, items and ledger are written.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pyspark.sql import SparkSession

from benchmarks import data
from benchmarks.frames import item_ids, user_ids
from benchmarks.process import CORES, Clock, ContestantError, MemoryWatch, Result, Task, open_session, say
from recsys.config import Settings, load_settings
from recsys.ingestion import Ingestion
from recsys.session import ROOT
from recsys.store.params import WarehouseParams
from recsys.store.tables import Tables

_SMALL: Final = "3k"
_COLUMNS: Final = "user STRING, item STRING, rating DOUBLE, time LONG"


def land(task: Task) -> Result:
    """Write all ratings as CSV files, once, in the order of their times within a file.

    Options: ``landing`` (folder), ``files``.
    """
    folder = Path(task.options["landing"])
    made_for = {"shape": task.shape.to_dict(), "files": task.options["files"]}
    done = folder.with_suffix(".json")
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == made_for:
        return {"landed": False}
    for name, shape in (("all", task.shape), ("small", data.make_shape(_SMALL))):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        _write_files(data.make_world(shape), folder / name, task.options["files"] if name == "all" else 1)
    done.write_text(json.dumps(made_for), encoding="utf-8")
    return {"landed": True}


def _write_files(world: data.World, folder: Path, files: int) -> None:
    """About so many files: a user's ratings stay together."""
    for number, table in enumerate(_tables(world, -(-world.shape.n_ratings // files))):
        _write_file(table, folder, number)


def _cut_files(world: data.World, folder: Path, files: int) -> int:
    """So many files, each of as many ratings; returns how many."""
    whole = pa.concat_tables(_tables(world, world.shape.n_ratings))
    length = -(-whole.num_rows // files)
    starts = range(0, whole.num_rows, length)
    for number, start in enumerate(starts):
        _write_file(whole.slice(start, length), folder, number)
    return len(starts)


def _tables(world: data.World, ratings_a_chunk: int) -> Iterator[pa.Table]:
    """All ratings as they land, in the order of their times within a chunk."""
    items = pa.array(item_ids(world.shape.n_items), pa.string())
    for chunk in data.stream(world, ratings_a_chunk=ratings_a_chunk):
        order = np.argsort(chunk.times, kind="stable")
        owners = np.repeat(np.arange(len(chunk.users)), np.diff(chunk.offsets))[order]
        yield pa.table(
            {
                "user": user_ids(chunk.users).take(pa.array(owners)),
                "item": items.take(pa.array(chunk.items[order])),
                "rating": pa.array(chunk.values[order].astype(np.float64)),
                "time": pa.array(chunk.times[order] // 1_000_000),
            }
        )


def _write_file(table: pa.Table, folder: Path, number: int) -> None:
    pyarrow.csv.write_csv(table, folder / f"ratings-{number:05}.csv", pyarrow.csv.WriteOptions(quoting_style="none"))


def plain(task: Task) -> Result:
    """Read the files with a schema and append them to a Delta table that is not there yet.

    Options: ``landing``.
    """
    folder = Path(task.options["landing"])
    table = Path(task.work) / "plain"
    spark = open_session(task)

    def append(name: str) -> float:
        shutil.rmtree(table, ignore_errors=True)
        clock = Clock()
        rows = spark.read.schema(_COLUMNS).option("header", "true").csv(str(folder / name))
        rows.write.format("delta").mode("append").save(str(table))
        return clock.seconds

    append("small")
    seconds = append("all")
    written = spark.read.format("delta").load(str(table)).count()
    if written != task.shape.n_ratings:
        raise ContestantError(f"the plain append has {written:,} rows of {task.shape.n_ratings:,}.")
    say(f"plain append of {written:,} rows in {seconds:.1f} s")
    return {"seconds": seconds, "rows": written}


def adopt(task: Task) -> Result:
    """Begin an ingestion into what `ours.fill` filled: the first one scans the ratings, to hold them to the contract.

    Options: ``warehouse``, ``landing``.
    """
    spark = open_session(task)
    params = WarehouseParams(root=task.options["warehouse"], buckets=data.count_buckets(task.shape))
    tables, clock = Tables(spark, params).open_or_create(), Clock()
    Ingestion(spark, tables, _settings(tables.root, Path(task.options["landing"]) / "all"))
    say(f"{task.shape.n_ratings:,} ratings held to the contract in {clock.seconds:.0f} s")
    return {"seconds": clock.seconds}


def ours(task: Task) -> Result:
    """Take the files in, as one batch, into an empty warehouse or a copy of one.

    Options: ``landing``, ``warehouse`` (folder of one that `ours.fill` made; None: an empty one), ``buckets`` (of an
    empty one).
    """
    folder = Path(task.options["landing"])
    source = task.options.get("warehouse")
    spark = open_session(task)
    _take_in(spark, _make_tables(spark, Path(task.work) / "ingested-small", None, CORES), folder / "small")
    buckets = task.options["buckets"]
    tables = _make_tables(spark, Path(task.work) / "ingested", None if source is None else Path(source), buckets)
    clock = Clock()
    taken = _take_in(spark, tables, folder / "all")
    seconds = clock.seconds
    if taken != task.shape.n_ratings:
        raise ContestantError(f"ingestion accepted {taken:,} rows of {task.shape.n_ratings:,}.")
    say(f"ours: {taken:,} rows taken in in {seconds:.1f} s")
    return {"seconds": seconds, "rows": taken}


def backlog(task: Task) -> Result:
    """Take in many small files in bounded batches, and see what the first two and the last two need of memory.

    Options: ``files``, ``files_a_batch``.
    """
    folder = Path(task.work) / f"backlog-{task.options['files']}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    n_files = _cut_files(data.make_world(task.shape), folder, task.options["files"])
    spark = open_session(task)
    tables = _make_tables(spark, Path(task.work) / "ingested", None, CORES)
    settings = _settings(tables.root, folder)
    landing = settings.landing.model_copy(update={"max_files": task.options["files_a_batch"]})
    ingestion = Ingestion(spark, tables, settings.model_copy(update={"landing": landing}))
    clock, peaks, rows = Clock(), [], 0
    batches = ingestion.new_batches()
    for number, batch in enumerate(batches, 1):
        with MemoryWatch() as memory:
            rows += sum(closed.claim.counts.accepted for closed in ingestion.take_in(batch))
        peaks.append(memory.peak)
        say(f"batch {number} of {len(batches)}, {len(batch):,} files: {memory.peak / 2**30:.2f} GiB")
    if rows != task.shape.n_ratings:
        raise ContestantError(f"ingestion accepted {rows:,} rows of {task.shape.n_ratings:,}.")
    shutil.rmtree(folder)
    return {"seconds": clock.seconds, "files": n_files, "batches": len(batches), "peaks": peaks}


def _make_tables(spark: SparkSession, root: Path, source: Path | None, buckets: int) -> Tables:
    shutil.rmtree(root, ignore_errors=True)
    if source is not None:  # hard links: Delta never changes a file
        names = shutil.ignore_patterns("mlflow", "mllib-*", "user_blocks", "filled.json")
        shutil.copytree(source, root, copy_function=os.link, ignore=names)
    return Tables(spark, WarehouseParams(root=str(root), buckets=buckets)).open_or_create()


def _take_in(spark: SparkSession, tables: Tables, landing: Path) -> int:
    """Rows that were accepted."""
    ingestion = Ingestion(spark, tables, _settings(tables.root, landing))
    batches = ingestion.new_batches()
    if len(batches) != 1:
        raise ContestantError(f"'{landing}' is {len(batches)} batches and should be one.")
    return sum(closed.claim.counts.accepted for closed in ingestion.take_in(batches[0]))


def _settings(root: str, landing: Path) -> Settings:
    own = {"warehouse.root": root, "landing.path": str(landing), "landing.catalogue": "null"}
    return load_settings([ROOT / "conf" / "base.yaml"], own)
