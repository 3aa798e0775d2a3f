"""Bring the model up to date: decide which fit the news deserve, fit, judge, and log the result as the challenger."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from jobs.runner import JobContext, JobResult, perform, run_job
from recsys.als.fit import SweepReport
from recsys.als.plan import Around, Speed, Statistics, TrainingPlan, measure_speed, plan_training
from recsys.als.policy import Change, Policy, choose_policy, why_not_judged
from recsys.batches import read_ledger
from recsys.config import Settings
from recsys.errors import GateRefusedError, NothingToTrainError, RegistryError
from recsys.evaluation.judge import CANDIDATE, CHAMPION, POPULARITY, RECENT_POPULARITY, Judgement
from recsys.evaluation.report import draw_learning_curve, draw_metric_by_activity
from recsys.planning import find_resources, guess_statistics, read_statistics
from recsys.ranking.model import ListModel
from recsys.session import ROOT
from recsys.store.checkpoints import keep_checkpoints
from recsys.store.items import read_items
from recsys.store.locks import MODELS
from recsys.store.pause import pause_at
from recsys.store.registry import NOT_JUDGED, PARENT, PASSED, TABLE_VERSION, VERDICT, Registry
from recsys.store.tables import Tables
from recsys.store.unlogged import Fit, drop_kept_fits, find_kept_fit, keep_fit
from recsys.training import Training, TrainingData, train
from recsys.user_blocks import find_reflected, read_user_blocks

THROUGH_BATCH = "through_batch"  # tag of a version: the newest batch its blocks held
REPORT = "report"  # tag of a version: what `TrainReport` holds, as JSON


@dataclass(frozen=True)
class TrainReport:
    """What a run of this job did; numbers are None where nothing was judged."""

    policy: str
    why: str
    version: int | None  # registered version of this fit; None when there was nothing to fit
    promoted: bool  # what the gate said, not yet the alias
    verdict: str
    reasons: str
    sweeps: int
    scores: dict[str, float]  # NDCG and recall by contender, difference and its interval

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        message = f"{self.policy} ({self.why})"
        if self.version is None:
            return JobResult(message, {"sweeps": self.sweeps}, self.to_details())
        message += f": model version {self.version} {self.verdict}. {self.reasons}"
        counts = {"sweeps": self.sweeps, "version": self.version}
        if self.promoted:
            return JobResult(message, counts, self.to_details())
        if self.verdict == NOT_JUDGED:  # no failure: on a small site every fit ends so
            return JobResult(message, counts, self.to_details(), outcome=NOT_JUDGED)
        refusal = GateRefusedError(f"{self.reasons}. The champion stays.")
        return JobResult(message, counts, self.to_details(), refusal=refusal)

    def to_details(self) -> dict[str, Any]:
        """All fields, as JSON knows them."""
        return self.__dict__.copy()


def run(context: JobContext, *, say: Callable[[str], None] = lambda line: None) -> TrainReport:
    """Fit and judge what has changed since the champion was fitted; log it; make it the challenger.

    Raises:
        ConfigError: the fit cannot fit into the memory there is.
    """
    registry = Registry(context.settings.mlflow, context.tables.root)
    champion = load_champion(registry)
    data, change, versions = read_training_data(context.tables, champion)
    policy = choose_policy(change, context.settings.als, context.settings.policy)
    if policy.name in ("none", "fold-in"):
        return TrainReport(policy.name, policy.why, None, False, "no fit", "", 0, {})
    check_memory(context, len(data.item_ids), change.known_events + change.new_events)
    key = fit_key(context.settings, policy, versions, champion)
    logged = registry.find_fit(key)
    if logged is None:
        kept = find_kept_fit(context.files, context.tables.root, key)
        if kept is not None:
            say("logging the fit that an earlier run made")
            logged = log_fit(context, registry, key, kept)
    if logged is None:
        checkpoints = keep_checkpoints(context.spark, context.tables.root)
        with Figures(context.settings.evaluation.k) as figures, checkpoints:
            old = champion.model if champion else None
            training = train(
                data,
                context.settings,
                policy,
                old,
                say=say,
                on_judgement=figures.begin,
                on_sweep=lambda _: pause_at("train:after_sweep"),
            )
            if training is None:
                return TrainReport("fold-in", why_not_judged(policy), None, False, "no fit", "", 0, {})
            drawn = figures.finish(training)
        made = describe_fit(training, drawn, context.settings, policy, versions, champion)
        logged = log_fit(context, registry, key, made)
        pause_at("train:after_version")
    entry = registry.describe(logged)
    report = TrainReport(**{**json.loads(entry.tags[REPORT]), "version": logged})
    if report.promoted and entry.verdict != PASSED:  # found from an earlier run, and rolled back since
        return replace(report, promoted=False, verdict=entry.verdict, reasons=f"version {logged} was {entry.verdict}")
    registry.set_challenger(logged)
    return report


def check_memory(context: JobContext, n_items: int, n_ratings: int) -> None:
    """Refuse a fit that cannot fit before it starts, from what the ledger says: no table is read, no Spark job run.

    What `make_plan` finds to fit is not refused.

    Raises:
        ConfigError: with the reasons and the settings to change.
    """
    tables = context.tables
    statistics = guess_statistics(n_ratings, n_items, buckets=tables.buckets, users_per_block=tables.users_per_block)
    plan(context, statistics).check()


def make_plan(context: JobContext) -> JobResult:
    """What a fit of the blocks would need and take, as a page; nothing is locked, written or logged.

    The result is a refusal where it cannot fit into the memory there is.
    """
    items = context.tables.items
    blocks, n_items = context.tables.user_blocks.read(), len(read_items(items, items.version()).ids)
    statistics = read_statistics(blocks, n_items)
    planned = plan(context, statistics, measure_speed(statistics, context.settings.als))
    return JobResult(planned.render(), refusal=planned.refusal)


def plan(context: JobContext, statistics: Statistics, speed: Speed | None = None) -> TrainingPlan:
    """What a training of such ratings needs, as it is configured."""
    evaluation = context.settings.evaluation
    around = Around(
        slices=evaluation.validation_slices,
        rules=len(evaluation.tuned_factor_weights)
        * len(evaluation.tuned_half_lives_days)
        * len(evaluation.tuned_trend_floors),
        users=evaluation.max_users,
        held_share=evaluation.holdout_share,
    )
    return plan_training(statistics, find_resources(context.spark), context.settings.als, around, speed)


@dataclass(frozen=True)
class Champion:
    """The live model and what it was fitted on."""

    version: int
    model: ListModel
    through_batch: int


def load_champion(registry: Registry) -> Champion | None:
    """The champion, loaded as data and checked."""
    version = registry.champion
    if version is None:
        return None
    tags = registry.describe(version).tags
    return Champion(version, ListModel.from_files(registry.load(version)), int(tags[THROUGH_BATCH]))


def read_training_data(tables: Tables, champion: Champion | None) -> tuple[TrainingData, Change, dict[str, int]]:
    """One version of blocks and items, and what is new in them since the champion.

    Raises:
        NothingToTrainError: no rating was ever accepted.
    """
    reflected = find_reflected(tables).batch  # before the versions: an ingestion may be at work, and its news can wait
    versions = {table.name: table.version() for table in (tables.ratings, tables.user_blocks, tables.items)}
    through = champion.through_batch if champion else 0
    seen = read_ledger(tables)
    events = seen.count_accepted(through=reflected)
    new_events = seen.count_accepted(after=through, through=reflected)
    if events == 0:
        raise NothingToTrainError("no rating has been accepted yet. Land rating files and run ingest_ratings first.")
    items = read_items(tables.items, versions[tables.items.name])
    change = Change(
        champion=champion.model.factors.params if champion else None,
        known_events=events - new_events,
        new_events=new_events,
        new_items=int(np.count_nonzero(items.batches > through)),
    )
    blocks = read_user_blocks(tables, versions[tables.user_blocks.name])
    data = TrainingData(blocks, items.ids, new_share=new_events / events)
    return data, change, {**versions, THROUGH_BATCH: reflected}


def fit_key(settings: Settings, policy: Policy, versions: dict[str, int], champion: Champion | None) -> str:
    """What a fit was made from; a killed job that is run again finds the fit it logged by this key."""
    parent = champion.version if champion else None
    made_from = [settings.digest(), policy.name, versions[THROUGH_BATCH], parent]
    return sha256(json.dumps(made_from).encode()).hexdigest()[:24]


def log_fit(context: JobContext, registry: Registry, key: str, fit: Fit) -> int:
    """Register a fit and return its version; one that the registry does not take is kept for the next run.

    Raises:
        RegistryError: it was not taken; says where it is kept.
    """
    files, root = context.files, context.tables.root
    try:
        version = registry.log_fit(fit_key=key, **vars(fit))
    except RegistryError as err:
        folder = keep_fit(files, root, key, fit)
        raise RegistryError(f"{err} The fit is kept in '{folder}' and will not be made again.") from err
    drop_kept_fits(files, root)
    return version


def describe_fit(
    training: Training,
    figures: dict[str, bytes],
    settings: Settings,
    policy: Policy,
    versions: dict[str, int],
    champion: Champion | None,
) -> Fit:
    """The fit as it is logged: the model's files, figures, parameters, a metric per sweep, and tags."""
    report = report_training(training, policy)
    return Fit(
        files=training.model.to_files(),
        figures=figures,
        params={
            **{f"als.{name}": value for name, value in settings.als.model_dump().items()},
            **{f"ranking.{name}": value for name, value in training.model.ranking.model_dump().items()},
            "policy": policy.name,
        },
        sweeps=[{"loss": s.loss, "metric": s.metric, "seconds": s.seconds} for s in training.sweeps],
        metrics=report.scores,
        tags={
            VERDICT: PASSED if training.verdict.promoted else training.verdict.outcome,
            "reasons": report.reasons,
            REPORT: json.dumps(report.to_details()),
            THROUGH_BATCH: str(versions[THROUGH_BATCH]),
            "policy": policy.name,
            PARENT: str(champion.version) if champion else "none",
            "configuration": settings.digest(),
            "git_commit": git_commit(),
            **{f"{TABLE_VERSION}{name}": str(version) for name, version in versions.items() if name != THROUGH_BATCH},
        },
    )


class Figures:
    """The figures of a fit, drawn in the background while the refit runs: what they show is known before it."""

    def __init__(self, k: int) -> None:
        self._metric = f"NDCG@{k}"
        self._artist = ThreadPoolExecutor(1, "figures")
        self._drawing: Future[dict[str, bytes]] | None = None

    def __enter__(self) -> "Figures":
        return self

    def __exit__(self, *_: object) -> None:
        self._artist.shutdown()

    def begin(self, sweeps: Sequence[SweepReport], judgement: Judgement | None) -> None:
        """Start drawing."""
        self._drawing = self._artist.submit(self._draw, sweeps, judgement)

    def finish(self, training: Training) -> dict[str, bytes]:
        """The figures as PNG by file name; drawn now when nothing was judged on the way."""
        if self._drawing is None:
            return self._draw(training.sweeps, training.judgement)
        return self._drawing.result()

    def _draw(self, sweeps: Sequence[SweepReport], judgement: Judgement | None) -> dict[str, bytes]:
        losses, metrics = [sweep.loss for sweep in sweeps], [sweep.metric for sweep in sweeps]
        figures = {"learning_curve.png": draw_learning_curve(losses, metrics, metric=self._metric)}
        if judgement is not None:
            judged = judgement.contenders
            shown = [name for name in (CANDIDATE, CHAMPION, RECENT_POPULARITY, POPULARITY) if name in judged]
            figures["metric_by_activity.png"] = draw_metric_by_activity(
                judgement.n_history, {name: judged[name].ndcg for name in shown}, metric=self._metric
            )
        return figures


def report_training(training: Training, policy: Policy) -> TrainReport:
    """The numbers of a fit that people and the pipeline's table want."""
    return TrainReport(
        policy=policy.name,
        why=policy.why,
        version=None,
        promoted=training.verdict.promoted,
        verdict=training.verdict.outcome,
        reasons="; ".join(training.verdict.reasons),
        sweeps=training.n_sweeps,
        scores=summarize(training),
    )


def summarize(training: Training) -> dict[str, float]:
    """Every contender's metrics, and the difference that decides with its interval."""
    if training.judgement is None:
        return {}
    deciding = training.verdict.comparisons[0]  # with the champion; without one, with recent popularity
    difference = {"difference": deciding.difference, "difference_low": deciding.low, "difference_high": deciding.high}
    return {**training.judgement.summary(), **difference}


def git_commit() -> str:
    """Commit of the code that runs, ``unknown`` where it was shipped without its repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--policy",
            choices=("auto", "cold", "warm", "fold-in"),
            help="force a kind of fit; while no rating is newer than the champion's none is made: none could be judged",
        )
        parser.add_argument("--plan", action="store_true", help="say what a fit would need; change nothing")

    def body(context: JobContext) -> JobResult:
        if context.args.policy:
            policy = context.settings.policy.model_copy(update={"policy": context.args.policy})
            context = replace(context, settings=context.settings.model_copy(update={"policy": policy}))
        if context.args.plan:
            return make_plan(context)
        return perform(context, "train_model", lambda inner: run(inner, say=print).to_result(), locks=(MODELS,))

    return run_job("train_model", body, argv, description=__doc__, arguments=add_options, records_itself=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
