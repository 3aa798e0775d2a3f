"""What is damaged in a warehouse, table by table, and what of it can be made good from the table's own files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from pyspark.sql import SparkSession

from recsys.errors import StorageError, UsageError
from recsys.events import log_event
from recsys.store.faults import explain
from recsys.store.files import Files
from recsys.store.locks import check_held
from recsys.store.logs import CHECKPOINT, COMMIT, HINT, Log, Plan, plan_repair, read_log
from recsys.store.tables import Table

log = logging.getLogger(__name__)

SET_ASIDE: Final = "set_aside"  # folder of the warehouse, out of Delta's sight


class State(Enum):
    """Of a finding."""

    REPAIRED = "repaired"
    REPAIRABLE = "can be repaired"  # in a dry run
    LOST = "cannot be repaired"


@dataclass(frozen=True)
class Finding:
    """One thing that was wrong: where, what, and what was done or is to do."""

    table: str
    state: State
    message: str

    def __str__(self) -> str:
        """As a line of the report."""
        return f"{self.table}: {self.state.value}: {self.message}"


_REBUILD: Final[Mapping[str, str]] = {
    "user_blocks": "Delete its folder and run ingest_ratings: all blocks are packed anew from the ratings",
    "recommendations": "Delete the folders of both recommendations and generations, then run score_users: lists are "
    "made anew with the champion",
    "generations": "Delete the folders of both recommendations and generations, then run score_users: lists are made "
    "anew with the champion",
    "job_runs": "Delete its folder: only the record of runs is lost",
    "quarantine": "Put it back from a backup, or delete its folder: only the raw text of refused rows is lost, the "
    "landed files have it",
    "ratings": "Put the warehouse back from a snapshot or a backup, or make a new one and land all files again",
    "ingest_ledger": "Put the warehouse back from a snapshot or a backup. Or delete its folder: all files in the "
    "landing folder are read again, which counts no rating twice",
    "suppressed_users": "Put it back from a snapshot or a backup: without it users who were forgotten come back",
    "items": "Put the warehouse back from a snapshot or a backup: blocks and models count on the items' positions",
}
_AFTER_LOSS: Final[Mapping[str, str]] = {
    "user_blocks": "The next ingestion packs what is missing",
    "recommendations": "Run score_users --force: lists of that commit are gone",
    "generations": "Consumers read the generation before; run score_users or rollback to publish",
    "job_runs": "Rows of the last runs are gone",
    "quarantine": "Refused rows of the last batch are gone from it, unless the next ingestion repeats the batch; the "
    "landed files have them",
}


def repair_log(spark: SparkSession, files: Files, table: Table, root: str, *, dry_run: bool) -> list[Finding]:
    """Take out of a table's log what is damaged and not needed, or the last commit when it is torn.

    What is taken out is kept below ``<warehouse>/set_aside``.

    Raises:
        LockedError: the caller's lock was lost; nothing was taken out.
    """
    folder = f"{table.path}/_delta_log"
    if not files.exists(folder):
        return []
    names = [file.path.rpartition("/")[2] for file in files.list_files(folder)]

    def check(name: str) -> str | None:
        return _fault_of_checkpoint(spark, f"{folder}/{name}")

    found = read_log(names, lambda name: files.read_text(f"{folder}/{name}"), check)
    plan = plan_repair(found)
    if plan.refusal is not None:
        return [Finding(table.name, State.LOST, f"'{folder}': {plan.refusal}. {_REBUILD[table.name]}.")]
    if plan == Plan():
        return []
    taken = [name for name in sorted(names) if _goes(name, plan)]
    target = f"{root}/{SET_ASIDE}/{table.name}/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    if not dry_run:
        check_held()
        files.make_folders(target)
        for name in taken:
            if not files.rename(f"{folder}/{name}", f"{target}/{name}"):
                raise OSError(f"'{folder}/{name}' could not be moved to '{target}'. See who may write there.")
            files.delete(f"{folder}/.{name}.crc")  # of the local file system, which would hold it against a new file
        table.forget()
        log_event(log, "log_repaired", level=logging.WARNING, table=table.name, files=len(taken), lost=plan.lost)
    state = State.REPAIRABLE if dry_run else State.REPAIRED
    return [Finding(table.name, state, _describe(table, found, plan, target if not dry_run else None))]


def find_missing_files(files: Files, table: Table) -> list[Finding]:
    """Data files that a table's latest version needs and that are gone or have another size."""
    if not files.exists(f"{table.path}/_delta_log"):
        return []
    there = {file.path: file.size for file in files.list_files(table.path, recursive=True)}
    wrong = {path: there.get(path) for path, size in table.live_files().items() if there.get(path) != size}
    return [
        Finding(
            table.name,
            State.LOST,
            f"data file '{path}' {'is gone' if size is None else f'has {size:,} bytes, which is not its size'}. Put it "
            f"back from HDFS's trash, a snapshot or a backup. Otherwise: {_REBUILD[table.name]}.",
        )
        for path, size in sorted(wrong.items())
    ]


def _goes(name: str, plan: Plan) -> bool:
    version = name[:20]
    gone = {f"{own:020d}" for own in plan.commits}
    if CHECKPOINT.fullmatch(name):
        return version in {f"{own:020d}" for own in plan.checkpoints}
    if COMMIT.fullmatch(name) or name == f"{version}.crc":
        return version in gone
    return plan.hint and name == HINT


def _describe(table: Table, found: Log, plan: Plan, target: str | None) -> str:
    what = [f"commit {version} {found.commits[version]}" for version in plan.commits]
    what += [f"checkpoint {version} {found.checkpoints[version]}" for version in plan.checkpoints]
    what += [f"{HINT} {found.hint}"] if found.hint else []
    said = "; ".join(what)
    said += ". No row is lost" if plan.lost is None else f". The table is as before commit {plan.lost}"
    if plan.lost is not None and table.name in _AFTER_LOSS:
        said += f". {_AFTER_LOSS[table.name]}"
    return said + (f". Kept in '{target}'." if target else ".")


def _fault_of_checkpoint(spark: SparkSession, path: str) -> str | None:
    try:
        rows = spark.read.json(path) if path.endswith(".json") else spark.read.parquet(path)
        rows.write.format("noop").mode("overwrite").save()
    except Exception as err:
        told = explain(err)
        if isinstance(told, StorageError | UsageError):  # says nothing about the file
            raise told from err
        log_event(log, "checkpoint_unreadable", path=path, error=type(err).__name__)
        return "cannot be read"
    return None
