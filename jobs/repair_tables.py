"""Look at every table's log and data files, say what is damaged, and make good what the table's own files allow."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobs.runner import JobContext, JobResult, perform, run_job
from recsys.errors import TableDamagedError
from recsys.reconciliation import reconcile
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.store.repair import Finding, State, find_missing_files, repair_log

NAME: Final = "repair_tables"


@dataclass(frozen=True)
class RepairReport:
    """What was found, table by table."""

    findings: tuple[Finding, ...]
    n_tables: int

    def to_result(self) -> JobResult:
        """The report as the runner records it; damage that is left ends the job with 1."""
        lost = [finding for finding in self.findings if finding.state is State.LOST]
        counts = {state.name.lower(): sum(own.state is state for own in self.findings) for state in State}
        found = "".join(f"\n{finding}" for finding in self.findings) or " nothing is damaged"
        message = f"{self.n_tables} tables looked at:{found}"
        refusal = None
        if lost:
            names = ", ".join(sorted({finding.table for finding in lost}))
            refusal = TableDamagedError(f"{len(lost)} damages are left, in {names}: see above what to do about each.")
        return JobResult(message, counts, refusal=refusal)


def run(context: JobContext, *, dry_run: bool = False) -> RepairReport:
    """Repair what can be. Call it under the locks on tables, models and lists; tables need not have been opened.

    Args:
        context: of the job.
        dry_run: only look.
    """
    tables = context.tables
    findings: list[Finding] = []
    for table in tables.all():
        of_log = repair_log(context.spark, context.files, table, tables.root, dry_run=dry_run)
        findings += of_log
        if all(finding.state is State.REPAIRED for finding in of_log):  # else nobody can say what it needs
            findings += find_missing_files(context.files, table)
            if not dry_run and table.exists():
                table.fence()  # in the place of whoever took the lock: not on top of a damaged commit
    if all(finding.state is State.REPAIRED for finding in findings):
        tables.open_or_create()
        findings += reconcile(tables, dry_run=dry_run)
    return RepairReport(tuple(findings), len(tables.all()))


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only look, and say what would be done")

    def body(context: JobContext) -> JobResult:
        dry_run = context.args.dry_run

        def look_and_repair(job: JobContext) -> JobResult:
            return run(job, dry_run=dry_run).to_result()

        locks = () if dry_run else (TABLES, MODELS, LISTS)  # whoever only looks is in nobody's way
        return perform(context, NAME, look_and_repair, locks=locks, checks_tables=False)

    return run_job(NAME, body, argv, description=__doc__ or "", arguments=add_options, repairs=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
