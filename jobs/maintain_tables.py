"""Drop old generations and superseded events, join small files, remove unreferenced ones, tag abandoned models."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.runner import JobContext, JobResult, run_job
from recsys.compaction import Compaction, compact_ratings
from recsys.store.checkpoints import drop_checkpoints
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.store.maintenance import choose_vacuum_hours, drop_old_generations, keep_logs, vacuum
from recsys.store.registry import Registry


@dataclass(frozen=True)
class MaintenanceReport:
    """What maintenance found to do."""

    dropped_generations: list[int]
    joined_files: int
    orphans: list[int]
    compaction: Compaction = field(default_factory=Compaction)
    kept_hours: float = 0.0  # of unreferenced files; more than configured where a job took long

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        return JobResult(
            f"dropped generations: {self.dropped_generations or 'none'}; joined {self.joined_files:,} files; "
            f"dropped {self.compaction.superseded:,} superseded events of {self.compaction.buckets:,} buckets; "
            f"orphaned model versions tagged: {self.orphans or 'none'}; "
            f"kept unreferenced files of the last {self.kept_hours:,.1f} hours",
            counts={
                "dropped_generations": len(self.dropped_generations),
                "joined_files": self.joined_files,
                "superseded_events": self.compaction.superseded,
                "compacted_buckets": self.compaction.buckets,
                "orphans": len(self.orphans),
            },
        )


def run(context: JobContext) -> MaintenanceReport:
    """Keep the warehouse small and quick. Call it under the locks on tables, models and lists.

    Joined and dropped files stay on disk for ``warehouse.vacuum_hours``, or twice the longest run, so that running
    readers finish.
    """
    tables, params = context.tables, context.settings.warehouse
    appended = [tables.ratings, tables.quarantine, tables.ledger, tables.items, tables.generations, tables.job_runs]
    dropped = drop_old_generations(tables, params.keep_generations)
    compression = context.settings.ingest.compression
    compaction = compact_ratings(tables, share=params.compact_share, compression=compression)
    joined = sum(table.join_small_files() for table in appended)
    keep_logs(tables.all(), params.log_days)
    hours = choose_vacuum_hours(tables, params.vacuum_hours)
    vacuum(context.spark, tables.all(), hours)
    drop_checkpoints(context.spark, tables.root)
    orphans = Registry(context.settings.mlflow, tables.root).tag_orphans()
    return MaintenanceReport(dropped, joined, orphans, compaction, hours)


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""
    return run_job(
        "maintain_tables",
        lambda context: run(context).to_result(),
        argv,
        description=__doc__,
        locks=(TABLES, MODELS, LISTS),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
