"""The ledger's rules: which files are new, which only repeat others, and that no row is lost.

One entry a file. A batch is claimed by a small file beside the tables (one rename, where a Delta commit costs a second)
that holds its entries; the entries go to the ledger table when everything else of the batch is written. So a claim
without its entries in the ledger is a batch that was interrupted.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from recsys.errors import ConservationError
from recsys.ratings.landing import Arrival, LandedFile

ACCEPTED = "accepted"  # read; some rows may be duplicates or in quarantine
QUARANTINED = "quarantined"  # wrong as a whole
DUPLICATE = "duplicate"  # a copy of a file that was read


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
    """One file of one batch; times in milliseconds and microseconds since 1970 UTC."""

    batch: int
    source: str
    format: str
    size: int
    modified_ms: int
    claimed_us: int
    checksum: str
    counts: Counts
    state: str


@dataclass(frozen=True)
class Claim:
    """A batch under way: its number, the clock of its time rules, its entries."""

    batch: int
    claimed_us: int
    entries: tuple[Entry, ...]

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
        return Claim(found["batch"], found["claimed_us"], tuple(entries))


class Seen:
    """What earlier batches have taken in."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._arrivals: set[tuple[str, int, int]] = set()
        self._contents: set[tuple[str, str]] = set()
        self._sources: set[str] = set()
        self._landed: dict[str, int] = {}
        self._closed: set[int] = set()
        self._accepted: dict[int, int] = {}
        self.last_batch = 0
        self.last_accepted_batch = 0
        self.add(entries)

    def add(self, entries: Iterable[Entry]) -> None:
        """Take the entries of a closed batch in."""
        for entry in entries:
            self._sources.add(entry.source)
            self._contents.add((entry.source, entry.checksum))
            if entry.checksum:  # a file that could not be read is tried again
                self._arrivals.add((entry.source, entry.size, entry.modified_ms))
            if entry.counts.accepted + entry.counts.duplicate > 0:
                self._landed[entry.checksum] = entry.counts.landed
            self._closed.add(entry.batch)
            self._accepted[entry.batch] = self._accepted.get(entry.batch, 0) + entry.counts.accepted
            self.last_batch = max(self.last_batch, entry.batch)
            if entry.counts.accepted > 0:
                self.last_accepted_batch = max(self.last_accepted_batch, entry.batch)

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
        if counts.landed != counts.accepted + counts.duplicate + counts.quarantined:
            raise ConservationError(
                f"batch {claim.batch}, file '{entry.source}': rows do not add up: {counts}. {_ADVICE}"
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


_ADVICE = "The batch stays open; nothing further was written. Keep its files and the job's log, and report it"
