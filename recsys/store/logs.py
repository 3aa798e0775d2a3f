"""A Delta table's log, file by file: what is whole, and whether the table can be read from it.

Delta takes a commit file without a line for a commit that did nothing, and one that lost its last lines for a commit
that did less: rows are gone, and nobody is told. What a commit says of itself (files and rows written) tells.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

COMMIT: Final = re.compile(r"(\d{20})\.json")
CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint(\..+)?\.(parquet|json)")
HINT: Final = "_last_checkpoint"

_REMOVING: Final = frozenset({"WRITE", "DELETE", "OPTIMIZE"})  # whose metric numRemovedFiles counts lines of the commit


@dataclass(frozen=True)
class Log:
    """Commits and checkpoints by version, each with what is wrong with it, or None.

    Attributes:
        commits: of the files ``<version>.json``.
        checkpoints: of the files ``<version>.checkpoint….parquet``; of one in several files, the first fault.
        hint: what is wrong with ``_last_checkpoint``.
    """

    commits: Mapping[int, str | None]
    checkpoints: Mapping[int, str | None]
    hint: str | None = None

    def is_readable(self, version: int) -> bool:
        """Whether whole files lead to a version: all commits from the first, or from a checkpoint on."""
        bases = [-1, *(own for own, fault in self.checkpoints.items() if fault is None and own <= version)]
        whole = {own for own, fault in self.commits.items() if fault is None}
        return any(whole.issuperset(range(base + 1, version + 1)) for base in bases)


@dataclass(frozen=True)
class Plan:
    """What to take out of a log so that Delta reads the table again without losing a row that can be kept.

    Attributes:
        commits: versions of damaged commits; only the last one holds rows that nothing else has.
        checkpoints: versions of damaged checkpoints.
        hint: whether ``_last_checkpoint`` goes, too; Delta then lists the folder.
        lost: the last version, when its rows go with it; it has to be written again.
        refusal: why the table cannot be made good from its own files; then nothing is taken out.
    """

    commits: tuple[int, ...] = ()
    checkpoints: tuple[int, ...] = ()
    hint: bool = False
    lost: int | None = None
    refusal: str | None = None


def plan_repair(log: Log) -> Plan:
    """The least that has to go."""
    commits = tuple(sorted(version for version, fault in log.commits.items() if fault is not None))
    checkpoints = tuple(sorted(version for version, fault in log.checkpoints.items() if fault is not None))
    hint = log.hint is not None or bool(checkpoints)
    last = max([*log.commits, *log.checkpoints], default=-1)
    if log.is_readable(last):
        return Plan(commits, checkpoints, hint)
    if log.commits.get(last) is not None and log.is_readable(last - 1):
        return Plan(commits, checkpoints, hint, lost=last)
    damaged = [f"commit {version} {log.commits[version]}" for version in commits]
    damaged += [f"checkpoint {version} {log.checkpoints[version]}" for version in checkpoints]
    oldest = min(log.commits, default=last)
    gaps = sorted(set(range(oldest, last)) - set(log.commits))
    damaged += [f"commit {gaps[0]} is missing"] if gaps else []
    damaged += [f"commits before {oldest} are cleaned up"] if oldest > 0 else []
    return Plan(refusal="; ".join(damaged))


def split_commit(text: str) -> list[str]:
    """The lines of a commit file. An id in its statistics may hold what Python, too, takes for the end of a line."""
    return text.removesuffix("\n").split("\n")


def fault_of_commit(text: str) -> str | None:
    """What is wrong with a commit file, None when it says all that it says it did."""
    if not text.strip():
        return "is empty"
    actions: list[dict[str, Any]] = []
    for number, line in enumerate(split_commit(text), 1):
        try:
            action = json.loads(line)
        except ValueError:
            return f"is cut off or damaged in line {number}"
        if not isinstance(action, dict):
            return f"is damaged in line {number}"
        actions.append(action)
    said: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    metrics = said.get("operationMetrics", {})
    stats = [json.loads(action["add"].get("stats") or "{}") for action in actions if "add" in action]
    if said.get("operation") == "WRITE" and "numOutputRows" in metrics and all("numRecords" in own for own in stats):
        wanted, found = int(metrics["numOutputRows"]), sum(int(own["numRecords"]) for own in stats)
        if found < wanted:  # more is no sign of a lost line
            return f"names files of {found:,} rows where it says that it wrote {wanted:,}: its last lines are gone"
    removed = sum("remove" in action for action in actions)
    wanted = int(metrics.get("numRemovedFiles", removed)) if said.get("operation") in _REMOVING else removed
    if removed < wanted:
        return f"removes {removed:,} files where it says {wanted:,}: its last lines are gone"
    return None


def fault_of_hint(text: str) -> str | None:
    """What is wrong with the file ``_last_checkpoint``."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return None if isinstance(found, dict) and "version" in found else "is empty or cut off"


def read_log(names: Iterable[str], read_text: Callable[[str], str], check: Callable[[str], str | None]) -> Log:
    """Look at all files of a log.

    Args:
        names: of the files in ``_delta_log``.
        read_text: gives a file's text; raises ``ValueError`` where it is no UTF-8.
        check: says what is wrong with a checkpoint file.
    """

    def fault_of(name: str, judge: Callable[[str], str | None]) -> str | None:
        try:
            return judge(read_text(name))
        except UnicodeDecodeError:
            return "is no text"

    commits: dict[int, str | None] = {}
    checkpoints: dict[int, str | None] = {}
    hint = None
    for name in sorted(names):
        if found := COMMIT.fullmatch(name):
            commits[int(found[1])] = fault_of(name, fault_of_commit)
        elif found := CHECKPOINT.fullmatch(name):
            version = int(found[1])
            checkpoints[version] = checkpoints.get(version) or check(name)
        elif name == HINT:
            hint = fault_of(name, fault_of_hint)
    return Log(commits, checkpoints, hint)
