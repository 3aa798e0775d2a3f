"""The ledger's rules: which files and messages are new, which only repeat others, and that no row is lost.

One entry a file or range of offsets. A batch is claimed by a small file beside the tables (one rename, where a Delta
commit costs a second) that holds its entries; the entries go to the ledger table when everything else of the batch is
written. So a claim without its entries in the ledger is a batch that was interrupted.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from recsys.errors import ConservationError
from recsys.ratings.kafka import KAFKA, MESSAGE_BYTES, OffsetRange
from recsys.ratings.landing import Arrival, LandedFile

ACCEPTED = "accepted"  # read; some rows may be duplicates or in quarantine
QUARANTINED = "quarantined"  # wrong as a whole
DUPLICATE = "duplicate"  # a copy of a file that was read
SKIPPED = "skipped"  # offsets that were never read: before the first one, or given up
ERASED = "erased"  # a file that was read, as it is without the rows of users who were forgotten
REPLAYED = "replayed"  # how a replay changed the counts of a source: what left quarantine is a negative number


@dataclass(frozen=True)
class Counts:
    """Rows of a file; ``landed`` must be the sum of the others."""

    landed: int = 0
    accepted: int = 0
    duplicate: int = 0
    quarantined: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.landed + other.landed,
            self.accepted + other.accepted,
            self.duplicate + other.duplicate,
            self.quarantined + other.quarantined,
        )


@dataclass(frozen=True)
class Entry:
    """One file or range of offsets of one batch; times in milliseconds and microseconds since 1970 UTC.

    Of a range, ``size`` is its number of offsets, ``checksum`` the topic's id and ``modified_ms`` when it was read.
    """

    batch: int
    source: str
    format: str
    size: int
    modified_ms: int
    claimed_us: int
    checksum: str
    counts: Counts
    state: str

    @property
    def n_bytes(self) -> int:
        """About how much it is as it landed."""
        return self.size * MESSAGE_BYTES if self.format == KAFKA else self.size


@dataclass(frozen=True)
class Replay:
    """What a replay wrote beside the tables before its claim, so that whoever finishes it checks nothing again.

    Attributes:
        folder: name, beside the claim, with the rows for ratings and what quarantine is to have of the batches; deleted
            after the claim.
        batches: whose rows in quarantine are replaced, all in one commit; none in a replay that repair_tables has
            opened again, whose quarantine is done.
        rows_before: that quarantine had of them.
    """

    folder: str
    batches: tuple[int, ...]
    rows_before: int


@dataclass(frozen=True)
class Claim:
    """A batch under way: its number, the clock of its time rules, its entries; with ``replay``, a replay."""

    batch: int
    claimed_us: int
    entries: tuple[Entry, ...]
    replay: Replay | None = None

    @property
    def ranges(self) -> list[OffsetRange]:
        """The ranges of offsets that are read; none in a batch of files, and none in a replay."""
        if self.replay is not None:
            return []
        return [OffsetRange.from_source(own.source, own.checksum) for own in self.entries if own.format == KAFKA]

    @property
    def counts(self) -> Counts:
        """Rows of the whole batch."""
        return sum((entry.counts for entry in self.entries), Counts())

    def to_json(self) -> bytes:
        """The claim as the text of its file."""
        return json.dumps(asdict(self), indent=1).encode()

    @staticmethod
    def from_json(text: bytes) -> "Claim":
        """The claim of a file's text."""
        found = json.loads(text)
        entries = (Entry(**(entry | {"counts": Counts(**entry["counts"])})) for entry in found["entries"])
        own = found.get("replay")  # claims of earlier versions have none
        replay = None if own is None else Replay(own["folder"], tuple(own["batches"]), own["rows_before"])
        return Claim(found["batch"], found["claimed_us"], tuple(entries), replay)


class Seen:
    """What earlier batches have taken in."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._arrivals: set[tuple[str, int, int]] = set()
        self._contents: set[tuple[str, str]] = set()
        self._sources: set[str] = set()
        self._rows: dict[tuple[str, str], int] = {}  # of a file and content, over all of its entries
        self._taken: set[tuple[str, str]] = set()  # of which something was accepted
        self._landed: dict[str, int] = {}
        self._closed: set[int] = set()
        self._accepted: dict[int, int] = {}
        self._topics: dict[str, tuple[int, str]] = {}  # batch and topic id of the newest range of a topic
        self._ends: dict[tuple[str, str], dict[int, int]] = {}
        self.last_batch = 0
        self.last_accepted_batch = 0
        self.add(entries)

    def add(self, entries: Iterable[Entry]) -> None:
        """Take the entries of a closed batch in."""
        for entry in entries:
            if entry.format != KAFKA:
                self._add_file(entry)
            elif entry.state != REPLAYED:  # which read nothing, and may be of a topic that is gone
                self._add_range(entry.batch, OffsetRange.from_source(entry.source, entry.checksum))
            self._closed.add(entry.batch)
            self._accepted[entry.batch] = self._accepted.get(entry.batch, 0) + entry.counts.accepted
            self.last_batch = max(self.last_batch, entry.batch)
            if entry.counts.accepted > 0:
                self.last_accepted_batch = max(self.last_accepted_batch, entry.batch)

    def _add_file(self, entry: Entry) -> None:
        self._sources.add(entry.source)
        content = (entry.source, entry.checksum)
        self._contents.add(content)
        self._rows[content] = self._rows.get(content, 0) + entry.counts.landed
        if entry.checksum:  # a file that could not be read is tried again
            self._arrivals.add((entry.source, entry.size, entry.modified_ms))
        if entry.counts.accepted + entry.counts.duplicate > 0:
            self._taken.add(content)
        if content in self._taken:  # entries come in no order
            self._landed[entry.checksum] = self._rows[entry.source, entry.checksum]

    def _add_range(self, batch: int, own: OffsetRange) -> None:
        self._topics[own.topic] = max(self._topics.get(own.topic, (0, "")), (batch, own.topic_id))
        ends = self._ends.setdefault((own.topic, own.topic_id), {})
        ends[own.partition] = max(ends.get(own.partition, 0), own.end)

    def topic_id(self, topic: str) -> str | None:
        """Id of the topic of this name that was read last, None when none was."""
        return self._topics[topic][1] if topic in self._topics else None

    def next_offsets(self, topic: str, topic_id: str) -> dict[int, int]:
        """The offset after the last that was read, of every partition that has been read; the others begin at 0."""
        return dict(self._ends.get((topic, topic_id), {}))

    def leave_out_known(self, ranges: Iterable[OffsetRange]) -> list[OffsetRange]:
        """What of these ranges was not read before."""
        starts = (
            replace(own, start=max(own.start, self.next_offsets(own.topic, own.topic_id).get(own.partition, 0)))
            for own in ranges
        )
        return [own for own in starts if own.start < own.end]

    def require_no_gap(self, ranges: Iterable[OffsetRange]) -> None:
        """Refuse ranges that leave messages out which were not read.

        Raises:
            ConservationError: one begins after the offset where the ledger ends.
        """
        for own in ranges:
            end = self.next_offsets(own.topic, own.topic_id).get(own.partition, 0)
            if own.start > end:
                raise ConservationError(
                    f"topic '{own.topic}', partition {own.partition}: a batch begins at offset {own.start:,}, but the "
                    f"ledger ends at {end:,}. Nothing of it was taken in. Run the job again: it begins there."
                )

    def has_closed(self, batch: int) -> bool:
        """Whether the ledger holds a batch; ``last_batch`` says less where the ledger is empty and ratings are not."""
        return batch in self._closed

    def count_accepted(self, *, after: int = 0, through: int) -> int:
        """Rating events that were accepted in batches after one and through another."""
        return sum(n for batch, n in self._accepted.items() if after < batch <= through)

    def is_unchanged(self, arrival: Arrival) -> bool:
        """Whether a file is the one of last time, by name, size and time: then it is not even read."""
        return (arrival.source, arrival.size, arrival.modified_ms) in self._arrivals

    def is_known(self, file: LandedFile) -> bool:
        """Whether a file of this name had this content before."""
        return (file.source, file.checksum) in self._contents

    def has_name(self, source: str) -> bool:
        """Whether there was a file of this name, whatever its content."""
        return source in self._sources

    def landed_before(self, checksum: str) -> int | None:
        """Rows of this content when it was accepted, None when it never was: what was only refused is read again."""
        return self._landed.get(checksum) if checksum else None


def make_entries(
    batch: int, claimed_us: int, files: Sequence[LandedFile], read: Mapping[str, Counts], seen: Seen
) -> tuple[Entry, ...]:
    """The entries of a batch.

    Args:
        batch: its number.
        claimed_us: its clock.
        files: all of its files.
        read: rows of the files that were read, by source; a file that is not in it and not wrong had no rows.
        seen: earlier batches.
    """
    landed_here: dict[str, int] = {}
    entries = []
    for file in files:
        copied = seen.landed_before(file.checksum)
        if copied is None:
            copied = landed_here.get(file.checksum)
        if copied is not None:
            counts, state = Counts(landed=copied, duplicate=copied), DUPLICATE
        elif file.fault is not None:
            counts = read.get(file.source, Counts()) if file.fault.by_line else Counts(landed=1, quarantined=1)
            state = QUARANTINED
        else:
            counts, state = read.get(file.source, Counts()), ACCEPTED
            landed_here[file.checksum] = counts.landed
        arrival = file.arrival
        entry = Entry(
            batch, file.source, file.format, arrival.size, arrival.modified_ms, claimed_us, file.checksum, counts, state
        )
        entries.append(entry)
    return tuple(entries)


def make_range_entries(
    batch: int, claimed_us: int, ranges: Sequence[OffsetRange], read: Mapping[str, Counts], state: str = ACCEPTED
) -> tuple[Entry, ...]:
    """The entries of a batch of messages.

    Args:
        batch: its number.
        claimed_us: its clock.
        ranges: all of its ranges.
        read: messages of the ranges, by source; a range that is not in it had none.
        state: of all of them.
    """
    return tuple(
        Entry(
            batch=batch,
            source=own.source,
            format=KAFKA,
            size=len(own),
            modified_ms=claimed_us // 1000,
            claimed_us=claimed_us,
            checksum=own.topic_id,
            counts=read.get(own.source, Counts()),
            state=state,
        )
        for own in ranges
    )


def find_copies(files: Sequence[LandedFile], seen: Seen) -> set[str]:
    """Sources of the files whose content was accepted before, or comes earlier in the batch: they are not read."""
    copies = set()
    here: set[str] = set()
    for file in files:
        if seen.landed_before(file.checksum) is not None or file.checksum in here:
            copies.add(file.source)
        elif file.fault is None:
            here.add(file.checksum)
    return copies


def check_conservation(claim: Claim, *, appended: int, quarantined: int) -> None:
    """Hold the batch's counts against each other and against what the tables say was written.

    Raises:
        ConservationError: a row was lost or counted twice.
    """
    for entry in claim.entries:
        counts = entry.counts
        what = "offsets" if entry.format == KAFKA else "file"
        if counts.landed != counts.accepted + counts.duplicate + counts.quarantined:
            raise ConservationError(
                f"batch {claim.batch}, {what} '{entry.source}': rows do not add up: {counts}. {_ADVICE}"
            )
    total = claim.counts
    for what, table, written, counted in (
        ("accepted", "ratings", appended, total.accepted),
        ("quarantined", "quarantine", quarantined, total.quarantined),
    ):
        if written != counted:
            raise ConservationError(
                f"batch {claim.batch}: {counted} rows were {what}, but {written} are in the table {table}. {_ADVICE}"
            )


_ADVICE = (
    "The batch stays open; nothing further was written. Keep its files or messages and the job's log, and report it"
)
