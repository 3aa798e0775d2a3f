"""Locks between jobs, on whatever file system the warehouse is on.

A lock is a folder ``<root>/locks/<name>/`` of numbered files; the highest number is the latest holder and its fencing
token. Taking a lock, free or abandoned, is the exclusive creation of the next number, so that of several contenders
exactly one succeeds and no abandoned file has to be deleted first. Giving it back rewrites the file; the number stays,
so that tokens only rise.

A check before a commit is not enough: a holder that is stopped between the two may commit after another has taken
over. So every commit under a lock carries its token, and a table refuses a lower one than it has seen
(`recsys.store.tables`). Whoever takes a lock from a holder that did not give it back in order first shows its token to
all tables of the lock.
"""

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from recsys.errors import LockedError, RecsysError
from recsys.events import log_event
from recsys.store.files import Files

log = logging.getLogger(__name__)

# What is locked: the tables of ratings, items and blocks; the models and their aliases; the lists and their pointer.
TABLES: Final = "tables"
MODELS: Final = "models"
LISTS: Final = "lists"

_LISTINGS: Final = 20  # tries
_FILE: Final = re.compile(r"(\d{12})\.json")
_held: "dict[str, Lock]" = {}  # of this process, by folder; of two on one folder, of which one was lost, the newer


@dataclass(frozen=True)
class Holder:
    """Content of a lock file: who holds the lock, since when, and its last sign of life."""

    name: str
    token: int
    job: str
    host: str
    pid: int
    process_started: str  # tells a process from a later one with the same pid
    since: str
    heartbeat: float  # seconds since 1970 UTC
    held: bool = True
    in_order: bool = True  # given back by a holder none of whose commits can still be under way

    def __str__(self) -> str:
        silent = max(0.0, time.time() - self.heartbeat)
        return f"{self.job} (pid {self.pid} on {self.host}) since {self.since}, last sign {silent:.0f} s ago"


class Lock:
    """One named lock, held inside a ``with``; a heartbeat thread shows that the holder lives."""

    def __init__(
        self,
        files: Files,
        root: str,
        name: str,
        *,
        job: str,
        expiry_seconds: float,
        fence: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Takes nothing yet.

        Args:
            files: File access.
            root: The warehouse.
            name: What is locked.
            job: Who locks it, for the message that others get.
            expiry_seconds: A holder that gave no sign for so long is taken for dead; all hosts' clocks must agree
                better than that. A dead process on this host is seen at once.
            fence: Makes the tables that this lock is for refuse earlier holders; gets the lock's name. Called when the
                lock is taken from one who did not give it back in order.
        """
        self.name = name
        self._files = files
        self._folder = _folder(files, root, name)
        self._job = job
        self._expiry = expiry_seconds
        self._fence = fence
        self._holder: Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> int:
        """The fencing token: higher than that of every earlier holder.

        Raises:
            LockedError: the lock is not held.
        """
        if self._holder is None:
            raise LockedError(f"lock '{self.name}' is not held by this job.")
        return self._holder.token

    def acquire(self) -> int:
        """Take the lock.

        Returns:
            The fencing token.

        Raises:
            LockedError: another job holds it; says which.
        """
        while True:
            latest = _read_latest(self._files, self._folder)
            if latest is not None and latest.held:
                why_dead = _why_dead(latest, self._expiry)
                if why_dead is None:
                    raise LockedError(
                        f"lock '{self.name}' is held by {latest}. Wait for it to end; if it has died, the lock is free "
                        f"{self._expiry:.0f} s after its last sign."
                    )
                log_event(
                    log, "lock_taken_over", level=logging.WARNING, lock=self.name, of=str(latest), because=why_dead
                )
            mine = self._new_holder(_first_token() if latest is None else latest.token + 1)
            if not self._files.create(self._path(mine.token), _encode(mine)):
                continue  # another was quicker: look again who
            now_latest = _read_latest(self._files, self._folder)
            if now_latest is not None and now_latest.token == mine.token:
                break
            self._files.delete(self._path(mine.token))  # took a number that others had passed and cleaned up
        self._holder = mine
        self._clean_up()
        self._start_heartbeat()
        _held[self._folder] = self
        if latest is not None and (latest.held or not latest.in_order):
            try:
                self._fence(self.name)
            except BaseException:
                self.release(in_order=False)
                raise
        return mine.token

    def check(self) -> None:
        """Make sure that the lock is still ours; call it right before a commit.

        Raises:
            LockedError: it was taken over while this process gave no sign.
        """
        latest = _read_latest(self._files, self._folder)
        if latest is None or latest.token != self.token:
            raise LockedError(self.loss(latest))

    def loss(self, latest: Holder | None = None) -> str:
        """What to tell whoever holds a lock no longer."""
        now = "another job has taken it" if latest is None or not latest.held else f"now {latest} holds it"
        return (
            f"lock '{self.name}' was lost while this job gave no sign for {self._expiry:.0f} s: {now}. What this job "
            "had not committed by then is not committed; run it again."
        )

    def release(self, *, in_order: bool = True) -> None:
        """Give the lock back; one that was lost is left to its new holder.

        Args:
            in_order: No commit of this holder can still be under way; otherwise the next one lets the tables know.
        """
        if self._holder is None:
            return
        if _held.get(self._folder) is self:
            del _held[self._folder]
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        given_back = replace(self._holder, held=False, in_order=in_order)
        self._files.write(self._path(self._holder.token), _encode(given_back))
        self._holder = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error that nobody raised on purpose leaves open what the JVM or the file system is still doing.
        self.release(in_order=err is None or isinstance(err, RecsysError))

    def _path(self, token: int) -> str:
        return f"{self._folder}/{token:012d}.json"

    def _new_holder(self, token: int) -> Holder:
        now = time.time()
        return Holder(
            name=self.name,
            token=token,
            job=self._job,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=_process_started(os.getpid()),
            since=datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            heartbeat=now,
        )

    def _clean_up(self) -> None:
        for token in _tokens(self._files, self._folder):
            if token < self.token:
                self._files.delete(self._path(token))

    def _start_heartbeat(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lock-{self.name}", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self._expiry / 4):
            try:
                self.check()
                holder = replace(self._holder, heartbeat=time.time()) if self._holder else None
                if holder is not None:
                    self._files.write(self._path(holder.token), _encode(holder))
            except LockedError:
                log_event(log, "lock_lost", level=logging.ERROR, lock=self.name)
                return
            except Exception as err:  # the next beat may succeed; until then the lock is ours
                log_event(log, "lock_heartbeat_failed", level=logging.WARNING, lock=self.name, error=str(err))


def check_held() -> None:
    """Make sure that every lock this process holds is still its own; commits call it right before.

    Raises:
        LockedError: one was taken over.
    """
    for lock in list(_held.values()):
        lock.check()


def held_for(root: str, name: str) -> Lock | None:
    """The lock of this name that this process has taken and not given back, lost or not; None without one.

    Args:
        root: of the warehouse, resolved.
        name: what is locked.
    """
    return _held.get(f"{root}/locks/{name}")


def _first_token() -> int:
    """The first number in a folder: seconds since 1970, so that tokens rise even when somebody deleted the folder."""
    return int(time.time())


def read_holders(files: Files, root: str) -> list[Holder]:
    """Who holds which lock now, dead holders included."""
    folders = sorted({path.rpartition("/")[0] for path in _list_paths(files, f"{files.resolve(root)}/locks")})
    latest = [_read_latest(files, folder) for folder in folders]
    return [holder for holder in latest if holder is not None and holder.held]


def _folder(files: Files, root: str, name: str) -> str:
    return f"{files.resolve(root)}/locks/{name}"


def _tokens(files: Files, folder: str) -> list[int]:
    names = [path.rpartition("/")[2] for path in _list_paths(files, folder)]
    return [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]


def _list_paths(files: Files, folder: str) -> list[str]:
    for attempt in range(1, _LISTINGS + 1):
        try:
            return [status.path for status in files.list_files(folder, recursive=True)]
        except FileNotFoundError:
            break
        except OSError:  # another contender's draft went away while it was being listed
            if attempt == _LISTINGS:
                raise
    return []


def _read_latest(files: Files, folder: str) -> Holder | None:
    while tokens := _tokens(files, folder):
        try:
            return Holder(**json.loads(files.read_text(f"{folder}/{max(tokens):012d}.json")))
        except FileNotFoundError:
            continue  # a later holder cleaned it up meanwhile
    return None


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _why_dead(holder: Holder, expiry_seconds: float) -> str | None:
    """Why a holder is taken for dead, None when it is not."""
    silent = time.time() - holder.heartbeat
    if silent > expiry_seconds:
        return f"no sign for {silent:.0f} s"
    if holder.host == socket.gethostname() and _process_started(holder.pid) != holder.process_started:
        return f"process {holder.pid} is gone"
    return None


def _process_started(pid: int) -> str:
    """Start time of a live process of this host in clock ticks since boot, empty for a dead one.

    Without ``/proc`` (macOS) a live process gives "alive": there a reused pid passes for the old process.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
