"""Forget users: delete them from every table, list and landed file, and refuse what still arrives of them.

Ids come from a file or standard input, never from the command line: docs/erasure.md.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs.runner import JobContext, JobResult, run_job
from recsys.erasure import Erasure, Receipt
from recsys.errors import ErasureIncompleteError, UsageError
from recsys.params import require_private
from recsys.store.locks import LISTS, MODELS, TABLES

NAME: Final = "forget_user"
_GATEWAY: Final = "PYSPARK_GATEWAY_PORT"  # set by spark-submit for the Python that it starts


@dataclass(frozen=True)
class ErasureReport:
    """What was erased; no id is in it."""

    receipt: Receipt

    def to_result(self) -> JobResult:
        """The report as the runner records it; files that the owner has to remove end the job with 1."""
        receipt, refusal = self.receipt, None
        removed = ", ".join(f"{n:,} from {name}" for name, n in receipt.removed.items())
        if receipt.to_remove:
            refusal = ErasureIncompleteError(
                f"{len(receipt.to_remove)} sources may still hold an id: the receipt names each with why. Remove or "
                "correct them and run forget_user again."
            )
        return JobResult(
            f"forgot {len(receipt.users):,} users: {removed}. Receipt:\n{receipt.to_json()}",
            counts={"users": len(receipt.users), **receipt.removed, "to_remove": len(receipt.to_remove)},
            details=vars(receipt),
            versions_out=receipt.versions,
            refusal=refusal,
        )


def run(context: JobContext, user_ids: frozenset[str], *, now: bool = False) -> ErasureReport:
    """Forget users. Call it under the locks on tables, models and lists.

    Args:
        context: of the job.
        user_ids: whom.
        now: take away earlier versions of the tables and their log at once, which ends whoever reads one.

    Raises:
        UsageError: a batch was interrupted; nothing was changed.
    """
    return ErasureReport(Erasure(context.spark, context.tables, context.settings, user_ids).run(now=now))


def read_ids(name: str) -> frozenset[str]:
    """User ids, one a line, exactly as they are: blanks at either end belong to an id.

    Args:
        name: of a file that only its owner can read, or ``-`` for standard input.

    Raises:
        ConfigError: others can read the file.
        UsageError: there is no such file, it is not UTF-8, it has no id, or nobody passes standard input on.
    """
    where = "standard input" if name == "-" else f"'{name}'"
    try:
        if name == "-":
            if _GATEWAY in os.environ:
                raise UsageError(
                    "spark-submit does not pass standard input on to a job. Give --ids a file of mode 0600, or start "
                    "the job by Python: .venv/bin/python -m jobs.forget_user --ids - …"
                )
            text = sys.stdin.buffer.read().decode("utf-8")
        else:
            require_private(Path(name))
            text = Path(name).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is not UTF-8"
        raise UsageError(f"user ids cannot be read from {where}: {why}. Give a file with one id a line.") from None
    found = frozenset(line.removesuffix("\r") for line in text.split("\n")) - {""}
    if not found:
        raise UsageError(f"{where} has no user id. Give one a line.")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--ids", type=read_ids, metavar="FILE", required=True, help="ids, one a line; mode 0600; -: standard input"
        )
        parser.add_argument(
            "--now", action="store_true", help="remove earlier versions and logs at once; ends running readers"
        )

    def body(context: JobContext) -> JobResult:
        return run(context, context.args.ids, now=context.args.now).to_result()

    return run_job(NAME, body, argv, description=__doc__ or "", locks=(TABLES, MODELS, LISTS), arguments=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
