"""From user blocks to a judged model: tune, fit on what is older than the holdout, judge, refit on everything.

The steps of docs/architecture.md, section Judging. Runs Spark jobs and reads no table: the caller gives the blocks and
keeps the result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame

from recsys.als.fit import SweepReport, fit
from recsys.als.model import FactorModel
from recsys.als.policy import Policy
from recsys.blocks.split import Timeline, count_events, find_times, split_blocks
from recsys.config import Settings
from recsys.evaluation.baselines import fit_item_means
from recsys.evaluation.gate import Verdict, decide
from recsys.evaluation.judge import (
    CANDIDATE,
    CANDIDATE_FACTORS,
    CHAMPION,
    CHAMPION_FACTORS,
    POPULARITY,
    RECENT_POPULARITY,
    Judgement,
    compare,
    count_held_users,
    judge,
)
from recsys.evaluation.tune import Slice, choose_ranking
from recsys.ranking.model import ListModel, popularity_model, trend_model
from recsys.ranking.params import RankingParams

ITEM_MEAN = "item mean"

Say = Callable[[str], None]
OnSweep = Callable[[SweepReport], None]


@dataclass(frozen=True)
class TrainingData:
    """What a fit reads.

    Attributes:
        user_blocks: rows of ``user_blocks``, one version of the table.
        item_ids: I ids by position; every position in the blocks is below I.
        new_share: share of the events that the champion does not know; 1 without a champion.
    """

    user_blocks: DataFrame
    item_ids: list[str]
    new_share: float


@dataclass(frozen=True)
class Training:
    """A fit and what came of it.

    Attributes:
        model: the refit on everything if the verdict is to promote, else the candidate as it was judged.
        verdict: the gate's.
        judgement: None for a first model when no event was older than the holdout.
        sweeps: of the candidate's fit, with the holdout metric of each.
        n_sweeps: of all fits together, tuning and refit included.
    """

    model: ListModel
    verdict: Verdict
    judgement: Judgement | None
    sweeps: tuple[SweepReport, ...]
    n_sweeps: int


@dataclass(frozen=True)
class _Start:
    """Where the candidate's fit begins and how its lists are scored."""

    factors: FactorModel | None
    ranking: RankingParams
    factor_scale: float = 1.0
    n_sweeps: int = 0  # it took to get there


@dataclass(frozen=True)
class _Known:
    """What had happened before a moment (microseconds UTC): counts by item, plain and decayed by half-life in days."""

    as_of_us: int
    popularity: NDArray[np.int64]
    trends: dict[float, NDArray[np.float32]]


def train(
    data: TrainingData,
    settings: Settings,
    policy: Policy,
    champion: ListModel | None,
    *,
    say: Say = lambda line: None,
    on_judgement: Callable[[tuple[SweepReport, ...], Judgement], None] = lambda sweeps, judgement: None,
    on_sweep: OnSweep = lambda sweep: None,
) -> Training | None:
    """Fit a candidate, judge it on events that neither it nor the champion was fitted on, and refit if it passed.

    Args:
        data: blocks and items.
        settings: parameters of fit, lists, judgement and gate.
        policy: cold or warm.
        champion: the model to compare with, and for a warm fit to go on from.
        say: told what happens, for people who watch.
        on_judgement: given the candidate's sweeps and the judgement when they are known, before the refit.
        on_sweep: given every sweep of the candidate and of the refit when it is done.

    Returns:
        None when there is a champion and nothing newer than what it knows: no candidate could be compared with it.

    Raises:
        NothingToTrainError: there are no ratings.
    """
    times, cutoff = _choose_times(data, settings, champion)
    if champion is not None and times.newest < cutoff:  # known before anything is fitted
        say("no event is newer than what the champion was fitted on: a fit cannot be judged")
        return None
    sweeps: tuple[SweepReport, ...] = ()
    if policy.name == "warm" and champion is not None:
        start = _Start(champion.factors.extended_to(len(data.item_ids)), champion.ranking, champion.factor_scale)
    else:
        start = _tune(data, settings, times, cutoff, say)
    with _cached(_split(data, settings, cutoff)) as split:
        rankings = [start.ranking, *([champion.ranking] if champion is not None else [])]
        half_lives = [ranking.trend_half_life_days for ranking in rankings]
        known = _count_known(data, cutoff, [*half_lives, settings.evaluation.baseline_half_life_days])
        n_held = count_held_users(split)
        if n_held == 0 or not known.popularity.any():
            say("no event is held out: a fit cannot be judged")
            if champion is not None:
                return None
            judgement, verdict, factors = None, decide([], settings.gate), start.factors
        else:
            say(f"fitting the candidate ({policy.name}: {policy.why})")
            candidate, sweeps = _fit_candidate(split, data, settings, start, known, n_held, on_sweep)
            say("judging it against the champion and popularity")
            contenders = _contenders(split, data, settings, candidate, champion, known)
            judgement = judge(split, contenders, settings.evaluation, n_held_users=n_held)
            verdict = decide(compare(judgement, settings.evaluation), settings.gate, candidate.problems())
            say(str(verdict))
            on_judgement(sweeps, judgement)
            if not verdict.promoted:
                return Training(candidate, verdict, judgement, sweeps, start.n_sweeps + len(sweeps))
            factors = candidate.factors
    say("refitting on everything")
    model, refit_sweeps = _refit(data, settings, start, factors, times.newest, on_sweep)
    n_sweeps = start.n_sweeps + len(sweeps) + len(refit_sweeps)
    return Training(model, verdict, judgement, sweeps or refit_sweeps, n_sweeps)


def _choose_times(data: TrainingData, settings: Settings, champion: ListModel | None) -> tuple[Timeline, int]:
    """Starts of the validation slices, oldest first, and of the holdout.

    The holdout is never before the newest event that the champion was fitted on.
    """
    evaluation = settings.evaluation
    share = evaluation.holdout_share if champion is None else evaluation.refresh_holdout_share * data.new_share
    slices = [
        evaluation.holdout_share + n * evaluation.validation_share for n in range(evaluation.validation_slices, 0, -1)
    ]
    times = find_times(data.user_blocks, [*(slice_ for slice_ in slices if slice_ < 1), share])
    *begins, cutoff = times.starts
    if champion is not None:
        cutoff = max(cutoff, champion.trained_through_us + 1)
    return Timeline(times.newest, tuple(begins)), cutoff


def _tune(data: TrainingData, settings: Settings, times: Timeline, cutoff: int, say: Say) -> _Start:
    """Fit on what is older than the validation slices, and choose on them how lists are scored.

    Without events there, the configured rule is taken as it is.
    """
    evaluation, n_items = settings.evaluation, len(data.item_ids)
    begins = sorted(set(times.starts))
    bounds = [*(begin for begin in begins if begin < cutoff), cutoff]
    known = [_count_known(data, begin, evaluation.tuned_half_lives_days) for begin in bounds[:-1]]
    if not known or not known[0].popularity.any():
        return _Start(None, settings.ranking)
    say("fitting on what is older than the validation slices")
    with ExitStack() as stack:
        splits = [
            stack.enter_context(_cached(_split(data, settings, begin, until=end))) for begin, end in pairwise(bounds)
        ]
        fitted = fit(splits[0], n_items, settings.als, max_sweeps=settings.als.sweeps)
        say("choosing how factors and trend are weighed")
        slices = [Slice(split, at.popularity, at.trends, at.as_of_us) for split, at in zip(splits, known, strict=True)]
        tuning = choose_ranking(
            slices, fitted.model, data.item_ids, settings.ranking, evaluation, min_users=settings.gate.min_users
        )
    return _Start(fitted.model, tuning.ranking, tuning.factor_scale, len(fitted.sweeps))


def _fit_candidate(
    split: DataFrame,
    data: TrainingData,
    settings: Settings,
    start: _Start,
    known: _Known,
    n_held: int,
    on_sweep: OnSweep,
) -> tuple[ListModel, tuple[SweepReport, ...]]:
    """Fit on what is older than the holdout; after every sweep the factors alone are measured on it."""

    def measure(factors: FactorModel) -> float:
        lists = _list_model(data, start, factors, known, trained_through_us=known.as_of_us - 1).factors_only()
        judged = judge(split, {CANDIDATE_FACTORS: lists}, settings.evaluation, n_held_users=n_held)
        return float(judged.contenders[CANDIDATE_FACTORS].ndcg.mean())

    fitted = fit(
        split,
        len(data.item_ids),
        settings.als,
        start=start.factors,
        measure=measure,
        max_sweeps=_max_sweeps(settings, start.factors),
        on_sweep=on_sweep,
    )
    return _list_model(data, start, fitted.model, known, trained_through_us=known.as_of_us - 1), fitted.sweeps


def _contenders(
    split: DataFrame,
    data: TrainingData,
    settings: Settings,
    candidate: ListModel,
    champion: ListModel | None,
    known: _Known,
) -> dict[str, ListModel]:
    """Everybody who is judged, all with what was known when the holdout began."""
    recent = known.trends[settings.evaluation.baseline_half_life_days]
    found = {CANDIDATE: candidate}
    if champion is not None:
        trend = known.trends[champion.ranking.trend_half_life_days]
        found[CHAMPION] = champion.refreshed(data.item_ids, known.popularity, trend, as_of_us=known.as_of_us)
        found[CHAMPION_FACTORS] = found[CHAMPION].factors_only()
    if settings.als.objective == "explicit":
        found[ITEM_MEAN] = fit_item_means(split, data.item_ids, as_of_us=known.as_of_us)
    return {
        **found,
        CANDIDATE_FACTORS: candidate.factors_only(),
        POPULARITY: popularity_model(data.item_ids, known.popularity, as_of_us=known.as_of_us),
        RECENT_POPULARITY: trend_model(data.item_ids, known.popularity, recent, as_of_us=known.as_of_us),
    }


def _refit(
    data: TrainingData,
    settings: Settings,
    start: _Start,
    factors: FactorModel | None,
    newest: int,
    on_sweep: OnSweep,
) -> tuple[ListModel, tuple[SweepReport, ...]]:
    """Go on from the judged factors with all events."""
    known = _count_known(data, newest + 1, [start.ranking.trend_half_life_days])
    with _cached(_split(data, settings, None, as_of=newest + 1)) as everything:
        fitted = fit(
            everything,
            len(data.item_ids),
            settings.als,
            start=factors,
            max_sweeps=_max_sweeps(settings, factors),
            on_sweep=on_sweep,
        )
    return _list_model(data, start, fitted.model, known, trained_through_us=newest), fitted.sweeps


def _max_sweeps(settings: Settings, start: FactorModel | None) -> int:
    return settings.als.sweeps if start is None else settings.als.warm_sweeps


def _count_known(data: TrainingData, moment_us: int, half_lives_days: Sequence[float]) -> _Known:
    half_lives = sorted(set(half_lives_days))
    counts = count_events(
        data.user_blocks,
        len(data.item_ids),
        as_of_us=moment_us,
        before_us=moment_us,
        half_lives_days=half_lives,
    )
    trends = dict(zip(half_lives, counts[1:].astype(np.float32), strict=True))
    return _Known(moment_us, counts[0].astype(np.int64), trends)


def _list_model(
    data: TrainingData, start: _Start, factors: FactorModel, known: _Known, *, trained_through_us: int
) -> ListModel:
    return ListModel(
        factors=factors,
        item_ids=data.item_ids,
        popularity=known.popularity,
        trend=known.trends[start.ranking.trend_half_life_days],
        ranking=start.ranking,
        trained_through_us=trained_through_us,
        as_of_us=known.as_of_us,
        factor_scale=start.factor_scale,
    )


def _split(
    data: TrainingData, settings: Settings, cutoff: int | None, *, until: int | None = None, as_of: int | None = None
) -> DataFrame:
    return split_blocks(
        data.user_blocks,
        cutoff_us=cutoff,
        until_us=until,
        as_of_us=cutoff if as_of is None else as_of,
        half_life_days=settings.als.rating_half_life_days,
        max_per_user=settings.als.max_ratings_per_user,
    )


@contextmanager
def _cached(split: DataFrame) -> Iterator[DataFrame]:
    """Keep split blocks in memory while they are passed over again and again."""
    split.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield split
    finally:
        split.unpersist()
