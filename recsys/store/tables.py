"""The eight Delta tables under one warehouse root, and the few things the system does with a table.

Every commit to a table that a lock is for carries the fencing token of its holder (`recsys.store.locks`), as the
version of a Delta transaction: Delta leaves out a commit whose version is not above the last one, and fails one that
began before the last one was made. So a holder that was stopped, at any point, until another had taken over cannot
commit.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote

from delta import exceptions as conflicts
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.types import StructType

from recsys import columns as c
from recsys import schemas
from recsys.errors import CommitConflictError, ConfigError, LockedError, StorageError, TableDamagedError
from recsys.events import log_event
from recsys.store.files import Files, as_pattern
from recsys.store.locks import LISTS, TABLES, Lock, held_for
from recsys.store.logs import fault_of_commit, split_commit
from recsys.store.params import WarehouseParams
from recsys.store.pause import pause_at

log = logging.getLogger(__name__)

T = TypeVar("T")

_BUCKETS = "recsys.buckets"
_USERS_PER_BLOCK = "recsys.usersPerBlock"
_LOG_RETENTION: Final = "delta.logRetentionDuration"
_DELTAS_LOG_DAYS: Final = 30  # of a table without the property
# One at a time: there is work in the foreground.
_ahead = ThreadPoolExecutor(1, "read_ahead")

# What a commit's metadata say.
_MARK = "write"
_NOTE = "note"
_TXN = "txn"

# The Delta transaction of commits under a lock. Its version is the token, then room for the commits of one holder.
_FENCE: Final = "recsys/lock"
_COMMITS: Final = 2**28

# Commit, checksum or checkpoint; the local file system adds a hidden checksum of each.
_LOG_FILE: Final = re.compile(r"\.?(\d{20})\.")

# What Delta says of a folder that is not empty and no table, and what it writes there before there is a first commit.
_NO_TABLE: Final = (
    "DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION",
    "DELTA_MISSING_DELTA_TABLE",
    "DELTA_TABLE_NOT_FOUND",
)
_UNFINISHED: Final = re.compile(r"\.[^/]*\.(tmp|crc)|_(commits|sidecars)/.*|__[^/]*")
_MAKING_S: Final = 10.0  # in which who makes a table at the same time has made it

ATTEMPTS: Final = 3  # of one commit that others' commits are in the way of
_CONFLICTS: Final = (
    conflicts.ConcurrentAppendException,
    conflicts.ConcurrentDeleteDeleteException,
    conflicts.ConcurrentDeleteReadException,
    conflicts.ConcurrentTransactionException,
    conflicts.ConcurrentWriteException,
    conflicts.DeltaConcurrentModificationException,
    conflicts.MetadataChangedException,
    conflicts.ProtocolChangedException,
)


# In the note of a commit that dropped only rows which no current rating comes from: how many.
SUPERSEDED: Final = "superseded"


@dataclass(frozen=True)
class Changes:
    """What a range of commits did to a table, by value of its partition column.

    Attributes:
        appended: partitions that got rows and lost none.
        rewritten: partitions that lost rows, or got others for them; compaction is left out.
        operations: what did that, in Delta's words with the version.
    """

    appended: frozenset[str]
    rewritten: frozenset[str] = frozenset()
    operations: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSpec:
    """What a table is made with, and the lock it is written under.

    Attributes:
        schema: its columns.
        partitioned_by: those that are folders.
        lock: name.
        found_by: columns by whose least and greatest value in a file files are left out; none: Delta's choice, which
            costs as much as a tenth of a write.
    """

    schema: StructType
    partitioned_by: tuple[str, ...] = ()
    lock: str | None = None
    found_by: tuple[str, ...] = ()


SPECS: Mapping[str, TableSpec] = {
    "ratings": TableSpec(schemas.RATINGS, (c.BUCKET,), lock=TABLES, found_by=(c.BATCH, c.EVENT_TIME)),
    "quarantine": TableSpec(schemas.QUARANTINE, lock=TABLES),
    "ingest_ledger": TableSpec(schemas.INGEST_LEDGER, lock=TABLES),
    "items": TableSpec(schemas.ITEMS, lock=TABLES),
    "user_blocks": TableSpec(schemas.USER_BLOCKS, (c.BUCKET, c.LAYER), lock=TABLES),
    "recommendations": TableSpec(schemas.RECOMMENDATIONS, (c.GENERATION,), lock=LISTS),
    "generations": TableSpec(schemas.GENERATIONS, lock=LISTS),
    "job_runs": TableSpec(schemas.JOB_RUNS),
}

# Not made with the others: it is there once a user has been forgotten (`recsys.store.suppressed`).
SUPPRESSED: Final = TableSpec(schemas.SUPPRESSED_USERS, lock=TABLES)
_SPECS: Final = {**SPECS, "suppressed_users": SUPPRESSED}


@dataclass(frozen=True)
class Txn:
    """One write as the table remembers it: a second write of the same or a lower version of an app is skipped."""

    app: str
    version: int


class Table:
    """One Delta table."""

    def __init__(self, spark: SparkSession, files: Files, name: str, path: str) -> None:
        self._spark = spark
        self._files = files
        self.name = name
        self.path = path
        self._lock = _SPECS[name].lock if name in _SPECS else None

    def exists(self) -> bool:
        """Whether the table has been made.

        Raises:
            TableDamagedError: its log has a checkpoint and no commit; Delta always keeps the checkpoint's own.
        """
        try:
            return bool(DeltaTable.isDeltaTable(self._spark, self.path))
        except Py4JJavaError as err:
            if "Could not find any delta files for version" not in str(err):
                raise
            raise TableDamagedError(
                f"table '{self.name}': '{self.path}/_delta_log' has no commit any more. Nothing was read or written. "
                "Run repair_tables --dry-run to see what can be saved, then repair_tables."
            ) from err

    def create(self, spec: TableSpec, properties: Mapping[str, str]) -> None:
        """Make the table, unless it is there already or another job makes it at the same time.

        Raises:
            ConfigError: there is something else in its folder.
        """
        builder = DeltaTable.createIfNotExists(self._spark).location(self.path).addColumns(spec.schema)
        # A checkpoint costs ten times what an append to a small table does; reading fifty commits costs little.
        builder = builder.property("delta.checkpointInterval", "50")
        if spec.found_by:
            builder = builder.property("delta.dataSkippingStatsColumns", ",".join(spec.found_by))
        for key, value in properties.items():
            builder = builder.property(key, value)
        builder = builder.partitionedBy(*spec.partitioned_by)
        given_up = time.monotonic() + _MAKING_S
        while True:
            try:
                builder.execute()
            except _CONFLICTS:
                pass
            except AnalysisException as err:  # another has made the folder of the log, and no commit yet
                if err.getCondition() not in _NO_TABLE:
                    raise
            if self.exists():
                return
            if time.monotonic() > given_up:
                self._clear_stillborn()
                given_up = time.monotonic() + _MAKING_S
            time.sleep(_MAKING_S / 50)

    def _clear_stillborn(self) -> None:
        """Remove what a job left that was killed while it made the table: a log without its first commit.

        Raises:
            ConfigError: there is more in the folder than that.
        """
        log_folder = f"{self.path}/_delta_log"
        left = [file.path for file in self._files.list_files(self.path, recursive=True)]
        more = [path for path in left if not _UNFINISHED.fullmatch(path.rpartition("/_delta_log/")[2])]
        if more:
            raise ConfigError(
                f"table '{self.name}' cannot be made: '{self.path}' is no Delta table and holds {len(more):,} files, "
                f"such as '{more[0]}'. Move them away, or set warehouse.root to another folder."
            )
        self._files.delete(log_folder, recursive=True)
        log_event(log, "half_made_table_removed", level=logging.WARNING, table=self.name)

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
        paths = [as_pattern(path) for path in rows.inputFiles()]
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

    def check_last_commit(self) -> int:
        """Make sure that the latest commit says all that it did, and return its version.

        Delta takes an empty commit file for one that did nothing: the rows would be gone, and the next commit
        would make that last.

        Raises:
            TableDamagedError: its file is empty or has lost its end.
        """
        version = self.version()
        path = f"{self.path}/_delta_log/{version:020d}.json"
        try:
            fault = fault_of_commit(self._files.read(path).decode("utf-8", errors="replace"))
        except FileNotFoundError:  # a checkpoint has its place
            return version
        if fault is not None:
            raise TableDamagedError(
                f"table '{self.name}': '{path}' {fault}. Nothing was read or written. "
                "Run repair_tables --dry-run to see what can be saved, then repair_tables."
            )
        return version

    def why_unreadable(self, version: int) -> str | None:
        """Why a version can no longer be read whole, None when it can; no data file is opened."""
        latest = self.version()
        if version > latest:
            return f"the table ends with version {latest}: it was made again since"
        if version == latest:
            return None
        try:
            wanted = self.read_version(version).inputFiles()
        except AnalysisException:  # Delta has several for it
            return "the table's log does not reach back so far"
        removed = set(wanted).difference(self.read().inputFiles())
        gone = sum(not self._files.exists(unquote(path)) for path in removed)
        return f"{gone:,} of its {len(wanted):,} files are gone" if gone else None

    def live_files(self) -> dict[str, int]:
        """Path and size of every data file of the latest version."""
        rows = DataFrame(self._snapshot().allFiles().toDF(), self._spark).select("path", "size").collect()
        return {f"{self.path}/{unquote(row[0])}": int(row[1]) for row in rows}

    def forget(self) -> None:
        """Let Delta read the log anew: somebody took files out of it."""
        self._logs.clearCache()

    def state(self) -> tuple[str, int]:
        """Identity and latest version."""
        snapshot = self._snapshot()
        return str(snapshot.metadata().id()), int(snapshot.version())

    def properties(self) -> dict[str, str]:
        """The table's properties."""
        return _to_dict(self._snapshot().metadata().configuration())

    def set_log_retention(self, days: int) -> bool:
        """Let Delta keep the log for so long, and return whether that is another time than before.

        Delta removes older entries when it writes a checkpoint, and always leaves what the latest version needs.
        """
        wanted = _log_retention(days)
        if self.properties().get(_LOG_RETENTION, _log_retention(_DELTAS_LOG_DAYS)) == wanted:
            return False
        note = self.last_note()
        self._spark.sql(f"ALTER TABLE delta.`{self.path}` SET TBLPROPERTIES ('{_LOG_RETENTION}' = '{wanted}')")
        if note is not None:
            self.fence(note=note)  # it is read from the latest commit
        return True

    def last_txn(self, app: str) -> int | None:
        """The highest version an app has written, None when it has written nothing that the log still tells of."""
        found = self._transactions().get(app)
        for actions in self._recent_commits():
            txn = _txn_of(actions)
            if txn is not None and txn.app == app:
                return txn.version if found is None else max(found, txn.version)
        return found

    def txn_rows(self, txn: Txn) -> int | None:
        """Rows that one txn's commit wrote, read from the commit itself; None when it is not in the recent log."""
        for actions in self._recent_commits():
            if _txn_of(actions) == txn:
                return _rows_written(actions)
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
            self._transactions()  # and not a count of the state: the next commit's fence asks for just these
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

        The ``note`` is for `last_note`.

        Raises:
            LockedError: this job's lock on the table was lost; nothing is written.
            CommitConflictError: others' commits were in the way `ATTEMPTS` times; nothing is written.
        """
        writer = rows.write.format("delta").mode("append").options(**(options or {}))
        if txn is not None and (last := self.last_txn(txn.app)) is not None and last >= txn.version:
            return 0
        return self._commit(writer, note, txn)

    def replace(
        self,
        rows: DataFrame,
        where: str,
        *,
        note: Mapping[str, int] | None = None,
        options: Mapping[str, str] | None = None,
        made_of: int | None = None,
    ) -> int:
        """Put rows in the place of those that fulfil the SQL condition, in one commit; returns how many are new.

        Args:
            rows: the new rows.
            where: condition on the old rows.
            note: numbers that the commit keeps, for `last_note`.
            options: of the write.
            made_of: the version that the rows were made of: whatever was committed since would be lost with the old
                rows, so this is not tried again when somebody else came first.

        Raises:
            AnalysisException: one of the new rows does not fulfil the condition.
            LockedError: this job's lock on the table was lost; nothing is written.
            CommitConflictError: others' commits were in the way `ATTEMPTS` times; nothing is written.
        """
        writer = rows.write.format("delta").mode("overwrite").option("replaceWhere", where).options(**(options or {}))
        return self._commit(writer, note, made_of=made_of)

    def last_note(self) -> dict[str, int] | None:
        """The note of the latest commit, None when that has none or something else wrote it."""
        return self.note(self.version())

    def note(self, version: int) -> dict[str, int] | None:
        """The note of the commit that made a version, None when that has none or something else wrote it."""
        note: dict[str, int] | None = _said(self._commit_info(version)).get(_NOTE)
        return note

    def changes(self, column: str, *, after: int, through: int) -> Changes | None:
        """What commits after one version did to the rows, by value of the partition column, read from the log.

        None when the log does not reach back that far.
        """
        appended: set[str] = set()
        rewritten: set[str] = set()
        operations: list[str] = []
        for version in range(after + 1, through + 1):
            actions = self._actions(version)
            if actions is None:
                return None
            added, removed = (_partitions(actions, kind, column) for kind in ("add", "remove"))
            info = _info_of(actions)
            if not removed:
                appended |= added
            elif SUPERSEDED not in (_said(info).get(_NOTE) or {}):
                rewritten |= added | removed
                operations.append(f"{info.get('operation', 'unknown')} (version {version})")
        return Changes(frozenset(appended), frozenset(rewritten), tuple(operations))

    def delete(self, where: str) -> None:
        """Remove the rows that fulfil the SQL condition, in one commit.

        Raises:
            LockedError, CommitConflictError: see `replace`.
        """
        self.replace(self._no_rows(), where)  # unlike Delta's own DELETE, a write can carry a token

    def fence(self, *, note: Mapping[str, int] | None = None, txn: Txn | None = None) -> None:
        """Let the table see the token of this job's lock: from now on it refuses earlier holders.

        Args:
            note: numbers that the commit keeps, for `last_note`.
            txn: the newest of an app, which the commit keeps for `last_txn`.

        Raises:
            LockedError: the lock was lost meanwhile.
        """
        self._commit(self._no_rows().write.format("delta").mode("append"), note, txn)

    def forget_log(self) -> int:
        """Let a checkpoint take the place of the whole log before the latest commit; returns how many files went.

        What commits said of rows that are gone, as the least and greatest value of a column, goes with them. Nobody
        can read an earlier version afterwards.
        """
        snapshot = self._snapshot()
        version = int(snapshot.version())
        snapshot.deltaLog().checkpoint(snapshot, self._none)
        folder = f"{self.path}/_delta_log"
        names = {file.path.rpartition("/")[2] for file in self._files.list_files(folder)}
        if not any(name.startswith(f"{version:020d}.checkpoint") for name in names):
            raise StorageError(f"table '{self.name}': no checkpoint was written of version {version}. Its log stays.")
        old = [name for name in names if (found := _LOG_FILE.match(name)) and int(found[1]) < version]
        for name in old:
            self._files.delete(f"{folder}/{name}")
        self.forget()
        return len(old)

    def join_small_files(self) -> int:
        """Join the small files that appends leave, and return how many there were; none when writers are in the way.

        It changes no row, so it carries no token; whoever changes rows meanwhile wins.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                [found] = DeltaTable.forPath(self._spark, self.path).optimize().executeCompaction().collect()
            except _CONFLICTS as err:
                self._log_conflict(err, attempt)
            else:
                return int(found["metrics"]["numFilesRemoved"])
        return 0

    def _commit(
        self,
        writer: DataFrameWriter,
        note: Mapping[str, int] | None,
        txn: Txn | None = None,
        *,
        made_of: int | None = None,
    ) -> int:
        """Write, and find out from the commit itself how many rows; 0 when Delta knew the txn and made none.

        A commit that failed because of others' is tried again, a bounded number of times, after a look whether it was
        made after all: the file system may have done what it could not confirm.
        """
        said: dict[str, Any] = {} if note is None else {_NOTE: dict(note)}
        said |= {} if txn is None else {_TXN: [txn.app, txn.version]}
        mark = json.dumps({**said, _MARK: uuid.uuid4().hex})  # tells it from others' commits that come in between
        writer = writer.option("userMetadata", mark)
        lock = self._held_lock()
        before = self.check_last_commit()
        conflict = None
        for attempt in range(1, ATTEMPTS + 1):
            carried = txn if lock is None else self._next_fence(lock)
            if carried is not None:
                writer = writer.option("txnAppId", carried.app).option("txnVersion", carried.version)
            pause_at(f"commit:{self.name}")
            if made_of is not None and (now := self.version()) != made_of:
                raise CommitConflictError(
                    f"table '{self.path}': rows made of version {made_of} were to replace others, but somebody "
                    f"committed version {now} meanwhile. Nothing of this commit was written. Run the job again."
                )
            try:
                writer.save(self.path)
                conflict = None
            except _CONFLICTS as err:
                conflict = err
                self._log_conflict(err, attempt)
            for version in range(before + 1, self.version() + 1):
                actions = self._actions(version) or []
                if _info_of(actions).get("userMetadata") == mark:
                    return _rows_written(actions)
            if conflict is None and lock is None:
                return 0  # Delta knew the txn
        why = "it was left out" if conflict is None else f"{type(conflict).__name__}"
        raise CommitConflictError(
            f"table '{self.path}': {ATTEMPTS} attempts to commit failed because others committed meanwhile ({why}). "
            "Nothing of this commit was written. Run the job again; if it comes again, find out who else writes there."
        ) from conflict

    def _held_lock(self) -> Lock | None:
        return None if self._lock is None else held_for(self.path.rpartition("/")[0], self._lock)

    def _next_fence(self, lock: Lock) -> Txn:
        """What the next commit under a lock carries.

        Raises:
            LockedError: the lock was lost.
        """
        lock.check()
        last, own = self._transactions().get(_FENCE, 0), lock.token * _COMMITS
        if last >= own + _COMMITS:  # the table knows better than a lock file that somebody put back
            raise LockedError(lock.loss())
        return Txn(_FENCE, max(last, own) + 1)

    def _no_rows(self) -> DataFrame:
        return self._spark.createDataFrame([], self.read().schema)

    def _log_conflict(self, err: Exception, attempt: int) -> None:
        kind = type(err).__name__
        log_event(log, "commit_conflict", level=logging.WARNING, table=self.name, error=kind, attempt=attempt)

    def _snapshot(self) -> Any:
        session: Any = self._spark
        return self._logs.forTable(session._jsparkSession, self.path).update(False, self._none, self._none)

    @property
    def _logs(self) -> Any:
        return self._files.java_class("org.apache.spark.sql.delta.DeltaLog")

    @property
    def _none(self) -> Any:
        return self._files.java_class("scala.Option").empty()

    def _transactions(self) -> dict[str, int]:
        """The highest version of each Delta transaction. Costs the reconstruction of the state, see `read_ahead`."""
        return _to_dict(self._snapshot().transactions())

    def _recent_commits(self) -> Iterator[list[dict[str, Any]]]:
        """What commits did, newest first, as far back as the log reaches; not those that a RESTORE took back."""
        version = self.version()
        while version >= 0 and (actions := self._actions(version)) is not None:
            yield actions
            info = _info_of(actions)
            restored = (
                info.get("operationParameters", {}).get("version") if info.get("operation") == "RESTORE" else None
            )
            version = version - 1 if restored is None else int(restored)

    def _commit_info(self, version: int) -> dict[str, Any]:
        return _info_of(self._actions(version) or [])

    def _actions(self, version: int) -> list[dict[str, Any]] | None:
        """What one commit did, from the log (the Delta protocol's own file); None when that is cleaned up."""
        try:
            text = self._files.read_text(f"{self.path}/_delta_log/{version:020d}.json")
        except FileNotFoundError:
            return None
        return [json.loads(line) for line in split_commit(text)]


def _log_retention(days: int) -> str:
    return f"interval {days} days"


def _info_of(actions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a commit says of itself, the same whoever made it."""
    return next((dict(action["commitInfo"]) for action in actions if "commitInfo" in action), {})


def _partitions(actions: Sequence[Mapping[str, Any]], kind: str, column: str) -> set[str]:
    """Partitions of the files that a commit added or removed, those that only joined files left out."""
    files = [action[kind] for action in actions if kind in action and action[kind]["dataChange"]]
    # What removes a file need not repeat its partition, but Delta's folders have it.
    return {
        (file.get("partitionValues") or dict(re.findall(r"([^/=]+)=([^/]*)/", file["path"])))[column] for file in files
    }


def _rows_written(actions: Sequence[Mapping[str, Any]]) -> int:
    """How many rows a commit wrote."""
    if not any("add" in action for action in actions):  # and then Delta counts nothing
        return 0
    return int(_info_of(actions)["operationMetrics"]["numOutputRows"])


def _said(info: Mapping[str, Any]) -> dict[str, Any]:
    """What we wrote into a commit's metadata; nothing of others'."""
    try:
        said = json.loads(info.get("userMetadata", "null"))
    except ValueError:  # others write what they like there
        return {}
    return said if isinstance(said, dict) else {}


def _txn_of(actions: Sequence[Mapping[str, Any]]) -> Txn | None:
    """The txn that a commit was given."""
    found = _said(_info_of(actions)).get(_TXN)
    return None if found is None else Txn(*found)


def _to_dict(scala_map: Any) -> dict[str, Any]:
    found, entries = {}, scala_map.iterator()
    while entries.hasNext():
        entry = entries.next()
        found[entry._1()] = entry._2()
    return found


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
        self.suppressed_users = Table(spark, self.files, "suppressed_users", f"{self.root}/suppressed_users")
        self.recent_from = params.recent_from
        self.recent_share = params.recent_share
        self.buckets = params.buckets
        self.users_per_block = params.users_per_block

    def open_or_create(self) -> "Tables":
        """Make the tables that are missing, then read the shape the warehouse was made with."""
        shape = {
            _BUCKETS: str(self._params.buckets),
            _USERS_PER_BLOCK: str(self._params.users_per_block),
            _LOG_RETENTION: _log_retention(self._params.log_days),
        }
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

    def fence(self, lock: str) -> None:
        """Let all tables that are written under a lock refuse its earlier holders; this process holds it.

        Raises:
            LockedError: the lock was lost meanwhile.
        """
        fenced = [table for table in self.all() if _SPECS[table.name].lock == lock and table.exists()]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Table.fence, fenced))

    def all(self) -> list[Table]:
        """The tables, in the order of `SPECS`; that of forgotten users last, where there is one."""
        known = self.suppressed_users
        return [*self._tables.values(), *([known] if self.files.exists(known.path) else [])]

    def check_last_commits(self) -> None:
        """Make sure that no table has lost the end of its log.

        Raises:
            TableDamagedError: one has.
        """
        forgotten = self.suppressed_users
        tables = [*self._tables.values(), *([forgotten] if forgotten.exists() else [])]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Table.check_last_commit, tables))

    def why_unreadable(self, versions: Mapping[str, int]) -> dict[str, str]:
        """Which of these versions of tables can no longer be read whole, and why."""
        found = {name: self._tables[name].why_unreadable(version) for name, version in versions.items()}
        return {name: why for name, why in found.items() if why is not None}

    def versions(self) -> dict[str, int]:
        """The latest version of every table."""
        return {name: table.version() for name, table in self._tables.items()}
