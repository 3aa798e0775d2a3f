"""Forgetting users: from everything that has their ids, in an order in which nothing brings them back.

Every step looks for what is left to do and is one commit or one rename, so that whatever is killed is finished by the
same command. No plan, log line, commit or receipt has an id: conditions compare hashes (`recsys.suppression`), and
where texts are searched the ids travel inside a function. The caller holds the locks on tables, models and lists.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys import schemas
from recsys.adoption import CONSUMERS
from recsys.batches import claim_file, ledger_app, read_ledger, record_entries
from recsys.config import Settings
from recsys.errors import RecsysError, UsageError
from recsys.events import log_event
from recsys.failures import describe_failure
from recsys.ingestion import is_unchanged
from recsys.landed_files import LandedFiles
from recsys.ratings.contract import RatingsContract, load_contract
from recsys.ratings.erasure import UnreadableFileError, require_unnamed, strip_users
from recsys.ratings.landing import Arrival, LandedFile, inspect, is_being_written, list_all
from recsys.ratings.ledger import ERASED, Claim, Counts, Entry
from recsys.ratings.validate import bucket_of
from recsys.replay import drop_leftovers
from recsys.session import ROOT
from recsys.store.checkpoints import drop_checkpoints
from recsys.store.kafka import Topic
from recsys.store.locks import check_held
from recsys.store.maintenance import choose_vacuum_hours, vacuum
from recsys.store.pause import pause_at
from recsys.store.repair import SET_ASIDE
from recsys.store.suppressed import receipts_folder, suppress
from recsys.store.tables import Table, Tables, Txn
from recsys.suppression import SAYS, Suppression, make_pattern
from recsys.user_blocks import bring_blocks_up_to_date, repack

log = logging.getLogger(__name__)

_DRAFT: Final = ".erased"  # ending of a file that takes another's place
_CHANGED: Final = "it changed or went meanwhile: run forget_user again"
LARGEST: Final = 256 * 2**20  # bytes of a landed file that the driver holds, packed or not


@dataclass
class Receipt:
    """What an erasure did; no id is in it.

    Attributes:
        users: their hashes.
        begun: when the first attempt began.
        removed: rows or files by place, over all attempts. What was committed when an attempt was killed, and not
            noted yet, is gone and not counted.
        to_remove: files, folders and topics that the owner of the data has to look at, each with why.
        to_come: what is left that time takes away, and when.
        purged: tables of which no earlier version and no log of one is left.
        versions: of the tables, at the end.
        ended: None while it is not.
    """

    users: list[str]
    begun: str
    removed: dict[str, int] = field(default_factory=dict)
    to_remove: dict[str, str] = field(default_factory=dict)
    to_come: dict[str, str] = field(default_factory=dict)
    purged: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    ended: str | None = None

    def to_json(self) -> str:
        """The receipt as the text of its file."""
        return json.dumps(vars(self), indent=1)


class Erasure:
    """One run of forget_user."""

    def __init__(self, spark: SparkSession, tables: Tables, settings: Settings, user_ids: frozenset[str]) -> None:
        """Reads nothing yet.

        Args:
            spark: the session.
            tables: of the warehouse.
            settings: of the job.
            user_ids: whom to forget.
        """
        self._spark = spark
        self._tables = tables
        self._settings = settings
        self._user_ids = user_ids
        self._files = LandedFiles(spark)

    def run(self, *, now: bool) -> Receipt:
        """Forget the users; with ``now``, what their earlier state left behind, too.

        Raises:
            UsageError: a batch is under way that an ingestion has to finish first, or the landing folder is not there.
        """
        self._require_no_open_batch()
        self._require_landing()
        drop_leftovers(self._tables)
        # Blocks that are behind, or do not know yet of rows that were deleted by hand, would be brought up to date from
        # versions that are going.
        bring_blocks_up_to_date(self._tables, through_batch=read_ledger(self._tables).last_accepted_batch)
        users = suppress(self._tables, self._user_ids)
        receipt, path = self._open_receipt(users)
        pause_at("forget:after_suppression")
        steps: dict[str, Callable[[], int]] = {
            "ratings": lambda: self._delete_ratings(users),
            "user_blocks": lambda: self._repack_blocks(users),
            "quarantine": self._redact_quarantine,
            "recommendations": lambda: self._delete_lists(users),
            "landed_rows": lambda: self._strip_landed_files(receipt),
        }
        for name, step in steps.items():
            done = step()
            pause_at(f"forget:after_{name}")
            receipt.removed[name] = receipt.removed.get(name, 0) + done
            self._files.write(path, receipt.to_json().encode())
        drop_checkpoints(self._spark, self._tables.root)
        self._look_aside(receipt)
        if now:
            for table in self._tables_with_ids():
                self._purge(table)
                pause_at(f"forget:purged_{table.name}")
                receipt.purged.append(table.name)
        else:
            receipt.to_come |= dict.fromkeys((table.name for table in self._tables_with_ids()), self._when_gone())
        self._look_at_topic(receipt)
        return self._close_receipt(receipt, path)

    def _require_no_open_batch(self) -> None:
        path = claim_file(self._tables)
        if self._files.exists(path):
            raise UsageError(
                f"'{path}' tells of a batch that was interrupted: its rows would be missed here and by its check of "
                "the counts. Nothing was changed. Run ingest_ratings, then forget_user again."
            )

    def _require_landing(self) -> None:
        folder = self._settings.landing.path
        if folder is not None and not self._files.is_folder(folder):
            raise UsageError(f"landing folder '{folder}' does not exist. Nothing was changed. Correct landing.path.")

    def _tables_with_ids(self) -> list[Table]:
        tables = self._tables
        return [tables.ratings, tables.user_blocks, tables.quarantine, tables.recommendations]

    def _delete_ratings(self, users: Suppression) -> int:
        where = f"{c.among(c.BUCKET, self._buckets())} AND {users.condition()}"
        n = self._tables.ratings.read().where(where).count()
        if n > 0:
            self._tables.ratings.delete(where)
        return n

    def _repack_blocks(self, users: Suppression) -> int:
        theirs = sf.expr(f"size(filter({c.USER_IDS}, u -> {users.condition('u')}))")
        blocks = self._tables.user_blocks.read().where(sf.col(c.BUCKET).isin(self._buckets()))
        found = blocks.groupBy(c.BUCKET).agg(sf.sum(theirs).alias("n")).where("n > 0").collect()
        if found:
            repack(self._tables, [row[c.BUCKET] for row in found])
        return sum(row["n"] for row in found)

    def _redact_quarantine(self) -> int:
        """The rows stay, without their text: the ledger counts them."""
        table = self._tables.quarantine
        rows = table.read()
        redacted = rows.mapInArrow(partial(_redact, user_ids=self._user_ids, only_changed=True), schemas.QUARANTINE)
        found = redacted.groupBy(c.BATCH).count().collect()
        if found:
            where = c.among(c.BATCH, (row[c.BATCH] for row in found))
            table.replace(
                rows.where(where).mapInArrow(partial(_redact, user_ids=self._user_ids), schemas.QUARANTINE), where
            )
        return sum(row["count"] for row in found)

    def _delete_lists(self, users: Suppression) -> int:
        lists = self._tables.recommendations
        n = lists.read().where(users.holds()).count()
        if n > 0:
            lists.delete(users.condition())
        return n

    def _strip_landed_files(self, receipt: Receipt) -> int:
        """Rewrite the files in the landing folder that have rows of theirs; the ledger knows the new ones as read."""
        if self._settings.landing.path is None:
            return 0
        contract = load_contract(ROOT / self._settings.contract)
        folder = self._files.resolve(self._settings.landing.path)
        rewritten = []
        for arrival in self._look_through(folder, receipt):
            try:
                rewritten += self._rewrite(arrival, contract)
            except UnreadableFileError as err:
                receipt.to_remove[arrival.source] = str(err)
            except FileNotFoundError:
                receipt.to_remove[arrival.source] = _CHANGED
        self._let_ledger_know(rewritten)
        pause_at("forget:before_landing")
        return sum(own.removed for own in rewritten if self._replace(own, receipt))

    def _look_through(self, folder: str, receipt: Receipt) -> list[Arrival]:
        """The landed files; those that somebody is still writing are for their owner. Takes old drafts away."""
        found, now_ms = [], int(time.time() * 1000)
        for arrival in list_all(self._files, folder):
            if arrival.source.endswith(_DRAFT):  # of a run that was killed: whoever is forgotten now may be in it
                self._files.delete(arrival.path)
            elif arrival.source.startswith(f"{CONSUMERS}/") or arrival.source.endswith(".crc"):
                continue  # who reads the folder, and checksums of a local disk: no rating is in them
            elif is_being_written(arrival, self._settings.landing, now_ms=now_ms):
                self._look_into_unfinished(arrival, receipt)
            else:
                found.append(arrival)
        return found

    def _look_into_unfinished(self, arrival: Arrival, receipt: Receipt) -> None:
        """Somebody still writes it, so that nobody may put another in its place; or he left it."""
        try:
            _require_small(arrival)
            require_unnamed(self._files.read(arrival.path), self._user_ids, at_most=LARGEST)
        except UnreadableFileError as err:
            receipt.to_remove[arrival.source] = f"{err}; and it is still being written, by its name or time"
        except FileNotFoundError:  # it has another name now, or is gone
            receipt.to_remove[arrival.source] = _CHANGED

    def _replace(self, own: "_Rewritten", receipt: Receipt) -> bool:
        """Put a draft in the place of its file, unless that is another by now; whether it was done."""
        check_held()
        arrival = own.file.arrival
        if not is_unchanged(self._files, arrival):
            self._files.delete(own.draft)
            receipt.to_remove[own.file.source] = _CHANGED
            return False
        self._files.replace(own.draft, arrival.path)
        folder, _, name = arrival.path.rpartition("/")
        self._files.delete(f"{folder}/.{name}.crc")  # on a local disk, of the content before
        return True

    def _rewrite(self, arrival: Arrival, contract: RatingsContract) -> "list[_Rewritten]":
        """Write a file without their rows beside it, where it has any.

        Raises:
            UnreadableFileError: nobody can tell what is in it.
        """
        _require_small(arrival)
        file = inspect(self._files, arrival, contract, self._settings.landing)
        content = self._files.read(arrival.path)
        if hashlib.sha256(content).hexdigest() != file.checksum:
            raise UnreadableFileError("it changed while it was read: run forget_user again when it is complete")
        stripped = strip_users(content, file, self._user_ids, contract, at_most=LARGEST)
        if stripped.removed == 0:
            return []
        folder, _, name = arrival.path.rpartition("/")
        draft = f"{folder}/.{name}{_DRAFT}"
        self._files.write(draft, stripped.content)
        checksum = hashlib.sha256(stripped.content).hexdigest()
        return [_Rewritten(file, draft, checksum, stripped.removed)]

    def _let_ledger_know(self, rewritten: "Sequence[_Rewritten]") -> None:
        """Before the files are there: else an ingestion after a kill would take them for new. A move keeps the time."""
        seen, now_us = read_ledger(self._tables), time.time_ns() // 1000
        entries = []
        for own in rewritten:
            if seen.is_known(own.file):
                new = self._files.status(own.draft)
                entry = Entry(
                    batch=seen.last_batch + 1,
                    source=own.file.source,
                    format=own.file.format,
                    size=new.size,
                    modified_ms=new.modified_ms,
                    claimed_us=now_us,
                    checksum=own.checksum,
                    counts=Counts(),
                    state=ERASED,
                )
                entries.append(entry)
        if entries:
            claim = Claim(entries[0].batch, now_us, tuple(entries))
            record_entries(self._spark, self._tables, claim, seen)

    def _look_aside(self, receipt: Receipt) -> None:
        """Damaged logs that repair_tables keeps are read by nobody but their owner."""
        folder = f"{self._tables.root}/{SET_ASIDE}"
        if self._files.exists(folder):
            receipt.to_remove[SET_ASIDE] = "files of logs that repair_tables took out may hold ids: delete the folder"

    def _look_at_topic(self, receipt: Receipt) -> None:
        """Messages are the broker's to drop; until then those of forgotten users are refused when they are read."""
        name = self._settings.kafka.topic
        if name is None:
            return
        try:
            kept_ms = Topic(self._spark, self._settings.kafka).kept_ms()
        except (RecsysError, Py4JJavaError) as err:
            why = describe_failure(err)
            receipt.to_remove[f"topic {name}"] = f"how long it keeps messages could not be found out: {why}"
            return
        if kept_ms is None:
            receipt.to_remove[f"topic {name}"] = (
                "it keeps messages for good (retention.ms, cleanup.policy): delete theirs, or let it drop old ones"
            )
            return
        last = datetime.now(UTC) + timedelta(milliseconds=kept_ms)
        receipt.to_come[f"topic {name}"] = (
            f"messages sent until now: its brokers drop them by the end of {last:%Y-%m-%d} UTC (retention.ms and "
            "segment.ms; later where a producer dated messages ahead); until then those of forgotten users are refused "
            "when they are read"
        )

    def _purge(self, table: Table) -> None:
        """Leave nothing of a table but its latest version: no reader of an earlier one can go on."""
        check_held()
        # The last commit that stays tells nothing of rows that are gone; but what the newest batch was, of which no row
        # may be left.
        table.fence(note=table.last_note(), txn=self._newest_txn(table))
        table.forget_log()
        vacuum(self._spark, [table], 0)
        log_event(log, "history_purged", table=table.name)

    def _newest_txn(self, table: Table) -> Txn | None:
        if table.name != self._tables.ratings.name:
            return None
        app = ledger_app(self._tables)
        newest = table.last_txn(app)
        return None if newest is None else Txn(app, newest)

    def _when_gone(self) -> str:
        params = self._settings.warehouse
        hours = choose_vacuum_hours(self._tables, params.vacuum_hours)
        at = datetime.now(UTC) + timedelta(hours=hours)
        return (
            f"files of earlier versions: with the first maintain_tables after {at:%Y-%m-%d %H:%M} UTC; what the log "
            f"says of them, as least and greatest ids: {params.log_days} days after that; or both at once by "
            "forget_user --now"
        )

    def _open_receipt(self, users: Suppression) -> tuple[Receipt, str]:
        """The receipt of these users that an attempt before this one left open, or a new one."""
        hashes = sorted(users.hashes)
        key = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        path = f"{receipts_folder(self._tables)}/open-{key}.json"
        if self._files.exists(path):
            receipt = Receipt(**json.loads(self._files.read_text(path)))
            receipt.to_remove, receipt.to_come, receipt.purged = {}, {}, []
            return receipt, path
        receipt = Receipt(hashes, _now())
        self._files.write(path, receipt.to_json().encode())
        return receipt, path

    def _close_receipt(self, receipt: Receipt, path: str) -> Receipt:
        receipt.versions, receipt.ended = self._tables.versions(), _now()
        folder, _, name = path.rpartition("/")
        stamp = receipt.ended.translate(str.maketrans("", "", "-:"))
        self._files.write(f"{folder}/{stamp}-{name.removeprefix('open-')}", receipt.to_json().encode())
        self._files.delete(path)
        return receipt

    def _buckets(self) -> list[int]:
        ids = self._spark.createDataFrame([(own,) for own in sorted(self._user_ids)], f"{c.USER_ID} STRING")
        return sorted({row[0] for row in ids.select(bucket_of(c.USER_ID, self._tables.buckets)).collect()})


@dataclass(frozen=True)
class _Rewritten:
    """A landed file that lies without some users' rows beside what it is to replace."""

    file: LandedFile
    draft: str
    checksum: str
    removed: int


def _require_small(arrival: Arrival) -> None:
    if arrival.size > LARGEST:
        raise UnreadableFileError(f"it has {arrival.size:,} bytes; up to {LARGEST:,} are looked through")


def _redact(
    batches: Iterator[pa.RecordBatch], *, user_ids: frozenset[str], only_changed: bool = False
) -> Iterator[pa.RecordBatch]:
    """Rows of quarantine, of which those that name a user lose their text."""
    named = make_pattern(user_ids)
    for batch in batches:
        rows = batch.to_pylist()
        theirs = [named.search(f"{row[c.RAW] or ''}\n{row[c.REASON]}") is not None for row in rows]
        new = [
            row | ({c.RAW: None, c.REASON: SAYS} if is_theirs else {})
            for row, is_theirs in zip(rows, theirs, strict=True)
            if is_theirs or not only_changed
        ]
        yield pa.RecordBatch.from_pylist(new, batch.schema)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
