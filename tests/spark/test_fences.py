"""Tokens at the commit: a holder that slept while another took over cannot commit, wherever it was when it fell asleep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.errors import CommitConflictError, GateRefusedError, LockedError
from recsys.schemas import ITEMS
from recsys.session import ROOT
from recsys.store import tables as tables_module
from recsys.store.files import Files
from recsys.store.locks import LISTS, MODELS, TABLES, Lock, read_holders
from recsys.store.params import WarehouseParams
from recsys.store.tables import ATTEMPTS, SPECS, Table, Tables

LOCKED = [name for name, spec in SPECS.items() if spec.lock is not None]
EXPIRY = 1.0

# It begins a write to every table at once; each stops right before Delta is asked, or, "under way", while Delta writes.
SLEEPER = """
import json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from recsys.session import start_session
from recsys.store import tables as tables_module
from recsys.store.locks import LISTS, TABLES, Lock
from recsys.store.params import WarehouseParams
from recsys.store.tables import SPECS, Tables
from tests.spark.test_fences import EXPIRY, LOCKED, one_row

root, folder = sys.argv[1], Path(sys.argv[2])
spark = start_session("sleeper", conf={"spark.master": "local[4]", "spark.sql.shuffle.partitions": "1"})
tables = Tables(spark, WarehouseParams(root=root))
by_name = {name: getattr(tables, {"ingest_ledger": "ledger"}.get(name, name)) for name in LOCKED}
writes = [(name, how, False) for name in LOCKED for how in ("append", "replace")]
writes += [("quarantine", "delete", False), ("ratings", "append", True), ("user_blocks", "replace", True)]
go, stopped = folder / "go", threading.Semaphore(0)
pausing = threading.local()

def wait_for_go(point=None):
    if point is None or pausing.here:
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
            table.delete("true")
        else:
            table.append(rows) if how == "append" else table.replace(rows, "true")
    except Exception as err:
        return type(err).__name__
    return "committed"

tables_module.pause_at = wait_for_go
expiry = {"expiry_seconds": EXPIRY, "job": "sleeper", "fence": tables.fence}
with Lock(tables.files, root, TABLES, **expiry), Lock(tables.files, root, LISTS, **expiry), ThreadPoolExecutor(32) as pool:
    results = [pool.submit(write, *each) for each in writes]
    for each in writes:
        if not each[2]:
            stopped.acquire()
    while len(list(folder.glob("under way *"))) < 2:
        time.sleep(0.02)
    (folder / "asleep").touch()
    said = {" ".join(map(str, each)): result.result() for each, result in zip(writes, results)}
print(json.dumps(said), flush=True)
"""


def one_row(spark: SparkSession, schema: object) -> DataFrame:
    """A row that says nothing, for any table."""
    from pyspark.sql.types import StructType

    assert isinstance(schema, StructType)
    plain = {"string": sf.lit(""), "binary": sf.lit(b""), "boolean": sf.lit(True), "timestamp": sf.timestamp_millis(sf.lit(0))}
    empty = {"array": sf.array(), "map": sf.create_map()}
    kinds = {field.name: field.dataType for field in schema}
    values = [
        (empty.get(kind.typeName()) or plain.get(kind.typeName(), sf.lit(0))).cast(kind).alias(name)
        for name, kind in kinds.items()
    ]
    return spark.range(1).select(*values)
