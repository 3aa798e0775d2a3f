"""What a file system does to a job, told in one line: which folder or server, what was found, what to do.

HDFS, Spark and Delta raise Java exceptions of forty lines, one in another. A job must not show those first, and must
not take a server that is away for a file that is damaged.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from recsys.errors import RecsysError, StorageError, TableDamagedError, UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fault:
    """A kind of fault: how it shows in a Java exception's text, and what is said of it, with the pattern's groups."""

    sign: "re.Pattern[str]"
    kind: type[RecsysError]
    message: str


_RERUN: Final = "Nothing that was not committed is visible: run the job again afterwards."

# The first that fits is told: causes stand before what follows from them.
_FAULTS: Final = (
    _Fault(
        re.compile(
            r"QuotaExceededException\)?: The (?P<what>\w+) quota(?: \(directories and files\))? "
            r"of (?:directory )?(?P<folder>\S+) is exceeded: (?P<numbers>[^\n]*)"
        ),
        StorageError,
        "the HDFS {what} quota of folder '{folder}' is exceeded: {numbers}. Raise it (hdfs dfsadmin -setSpaceQuota, "
        "for a number of files -setQuota) or make room there (maintain_tables drops old generations and files). "
        + _RERUN,
    ),
    _Fault(
        re.compile(r"No space left on device"),
        StorageError,
        "no space is left on a disk of this machine. Free some, or give Spark another scratch folder "
        "(spark.local.dir). " + _RERUN,
    ),
    _Fault(
        re.compile(
            r"AccessControlException\)?: Permission denied: user=(?P<user>[^,\n]+), access=(?P<access>\w+), "
            r'inode="(?P<path>[^"\n]+)":(?P<owner>[^\s:]+):(?P<group>[^\s:]+):(?P<mode>\S+)'
        ),
        UsageError,
        "user '{user}' has no {access} access to '{path}', which is {owner}'s with mode {mode}. "
        "Grant it, or run the job as a user who has it.",
    ),
    _Fault(
        re.compile(
            r"SafeModeException\)?: (?P<what>[^\n]*?)[.\s]*Name node is in safe mode"
            r"|SafeModeException\)?: (?P<other>[^\n]*)"
        ),
        StorageError,
        "HDFS is in safe mode and takes no writes ({what}). Wait until its NameNode has left it (hdfs dfsadmin "
        "-safemode get; somebody may have entered it for maintenance). " + _RERUN,
    ),
    _Fault(
        re.compile(
            r"Call From \S+ to (?P<address>\S+) failed on [\w ]*exception"
            r'|destination host is: "?(?P<host>[^\s"]+?)"?:(?P<port>\d+)'
        ),
        StorageError,
        "the server at {address} does not answer. If it is the NameNode of the warehouse or of the landing folder, see "
        "whether it runs (hdfs dfsadmin -report). " + _RERUN,
    ),
    _Fault(
        re.compile(
            r"BlockMissingException: Could not obtain block: \S+ (?:of )?file=?\s*(?P<path>\S+)"
            r"|File (?P<written>\S+) could only be (?:written|replicated) to (?P<nodes>\d+)"
            r"|All datanodes \[(?P<bad>[^\]]*)\][^\n]* are bad"
            r"|Could not get block locations\. Source file \"(?P<source>[^\"]+)\""
            r"|Unable to create new block"
        ),
        StorageError,
        "no DataNode of HDFS {does} '{path}'. See which are down (hdfs dfsadmin -report; hdfs fsck on the folder). "
        + _RERUN,
    ),
    _Fault(
        re.compile(
            r"FAILED_READ_FILE[.\w]*\] Encountered error while reading file (?P<path>\S+/_delta_log/\S+?)\. "
            r"|DELTA_TRUNCATED_TRANSACTION_LOG\] (?P<gone>\S+?): "
            r"|: (?P<unread>\S+/_delta_log/\S+) is not a Parquet file"
            r"|Checksum error: (?P<torn>\S+/_delta_log/\S+)"
        ),
        TableDamagedError,
        "'{path}' is damaged or gone: it is part of a table's log. Nothing was made from what is left. Run "
        "repair_tables --dry-run to see what can be saved, then repair_tables (docs/operations.md).",
    ),
    _Fault(
        re.compile(r"FAILED_READ_FILE\.FILE_NOT_EXIST\] Encountered error while reading file (?P<path>\S+?)\. "),
        TableDamagedError,
        "'{path}' is gone, and a table needs it: somebody deleted it. Nothing was made from what is left. Put it back "
        "from HDFS's trash, a snapshot or a backup, then run the job again; "
        "repair_tables says what else there is to do.",
    ),
    _Fault(
        re.compile(
            r"(?:Checkpoint RDD [^\n]*|Checkpoint block \S+) (?:does not exist|not found)[^\n]*"
            r"|File (?:does not exist: )?(?P<path>\S*/checkpoints/\S+)(?: does not exist)?"
        ),
        StorageError,
        "the checkpoint of a fit is gone from below '<warehouse>/checkpoints', which nobody but jobs may clean up. "
        + _RERUN,
    ),
)


def explain(err: BaseException) -> RecsysError | None:
    """The fault behind an error, as a person would tell it; None when it is none of those known here."""
    text = _whole_text(err)
    for fault in _FAULTS:
        found = fault.sign.search(text)
        if found is not None:
            return fault.kind(fault.message.format_map(_named(found)))
    return None


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Raise what :func:`explain` makes of an error in its place; its trace is logged with ``--verbose``."""
    try:
        yield
    except RecsysError:
        raise
    except Exception as err:
        told = explain(err)
        if told is None:
            raise
        log.info("fault_explained kind=%s", type(told).__name__, exc_info=True)
        raise told from err


def _whole_text(err: BaseException | None) -> str:
    """The texts of an error, its Java trace, and the errors that it came from."""
    parts: list[str] = []
    seen: set[int] = set()
    while err is not None and id(err) not in seen:
        seen.add(id(err))
        parts += [str(err), getattr(err, "_stackTrace", "") or ""]  # PySpark's own errors keep the trace apart
        err = err.__cause__ or err.__context__
    return "\n".join(parts)


def _named(found: "re.Match[str]") -> dict[str, str]:
    groups = {name: text for name, text in found.groupdict().items() if text is not None}
    if "host" in groups:
        groups["address"] = f"{groups['host']}:{groups['port']}"
    groups.setdefault("what", groups.get("other", "").rstrip(". "))
    groups["does"] = "gives a block of" if "path" in groups else "takes a block of"
    groups.setdefault("path", _first(groups, "written", "source", "gone", "unread", "torn") or "a file")
    return groups


def _first(groups: Mapping[str, str], *names: str) -> str | None:
    return next((groups[name] for name in names if name in groups), None)
