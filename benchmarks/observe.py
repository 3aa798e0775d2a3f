"""What Spark says that its tasks moved and kept: its event log, and its status store."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from pyspark.sql import SparkSession

_EVENT_LOG: Final = {
    "spark.eventLog.enabled": "true",
    "spark.eventLog.rolling.enabled": "false",
    "spark.eventLog.compress": "false",
    "spark.eventLog.logBlockUpdates.enabled": "true",
}


class EventLog:
    """Spark's event log of what happens between entering and leaving, block updates included."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._context: Any = spark.sparkContext
        self._folder = folder / f"{os.getpid()}-{time.time_ns()}"
        self._folder.mkdir(parents=True)

    def __enter__(self) -> "EventLog":
        jvm, scala = self._context._jvm, self._context._jsc.sc()
        conf = scala.getConf()  # a copy
        for key, value in _EVENT_LOG.items():
            conf.set(key, value)
        folder = jvm.java.net.URI(self._folder.as_uri())
        none, hadoop = jvm.scala.Option.empty(), self._context._jsc.hadoopConfiguration()
        # Added to a running session instead of set for a new one: only the sweeps are logged.
        listener = jvm.org.apache.spark.scheduler.EventLoggingListener
        self._listener = listener(self._context.applicationId, none, folder, conf, hadoop)
        self._listener.start()
        scala.addSparkListener(self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        scala = self._context._jsc.sc()
        scala.listenerBus().waitUntilEmpty()
        scala.removeSparkListener(self._listener)
        self._listener.stop()
        for file in self._folder.rglob("*"):
            if file.is_file() and not file.name.startswith("."):
                lines = file.read_text(encoding="utf-8").splitlines()
                self.events += [json.loads(line) for line in lines]
        shutil.rmtree(self._folder)


def status_of(spark: SparkSession) -> Any:
    """Spark's status store, what its pages are made from."""
    context: Any = spark.sparkContext
    return context._jsc.sc().statusStore()


def stored_bytes(spark: SparkSession) -> Iterator[tuple[str, int]]:
    """Name and bytes of everything that is kept in memory or on disk."""
    stored = status_of(spark).rddList(True)
    for i in range(stored.size()):
        rdd = stored.apply(i)
        yield rdd.name(), rdd.memoryUsed() + rdd.diskUsed()


def sum_exchange(events: list[dict[str, Any]], ends: list[float]) -> list[dict[str, int]]:
    """Sum the events of every sweep, which ends at ``ends`` (milliseconds since 1970).

    A broadcast counts once for every process that runs tasks and has received it: on a cluster the driver runs none,
    and its own copy moves nowhere. What is reported again of the same block, as when it is dropped, counts nothing.
    """
    seen: set[tuple[str, str]] = set()
    workers = {event["Task Info"]["Executor ID"] for event in events if event["Event"] == "SparkListenerTaskEnd"}
    sweeps = [{"jobs": 0, "results": 0, "shuffled": 0, "broadcast": 0} for _ in ends]
    waiting = 0
    for event in events:
        kind = event["Event"]
        if kind == "SparkListenerBlockUpdated":
            # Block updates carry no time. What is broadcast is for the job that starts or runs next.
            info = event["Block Updated Info"]
            received = info["Block Manager ID"]["Executor ID"], info["Block ID"]
            if received[0] in workers and received not in seen:
                seen.add(received)
                waiting += _broadcast_bytes(info)
            continue
        if kind not in ("SparkListenerJobStart", "SparkListenerTaskEnd"):
            continue
        is_start = kind == "SparkListenerJobStart"
        at = int(np.searchsorted(ends, event["Submission Time"] if is_start else event["Task Info"]["Finish Time"]))
        if at == len(sweeps):
            break
        sweeps[at]["broadcast"] += waiting
        waiting = 0
        if is_start:
            sweeps[at]["jobs"] += 1
        else:
            metrics = event["Task Metrics"]
            sweeps[at]["results"] += metrics["Result Size"]
            sweeps[at]["shuffled"] += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
    return sweeps


def _broadcast_bytes(info: dict[str, Any]) -> int:
    is_piece = info["Block ID"].startswith("broadcast_") and "piece" in info["Block ID"]
    # A piece that is dropped is reported with its size too, but kept nowhere.
    is_kept = info["Storage Level"]["Use Memory"] or info["Storage Level"]["Use Disk"]
    return int(info["Memory Size"] + info["Disk Size"]) if is_piece and is_kept else 0
