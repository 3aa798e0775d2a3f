"""Put the lists and the model of an earlier generation back, together."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.runner import JobContext, JobResult, run_job
from recsys.store.generations import Generation, current, rollback
from recsys.store.locks import LISTS, MODELS
from recsys.store.registry import Registry


@dataclass(frozen=True)
class RollbackReport:
    """The generation that consumers read now, and what was live before."""

    generation: Generation
    generation_before: int | None
    champion_before: int | None

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        now = self.generation
        return JobResult(
            f"consumers read generation {now.generation} (before: {self.generation_before}); "
            f"champion is version {now.model_version} (before: {self.champion_before})",
            counts={"generation": now.generation, "version": now.model_version},
        )


def run(context: JobContext, *, to: int | None = None, reason: str = "rollback") -> RollbackReport:
    """Go back one generation, or to a certain one. Call it under the locks on models and lists.

    A version that is rolled back cannot be promoted again.

    Raises:
        PublicationError: there is nothing to go back to, or its lists are gone.
        RegistryError: its model version was deleted; nothing changes.
        ModelArtifactError: its model does not load; nothing changes.
    """
    registry = Registry(context.settings.mlflow, context.tables.root)
    before, champion = current(context.tables), registry.champion
    generation = rollback(context.tables, registry, to, reason)
    return RollbackReport(generation, before.generation if before else None, champion)


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--to", type=int, metavar="GENERATION", help="generation to go back to; default: one back")
        parser.add_argument("--reason", default="rollback", help="why, for the record")

    def body(context: JobContext) -> JobResult:
        return run(context, to=context.args.to, reason=context.args.reason).to_result()

    return run_job("rollback", body, argv, description=__doc__, locks=(MODELS, LISTS), arguments=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
