"""A small world on HDFS: what an undisturbed turn makes of it, and copies of it for turns that are disturbed."""

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from pyspark.sql import SparkSession

from jobs.pipeline import main
from recsys.store.files import Files
from recsys.store.params import MlflowParams
from tests.jobs.fingerprint import fingerprint
from tests.jobs.kills import rename_in_store
from tests.jobs.test_pipeline import SETTINGS
from tests.stores import place_empty_store
from tests.worlds import Event, two_tastes

Seen = tuple[int, int, str]  # a generation, how many lists it has, and their hash

# In a process of its own: a consumer has no JVM, and delta-rs may abort an interpreter that ends.
_READER: Final = """
import hashlib, json, sys, time
from deltalake import DeltaTable
root, once = sys.argv[1], sys.argv[2] == "once"
last = None
while True:
    pointer = max(DeltaTable(f"{root}/generations").to_pyarrow_table().to_pylist(), key=lambda row: row["sequence"])
    of = pointer["generation"]
    table = DeltaTable(f"{root}/recommendations").to_pyarrow_table(partitions=[("generation", "=", str(of))])
    lists = sorted((row["user_id"], row["items"]) for row in table.to_pylist())
    seen = of, len(lists), hashlib.sha256(json.dumps(lists).encode()).hexdigest()
    if seen != last:
        print(json.dumps(seen), flush=True)
    last = seen
    if once:
        break
    time.sleep(1)
"""


@dataclass(frozen=True)
class Warehouse:
    """Where a world's tables, models and landed files are."""

    root: str  # on HDFS
    local: Path  # folder of its MLflow store
    landing: str  # on HDFS; copies share it

    @property
    def mlflow(self) -> MlflowParams:
        """Where the models are: SQLite and a folder of this machine, which is the driver's, too."""
        store = self.local / "mlflow"
        return MlflowParams(tracking_uri=f"sqlite:///{store}/mlflow.db", artifact_root=f"{store}/artifacts")

    def words(self, **more: object) -> list[str]:
        """A job's arguments."""
        settings: Mapping[str, object] = {
            **SETTINGS,
            "landing.path": self.landing,
            "mlflow.tracking_uri": self.mlflow.tracking_uri,
            "mlflow.artifact_root": self.mlflow.artifact_root,
            **more,
        }
        return [f"--warehouse={self.root}", *(f"--set={key}={value}" for key, value in settings.items())]


class World:
    """A warehouse with one generation, ratings that have landed since, and what an undisturbed second turn holds."""

    def __init__(self, spark: SparkSession, fs: str, folder: Path) -> None:
        """Two turns and their hashes, all on the HDFS at ``fs``."""
        self._spark = spark
        self._files = Files(spark)
        self._base = f"{fs}/recsys/{folder.name}-{uuid.uuid4().hex[:8]}"  # a cluster may have files of earlier runs
        self._folder = folder
        self._copies = 0
        events = two_tastes(n_users=60, n_items=30, n_rated=8)
        news = [
            replace(event, event_time=event.event_time + timedelta(days=61))
            for event in two_tastes(n_users=60, n_items=30, n_rated=2, days=10, seed=6)
        ]
        self.begun = self._warehouse()
        place_empty_store(self.begun.local)
        self._land("1.csv", events)
        assert main(self.begun.words()) == 0
        self._land("2.csv", [*news, news[0], replace(news[0], value=99.0)])  # one row repeated, one refused
        done = self.copy()
        assert main(done.words()) == 0
        self.holds = fingerprint(spark, done.root, done.mlflow)
        self.generations = read_once(self.begun.root), read_once(done.root)

    def copy(self, origin: Warehouse | None = None) -> Warehouse:
        """A copy of a warehouse as it is now; without one, of the world before its second turn."""
        origin, made = origin or self.begun, self._warehouse()
        hadoop: Any = self._spark._jvm.org.apache.hadoop.fs  # type: ignore[union-attr]
        conf: Any = self._spark.sparkContext._jsc.hadoopConfiguration()
        source, target = hadoop.Path(origin.root), hadoop.Path(made.root)
        fs = source.getFileSystem(conf)
        assert hadoop.FileUtil.copy(fs, source, fs, target, False, conf)
        shutil.copytree(origin.local, made.local)
        rename_in_store(made.local / "mlflow", {str(origin.local): str(made.local), origin.root: made.root})
        return made

    def fingerprint(self, warehouse: Warehouse) -> dict[str, Any]:
        """What a warehouse holds, to be compared with `holds`."""
        return fingerprint(self._spark, warehouse.root, warehouse.mlflow)

    def _warehouse(self) -> Warehouse:
        name = f"w{self._copies:02}"  # all of one length: see `rename_in_store`
        self._copies += 1
        return Warehouse(f"{self._base}/{name}", self._folder / name, f"{self._base}/landing")

    def _land(self, name: str, events: list[Event]) -> None:
        rows = (f"{e.user_id},{e.item_id},{e.value:g},{int(e.event_time.timestamp())}" for e in events)
        text = "\n".join(["user_id,item_id,rating,timestamp", *rows, ""])
        self._files.write(f"{self.begun.landing}/{name}", text.encode())


def read_once(root: str) -> Seen:
    """What a consumer reads now."""
    done = subprocess.run([sys.executable, "-c", _READER, root, "once"], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return _parse(done.stdout)


@contextmanager
def watch(root: str) -> Iterator[list[Seen]]:
    """Read as a consumer does, every second while the block runs; at its end the list has what changed, in order.

    Raises:
        AssertionError: a read failed.
    """
    seen: list[Seen] = []
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, root, "on"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield seen
    finally:
        failed = reader.poll()
        reader.kill()
        out, err = reader.communicate()
        assert failed is None, err
        seen += map(_parse, out.split("\n")[:-1])


def _parse(line: str) -> Seen:
    generation, n_lists, digest = json.loads(line)
    return int(generation), int(n_lists), str(digest)
