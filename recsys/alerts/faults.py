"""What is a fault: pure judgement of what a run did and what its batches held. No I/O.

A judgement says which faults there are and what was looked at: what was looked at and is no fault, is over.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from recsys.alerts.params import AlertsParams

INGEST: Final = "ingest_ratings"
TRAIN: Final = "train_model"
PROMOTE: Final = "promote_model"

_EXAMPLES: Final = 5  # names in a message
_SCHEMA_RULES: Final = ("missing_column", "wrong_type", "unknown_column", "ambiguous_column")
# An interrupt is somebody's wish.
_WISHES: Final = ("KeyboardInterrupt", "SystemExit", "GeneratorExit")


class Kind(StrEnum):
    """What there are alerts for; each is a heading of docs/operations.md."""

    FAILED_RUN = "failed_run"
    GATE_REFUSED = "gate_refused"
    QUARANTINE = "quarantine"
    FILE_CHANGED = "file_changed"
    SCHEMA_CHANGE = "schema_change"
    VOLUME = "volume"
    FRESHNESS = "freshness"
    LAG = "lag"
    CONSERVATION = "conservation"


SEVERITY: Final[Mapping[Kind, str]] = {
    Kind.FAILED_RUN: "failure",
    Kind.CONSERVATION: "failure",
    Kind.GATE_REFUSED: "info",
}
WARNING: Final = "warning"  # of all others

Key = tuple[Kind, str]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: of fault.
        subject: what it is wrong with: a job, or the contract of a source.
        says: one line: what happened, where, what to do.
        counts: how much of it there is.
        examples: names, of files for instance.
        variant: tells faults of one kind and subject apart; all of them end together.
        patience: how many times in a row it is seen before anybody is told.
        people: owner and consumers, where they should know.
    """

    kind: Kind
    subject: str
    says: str
    counts: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    variant: str = ""
    patience: int = 0
    people: str = ""

    @property
    def severity(self) -> str:
        """In the words of the channels: info, warning or failure."""
        return SEVERITY.get(self.kind, WARNING)


@dataclass(frozen=True)
class Judgement:
    """Faults, and what was looked at."""

    faults: tuple[Fault, ...] = ()
    checked: frozenset[Key] = frozenset()

    def __add__(self, other: Self) -> "Judgement":
        return Judgement(self.faults + other.faults, self.checked | other.checked)


@dataclass(frozen=True)
class RunEnd:
    """How one run of a job ended."""

    job: str
    run_id: str
    outcome: str  # ok or another word of success, or the name of the error
    exit_code: int
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchFacts:
    """What one batch held.

    Attributes:
        batch: number.
        files: that it took.
        landed: rows.
        quarantined: rows.
        worst: files with quarantined rows, the worst first, at most five.
        damaged: files that are wrong as a whole.
        rules: rows, or whole files, by the rule they broke.
        changed: files that came again under their name with other content.
    """

    batch: int
    files: int
    landed: int
    quarantined: int
    worst: tuple[str, ...] = ()
    damaged: int = 0
    rules: Mapping[str, int] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """The facts as `dataclasses.asdict` and JSON left them."""
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        return cls(**given)


@dataclass(frozen=True)
class Promise:
    """What the contract of a source says, as far as alerts need it."""

    contract: str  # its name
    owner: str  # and how to reach them
    consumers: tuple[str, ...]
    rows: tuple[int, int] | None = None  # of a batch, at least and at most
    freshness_seconds: float | None = None  # age of the newest batch at most

    @property
    def people(self) -> str:
        """Owner and consumers in one line."""
        return f"owner: {self.owner}; depending on it: {', '.join(self.consumers) or 'nobody listed'}"


def judge_run(run: RunEnd) -> Judgement:
    """Whether the run itself failed, or its answer was no."""
    failed: Key = (Kind.FAILED_RUN, run.job)
    conservation: Key = (Kind.CONSERVATION, run.job)
    if run.outcome in _WISHES:
        return Judgement()
    if run.exit_code == 0:
        checked = {failed, conservation}
        if run.job == PROMOTE or (run.job == TRAIN and run.details.get("promoted")):
            checked.add((Kind.GATE_REFUSED, run.job))
        return Judgement(checked=frozenset(checked))
    if run.outcome == "GateRefusedError":
        fault = Fault(Kind.GATE_REFUSED, run.job, f"{run.message} Lists go on with the champion.")
        return Judgement((fault,), frozenset({failed, (Kind.GATE_REFUSED, run.job)}))
    if run.outcome == "ConservationError":
        return Judgement((Fault(Kind.CONSERVATION, run.job, run.message),), frozenset({conservation}))
    says = f"{run.job} ended with exit code {run.exit_code} ({run.outcome}): {run.message}"
    patience = 1 if run.outcome == "LockedError" else 0
    fault = Fault(Kind.FAILED_RUN, run.job, says, {"exit_code": run.exit_code}, variant=run.outcome, patience=patience)
    return Judgement((fault,))


def judge_batches(batches: Sequence[BatchFacts], promise: Promise, params: AlertsParams) -> Judgement:
    """What is wrong with the data that batches brought; nothing is said without any."""
    if not batches:
        return Judgement()
    kinds = (Kind.QUARANTINE, Kind.FILE_CHANGED, Kind.SCHEMA_CHANGE, Kind.VOLUME)
    found = (
        _judge_quarantine(batches, promise, params),
        _judge_changed(batches, promise),
        _judge_schema(batches, promise),
        _judge_volume(batches, promise),
    )
    faults = tuple(fault for fault in found if fault is not None)
    return Judgement(faults, frozenset((kind, promise.contract) for kind in kinds))


def judge_freshness(age_seconds: float, promise: Promise) -> Judgement:
    """Whether the newest batch is as young as promised."""
    allowed = promise.freshness_seconds
    if allowed is None:
        return Judgement()
    checked = frozenset({(Kind.FRESHNESS, promise.contract)})
    if age_seconds <= allowed:
        return Judgement(checked=checked)
    says = (
        f"nothing new has landed for {describe_seconds(age_seconds)}; contract '{promise.contract}' promises a batch "
        f"every {describe_seconds(allowed)}. Ask the owner."
    )
    fault = Fault(Kind.FRESHNESS, promise.contract, says, {"age_seconds": int(age_seconds)}, people=promise.people)
    return Judgement((fault,), checked)


def judge_lag(waiting: Mapping[str, float], promise: Promise, params: AlertsParams) -> Judgement:
    """Whether something that has landed waits for too long.

    Args:
        waiting: seconds by the name of a file, or of another part of the source.
        promise: names the source.
        params: the bound.
    """
    checked = frozenset({(Kind.LAG, promise.contract)})
    late = {name: age for name, age in waiting.items() if age > params.max_lag_minutes * 60}
    if not late:
        return Judgement(checked=checked)
    oldest = sorted(late, key=lambda name: (-late[name], name))
    says = (
        f"{len(late):,} landed files wait to be taken in, '{oldest[0]}' for {describe_seconds(late[oldest[0]])}; "
        f"allowed are {describe_seconds(params.max_lag_minutes * 60)}. See why {INGEST} does not get to them."
    )
    counts = {"files": len(late), "oldest_seconds": int(late[oldest[0]])}
    return Judgement((Fault(Kind.LAG, promise.contract, says, counts, tuple(oldest[:_EXAMPLES])),), checked)


def describe_seconds(seconds: float) -> str:
    """A span of time as people say it."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)} {name}"
    return f"{seconds:.0f} s"


def _judge_quarantine(batches: Sequence[BatchFacts], promise: Promise, params: AlertsParams) -> Fault | None:
    allowed = params.max_quarantined_share
    bad = [batch for batch in batches if batch.damaged or batch.quarantined > allowed * batch.landed]
    if not bad:
        return None
    quarantined, landed = sum(batch.quarantined for batch in bad), sum(batch.landed for batch in bad)
    damaged = sum(batch.damaged for batch in bad)
    rules = _add_up(batch.rules for batch in bad)
    reasons = ", ".join(f"{rule} {n:,}" for rule, n in sorted(rules.items(), key=lambda item: (-item[1], item[0]))[:3])
    says = (
        f"{_name_batches(bad)}: {quarantined:,} of {landed:,} landed rows ({quarantined / max(landed, 1):.0%}) are in "
        f"quarantine{f' ({reasons})' if reasons else ''}, {damaged:,} files as a whole; allowed are {allowed:.0%} and "
        "none. The other rows were accepted. Have the files corrected and landed again."
    )
    return Fault(
        Kind.QUARANTINE,
        promise.contract,
        says,
        {"damaged_files": damaged, "landed": landed, "quarantined": quarantined},
        _first(name for batch in bad for name in batch.worst),
        people=promise.people,
    )


def _judge_changed(batches: Sequence[BatchFacts], promise: Promise) -> Fault | None:
    changed = [name for batch in batches for name in batch.changed]
    if not changed:
        return None
    says = (
        f"{len(changed):,} files came again under their name with other content; the new content was taken in, too. "
        "A file must not be changed or appended to once it has landed: ask the producer to give every delivery a name "
        "of its own."
    )
    return Fault(
        Kind.FILE_CHANGED, promise.contract, says, {"files": len(changed)}, _first(changed), people=promise.people
    )


def _judge_schema(batches: Sequence[BatchFacts], promise: Promise) -> Fault | None:
    rules = _add_up(batch.rules for batch in batches)
    broken = {rule: rules[rule] for rule in _SCHEMA_RULES if rules.get(rule)}
    if not broken:
        return None
    files = [name for batch in batches for name in batch.worst if set(batch.rules) & set(broken)]
    says = (
        f"files have not the columns of contract '{promise.contract}': "
        f"{', '.join(f'{rule} {n:,}' for rule, n in broken.items())} rows or files are in quarantine. "
        "Ask the owner; correct the files, or map the columns in the contract."
    )
    return Fault(Kind.SCHEMA_CHANGE, promise.contract, says, broken, _first(files), people=promise.people)


def _judge_volume(batches: Sequence[BatchFacts], promise: Promise) -> Fault | None:
    if promise.rows is None:
        return None
    low, high = promise.rows
    outside = [batch for batch in batches if not low <= batch.landed <= high]
    if not outside:
        return None
    rows = ", ".join(f"{batch.landed:,}" for batch in outside[:_EXAMPLES])
    says = (
        f"{_name_batches(outside)}: {rows} rows landed; contract '{promise.contract}' promises {low:,} to {high:,} a "
        "batch. What landed was taken in. Ask the owner."
    )
    counts = {"batches": len(outside), "landed": sum(batch.landed for batch in outside)}
    return Fault(Kind.VOLUME, promise.contract, says, counts, people=promise.people)


def _name_batches(batches: Sequence[BatchFacts]) -> str:
    first, last = batches[0].batch, batches[-1].batch
    return f"batch {first}" if first == last else f"{len(batches):,} batches from {first} to {last}"


def _add_up(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for name, n in part.items():
            total[name] = total.get(name, 0) + n
    return total


def _first(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:_EXAMPLES]
