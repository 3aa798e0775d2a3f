"""A submitted application to its end: what is shown on the way, and the job's own exit code.

In YARN's cluster mode spark-submit returns 1 for every failure, and a driver that exits with anything but 0 is run
again as long as ``spark.yarn.maxAppAttempts`` allows. So the driver leaves a file on HDFS that says how the job ended
(see `recsys.store.outcome`), and exits with 0 when a second attempt would end alike.
"""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, Self

Say = Callable[[str], None]

_RECORD: Final = re.compile(r"(TRACE|DEBUG|INFO|WARN|ERROR|FATAL) (\S+): ?(.*)")
_APPLICATION: Final = re.compile(r"application_\d+_\d+")
_STATE: Final = re.compile(r"Application report for (application_\d+_\d+) \(state: (\w+)\)")
_DETAIL: Final = re.compile(r"\t ([\w ]+): ?(.*)")
_THROWN: Final = re.compile(r'Exception in thread "main" (?:[\w.$]+: )?(.*)')
_CODES: Final = range(6)  # of a job: 0 ok, 2 usage, 3 data rejected, 4 gate refused, 5 locked, 1 anything else


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked the launcher to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Outcome:
    """What the driver left: the job's exit code, and what it printed at its end."""

    exit_code: int
    message: str = ""
    error: str = ""
    trace: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read the file's text; None when there is none or it is not an outcome."""
        try:
            found = json.loads(text or "")
            return cls(int(found["exit_code"]), str(found["message"]), str(found["error"]), str(found["trace"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Ending:
    """How a submission ended: exit code, and lines for standard output and standard error."""

    exit_code: int
    message: str = ""
    errors: tuple[str, ...] = ()


class Reader:
    """Understands what spark-submit logs in cluster mode (conf/log4j2-submit.properties), line by line.

    ``Client`` logs the state with every report, and the whole report when the state changes: identifier, tracking URL,
    final status and diagnostics, of which the last can have several lines.
    """

    def __init__(self) -> None:
        self.application = ""
        self.state = ""
        self.tracking_url = ""
        self.final_status = ""
        self.thrown = ""
        self._diagnostics: list[str] = []
        self._in: str | None = None  # what a line without a beginning of its own belongs to

    @property
    def diagnostics(self) -> str:
        """YARN's own words on the application."""
        return "\n".join(line for line in self._diagnostics if line.strip() and line != "N/A").strip()

    def read(self, line: str) -> str | None:
        """Take in a line; returns what the user should see of it."""
        line = line.rstrip("\n")
        record, detail, thrown = _RECORD.match(line), _DETAIL.match(line), _THROWN.match(line)
        if thrown:
            self.thrown, self._in = thrown[1], "trace"
            return None
        if record:
            return self._read_record(record)
        if detail and self._in in ("report", "diagnostics"):
            return self._read_detail(detail[1], detail[2])
        if self._in == "diagnostics":
            self._diagnostics.append(line)
        return line if self._in is None else None

    def _read_record(self, record: re.Match[str]) -> str | None:
        level, logger, text = record.groups()
        if not logger.endswith("Client"):
            self._in = None
            return record[0] if level in ("WARN", "ERROR", "FATAL") else None
        self._in = "report"
        state = _STATE.match(text)
        if state:
            self.application = state[1]
            if state[2] != self.state:
                self.state = state[2]
                return f"{self.application}: {self.state.lower()}"
            return None
        if level == "INFO":
            found = _APPLICATION.search(text)
            if found and "ubmit" in text and not self.application:
                self.application = found[0]
            return None
        if text.startswith("Application diagnostics message:"):  # the same as in the last report
            return None
        self._in = None
        return record[0]

    def _read_detail(self, name: str, text: str) -> str | None:
        self._in = "report"
        if name == "diagnostics":
            self._in, self._diagnostics = "diagnostics", [text]
        elif name == "final status":
            self.final_status = text
        elif name == "tracking URL" and text not in (self.tracking_url, "N/A"):
            self.tracking_url = text
            return f"{self.application}: {text}"
        return None


def follow(command: Sequence[str], environ: Mapping[str, str], say: Say, *, outcome: str = "") -> tuple[int, Reader]:
    """Submit in cluster mode and wait for the application's end; returns spark-submit's exit code.

    Call it under `raised_signals`.

    Args:
        command: spark-submit's.
        environ: Its environment.
        say: Told what goes on.
        outcome: Where the driver will leave how the job ended.

    Raises:
        Stopped: a signal came; the application goes on.
    """
    reader = Reader()
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", env=environ) as process:
            try:
                for line in process.stderr or ():
                    shown = reader.read(line)
                    if shown is not None:
                        say(shown)
                return process.wait(), reader
            except Stopped:
                process.terminate()
                raise
    except Stopped:
        if reader.application:
            say(
                f"no longer following {reader.application}, which goes on: {reader.tracking_url}. "
                f"How its job ends will be in {outcome}. End it with: yarn application -kill {reader.application}"
            )
        raise


def conclude(returned: int, reader: Reader, outcome: Outcome | None) -> Ending:
    """The job's exit code, out of what spark-submit, YARN and the driver say.

    The driver's word counts only with YARN's final status beside it: a driver that was killed after it had left its
    outcome did not end as it says, and one that left none did not get to its end.
    """
    if returned and not reader.state:
        why = reader.thrown or f"spark-submit ended with {returned} and said no more than the lines above"
        return Ending(2, errors=(f"error: YARN did not take the application: {why}",))
    if outcome is not None and (returned == 0) == (outcome.exit_code != 1):
        errors = tuple(part for part in (outcome.trace, outcome.error) if part)
        return Ending(outcome.exit_code, outcome.message, errors)
    status = f"state {reader.state}, final status {reader.final_status or 'unknown'}"
    reason = f": {reader.diagnostics}" if reader.diagnostics else ""
    claim = "left no outcome" if outcome is None else f"said {outcome.exit_code} before that"
    return Ending(1, errors=(f"error: {reader.application} ended with {status}{reason}", f"The driver {claim}."))


def wait_for(command: Sequence[str], environ: Mapping[str, str]) -> Ending:
    """Run spark-submit in client mode, where its exit code is the job's; signals go on to it."""
    process = subprocess.Popen(command, env=environ)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    with _handled_signals(pass_on):
        returned = process.wait()
    if returned in _CODES:
        return Ending(returned)
    # A shell says 128 + n of a process that signal n killed, and so does Spark of its Python process.
    number = -returned if returned < 0 else returned - 128
    killed = number in {each.value for each in signal.Signals}
    how = f"was killed by {signal.Signals(number).name}" if killed else f"ended with {returned}"
    advice = "What it had not committed is undone; its locks expire (warehouse.lock_expiry_seconds). Run it again."
    return Ending(1, errors=(f"error: the driver {how}. {advice}",))


@contextmanager
def raised_signals() -> Iterator[None]:
    """Inside it a signal that asks this process to end raises `Stopped`, so that what it made is cleaned up."""

    def raise_stopped(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_signals(raise_stopped):
        yield


@contextmanager
def _handled_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    wanted = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
