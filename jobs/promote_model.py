"""Make the challenger champion, if its verdict allows it and it was judged against the present champion."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.runner import JobContext, JobResult, run_job
from recsys.errors import GateRefusedError
from recsys.events import log_event
from recsys.store.locks import MODELS
from recsys.store.registry import NOT_JUDGED, PARENT, ModelVersion, Registry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotionReport:
    """Which version is champion now, and which it replaced."""

    champion: int | None
    replaced: int | None
    promoted: bool
    why_not: str = ""
    warning: str = ""

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        if not self.promoted:
            return JobResult(f"nothing to promote: {self.why_not}. Champion: {self.champion or 'none'}")
        return JobResult(
            f"version {self.champion} is champion; it replaced {self.replaced or 'none'}"
            + (f". Warning: {self.warning}" if self.warning else ""),
            counts={"version": self.champion or 0, "replaced": self.replaced or 0},
        )


def run(context: JobContext, *, version: int | None = None) -> PromotionReport:
    """Promote a version, or the challenger. Call it under the lock on the models.

    A challenger that too few users judged is left as it is, which is no failure.

    Raises:
        GateRefusedError: its verdict is not ``passed``, or see `check_lineage`.
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
    warning = check_lineage(context, described)
    replaced = registry.promote(candidate, expected)
    return PromotionReport(candidate, replaced, promoted=True, warning=warning)


def check_lineage(context: JobContext, candidate: ModelVersion) -> str:
    """What cannot be read any more of the tables a version was fitted on; empty when all of them can.

    Nobody could then repeat the fit, or find out what it learned from.

    Raises:
        GateRefusedError: something cannot, or the version does not say, and ``gate.require_lineage`` is set.
    """
    versions, required = candidate.table_versions, context.settings.gate.require_lineage
    lost = context.tables.why_unreadable(versions) if versions else {}
    if not lost and (versions or not required):
        return ""
    what = "; ".join(f"'{name}' version {versions[name]}: {why}" for name, why in lost.items()) or "it names none"
    found = f"model version {candidate.version} was fitted on tables that can no longer be read as they were ({what})"
    if required:
        raise GateRefusedError(
            f"{found}, and gate.require_lineage is set. The champion stays. Train again; to keep tables readable for "
            "longer raise warehouse.vacuum_hours and warehouse.log_days."
        )
    log_event(log, "lineage_lost", level=logging.WARNING, version=candidate.version, tables=what)
    return found


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--version", type=int, help="registered version to promote; default: the challenger")

    def body(context: JobContext) -> JobResult:
        return run(context, version=context.args.version).to_result()

    return run_job("promote_model", body, argv, description=__doc__, locks=(MODELS,), arguments=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
