"""Which alerts are open, and which messages wait to be delivered: small files that separate runs share.

``open/<key>.json`` is one open alert; its exclusive creation decides who tells of a fault. ``outbox/`` holds one file a
message that is not yet delivered on all channels, by time; ``<message>.taken`` beside it is who delivers it now. A
message is in the outbox before its alert is marked as told, or removed, and its name follows from the alert: whoever is
killed in between leaves a message that is delivered once too often rather than never.
"""

import json
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from recsys.alerts.channels import Channel, Message
from recsys.alerts.faults import Fault, Judgement, Kind, RunEnd, describe_seconds
from recsys.events import log_event

log = logging.getLogger(__name__)

_TAKEN: Final = ".taken"
_ABANDONED: Final = 600.0  # seconds after which whoever took a message is taken for dead
_UNTOLD: Final = 60.0  # seconds after which whoever opened an alert and told nobody is
_FIRST_WAIT: Final = 20.0  # seconds before the third try; doubled at each, and the second is the next run's
_LONGEST_WAIT: Final = 600.0


class _Status(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def modified_ms(self) -> int: ...


class FileStore(Protocol):
    """The part of `recsys.store.files.Files` that is needed here."""

    def exists(self, path: str) -> bool: ...  # noqa: D102
    def list_files(self, folder: str, *, recursive: bool = False) -> Iterator[_Status]: ...  # noqa: D102
    def read(self, path: str) -> bytes: ...  # noqa: D102
    def write(self, path: str, data: bytes) -> None: ...  # noqa: D102
    def create(self, path: str, data: bytes) -> bool: ...  # noqa: D102
    def delete(self, path: str) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Alert:
    """One open alert, as its file has it; times are seconds since 1970 UTC."""

    id: str
    kind: str
    subject: str
    severity: str
    says: str
    opened: float
    seen: float
    runs: int  # that saw it
    job: str
    run_id: str
    told: bool
    variant: str = ""
    people: str = ""
    patience: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it has been seen often enough to tell somebody."""
        return self.runs > self.patience


@dataclass(frozen=True)
class Spooled:
    """One message that waits, and on which channels."""

    message: Message
    channels: tuple[str, ...]
    created: float
    tries: int = 0
    not_before: float = 0.0


@dataclass(frozen=True)
class Delivery:
    """What became of the messages that were due."""

    delivered: int = 0
    kept: int = 0
    dropped: int = 0


Deliver = Callable[
    [Sequence[Channel], Message], Mapping[str, str]
]  # returns why by the label of the channels it failed on


class AlertBook:
    """The open alerts and waiting messages of one warehouse."""

    def __init__(self, files: FileStore, folder: str, *, where: str) -> None:
        """Reads nothing yet.

        Args:
            files: File access.
            folder: ``alerts`` below the warehouse.
            where: The warehouse, as messages name it.
        """
        self._files = files
        self._open = f"{folder}/open"
        self._outbox = f"{folder}/outbox"
        self._where = where

    def record(self, judgement: Judgement, run: RunEnd, channels: Sequence[Channel], *, now: float) -> None:
        """Open what is new, keep what lasts, close what was looked at and is over; their messages go to the outbox."""
        known = self._read_open()
        for fault in judgement.faults:
            self._see(fault, known.get(_name(fault)), run, channels, now)
        lasting = {_name(fault) for fault in judgement.faults}
        for name, alert in known.items():
            if name not in lasting and (Kind(alert.kind), alert.subject) in judgement.checked:
                self._close(name, alert, run, channels, now)

    def deliver(self, channels: Sequence[Channel], send: Deliver, *, now: float, keep_seconds: float) -> Delivery:
        """Try every message that is due, oldest first; a channel that fails once gets no more of them this time."""
        total, down = Delivery(), set[str]()
        known = {channel.label: channel for channel in channels}
        for path in self._list_messages(now):
            if not self._files.create(path + _TAKEN, b""):
                continue
            try:
                total = _add(total, self._deliver_one(path, known, down, send, now, keep_seconds))
            finally:
                self._files.delete(path + _TAKEN)
        return total

    def open_alerts(self) -> list[Alert]:
        """Those that somebody was, or should have been, told of; the oldest first."""
        return sorted((alert for alert in self._read_open().values() if alert.is_open), key=lambda alert: alert.opened)

    def count_waiting(self) -> int:
        """Messages that are not delivered yet."""
        return sum(1 for _ in self._list(self._outbox, ".json"))

    def _see(self, fault: Fault, known: Alert | None, run: RunEnd, channels: Sequence[Channel], now: float) -> None:
        path = f"{self._open}/{_name(fault)}.json"
        if known is None:
            alert = Alert(
                id=uuid.uuid4().hex,
                kind=fault.kind.value,
                subject=fault.subject,
                severity=fault.severity,
                says=fault.says,
                opened=now,
                seen=now,
                runs=1,
                job=run.job,
                run_id=run.run_id,
                told=False,
                variant=fault.variant,
                people=fault.people,
                patience=fault.patience,
                counts=fault.counts,
                examples=fault.examples,
            )
            if not self._files.create(path, _to_json(alert)):
                return  # another run saw it at the same time, and tells
            mine = True
        else:
            alert = known if known.run_id == run.run_id else replace(known, runs=known.runs + 1)
            alert = replace(alert, seen=now, says=fault.says, counts=fault.counts, examples=fault.examples)
            mine = known.runs <= known.patience or now - known.opened > _UNTOLD
        if alert.is_open and not alert.told and mine:
            log_event(
                log,
                "alert_opened",
                level=logging.WARNING,
                kind=alert.kind,
                subject=alert.subject,
                **alert.counts,
                says=alert.says,
            )
            self._post(alert.opened, self._tell(alert), channels, now)
            alert = replace(alert, told=True)
        self._files.write(path, _to_json(alert))

    def _close(self, name: str, alert: Alert, run: RunEnd, channels: Sequence[Channel], now: float) -> None:
        if alert.told:
            fields = {"kind": alert.kind, "subject": alert.subject, "lasted": describe_seconds(now - alert.opened)}
            log_event(log, "alert_resolved", level=logging.WARNING, **fields)
            self._post(alert.seen, self._tell_over(alert, run, now), channels, now)
        self._files.delete(f"{self._open}/{name}.json")

    def _tell(self, alert: Alert) -> Message:
        lines = [
            alert.says,
            *([f"counts: {', '.join(f'{name} {n:,}' for name, n in alert.counts.items())}"] if alert.counts else []),
            *([f"for example: {', '.join(alert.examples)}"] if alert.examples else []),
            *([alert.people] if alert.people else []),
            f"warehouse {self._where}, job {alert.job}, run {alert.run_id}, host {socket.gethostname()}, "
            f"at {_format_time(alert.seen)}",
            f"what to do: docs/operations.md, {alert.kind}",
        ]
        return _make_message(alert, "opened", alert.severity, lines, at=alert.seen)

    def _tell_over(self, alert: Alert, run: RunEnd, now: float) -> Message:
        lines = [
            f"over after {describe_seconds(now - alert.opened)}; {alert.runs:,} runs saw it. Last: {alert.says}",
            f"warehouse {self._where}, found by job {run.job}, run {run.run_id}, at {_format_time(now)}",
        ]
        return _make_message(alert, "resolved", "success", lines, at=now, word="over: ")

    def _post(self, since: float, message: Message, channels: Sequence[Channel], now: float) -> None:
        if channels:
            name = f"{int(since * 1000):015d}-{message.alert}-{message.event}"  # the same for runs that see it at once
            spooled = Spooled(message, tuple(channel.label for channel in channels), created=now)
            self._files.create(f"{self._outbox}/{name}.json", _to_json(spooled))

    def _deliver_one(
        self, path: str, known: Mapping[str, Channel], down: set[str], send: Deliver, now: float, keep_seconds: float
    ) -> Delivery:
        try:
            spooled = _spooled_from(self._files.read(path))
        except FileNotFoundError:
            return Delivery()  # another run has delivered it since it was listed
        if spooled.tries and now < spooled.not_before:
            down.update(spooled.channels)  # what comes later must not overtake it
            return Delivery(kept=1)
        wanted = [known[label] for label in spooled.channels if label in known]
        tried = [channel for channel in wanted if channel.label not in down]
        reasons = send(tried, spooled.message)
        failed = {channel.label: "an earlier message waits for it" for channel in wanted if channel.label in down}
        failed |= reasons
        down.update(reasons)
        if not failed:
            self._files.delete(path)
            return Delivery(delivered=1)
        said = {
            "kind": spooled.message.kind,
            "subject": spooled.message.subject,
            "message": spooled.message.event,
            "why": "; ".join(f"channel {label}: {reason}" for label, reason in failed.items()),
        }
        if (spooled.tries or not tried) and now - spooled.created > keep_seconds:
            log_event(log, "alert_dropped", level=logging.ERROR, **said, tries=spooled.tries + bool(tried))
            self._files.delete(path)
            return Delivery(dropped=1)
        if tried:
            log_event(log, "alert_not_delivered", level=logging.WARNING, **said, then="a later run tries again")
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (spooled.tries - 1)) if spooled.tries else 0.0
            kept = replace(spooled, channels=tuple(failed), tries=spooled.tries + 1, not_before=now + wait)
            self._files.write(path, _to_json(kept))
        return Delivery(kept=1)

    def _list_messages(self, now: float) -> list[str]:
        for status in self._list(self._outbox, _TAKEN):
            if now - status.modified_ms / 1000 > _ABANDONED:
                self._files.delete(status.path)
        return sorted(status.path for status in self._list(self._outbox, ".json"))

    def _read_open(self) -> dict[str, Alert]:
        found = {}
        for status in self._list(self._open, ".json"):
            try:
                content = json.loads(self._files.read(status.path))
            except FileNotFoundError:
                continue  # another run has closed it since it was listed
            alert = Alert(**{**content, "examples": tuple(content["examples"])})
            found[status.path.rpartition("/")[2].removesuffix(".json")] = alert
        return found

    def _list(self, folder: str, ending: str) -> list[_Status]:
        if not self._files.exists(folder):
            return []
        found = self._files.list_files(folder)
        return [s for s in found if s.path.endswith(ending) and not s.path.rpartition("/")[2].startswith(".")]


class MemoryStore:
    """A file store for where there is none: what it keeps lives as long as the process."""

    def __init__(self) -> None:
        self._content: dict[str, tuple[bytes, float]] = {}

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        return any(name == path or name.startswith(f"{path}/") for name in self._content)

    def list_files(self, folder: str, *, recursive: bool = False) -> Iterator["_Kept"]:
        """The files of a folder."""
        for name, (_, modified) in list(self._content.items()):
            if name.startswith(f"{folder}/"):
                yield _Kept(name, int(modified * 1000))

    def read(self, path: str) -> bytes:
        """The bytes of a file."""
        if path not in self._content:
            raise FileNotFoundError(path)
        return self._content[path][0]

    def write(self, path: str, data: bytes) -> None:
        """Write a file, replacing an older one."""
        self._content[path] = (data, time.time())

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one."""
        if path in self._content:
            return False
        self.write(path, data)
        return True

    def delete(self, path: str) -> bool:
        """Remove a file."""
        return self._content.pop(path, None) is not None


@dataclass(frozen=True)
class _Kept:
    path: str
    modified_ms: int


def _make_message(
    alert: Alert, event: str, severity: str, lines: Sequence[str], *, at: float, word: str = ""
) -> Message:
    """A message about an alert; the word comes before its kind in the title."""
    return Message(
        event=event,
        kind=alert.kind,
        subject=alert.subject,
        severity=severity,
        title=f"[recsys] {word}{alert.kind}: {alert.subject}",
        body="\n".join(lines),
        counts=dict(alert.counts),
        at=at,
        alert=alert.id,
    )


def _name(fault: Fault) -> str:
    """The file name of a fault; subjects are names of jobs and contracts."""
    parts = (fault.kind.value, fault.subject, *([fault.variant] if fault.variant else []))
    return ".".join(re.sub(r"[^A-Za-z0-9_-]", "-", part) for part in parts)


def _to_json(content: Alert | Spooled) -> bytes:
    return json.dumps(asdict(content), indent=1).encode()


def _spooled_from(text: bytes) -> Spooled:
    content: dict[str, Any] = json.loads(text)
    message = Message(**content.pop("message"))
    return Spooled(message, **{**content, "channels": tuple(content["channels"])})


def _format_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _add(one: Delivery, other: Delivery) -> Delivery:
    return Delivery(one.delivered + other.delivered, one.kept + other.kept, one.dropped + other.dropped)
