"""Drop generations nobody can roll back to, join small files, remove unreferenced ones, tag abandoned models."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.runner import JobContext, JobResult, run_job
from recsys.store.checkpoints import drop_checkpoints
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.store.maintenance import drop_old_generations, vacuum
from recsys.store.registry import Registry


@dataclass(frozen=True)
class MaintenanceReport:
    """What maintenance found to do."""

    dropped_generations: list[int]
    joined_files: int
    orphans: list[int]

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        return JobResult(
            f"dropped generations: {self.dropped_generations or 'none'}; joined {self.joined_files:,} files; "
            f"orphaned model versions tagged: {self.orphans or 'none'}",
            counts={
                "dropped_generations": len(self.dropped_generations),
                "joined_files": self.joined_files,
                "orphans": len(self.orphans),
            },
        )


def run(context: JobContext) -> MaintenanceReport:
    """Keep the warehouse small and quick. Call it under the locks on tables, models and lists.

    Joined and dropped files stay on disk for ``warehouse.vacuum_hours``, so that running readers finish.
    """
    tables, params = context.tables, context.settings.warehouse
    appended = [tables.ratings, tables.quarantine, tables.ledger, tables.items, tables.generations, tables.job_runs]
    dropped = drop_old_generations(tables, params.keep_generations)
    joined = sum(table.join_small_files() for table in appended)
    vacuum(context.spark, [*appended, tables.user_blocks, tables.recommendations], params.vacuum_hours)
    drop_checkpoints(context.spark, tables.root)
    orphans = Registry(context.settings.mlflow, tables.root).tag_orphans()
    return MaintenanceReport(dropped, joined, orphans)


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
