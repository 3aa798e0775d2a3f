"""Make the challenger champion, if its verdict allows it and it was judged against the present champion."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.runner import JobContext, JobResult, run_job
from recsys.store.locks import MODELS
from recsys.store.registry import NOT_JUDGED, PARENT, Registry


@dataclass(frozen=True)
class PromotionReport:
    """Which version is champion now, and which it replaced."""

    champion: int | None
    replaced: int | None
    promoted: bool
    why_not: str = ""

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        if not self.promoted:
            return JobResult(f"nothing to promote: {self.why_not}. Champion: {self.champion or 'none'}")
        return JobResult(
            f"version {self.champion} is champion; it replaced {self.replaced or 'none'}",
            counts={"version": self.champion or 0, "replaced": self.replaced or 0},
        )


def run(context: JobContext, *, version: int | None = None) -> PromotionReport:
    """Promote a version, or the challenger. Call it under the lock on the models.

    A challenger that too few users judged is left as it is, which is no failure.

    Raises:
        GateRefusedError: its verdict is not ``passed``.
        ConcurrentPromotionError: it was judged against another champion than the present one.
        ModelArtifactError: it does not load.
        RegistryError: there is no such version, or the registry cannot be written.
    """
    registry = Registry(context.settings.mlflow, context.tables.root)
    candidate = registry.challenger if version is None else version
    if candidate is None:
        return PromotionReport(registry.champion, None, promoted=False, why_not="there is no challenger")
    described = registry.describe(candidate)
    if version is None and described.verdict == NOT_JUDGED:
        why = f"version {candidate}, the challenger, was not judged ({described.tags.get('reasons')})"
        return PromotionReport(registry.champion, None, promoted=False, why_not=why)
    parent = described.tags.get(PARENT)
    expected = registry.champion if parent is None else None if parent == "none" else int(parent)
    replaced = registry.promote(candidate, expected)
    return PromotionReport(candidate, replaced, promoted=True)


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--version", type=int, help="registered version to promote; default: the challenger")

    def body(context: JobContext) -> JobResult:
        return run(context, version=context.args.version).to_result()

    return run_job("promote_model", body, argv, description=__doc__, locks=(MODELS,), arguments=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
