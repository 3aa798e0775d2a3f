"""Take in the rating files that have landed: ratings, quarantine, items, ledger, user blocks.

Killed at any point and run again, it ends with the tables of an undisturbed run: see docs/architecture.md, Ingestion.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.runner import JobContext, JobResult, run_job
from recsys.errors import DataRejectedError
from recsys.ingestion import ClosedBatch, Ingestion, bring_blocks_up_to_date
from recsys.observation import BatchWatch
from recsys.ratings.ledger import Counts
from recsys.store.locks import TABLES


@dataclass(frozen=True)
class IngestReport:
    """What one run took in; rows unless it says otherwise."""

    batches: int
    files: int
    counts: Counts
    new_users: int
    new_items: int
    seconds: float
    versions: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)  # what alerts have to know of the batches

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        counts = self.counts
        return JobResult(
            f"ingested {self.files:,} files: {counts.landed:,} rows landed = {counts.accepted:,} accepted + "
            f"{counts.duplicate:,} duplicate + {counts.quarantined:,} quarantined; "
            f"{self.new_users:,} new users, {self.new_items:,} new items",
            counts={
                "batches": self.batches,
                "files": self.files,
                "landed": counts.landed,
                "accepted": counts.accepted,
                "duplicate": counts.duplicate,
                "quarantined": counts.quarantined,
                "new_users": self.new_users,
                "new_items": self.new_items,
            },
            details=self.details,
            versions_out=self.versions,
        )


def run(context: JobContext) -> IngestReport:
    """Bring ratings, items and user blocks up to date with the files that have landed. Call it under the tables lock.

    Raises:
        UsageError: the landing folder or the catalogue does not exist.
        DataRejectedError: too many rows of a batch are bad; nothing of it was accepted, batches before it were.
        SourceChangedError: a file vanished or changed while it was read; nothing of its batch was accepted.
    """
    started = time.monotonic()
    ingestion = Ingestion(context.spark, context.tables, context.settings)
    closed: list[ClosedBatch] = []
    watch = BatchWatch(context)
    refusal = None
    try:
        closed += watch.look_at(ingestion.finish_interrupted())
        for arrivals in ingestion.new_batches():
            closed += watch.look_at(ingestion.take_in(arrivals))
    except DataRejectedError as err:
        refusal = err  # what earlier batches brought still goes to the blocks
    new_users = bring_blocks_up_to_date(context.tables, through_batch=ingestion.seen.last_accepted_batch)
    if refusal is not None:
        raise refusal
    return IngestReport(
        batches=len(closed),
        files=sum(len(batch.claim.entries) for batch in closed),
        counts=sum((batch.claim.counts for batch in closed), Counts()),
        new_users=new_users,
        new_items=sum(batch.new_items for batch in closed),
        seconds=time.monotonic() - started,
        versions=context.tables.versions(),
        details=watch.details(),
    )


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""
    return run_job(
        "ingest_ratings",
        lambda context: run(context).to_result(),
        argv,
        description=__doc__ or "",
        locks=(TABLES,),
        makes_tables=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
