"""The eight Delta tables under one warehouse root, and the few things the system does with a table."""

import json
import logging
import re
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.types import StructType

from recsys import columns as c
from recsys import schemas
from recsys.errors import ConfigError
from recsys.events import log_event
from recsys.store.files import Files
from recsys.store.params import WarehouseParams

log = logging.getLogger(__name__)

T = TypeVar("T")

_BUCKETS = "recsys.buckets"
_USERS_PER_BLOCK = "recsys.usersPerBlock"
# One at a time: there is work in the foreground.
_ahead = ThreadPoolExecutor(1, "read_ahead")

# What a commit's metadata say.
_MARK = "write"
_NOTE = "note"


@dataclass(frozen=True)
class TableSpec:
    """What a table is made with."""

    schema: StructType
    partitioned_by: tuple[str, ...] = ()


SPECS: Mapping[str, TableSpec] = {
    "ratings": TableSpec(schemas.RATINGS, (c.BUCKET,)),
    "quarantine": TableSpec(schemas.QUARANTINE),
    "ingest_ledger": TableSpec(schemas.INGEST_LEDGER),
    "items": TableSpec(schemas.ITEMS),
    "user_blocks": TableSpec(schemas.USER_BLOCKS, (c.BUCKET,)),
    "recommendations": TableSpec(schemas.RECOMMENDATIONS, (c.GENERATION,)),
    "generations": TableSpec(schemas.GENERATIONS),
    "job_runs": TableSpec(schemas.JOB_RUNS),
}


@dataclass(frozen=True)
class Txn:
    """One write as Delta remembers it: a second write of the same or a lower version of an app is skipped."""

    app: str
    version: int


class Table:
    """One Delta table."""

    def __init__(self, spark: SparkSession, files: Files, name: str, path: str) -> None:
        self._spark = spark
        self._files = files
        self.name = name
        self.path = path

    def exists(self) -> bool:
        """Whether the table has been made."""
        return bool(DeltaTable.isDeltaTable(self._spark, self.path))

    def create(self, spec: TableSpec, properties: Mapping[str, str]) -> None:
        """Make the table, unless it is there already."""
        builder = DeltaTable.createIfNotExists(self._spark).location(self.path).addColumns(spec.schema)
        # A checkpoint costs ten times what an append to a small table does; reading fifty commits costs little.
        builder = builder.property("delta.checkpointInterval", "50")
        for key, value in properties.items():
            builder = builder.property(key, value)
        builder.partitionedBy(*spec.partitioned_by).execute()

    def read(self) -> DataFrame:
        """The rows of the latest version."""
        return self._spark.read.format("delta").load(self.path)

    def read_version(self, version: int) -> DataFrame:
        """The rows of one version."""
        return self._spark.read.format("delta").option("versionAsOf", version).load(self.path)

    def read_files(self, rows: DataFrame) -> DataFrame:
        """The Parquet files that hold some rows of the table, whole: one row a file, its partition and its content.

        Spark reads them as bytes, from wherever the table is; whoever reads rows with Arrow saves Spark from decoding
        them. They may hold other rows too.

        Args:
            rows: read from this table, with conditions that Delta can tell files by.

        Raises:
            ConfigError: files do not tell all: somebody gave the table deletion vectors or mapped columns.
        """
        reader = self._snapshot().protocol().minReaderVersion()
        if reader > 1:
            raise ConfigError(
                f"'{self.path}' needs a Delta reader of version {reader} (deletion vectors or mapped columns): its "
                "files alone do not tell its rows. Take those features away again: ALTER TABLE ... DROP FEATURE."
            )
        # Spark takes paths for patterns.
        paths = [re.sub(r"([\\{}\[\]*?])", r"\\\1", path) for path in rows.inputFiles()]
        if not paths:
            return self._spark.createDataFrame([], f"{c.BUCKET} INT, {c.CONTENT} BINARY")
        found = self._spark.read.format("binaryFile").load(paths)
        # Delta writes partitions as folders named column=value; this column is the table's only one.
        bucket = sf.regexp_extract("path", rf"/{c.BUCKET}=(\d+)/[^/]+$", 1).cast("int")
        return found.select(bucket.alias(c.BUCKET), c.CONTENT)

    def version(self) -> int:
        """The latest version."""
        return int(self._snapshot().version())

    def identity(self) -> str:
        """What tells this table from another that once stood, or will stand, at the same path."""
        return str(self._snapshot().metadata().id())

    def state(self) -> tuple[str, int]:
        """Identity and latest version."""
        snapshot = self._snapshot()
        return str(snapshot.metadata().id()), int(snapshot.version())

    def properties(self) -> dict[str, str]:
        """The table's properties."""
        entries = self._snapshot().metadata().configuration().iterator()
        found: dict[str, str] = {}
        while entries.hasNext():
            entry = entries.next()
            found[entry._1()] = entry._2()
        return found

    def last_txn(self, app: str) -> int | None:
        """The highest version an app has written, None when it has written nothing."""
        found = self._snapshot().transactions().get(app)
        return int(found.get()) if found.isDefined() else None

    def txn_rows(self, txn: Txn) -> int | None:
        """Rows that one txn's commit wrote, read from the commit itself; None when it is not in the recent log."""
        for version in range(self.version(), -1, -1):
            actions = self._actions(version)
            if actions is None:
                return None
            if any(a.get("txn", {}).get("appId") == txn.app and a["txn"]["version"] == txn.version for a in actions):
                return int(self._commit_info(version)["operationMetrics"]["numOutputRows"])
        return None

    def read_ahead(self) -> "Future[None]":
        """Let Delta reconstruct the latest version's state in the background.

        The first read or txn after a commit waits for that, about a second whatever the table's size: a job that knows
        what it will read next calls this and does something else meanwhile. Nothing is lost if it fails: the read then
        does it, and says what is wrong.
        """
        return _ahead.submit(self._reconstruct)

    def _reconstruct(self) -> None:
        try:
            self._snapshot().stateDF().count()
        except Exception as err:
            log_event(log, "read_ahead_failed", table=self.name, error=type(err).__name__)

    def append(
        self,
        rows: DataFrame,
        txn: Txn | None = None,
        options: Mapping[str, str] | None = None,
        *,
        note: Mapping[str, int] | None = None,
    ) -> int:
        """Add rows in one commit and return how many; none with a ``txn`` that the table knows already.

        Looking a txn up costs Delta the reconstruction of the table's state, about a second: a caller that cannot write
        twice does without. The ``note`` is for `last_note`.
        """
        writer = rows.write.format("delta").mode("append").options(**(options or {}))
        if txn is not None:
            writer = writer.option("txnAppId", txn.app).option("txnVersion", txn.version)
        return self._commit(writer, note)

    def replace(self, rows: DataFrame, where: str, *, note: Mapping[str, int] | None = None) -> int:
        """Put rows in the place of those that fulfil the SQL condition, in one commit; returns how many are new.

        Args:
            rows: the new rows.
            where: condition on the old rows.
            note: numbers that the commit keeps, for `last_note`.

        Raises:
            AnalysisException: one of the new rows does not fulfil the condition.
        """
        writer = rows.write.format("delta").mode("overwrite").option("replaceWhere", where)
        return self._commit(writer, note)

    def last_note(self) -> dict[str, int] | None:
        """The note of the latest commit, None when that has none or something else wrote it."""
        try:
            said = json.loads(self._commit_info(self.version()).get("userMetadata", "null"))
        except ValueError:  # others write what they like there
            return None
        return said.get(_NOTE) if isinstance(said, dict) else None

    def partitions_added(self, column: str, *, after: int, through: int) -> set[str] | None:
        """Values of the partition column that commits after one version brought rows for, read from the log.

        None when the log does not reach back that far.
        """
        found: set[str] = set()
        for version in range(after + 1, through + 1):
            actions = self._actions(version)
            if actions is None:
                return None
            adds = (action["add"] for action in actions if "add" in action)
            found |= {add["partitionValues"][column] for add in adds if add["dataChange"]}
        return found

    def delete(self, where: str) -> None:
        """Remove the rows that fulfil the SQL condition, in one commit."""
        DeltaTable.forPath(self._spark, self.path).delete(where)

    def _commit(self, writer: DataFrameWriter, note: Mapping[str, int] | None) -> int:
        """Write, and find out from the commit itself how many rows; 0 when Delta knew the txn and made none."""
        said = {} if note is None else {_NOTE: dict(note)}
        mark = json.dumps({**said, _MARK: uuid.uuid4().hex})  # tells it from others' commits that come in between
        before = self.version()
        writer.option("userMetadata", mark).save(self.path)
        for version in range(before + 1, self.version() + 1):
            info = self._commit_info(version)
            if info.get("userMetadata") == mark:
                return int(info["operationMetrics"]["numOutputRows"])
        return 0

    def _snapshot(self) -> Any:
        jvm: Any = self._spark._jvm
        session: Any = self._spark
        delta_log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(session._jsparkSession, self.path)
        none = jvm.scala.Option.empty()
        return delta_log.update(False, none, none)

    def _commit_info(self, version: int) -> dict[str, Any]:
        return next((action["commitInfo"] for action in self._actions(version) or [] if "commitInfo" in action), {})

    def _actions(self, version: int) -> list[dict[str, Any]] | None:
        """What one commit did, from the log (the Delta protocol's own file); None when that is cleaned up."""
        try:
            text = self._files.read_text(f"{self.path}/_delta_log/{version:020d}.json")
        except FileNotFoundError:
            return None
        return [json.loads(line) for line in text.splitlines()]


class Memo(Generic[T]):
    """What one process has made of a table's rows, by table: it holds until anybody commits to the table."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[str, tuple[tuple[str, int], T]] = {}

    def get(self, table: Table, state: tuple[str, int]) -> T | None:
        """What was made of a state, None when that was not read."""
        known, value = self._known.get(table.path, (None, None))
        return value if known == state else None

    def put(self, table: Table, state: tuple[str, int], value: T) -> None:
        """Keep what was made of a state."""
        self._known[table.path] = (state, value)


class Tables:
    """All tables of one warehouse.

    ``buckets`` and ``users_per_block`` are those the warehouse was made with; later settings do not change them,
    because every user's place follows from them.
    """

    def __init__(self, spark: SparkSession, params: WarehouseParams) -> None:
        self.files = Files(spark)
        self.root = self.files.resolve(params.root)
        self._params = params
        self._tables = {name: Table(spark, self.files, name, f"{self.root}/{name}") for name in SPECS}
        self.ratings = self._tables["ratings"]
        self.quarantine = self._tables["quarantine"]
        self.ledger = self._tables["ingest_ledger"]
        self.items = self._tables["items"]
        self.user_blocks = self._tables["user_blocks"]
        self.recommendations = self._tables["recommendations"]
        self.generations = self._tables["generations"]
        self.job_runs = self._tables["job_runs"]
        self.buckets = params.buckets
        self.users_per_block = params.users_per_block

    def open_or_create(self) -> "Tables":
        """Make the tables that are missing, then read the shape the warehouse was made with."""
        shape = {_BUCKETS: str(self._params.buckets), _USERS_PER_BLOCK: str(self._params.users_per_block)}
        missing = [table for table in self._tables.values() if not table.exists()]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda table: table.create(SPECS[table.name], shape), missing))
        return self.open()

    def open(self) -> "Tables":
        """Read the shape the warehouse was made with."""
        kept = self.ratings.properties()
        self.buckets = int(kept[_BUCKETS])
        self.users_per_block = int(kept[_USERS_PER_BLOCK])
        if (self.buckets, self.users_per_block) != (self._params.buckets, self._params.users_per_block):
            log_event(
                log,
                "warehouse_shape_kept",
                level=logging.WARNING,
                buckets=self.buckets,
                users_per_block=self.users_per_block,
            )
        return self

    def versions(self) -> dict[str, int]:
        """The latest version of every table."""
        return {name: table.version() for name, table in self._tables.items()}
