"""List what was refused, by rule; replay it, by the contract as it is now or with corrections of the texts.

A replay that is killed is finished by the next one, or by ingest_ratings: see docs/architecture.md, Ingestion.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyspark.sql import Window
from pyspark.sql import functions as sf

from jobs.runner import JobContext, JobResult, perform, run_job
from recsys import columns as c
from recsys.batches import claim_file
from recsys.errors import UsageError
from recsys.ingestion import Ingestion
from recsys.ratings.quarantine import Corrections, Selection, parse_corrections, read_offsets
from recsys.replay import Outcome, Replayer, finish_interrupted
from recsys.store.locks import TABLES
from recsys.user_blocks import bring_blocks_up_to_date

NAME: Final = "quarantine"
_SHOWN: Final = 5  # sources a rule


@dataclass(frozen=True)
class RuleLine:
    """What quarantine has of one rule.

    Attributes:
        rule: its name; a row that breaks several rules is counted with each.
        rows: that broke it.
        sources: files or ranges of offsets, those with most rows first, each with batch, rows, and the least and
            greatest offset of its messages.
        n_sources: how many there are.
        reason: of one of the rows.
        samples: raw texts, with the ids of users: for the screen only.
    """

    rule: str
    rows: int
    sources: tuple[tuple[str, int, int, int | None, int | None], ...]
    n_sources: int
    reason: str
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As lines of the list."""
        lines = [f"{self.rule}: {self.rows:,} rows of {self.n_sources:,} sources, such as: {self.reason}"]
        for source, batch, rows, first, last in self.sources:
            offsets = "" if first is None else f", offsets {first} to {last}"
            lines.append(f"  {rows:>9,}  {source} (batch {batch}{offsets})")
        if self.n_sources > len(self.sources):
            lines.append(f"             and {self.n_sources - len(self.sources):,} more sources")
        return "\n".join([*lines, *(f"    | {own}" for own in self.samples)])


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did, or would do."""

    outcome: Outcome
    is_dry_run: bool
    new_users: int = 0

    def to_result(self) -> JobResult:
        """The report as the runner records it; no text of a row is in it."""
        own, would = self.outcome, "would be " if self.is_dry_run else ""
        counts = own.counts
        said = [
            f"{own.taken:,} rows of quarantine {would}taken up: {counts.accepted:,} {would}accepted, "
            f"{counts.duplicate:,} duplicate, {counts.quarantined:,} {would}refused again; "
            f"{self.new_users:,} new users, {own.new_items:,} new items",
            *(f"  {rows:,} refused by {rule}" for rule, rows in own.refused.items()),
            *(f"  {rows:,} stay as they are: {why}" for why, rows in own.left.items()),
        ]
        return JobResult(
            "\n".join(said),
            counts={
                "taken": own.taken,
                "accepted": counts.accepted,
                "duplicate": counts.duplicate,
                "refused": counts.quarantined,
                "left": sum(own.left.values()),
                "new_users": self.new_users,
                "new_items": own.new_items,
            },
            details={"batch": own.batch, "refused": dict(own.refused), "left": dict(own.left)},
            outcome="dry_run" if self.is_dry_run else "ok",
        )


def list_rules(context: JobContext, selection: Selection, *, samples: int = 0) -> list[RuleLine]:
    """What quarantine has, by rule, the most frequent first.

    Args:
        context: of the job.
        selection: which rows.
        samples: raw texts to show of each rule.
    """
    rows = context.tables.quarantine.read().where(selection.holds()).withColumn("rule", sf.explode(c.RULES))
    by_source = rows.groupBy("rule", c.SOURCE, c.BATCH).agg(
        sf.count("*").alias("rows"), sf.min(c.OFFSET).alias("first"), sf.max(c.OFFSET).alias("last")
    )
    order = Window.partitionBy("rule").orderBy(sf.desc("rows"), c.BATCH, c.SOURCE)
    worst = by_source.withColumn("n", sf.row_number().over(order)).where(sf.col("n") <= _SHOWN).orderBy("rule", "n")
    sources: dict[str, list[tuple[str, int, int, int | None, int | None]]] = {}
    for row in worst.collect():
        own = (row[c.SOURCE], row[c.BATCH], row["rows"], row["first"], row["last"])
        sources.setdefault(row["rule"], []).append(own)
    texts: dict[str, list[str]] = {}
    if samples > 0:
        some = Window.partitionBy("rule").orderBy(c.BATCH, c.SOURCE, c.OFFSET, c.RAW)
        kept = rows.where(sf.col(c.RAW).isNotNull()).withColumn("n", sf.row_number().over(some))
        for row in kept.where(sf.col("n") <= samples).orderBy("rule", "n").collect():
            texts.setdefault(row["rule"], []).append(row[c.RAW])
    found = rows.groupBy("rule").agg(
        sf.count("*").alias("rows"),
        sf.count_distinct(c.SOURCE, c.BATCH).alias("n_sources"),
        sf.min(c.REASON).alias("why"),
    )
    return [
        RuleLine(
            row["rule"],
            row["rows"],
            tuple(sources[row["rule"]]),
            row["n_sources"],
            row["why"],
            tuple(texts.get(row["rule"], ())),
        )
        for row in found.orderBy(sf.desc("rows"), "rule").collect()
    ]


def run(context: JobContext, selection: Selection, corrections: Corrections, *, dry_run: bool = False) -> ReplayReport:
    """Replay refused rows. Call it under the tables lock, unless it is a dry run.

    Args:
        context: of the job.
        selection: which rows.
        corrections: of their texts and of the names of columns.
        dry_run: say what would be done, and write nothing.

    Raises:
        UsageError: an ingestion was interrupted; nothing was changed.
        ConservationError: a row was lost or counted twice; the replay stays open.
    """
    tables = context.tables
    replayer = Replayer(context.spark, tables, context.settings, corrections)
    if dry_run:
        _require_no_claim(context)
        return ReplayReport(replayer.try_out(selection), is_dry_run=True)
    ingestion = Ingestion(context.spark, tables, context.settings)
    finish_interrupted(tables, ingestion)
    outcome = replayer.run(selection, ingestion)
    new_users = bring_blocks_up_to_date(tables, through_batch=ingestion.seen.last_accepted_batch)
    return ReplayReport(outcome, is_dry_run=False, new_users=new_users)


def _require_no_claim(context: JobContext) -> None:
    path = claim_file(context.tables)
    if context.files.exists(path):
        raise UsageError(
            f"'{path}' tells of a batch that is under way or was interrupted: quarantine will change with it. Wait for "
            "the job that takes it in, or run ingest_ratings, then this again."
        )


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--list", action="store_true", help="what was refused, by rule (the default)")
        action.add_argument("--replay", action="store_true", help="check the rows again and accept those that pass")
        parser.add_argument("--rule", action="append", default=[], help="only rows that broke it; may be repeated")
        parser.add_argument(
            "--source",
            action="append",
            default=[],
            metavar="NAME",
            help="only rows of this file or range of offsets, * stands for anything; may be repeated",
        )
        parser.add_argument("--batch", action="append", default=[], type=int, metavar="N", help="only rows of it")
        parser.add_argument(
            "--offsets",
            type=read_offsets,
            metavar="FIRST-LAST",
            help="only these messages; name the partition by --source",
        )
        parser.add_argument("--all", action="store_true", help="replay everything that was refused")
        parser.add_argument("--samples", type=int, default=0, metavar="N", help="raw texts a rule; they name users")
        parser.add_argument("--map", type=read_map, default=Corrections(), metavar="FILE", help="corrections, YAML")
        parser.add_argument("--dry-run", action="store_true", help="only say what a replay would accept")

    def body(context: JobContext) -> JobResult:
        args = context.args
        selection = Selection(tuple(args.rule), tuple(args.source), tuple(args.batch), args.offsets)
        if not args.replay:
            lines = list_rules(context, selection, samples=args.samples)
            for line in lines:  # to the screen only: a job's result is recorded
                print(line)
            return JobResult(f"{len(lines)} rules were broken" if lines else "quarantine has no such row")
        if selection.is_everything and not args.all:
            raise UsageError("--replay needs --rule, --source, --batch or --offsets; or --all for everything.")

        def replay(job: JobContext) -> JobResult:
            return run(job, selection, args.map, dry_run=args.dry_run).to_result()

        return perform(context, NAME, replay, locks=() if args.dry_run else (TABLES,))

    return run_job(NAME, body, argv, description=__doc__ or "", arguments=add_options, records_itself=True)


def read_map(name: str) -> Corrections:
    """The corrections of a file.

    Raises:
        UsageError: it cannot be read.
        ConfigError: it holds something else.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is not UTF-8"
        raise UsageError(f"corrections cannot be read from '{name}': {why}. Correct --map.") from err
    return parse_corrections(text, name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
