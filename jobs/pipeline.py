"""The whole loop: ingest what landed, bring the model up to date, judge, promote or refuse, publish the lists."""

import argparse
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence

from pyspark.sql import functions as F

from jobs import ingest_ratings, promote_model, score_users, train_model
from jobs.runner import JobContext, JobResult, perform, run_job, stop_on_signals
from jobs.train_model import TrainReport
from recsys import columns as c
from recsys.batches import read_ledger
from recsys.errors import LockedError, RecsysError, UsageError
from recsys.evaluation.judge import CANDIDATE, CHAMPION, RECENT_POPULARITY
from recsys.evaluation.report import StepReport
from recsys.observation import observe_stray_error
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.store.registry import Registry

log = logging.getLogger(__name__)

NAME = "pipeline"
UNITS = {"s": 1, "m": 60, "h": 3600}


def run_once(
    context: JobContext, *, step: str = "", say: Callable[[str], None] = lambda line: None
) -> tuple[StepReport, RecsysError | None]:
    """One turn of the loop; each job takes its own locks and leaves its own `job_runs` row.

    A refused candidate does not end the turn: the champion's lists are published with the new ratings, and the refusal
    is returned beside the report. Before any rating has been accepted, ingestion is all that a turn does.

    Raises:
        GateRefusedError: the first model was refused, and there is no champion to make lists with.
    """
    started, k = time.monotonic(), context.settings.evaluation.k
    registry = Registry(context.settings.mlflow, context.tables.root)
    registry.open_in_background()
    say("ingesting what has landed")
    ingested = perform(context, "ingest_ratings", lambda job: ingest_ratings.run(job).to_result(), locks=(TABLES,))
    if read_ledger(context.tables).last_accepted_batch == 0:
        report = TrainReport("none", "no rating accepted yet", None, False, "no fit", "", 0, {})
        return report_step(step, ingested, report, None, k=k, seconds=time.monotonic() - started), None
    trained = perform(context, "train_model", lambda job: train_model.run(job, say=say).to_result(), locks=(MODELS,))
    report = TrainReport(**trained.details)
    if report.promoted:
        say(f"promoting model version {report.version}")
        perform(
            context,
            "promote_model",
            lambda job: promote_model.run(job, version=report.version).to_result(),
            locks=(MODELS,),
        )
    elif trained.refusal is not None and registry.champion is None:
        raise trained.refusal  # a first model that is no good: there is nothing to make lists with
    say("scoring every user and publishing the lists")
    reason = f"{report.policy}: {report.why}"
    scored = perform(
        context, "score_users", lambda job: score_users.run(job, reason=reason).to_result(), locks=(LISTS,)
    )
    return report_step(step, ingested, report, scored, k=k, seconds=time.monotonic() - started), trained.refusal


def report_step(
    step: str, ingested: JobResult, trained: TrainReport, scored: JobResult | None, *, k: int, seconds: float
) -> StepReport:
    """One row of the pipeline's table from what its jobs reported."""
    counts, scores = ingested.counts, trained.scores

    def ndcg(name: str) -> float | None:
        return scores.get(f"{name}/ndcg_at_{k}")

    def recall(name: str) -> float | None:
        return scores.get(f"{name}/recall_at_{k}")

    return StepReport(
        step=step,
        landed=counts["landed"],
        accepted=counts["accepted"],
        duplicate=counts["duplicate"],
        quarantined=counts["quarantined"],
        new_users=counts["new_users"],
        new_items=counts["new_items"],
        policy=trained.policy,
        why=trained.why,
        sweeps=trained.sweeps,
        seconds=seconds,
        k=k,
        ndcg_candidate=ndcg(CANDIDATE),
        ndcg_champion=ndcg(CHAMPION),
        ndcg_popularity=ndcg(RECENT_POPULARITY.replace(" ", "_")),
        recall_candidate=recall(CANDIDATE),
        recall_champion=recall(CHAMPION),
        recall_popularity=recall(RECENT_POPULARITY.replace(" ", "_")),
        difference=scores.get("difference"),
        low=scores.get("difference_low"),
        high=scores.get("difference_high"),
        verdict=trained.verdict,
        generation=None if scored is None else scored.counts["generation"],
    )


def turn(context: JobContext, *, step: str = "", say: Callable[[str], None] = lambda line: None) -> JobResult:
    """One recorded turn: its row of the table is kept with the run.

    Raises:
        RecsysError: as one of its jobs raised it.
    """

    def body(inner: JobContext) -> JobResult:
        report, refusal = run_once(inner, step=step, say=say)
        return JobResult(
            report.format_row(),
            counts={"landed": report.landed, "accepted": report.accepted, "generation": report.generation or 0},
            details=report.to_dict(),
            refusal=refusal,
        )

    return perform(context, NAME, body, locks=(NAME,))


def recorded_turns(context: JobContext) -> list[StepReport]:
    """The rows of the table of all turns that ended, oldest first."""
    rows = (
        context.tables.job_runs.read()
        .where((F.col(c.JOB) == NAME) & (F.col(c.DETAILS) != "{}"))
        .orderBy(c.STARTED_AT)
        .select(c.DETAILS)
        .collect()
    )
    return [StepReport.from_dict(json.loads(row[0])) for row in rows]


def keep_running(context: JobContext, seconds: float, *, stop: threading.Event | None = None) -> JobResult:
    """A turn every so many seconds, until a signal asks to stop; a failed turn is reported and the next one tried."""
    stop = stop or stop_on_signals()
    turns = failures = 0
    while not stop.is_set():
        began = time.monotonic()
        try:
            result = turn(context, say=print)
            print(result.message, flush=True)
        except LockedError as err:
            print(f"waiting: {err}", file=sys.stderr, flush=True)
        except RecsysError as err:
            failures += 1
            print(f"error: {err}", file=sys.stderr, flush=True)
        except Exception as err:  # a lost executor, a file system that does not answer: the next turn may find it well
            failures += 1
            log.exception("turn_failed")
            observe_stray_error(NAME, lambda: context.settings, err)
            print(
                f"error: the turn failed: {type(err).__name__}. The log above says where.", file=sys.stderr, flush=True
            )
        turns += 1
        stop.wait(max(0.0, seconds - (time.monotonic() - began)))
    return JobResult(f"stopped after {turns:,} turns, {failures:,} failed", {"turns": turns, "failures": failures})


def read_interval(text: str) -> float:
    """Seconds of an interval such as 30s, 10m or 2h.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d+)([smh])", text)
    if match is None or int(match.group(1)) == 0:
        raise UsageError(f"--every {text}: expected a number and a unit, for example 30s, 10m or 2h.")
    return int(match.group(1)) * UNITS[match.group(2)]


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--every",
            type=read_interval,
            metavar="INTERVAL",
            help="keep running, a turn every 30s, 10m, 2h; default: once",
        )

    def body(context: JobContext) -> JobResult:
        if context.args.every is not None:
            return keep_running(context, context.args.every)
        print(StepReport.format_header())
        return turn(context, say=print)

    return run_job(NAME, body, argv, description=__doc__, arguments=add_options, records_itself=True, makes_tables=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
