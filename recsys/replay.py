"""Refused rows into the ratings after all: by a corrected contract, or by corrections of their texts.

A replay is a batch of its own. What it finds out it writes beside the tables before its claim, so that whoever finishes
it after a kill has nothing to check again, whatever has become of contract and corrections: `Ingestion.finish_replay`.
The caller holds the tables lock.
"""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Final

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys import schemas
from recsys.batches import claim_file, claims_folder, read_claim, read_entries
from recsys.config import Settings
from recsys.errors import UsageError
from recsys.events import log_event
from recsys.ingestion import (
    STAGED_QUARANTINE,
    STAGED_RATINGS,
    Ingestion,
    check_candidates,
    count_rows,
    find_unreadable,
    read_files,
)
from recsys.landed_files import LandedFiles
from recsys.ratings.contract import RatingsContract, load_contract
from recsys.ratings.kafka import KAFKA
from recsys.ratings.landing import Arrival, Fault, LandedFile, Layout, find_layout, inspect_all
from recsys.ratings.ledger import ERASED, QUARANTINED, REPLAYED, Claim, Counts, Entry, Replay
from recsys.ratings.parse import CANDIDATES
from recsys.ratings.quarantine import (
    Corrections,
    Selection,
    correct,
    is_text_as_sent,
    is_whole_file,
    origin_of,
    parse_messages_again,
    parse_rows_again,
    split_origin,
    with_origin,
)
from recsys.ratings.validate import Checked, is_accepted, is_quarantined
from recsys.session import ROOT
from recsys.store.tables import Tables

log = logging.getLogger(__name__)

_WHOLE: Final = "is_whole"
_TAKEN: Final = "is_taken"
_STAGED: Final = "replay-"  # and a mark: folders beside the claim

NOT_KEPT: Final = "their text, or a part of it, is not kept"
NO_ENTRY: Final = "the ledger has no entry of their source"
NO_FILE: Final = (
    "their file is not in the landing folder as it was read: put it there again, or give the header of csv files"
)
NOT_READ: Final = "their file can still not be read"


@dataclass(frozen=True)
class Outcome:
    """What became of the rows that were selected.

    Attributes:
        counts: of the rows that were checked again. ``landed`` is not how many were taken up where a file was read
            again that had stood as one row, or where a line turned out to be a header.
        taken: rows of quarantine that were taken up.
        refused: rows by rule that are refused again; a row may break several.
        left: rows that could not be taken up, by why.
        batch: of the replay; None when nothing was written.
        new_items: that nobody had rated before.
    """

    counts: Counts = field(default_factory=Counts)
    taken: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)
    batch: int | None = None
    new_items: int = 0


@dataclass(frozen=True)
class _Origin:
    """Rows of one batch and source in quarantine, all of them whole files or none."""

    batch: int
    source: str
    is_whole: bool
    rows: int

    @property
    def name(self) -> str:
        return origin_of(self.batch, self.source)


@dataclass
class _Taken:
    """The rows that can be taken up, by how they are read."""

    origins: list[_Origin] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)  # of the ledger, by origin
    lines: dict[tuple[Layout, Fault | None], list[_Origin]] = field(default_factory=dict)
    messages: list[_Origin] = field(default_factory=list)
    files: list[tuple[LandedFile, _Origin]] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    def leave(self, origin: _Origin, why: str) -> None:
        self.left[why] += origin.rows


class _Known:
    """What the ledger says of the sources."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = {origin_of(own.batch, own.source): own for own in entries if own.state != REPLAYED}
        self._erased = {(own.source, own.checksum) for own in entries if own.state == ERASED}
        self._contents: dict[str, set[str]] = {}
        for own in entries:
            if own.state != ERASED:
                self._contents.setdefault(own.source, set()).add(own.checksum)

    def is_rewritten(self, file: LandedFile) -> bool:
        """Whether a file is what an erasure left of the only content that ever came under its name."""
        return (file.source, file.checksum) in self._erased and len(self._contents[file.source]) == 1


class Replayer:
    """One replay."""

    def __init__(self, spark: SparkSession, tables: Tables, settings: Settings, corrections: Corrections) -> None:
        """Read the contract as it is now.

        Args:
            spark: the session.
            tables: of the warehouse.
            settings: of the job.
            corrections: of the rows.

        Raises:
            ConfigError: the contract cannot be read.
        """
        self._spark, self._tables, self._settings, self._corrections = spark, tables, settings, corrections
        self._files = LandedFiles(spark)
        self._contract: RatingsContract = corrections.extend(load_contract(ROOT / settings.contract))
        folder = settings.landing.path
        self._folder = None if folder is None else self._files.resolve(folder)

    def try_out(self, selection: Selection) -> Outcome:
        """Say what a replay would do, and write nothing."""
        taken, checked, counts = self._check(selection, time.time_ns() // 1000)
        try:
            return self._judge(taken, checked, counts)
        finally:
            checked.release()

    def run(self, selection: Selection, ingestion: Ingestion) -> Outcome:
        """Check the selected rows again; those that pass go to the ratings and leave quarantine.

        Args:
            selection: which rows.
            ingestion: of this job; a replay that was interrupted is finished.
        """
        drop_leftovers(self._tables)
        batch, now_us = ingestion.seen.last_batch + 1, time.time_ns() // 1000
        taken, checked, counts = self._check(selection, now_us)
        try:
            outcome = self._judge(taken, checked, counts)
            entries = tuple(
                _entry_of(batch, now_us, taken.entries[name], rows, counts.get(name, Counts()))
                for name, rows in _count_taken(taken).items()
            )
            changed = tuple(entry for entry in entries if entry.counts != Counts())
            if not changed and self._says_the_same(taken, checked):
                return outcome
            replay = self._stage(batch, taken, checked, selection)
            # A replay that changes reasons only is in the ledger as well: its number must not be given away again.
            claim = Claim(batch, now_us, changed or entries, replay)
        finally:
            checked.release()
        new_items = ingestion.begin_replay(claim)
        log_event(log, "replay_closed", batch=batch, taken=outcome.taken, accepted=outcome.counts.accepted)
        return Outcome(outcome.counts, outcome.taken, outcome.refused, outcome.left, batch, new_items)

    def _check(self, selection: Selection, now_us: int) -> tuple[_Taken, Checked, dict[str, Counts]]:
        """Take the rows up and check them once (Spark jobs); a file that Spark cannot read is left."""
        taken = self._find(selection)
        n_bytes = sum(own.n_bytes for own in taken.entries.values())  # at most
        while True:
            checked: Checked | None = None
            try:
                rows = self._parse(taken, selection)
                checked = check_candidates(self._tables, rows, self._contract, now_us, n_bytes=n_bytes)
                return taken, checked, count_rows(checked.rows)
            except Py4JJavaError as err:
                if checked is not None:
                    checked.release()
                at = find_unreadable([file for file, _ in taken.files], err)
                for pair in [pair for pair in taken.files if pair[0].checksum == at.checksum]:
                    taken.files.remove(pair)
                    taken.origins.remove(pair[1])
                    taken.leave(pair[1], NOT_READ)

    def _find(self, selection: Selection) -> _Taken:
        """How each of the selected rows can be read again."""
        taken, known = _Taken(), _Known(read_entries(self._tables.ledger))
        origins = []
        for origin in self._read_origins(selection, taken):
            own = known.entries.get(origin.name)
            if own is None:
                taken.leave(origin, NO_ENTRY)
            else:
                taken.entries[origin.name] = own
                origins.append(origin)
        needed = {own.source for own in origins if own.is_whole or self._needs_file(own, taken)}
        files = {file.source: file for file in self._look_into(sorted(needed))}
        for origin in origins:
            why = self._place(origin, taken, files.get(origin.source), known)
            if why is None:
                taken.origins.append(origin)
            else:
                taken.leave(origin, why)
        return taken

    def _read_origins(self, selection: Selection, taken: _Taken) -> list[_Origin]:
        """Where the selected rows are from."""
        is_whole = is_whole_file()
        rows = self._tables.quarantine.read().where(selection.holds()).withColumn(_WHOLE, is_whole)
        readable = sf.count_if(is_whole | is_text_as_sent()).alias("readable")
        found = rows.groupBy(c.BATCH, c.SOURCE, _WHOLE).agg(sf.count("*").alias("rows"), readable).collect()
        kept = sum(row["readable"] for row in found)
        if kept < (n := sum(row["rows"] for row in found)):
            taken.left[NOT_KEPT] += n - kept
        return [_Origin(row[c.BATCH], row[c.SOURCE], row[_WHOLE], row["readable"]) for row in found if row["readable"]]

    def _place(self, origin: _Origin, taken: _Taken, file: LandedFile | None, known: "_Known") -> str | None:
        """Put rows to those that are read alike; returns why that cannot be done, None where it was."""
        own = taken.entries[origin.name]
        if own.format == KAFKA:
            taken.messages.append(origin)
            return None
        is_same = file is not None and file.checksum == own.checksum != ""
        if origin.is_whole:
            if file is None or not is_same or own.state != QUARANTINED:
                return NO_FILE
            if file.layout is None:
                return NOT_READ
            taken.files.append((file, origin))
            return None
        how = find_layout(origin.source, self._contract, self._corrections.header)
        if file is not None and file.layout is not None and (is_same or known.is_rewritten(file)):
            how = file.layout, file.fault
        if how is None:
            return NO_FILE
        taken.lines.setdefault(how, []).append(origin)
        return None

    def _needs_file(self, origin: _Origin, taken: _Taken) -> bool:
        known = self._contract.format_of(origin.source)
        is_file = taken.entries[origin.name].format != KAFKA
        return is_file and known is not None and known[1].reader == "csv"

    def _look_into(self, sources: Sequence[str]) -> list[LandedFile]:
        arrivals = []
        for source in sources:
            if self._folder is None:
                break
            try:
                status = self._files.status(f"{self._folder}/{source}")
            except FileNotFoundError:
                continue
            arrivals.append(Arrival(source, status.path, status.size, status.modified_ms))
        return inspect_all(self._files, arrivals, self._contract, self._settings.landing)

    def _mark(self, rows: DataFrame, taken: _Taken, selection: Selection) -> DataFrame:
        """Rows of quarantine with ``is_taken``: whether they are checked again."""
        own = [(origin.batch, origin.source, origin.is_whole) for origin in taken.origins]
        schema = f"{c.BATCH} LONG, {c.SOURCE} STRING, {_WHOLE} BOOLEAN"
        known = self._spark.createDataFrame(own, schema).withColumn(_TAKEN, sf.lit(True))
        is_readable = selection.holds() & (is_whole_file() | is_text_as_sent())
        marked = rows.withColumn(_WHOLE, is_whole_file()).join(sf.broadcast(known), [c.BATCH, c.SOURCE, _WHOLE], "left")
        is_taken = sf.coalesce(_TAKEN, sf.lit(False)) & sf.coalesce(is_readable, sf.lit(False))
        return marked.withColumn(_TAKEN, is_taken).select(*schemas.QUARANTINE.names, _WHOLE, _TAKEN)

    def _parse(self, taken: _Taken, selection: Selection) -> DataFrame:
        """Candidate rows of everything that is taken up, whose source names the batch as well."""
        rows = self._mark(self._tables.quarantine.read(), taken, selection).where(sf.col(_TAKEN) & ~sf.col(_WHOLE))
        kept = with_origin(rows)
        parts = [self._spark.createDataFrame([], CANDIDATES)]
        for (layout, fault), origins in taken.lines.items():
            lines = kept.where(sf.col(c.SOURCE).isin([own.name for own in origins]))
            parts.append(parse_rows_again(lines, layout, fault, self._contract))
        if taken.messages:
            messages = kept.where(sf.col(c.SOURCE).isin([own.name for own in taken.messages]))
            parts.append(parse_messages_again(messages, self._contract))
        groups: dict[tuple[Layout | None, Fault | None], list[tuple[LandedFile, _Origin]]] = {}
        for pair in taken.files:
            groups.setdefault((pair[0].layout, pair[0].fault), []).append(pair)
        for group in groups.values():
            assert self._folder is not None  # noqa: S101
            landed = read_files(self._spark, self._folder, [file for file, _ in group], self._contract)
            batches = [sf.lit(part) for _, origin in group for part in (origin.source, origin.batch)]
            batch = sf.try_element_at(sf.create_map(*batches), sf.col(c.SOURCE))
            parts.append(with_origin(landed.withColumn(c.BATCH, batch)))
        return correct(reduce(DataFrame.unionByName, parts), self._corrections)

    def _judge(self, taken: _Taken, checked: Checked, counts: Mapping[str, Counts]) -> Outcome:
        refused = checked.rows.select(sf.explode(c.RULES).alias("rule")).groupBy("rule").count().collect()
        return Outcome(
            counts=sum(counts.values(), Counts()),
            taken=sum(origin.rows for origin in taken.origins),
            refused={
                row["rule"]: row["count"] for row in sorted(refused, key=lambda own: (-own["count"], own["rule"]))
            },
            left=dict(taken.left),
        )

    def _says_the_same(self, taken: _Taken, checked: Checked) -> bool:
        """Whether every row is refused for what it was refused for."""
        rows, batches = self._tables.quarantine.read(), sorted({origin.batch for origin in taken.origins})
        before = rows.where(sf.col(c.BATCH).isin(batches))
        return _refused(checked).exceptAll(before.select(*schemas.QUARANTINE.names)).isEmpty()

    def _stage(self, batch: int, taken: _Taken, checked: Checked, selection: Selection) -> Replay:
        """Write beside the tables what is to be in them."""
        name = f"{_STAGED}{uuid.uuid4().hex}"
        folder = f"{claims_folder(self._tables)}/{name}"
        batches = tuple(sorted({origin.batch for origin in taken.origins}))
        before = self._tables.quarantine.read().where(sf.col(c.BATCH).isin(list(batches)))
        marked = self._mark(before, taken, selection)
        left = marked.where(~sf.col(_TAKEN)).select(*schemas.QUARANTINE.names)
        left.unionByName(_refused(checked)).write.parquet(f"{folder}/{STAGED_QUARANTINE}")
        accepted = checked.rows.where(is_accepted()).withColumn(c.BATCH, sf.lit(batch).cast("long"))
        accepted.select(*schemas.RATINGS.names).write.parquet(f"{folder}/{STAGED_RATINGS}")
        return Replay(name, batches, before.count())


def finish_interrupted(tables: Tables, ingestion: Ingestion) -> None:
    """Finish a replay that was killed.

    Raises:
        UsageError: what was killed is an ingestion, which reads its sources again.
    """
    path = claim_file(tables)
    if not tables.files.exists(path):
        return
    if read_claim(tables.files, path).replay is None:
        raise UsageError(
            f"'{path}' tells of a batch that was interrupted: its rows may be in quarantine and not be counted yet. "
            "Nothing was changed. Run ingest_ratings, which finishes it, then the replay again."
        )
    ingestion.finish_interrupted(None)


def drop_leftovers(tables: Tables) -> None:
    """Take away what replays that were killed before their claim wrote beside the tables; none is under way."""
    for folder in tables.files.list_folders(claims_folder(tables)):
        if folder.rpartition("/")[2].startswith(_STAGED):
            tables.files.delete(folder, recursive=True)


def _refused(checked: Checked) -> DataFrame:
    """Rows that are refused again, as quarantine has them: of the batch that they came with."""
    return split_origin(checked.rows.where(is_quarantined())).select(*schemas.QUARANTINE.names)


def _count_taken(taken: _Taken) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for origin in taken.origins:
        rows[origin.name] += origin.rows
    return dict(rows)


def _entry_of(batch: int, now_us: int, own: Entry, taken: int, counts: Counts) -> Entry:
    """What a replay changes of a source: added to its other entries it gives the rows that landed, as before."""
    change = Counts(counts.landed - taken, counts.accepted, counts.duplicate, counts.quarantined - taken)
    return replace(own, batch=batch, claimed_us=now_us, counts=change, state=REPLAYED)
