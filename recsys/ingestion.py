"""From files and messages to rows: check a batch; bring ratings, quarantine, items and ledger up to date.

Each step of a batch is one commit, and a run that finds a batch half done finishes it: docs/architecture.md, Ingestion.
The caller holds the tables lock.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Final
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys import schemas
from recsys.adoption import adopt_contract, register_consumer
from recsys.batches import claim_file, claims_folder, count_batch, ledger_app, read_claim, read_ledger, record_entries
from recsys.config import Settings
from recsys.errors import DataRejectedError, SourceChangedError, StorageError, UsageError
from recsys.events import log_event
from recsys.landed_files import LandedFiles
from recsys.ratings.contract import RatingsContract, load_contract
from recsys.ratings.items import number_new_items, parse_catalogue
from recsys.ratings.kafka import MESSAGE_BYTES, OffsetRange, describe_ranges, parse_messages
from recsys.ratings.landing import (
    UNKNOWN_COLUMN,
    Arrival,
    Fault,
    LandedFile,
    cut_batches,
    inspect_all,
    list_arrivals,
)
from recsys.ratings.ledger import (
    QUARANTINED,
    SKIPPED,
    Claim,
    Counts,
    Entry,
    check_conservation,
    find_copies,
    make_entries,
    make_range_entries,
)
from recsys.ratings.parse import CANDIDATES, parse_columns, parse_lines, read_source
from recsys.ratings.validate import (
    IS_DUPLICATE,
    Checked,
    check_rows,
    is_accepted,
    is_quarantined,
    is_suppressed,
    keep_checked,
    put_in_buckets,
)
from recsys.session import ROOT
from recsys.store.faults import explain
from recsys.store.files import Files, as_pattern
from recsys.store.pause import pause_at
from recsys.store.suppressed import read_suppression
from recsys.store.tables import Tables, Txn

log = logging.getLogger(__name__)

_RATING = schemas.RATINGS.names
_PART_BYTES: Final = 64 * 2**20  # of what landed, checked and written by one task

# What a replay keeps beside the tables until it is closed: `recsys.replay`.
STAGED_RATINGS: Final = "ratings"
STAGED_QUARANTINE: Final = "quarantine"


@dataclass(frozen=True)
class Messages:
    """Messages as they come from a topic.

    Attributes:
        rows: ``partition``, ``offset``, ``key``, ``value``; some outside of the ranges may be among them.
        ranges: at most one a partition; every message in them is in ``rows``.
        require_unchanged: raises MessagesLostError when the topic that they are from is gone.
    """

    rows: DataFrame
    ranges: Sequence[OffsetRange]
    require_unchanged: Callable[[], None]


@dataclass(frozen=True)
class ClosedBatch:
    """A batch that is completely in the tables."""

    claim: Claim
    new_items: int
    came_again: tuple[str, ...] = ()  # files that had been taken in before under the same name, with other content


class Ingestion:
    """One run's view of landing folder, contract and ledger, and the steps of a batch."""

    def __init__(self, spark: SparkSession, tables: Tables, settings: Settings) -> None:
        """Read the contract and the ledger.

        The ratings table is held to the contract, and this system registers itself with its owner.

        Raises:
            UsageError: the landing folder or the catalogue does not exist.
            ConfigError: the contract cannot be read, or the ratings table was filled under another that it excludes.
        """
        check_sources(tables.files, settings)
        self._spark = spark
        self._tables = tables
        self._files = LandedFiles(spark)
        self._settings = settings
        self._contract: RatingsContract = load_contract(ROOT / settings.contract)
        landing = settings.landing.path
        self._folder = None if landing is None else self._files.resolve(landing)
        self._claim_file = claim_file(self._tables)
        self._app = ledger_app(self._tables)
        adopt_contract(spark, tables.ratings, self._contract)
        if self._folder is not None:
            consumer = settings.ingest.consumer
            register_consumer(self._files, self._folder, self._contract, consumer=consumer, warehouse=tables.root)
        self.seen = read_ledger(self._tables)

    def new_batches(self) -> list[list[Arrival]]:
        """The files that look new, oldest name first, cut into batches."""
        landing = self._settings.landing
        if self._folder is None:
            return []
        arrivals = list_arrivals(self._files, self._folder, landing, now_ms=int(time.time() * 1000))
        return list(cut_batches([arrival for arrival in arrivals if not self.seen.is_unchanged(arrival)], landing))

    def finish_interrupted(self, read_again: Callable[[Sequence[OffsetRange]], Messages] | None) -> list[ClosedBatch]:
        """Finish the batch that a killed run left open: from the tables if its ratings are there, else from its source.

        Args:
            read_again: gives the messages of some ranges; None when a batch of messages is given up, and what is still
                there of it comes with the next one.
        """
        if not self._files.exists(self._claim_file):
            return []
        claim = read_claim(self._files, self._claim_file)
        log_event(log, "interrupted_batch_found", level=logging.WARNING, batch=claim.batch, files=len(claim.entries))
        if self.seen.has_closed(claim.batch):  # only the claim file was left
            self._drop(claim)
            return []
        if claim.replay is not None:  # of the batches that it replays nothing is counted again
            self.finish_replay(claim)
            return []
        if (self._tables.ratings.last_txn(self._app) or 0) >= claim.batch:
            events = self._tables.ratings.read().where(sf.col(c.BATCH) == claim.batch)
            return [self._close(claim, events, quarantined=count_batch(self._tables.quarantine, claim.batch))]
        # Only here can quarantine have rows of a batch before the batch is written, so only here they are looked for.
        self._tables.quarantine.delete(f"{c.BATCH} = {claim.batch}")
        if claim.ranges:
            if read_again is None:
                self._files.delete(self._claim_file)
                return []
            return self.take_in_messages(read_again(claim.ranges), interrupted=claim)
        arrivals = [Arrival(entry.source, self._path(entry), entry.size, entry.modified_ms) for entry in claim.entries]
        return self.take_in([arrival for arrival in arrivals if self._is_unchanged(arrival)], interrupted=claim)

    def take_in(self, arrivals: Sequence[Arrival], interrupted: Claim | None = None) -> list[ClosedBatch]:
        """Take in one batch; none is made when all of its files turn out to be known."""
        batch, claimed_us = self._number(interrupted)
        self._read_ahead()
        files = self._inspect(arrivals)
        if not files:
            if interrupted:
                self._files.delete(self._claim_file)
            return []
        checked, read = self._check_files(files, claimed_us)
        try:
            claim = Claim(batch, claimed_us, make_entries(batch, claimed_us, files, read, self.seen))
            advice = f"Correct the files in '{self._folder}' or take them away, or raise ingest.max_bad_share."
            return [self._commit(claim, checked.rows, lambda: self._require_unchanged(claim, arrivals), advice, files)]
        finally:
            checked.release()

    def take_in_messages(self, messages: Messages, interrupted: Claim | None = None) -> list[ClosedBatch]:
        """Take in one batch of messages; none is made when the ledger knows all of them.

        Raises:
            MessagesLostError: they are of another topic than is there now; nothing of the batch was accepted.
        """
        self.seen.require_no_gap(messages.ranges)
        ranges = self.seen.leave_out_known(messages.ranges)
        if not ranges:
            return []
        batch, claimed_us = self._number(interrupted)
        self._read_ahead()
        limit = self._settings.kafka.max_message_bytes
        candidates = parse_messages(messages.rows, ranges, self._contract, max_bytes=limit)
        n_bytes = sum(map(len, ranges)) * MESSAGE_BYTES
        checked = check_candidates(self._tables, candidates, self._contract, claimed_us, n_bytes=n_bytes)
        try:
            claim = Claim(batch, claimed_us, make_range_entries(batch, claimed_us, ranges, count_rows(checked.rows)))
            advice = "Raise ingest.max_bad_share for one run: it quarantines them and goes on."
            return [self._commit(claim, checked.rows, messages.require_unchanged, advice)]
        finally:
            checked.release()

    def skip(self, ranges: Sequence[OffsetRange]) -> None:
        """Let the ledger know of messages that are never read: a batch without a row."""
        batch, claimed_us = self._number()
        claim = Claim(batch, claimed_us, make_range_entries(batch, claimed_us, ranges, {}, SKIPPED))
        record_entries(self._spark, self._tables, claim, self.seen)
        log_event(log, "messages_skipped", level=logging.WARNING, batch=batch, ranges=describe_ranges(ranges))

    def begin_replay(self, claim: Claim) -> int:
        """Put a replay into the tables whose rows lie beside them; returns how many items are new.

        Args:
            claim: with ``replay``; its batch is the one after the last.

        Raises:
            ConservationError: a row was lost or counted twice.
        """
        self._files.write(self._claim_file, claim.to_json())
        pause_at("replay:after_claim")
        return self.finish_replay(claim)

    def finish_replay(self, claim: Claim) -> int:
        """The writes of a replay, in their order; each that was done is left out, or does the same again."""
        own, tables = claim.replay, self._tables
        assert own is not None  # noqa: S101
        read, folder = self._spark.read.schema, f"{claims_folder(tables)}/{own.folder}"
        events = tables.ratings.read().where(sf.col(c.BATCH) == claim.batch)
        if claim.counts.accepted > 0 and (tables.ratings.last_txn(self._app) or 0) < claim.batch:
            staged = read(schemas.RATINGS).parquet(f"{folder}/{STAGED_RATINGS}").repartition(c.BUCKET)
            options = {"compression": self._settings.ingest.compression}
            tables.ratings.append(staged, Txn(self._app, claim.batch), options)
            tables.ratings.read_ahead()
            events = tables.ratings.read().where(sf.col(c.BATCH) == claim.batch)
        pause_at("replay:after_ratings")
        where = c.among(c.BATCH, own.batches)
        if own.batches:
            staged = read(schemas.QUARANTINE).parquet(f"{folder}/{STAGED_QUARANTINE}")
            tables.quarantine.replace(staged.coalesce(1), where)
            quarantined = tables.quarantine.read().where(where).count() - own.rows_before
        else:
            quarantined = claim.counts.quarantined
        pause_at("replay:after_quarantine")
        return self._write_down(claim, events, quarantined=quarantined)

    def _number(self, interrupted: Claim | None = None) -> tuple[int, int]:
        """Number and clock of a batch."""
        if interrupted is not None:
            return interrupted.batch, interrupted.claimed_us
        return self.seen.last_batch + 1, time.time_ns() // 1000

    def _read_ahead(self) -> None:
        """While files are inspected and rows are checked."""
        for table in (self._tables.ratings, self._tables.items, self._tables.ledger, self._tables.user_blocks):
            table.read_ahead()

    def _commit(
        self,
        claim: Claim,
        checked: DataFrame,
        require_unchanged: Callable[[], None],
        advice: str,
        files: Sequence[LandedFile] = (),
    ) -> ClosedBatch:
        """The writes of a batch, in their order; ``files`` are those of a batch of files."""
        if self._contract.unknown_columns == "reject":
            refuse_unknown_columns(claim, checked, files, self._contract)
        refuse_too_bad(claim, files, checked, self._settings.ingest.max_bad_share, advice)
        self._files.write(self._claim_file, claim.to_json())
        pause_at("ingest:after_claim")
        quarantined = self._append_quarantine(claim, files, checked)
        pause_at("ingest:after_quarantine")
        require_unchanged()
        events = checked.where(is_accepted()).withColumn(c.BATCH, sf.lit(claim.batch).cast("long")).select(*_RATING)
        if claim.counts.accepted > 0:
            options = {"compression": self._settings.ingest.compression}
            self._tables.ratings.append(events, Txn(self._app, claim.batch), options)
            self._tables.ratings.read_ahead()
        pause_at("ingest:after_ratings")
        return self._close(claim, events, quarantined=quarantined)

    def _inspect(self, arrivals: Sequence[Arrival]) -> list[LandedFile]:
        try:
            found = inspect_all(self._files, arrivals, self._contract, self._settings.landing)
        except FileNotFoundError as err:
            raise SourceChangedError(f"{err}. Nothing of its batch was accepted. Run the job again.") from err
        files = [file for file in found if not self.seen.is_known(file)]
        for file in files:
            if self.seen.has_name(file.source):
                log_event(log, "file_came_again_with_other_content", level=logging.WARNING, file=file.source)
        pause_at("ingest:after_listing")
        return files

    def _check_files(self, files: list[LandedFile], now_us: int) -> tuple[Checked, dict[str, Counts]]:
        """Check all rows once and keep them; a file that Spark cannot read is marked as such in ``files``."""
        while True:
            copies = find_copies(files, self.seen)  # a copy of a damaged file is none of a file that was read
            read = [file for file in files if file.source not in copies and file.layout is not None]
            checked: Checked | None = None
            try:
                n_bytes = sum(file.arrival.size for file in read)
                checked = check_candidates(self._tables, self._read(read), self._contract, now_us, n_bytes=n_bytes)
                return checked, count_rows(checked.rows)
            except Py4JJavaError as err:
                if checked is not None:
                    checked.release()
                at = find_unreadable(read, err)
                fault = Fault("unreadable", "Spark cannot read the file to its end; it is damaged")
                for n, file in enumerate(files):
                    if (file.checksum, file.layout) == (at.checksum, at.layout):  # all that would fail alike, at once
                        files[n] = replace(file, layout=None, fault=fault)

    def _read(self, files: Sequence[LandedFile]) -> DataFrame:
        """Candidate rows of all files; those with one layout are read together."""
        groups: dict[tuple[object, Fault | None], list[LandedFile]] = {}
        for file in files:
            groups.setdefault((file.layout, file.fault), []).append(file)
        if not groups:  # copies, and files that are wrong as a whole
            return self._spark.createDataFrame([], CANDIDATES)
        try:
            assert self._folder is not None  # noqa: S101
            read = [read_files(self._spark, self._folder, group, self._contract) for group in groups.values()]
            return reduce(DataFrame.unionByName, read)
        except AnalysisException as err:
            if err.getCondition() != "PATH_NOT_FOUND":
                raise
            raise SourceChangedError(
                f"a landed file vanished before it was read: {err}. "
                "Nothing of its batch was accepted. Run the job again."
            ) from err

    def _append_quarantine(self, claim: Claim, files: Sequence[LandedFile], checked: DataFrame) -> int:
        """Write what was refused, and return how many rows the table has of it."""
        faults = {file.source: file.fault for file in files if file.fault is not None and not file.fault.by_line}
        whole = [
            (claim.batch, entry.source, None, None, [faults[entry.source].rule], faults[entry.source].reason)
            for entry in claim.entries
            if entry.state == QUARANTINED and entry.source in faults
        ]
        parts = [self._spark.createDataFrame(whole, schemas.QUARANTINE).coalesce(1)] if whole else []
        if claim.counts.quarantined > len(whole):
            rows = checked.where(is_quarantined()).withColumn(c.BATCH, sf.lit(claim.batch).cast("long"))
            parts.append(rows.select(*schemas.QUARANTINE.names))
        return self._tables.quarantine.append(reduce(DataFrame.unionByName, parts)) if parts else 0

    def _require_unchanged(self, claim: Claim, arrivals: Sequence[Arrival]) -> None:
        changed = [arrival.source for arrival in arrivals if not self._is_unchanged(arrival)]
        if changed:
            raise SourceChangedError(
                f"batch {claim.batch}: {len(changed)} landed files vanished or changed while they were read, "
                f"the first is '{changed[0]}'. No rating of the batch was accepted. "
                "Files must be complete when they land: see landing.settle_seconds. Run the job again."
            )

    def _is_unchanged(self, arrival: Arrival) -> bool:
        return is_unchanged(self._files, arrival)

    def _close(self, claim: Claim, events: DataFrame, *, quarantined: int) -> ClosedBatch:
        """What follows once a batch's ratings are in the table."""
        came_again = tuple(entry.source for entry in claim.entries if self.seen.has_name(entry.source))
        new_items = self._write_down(claim, events, quarantined=quarantined)
        low, high = self._contract.volume or (0, claim.counts.landed)
        if not low <= claim.counts.landed <= high:
            said = {"batch": claim.batch, "landed": claim.counts.landed, "least": low, "most": high}
            log_event(log, "volume_outside_contract", level=logging.WARNING, **said, owner=self._contract.owner)
        log_event(log, "batch_closed", batch=claim.batch, files=len(claim.entries), **asdict(claim.counts))
        return ClosedBatch(claim, new_items, came_again)

    def _write_down(self, claim: Claim, events: DataFrame, *, quarantined: int) -> int:
        """Items, the check of the counts, the ledger; returns how many items are new."""
        tables, txn = self._tables, Txn(self._app, claim.batch)
        has_ratings = claim.counts.accepted > 0
        new_items = self._append_new_items(events, txn) if has_ratings else 0
        pause_at("ingest:after_items")
        appended = (tables.ratings.txn_rows(txn) or 0) if has_ratings else 0
        check_conservation(claim, appended=appended, quarantined=quarantined)
        record_entries(self._spark, self._tables, claim, self.seen)
        pause_at("ingest:after_ledger")
        self._drop(claim)
        return new_items

    def _drop(self, claim: Claim) -> None:
        """Take away the claim of a closed batch; a replay's rows beside the tables after it."""
        self._files.delete(self._claim_file)
        if claim.replay is not None:
            self._files.delete(f"{claims_folder(self._tables)}/{claim.replay.folder}", recursive=True)

    def _append_new_items(self, events: DataFrame, txn: Txn) -> int:
        items = self._tables.items
        items.append(number_new_items(events, items.read(), self._read_catalogue(), batch=txn.version), txn)
        items.read_ahead()
        return items.txn_rows(txn) or 0

    def _read_catalogue(self) -> DataFrame | None:
        path = self._settings.landing.catalogue
        return None if path is None else parse_catalogue(self._spark.read.text(path))

    def _path(self, entry: Entry) -> str:
        return f"{self._folder}/{entry.source}"


def check_candidates(
    tables: Tables, candidates: DataFrame, contract: RatingsContract, now_us: int, *, n_bytes: int
) -> Checked:
    """The one way into the tables: files, messages and what is replayed are checked alike (Spark jobs).

    Args:
        tables: of the warehouse.
        candidates: rows as `recsys.ratings.parse` returns them.
        contract: that they are held to.
        now_us: the clock, microseconds since 1970 UTC.
        n_bytes: about how many they are, as they landed.
    """
    placed, suppressed = put_in_buckets(candidates, tables.buckets), read_suppression(tables)
    least = max(1, min(-(-n_bytes // _PART_BYTES), tables.buckets))
    parts = next(n for n in range(least, tables.buckets + 1) if tables.buckets % n == 0)  # as large as one another
    return keep_checked(check_rows(placed, contract, now_us=now_us, suppressed=suppressed), parts)


def is_unchanged(files: Files, arrival: Arrival) -> bool:
    """Whether a landed file is still the one that was listed."""
    try:
        status = files.status(arrival.path)
    except FileNotFoundError:
        return False
    return (status.size, status.modified_ms) == (arrival.size, arrival.modified_ms)


def read_files(spark: SparkSession, folder: str, files: Sequence[LandedFile], contract: RatingsContract) -> DataFrame:
    """Candidate rows of files that have one layout and one fault, or none."""
    layout, fault = files[0].layout, files[0].fault
    assert layout is not None  # noqa: S101
    paths = [as_pattern(file.arrival.path) for file in files]
    reader = spark.read.option("recursiveFileLookup", "true")
    source = read_source(folder, is_flat=not any("/" in file.source for file in files)).alias(c.SOURCE)
    if layout.reader != "parquet":
        return parse_lines(reader.text(paths).select(source, "value"), layout, fault, contract)
    schema = ", ".join(f"`{name}` {kind}" for _, name, kind in layout.names)
    return parse_columns(reader.schema(schema).parquet(*paths).select(source, "*"), layout)


def check_sources(files: Files, settings: Settings) -> None:
    """Make sure that what an ingestion reads is there.

    Raises:
        UsageError: the landing folder or the catalogue does not exist.
    """
    folder, catalogue = settings.landing.path, settings.landing.catalogue
    if folder is None and settings.kafka.topic is None:
        raise UsageError("there is nothing to take in: set landing.path, or kafka.bootstrap_servers and kafka.topic.")
    if folder is not None and not files.is_folder(folder := files.resolve(folder)):
        raise UsageError(f"landing folder '{folder}' does not exist. Create it or correct landing.path.")
    if catalogue is not None and not files.exists(catalogue):
        raise UsageError(f"catalogue '{catalogue}' does not exist. Correct landing.catalogue or set it to null.")


def count_rows(checked: DataFrame) -> dict[str, Counts]:
    """Rows of every file."""
    rows = (
        checked.groupBy(c.SOURCE)
        .agg(
            sf.count("*").alias(c.LANDED),
            sf.count_if(is_accepted()).alias(c.ACCEPTED),
            sf.count_if(IS_DUPLICATE).alias(c.DUPLICATE),
            sf.count_if(is_quarantined()).alias(c.QUARANTINED),
        )
        .collect()
    )
    return {row[c.SOURCE]: Counts(row[c.LANDED], row[c.ACCEPTED], row[c.DUPLICATE], row[c.QUARANTINED]) for row in rows}


def find_unreadable(files: Sequence[LandedFile], err: Py4JJavaError) -> LandedFile:
    """The file that made a scan fail.

    Raises:
        SourceChangedError: it is not there any more.
        RecsysError: the file system is away, or closed to this user: nothing is wrong with the file.
        Py4JJavaError: the scan failed for another reason.
    """
    told = explain(err)
    if isinstance(told, StorageError | UsageError):
        raise told from err
    found = re.search(r"\[(FAILED_READ_FILE[.\w]*)\] Encountered error while reading file (\S+?)\.(?: |$)", str(err))
    if found is None:
        raise err
    path = unquote(found[2])
    named = [file for file in files if path.endswith(f"/{file.source}")]
    at = max(named, key=lambda file: len(file.source), default=None)  # day=2/a.parquet is not a.parquet
    if at is None:
        raise err
    if found[1].endswith("FILE_NOT_EXIST"):
        raise SourceChangedError(
            f"landed file '{at.source}' vanished while it was read. "
            "Nothing of its batch was accepted. Run the job again."
        ) from err
    return at


def refuse_unknown_columns(
    claim: Claim, checked: DataFrame, files: Sequence[LandedFile], contract: RatingsContract
) -> None:
    """Let a batch pass whose sources have the contract's columns only.

    Raises:
        DataRejectedError: a source has another one.
    """
    by_row = checked.where(sf.array_contains(c.RULES, UNKNOWN_COLUMN)).groupBy(c.SOURCE).agg(sf.min(c.REASON))
    found = {row[0]: row[1] for row in by_row.collect()}
    found |= {file.source: file.fault.reason for file in files if file.fault and file.fault.rule == UNKNOWN_COLUMN}
    if not found:
        return
    source = min(found)
    told = ", ".join(map(str, contract.consumers)) or "nobody"
    what, advice = ("ranges of offsets", "Add") if claim.ranges else ("files", "Take the files away, or add")
    raise DataRejectedError(
        f"{len(found)} of {len(claim.entries)} {what} have columns that contract '{contract.id}' does not know; "
        f"nothing of these {what} was accepted. '{source}': {found[source]}. Owner: {contract.owner_and_contact}. "
        f"Depending on it: {told}. {advice} the column to the contract or set its unknownColumns to ignore."
    )


def refuse_too_bad(
    claim: Claim, files: Sequence[LandedFile], checked: DataFrame, max_bad_share: float, advice: str
) -> None:
    """Let a batch pass, or refuse it with the names of the worst sources, the rules they broke and what to do.

    An empty file and what users send who were forgotten weigh nothing here: they say nothing about the rows of others.

    Raises:
        DataRejectedError: a larger share of its rows than allowed is bad.
    """
    empty = {file.source for file in files if file.fault is not None and file.fault.rule == "empty_file"}
    counted = [entry for entry in claim.entries if entry.source not in empty]
    landed = sum(entry.counts.landed for entry in counted)
    bad = sum(entry.counts.quarantined for entry in counted)
    if bad <= max_bad_share * landed:
        return
    forgotten = checked.where(is_suppressed()).count()
    landed, bad = landed - forgotten, bad - forgotten
    if bad <= max_bad_share * landed:
        return
    worst = sorted(counted, key=lambda entry: (-entry.counts.quarantined, entry.source))[:3]
    why = {file.source: file.fault.rule for file in files if file.fault is not None}
    broken = (
        checked.where(sf.col(c.SOURCE).isin([entry.source for entry in worst]))
        .select(c.SOURCE, sf.explode(c.RULES).alias("rule"))
        .groupBy(c.SOURCE, "rule")
        .count()
        .orderBy(sf.desc("count"), "rule")
        .collect()
    )
    described = []
    for entry in worst:
        rules = [f"{row['rule']} {row['count']:,}" for row in broken if row[c.SOURCE] == entry.source]
        reason = ", ".join(rules[:3]) or why.get(entry.source, "")
        described.append(f"'{entry.source}' {entry.counts.quarantined:,} of {entry.counts.landed:,} ({reason})")
    raise DataRejectedError(
        f"{bad:,} of {landed:,} landed rows ({bad / landed:.0%}) are bad, allowed are {max_bad_share:.0%}; "
        f"nothing of these {len(claim.entries)} {'ranges of offsets' if claim.ranges else 'files'} was accepted. "
        f"Worst: {'; '.join(described)}. {advice}"
    )
