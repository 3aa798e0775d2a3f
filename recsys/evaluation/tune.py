"""Choose how much the factors weigh against the trend, on events just before the holdout."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from recsys.als.model import FactorModel
from recsys.evaluation.judge import count_held_users, judge
from recsys.evaluation.params import EvaluationParams
from recsys.events import log_event
from recsys.ranking.model import ListModel
from recsys.ranking.params import RankingParams

log = logging.getLogger(__name__)

_FACTORS = "factors"


@dataclass(frozen=True)
class Slice:
    """Events of one validation slice as held-out ratings, and what was known when it began.

    Attributes:
        split: rows of ``SPLIT_BLOCKS``, cached; held out are the slice's events.
        popularity: int64 (I,), ratings before the slice.
        trends: half-life in days → float32 (I,), as of the slice's start.
        as_of_us: start of the slice, microseconds UTC.
    """

    split: DataFrame
    popularity: NDArray[np.int64]
    trends: Mapping[float, NDArray[np.float32]]
    as_of_us: int


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and every trial with its mean NDCG over the users of all slices."""

    ranking: RankingParams
    factor_scale: float
    n_users: int
    results: tuple[tuple[RankingParams, float], ...]


def choose_ranking(
    slices: Sequence[Slice],
    factors: FactorModel,
    item_ids: list[str],
    ranking: RankingParams,
    evaluation: EvaluationParams,
    *,
    min_users: int,
) -> Tuning:
    """Measure the factor scale, then try every point of the grid on every slice and take the best.

    A slice costs one pass for the whole grid, with each user solved once, and one to count its users; the newest one
    another pass for the scale: the mean, over users with a history, of ``x_u.q_i`` at the top of their lists.

    Args:
        slices: oldest first; ``factors`` know no event of any.
        factors: fitted before the first slice.
        item_ids: I ids by position.
        ranking: kept where nothing is tuned, and altogether when fewer than ``min_users`` users are judged.
        evaluation: the grid, and the cut of the lists.
        min_users: judged users, over all slices, below which the choice would be chance.
    """
    counts = [count_held_users(a_slice.split) for a_slice in slices]
    scale = _measure_scale(_lists(slices[-1], factors, item_ids, ranking), slices[-1], evaluation, counts[-1])
    if sum(counts) < min_users:
        log_event(log, "ranking_not_tuned", users=sum(counts), needed=min_users, factor_scale=scale)
        return Tuning(ranking, scale, sum(counts), ())
    grid = [
        ranking.model_copy(update={"factor_weight": weight, "trend_half_life_days": half_life, "trend_floor": floor})
        for weight, half_life, floor in product(
            evaluation.tuned_factor_weights, evaluation.tuned_half_lives_days, evaluation.tuned_trend_floors
        )
    ]
    measured = []
    for a_slice, n_users in zip(slices, counts, strict=True):
        trials = {str(i): _lists(a_slice, factors, item_ids, trial, scale) for i, trial in enumerate(grid)}
        judgement = judge(a_slice.split, trials, evaluation, n_held_users=n_users)
        measured.append(np.stack([judgement.contenders[name].ndcg for name in trials]))
    pooled = np.concatenate(measured, axis=1).mean(axis=1)
    best = grid[int(pooled.argmax())]
    results = tuple(zip(grid, pooled.tolist(), strict=True))
    log_event(
        log,
        "ranking_tuned",
        users=sum(counts),
        ndcg=float(pooled.max()),
        factor_scale=scale,
        factor_weight=best.factor_weight,
        trend_half_life_days=best.trend_half_life_days,
        trend_floor=best.trend_floor,
    )
    return Tuning(best, scale, sum(counts), results)


def _measure_scale(model: ListModel, a_slice: Slice, evaluation: EvaluationParams, n_users: int) -> float:
    """How large ``x_u.q_i`` is at the top of lists; 1 where nobody has a history or it is not positive."""
    judgement = judge(a_slice.split, {_FACTORS: model.factors_only()}, evaluation, n_held_users=n_users)
    tops = judgement.contenders[_FACTORS].mean_score[judgement.n_history > 0]
    tops = tops[np.isfinite(tops)]
    scale = float(tops.mean()) if len(tops) else 1.0
    return scale if scale > 0 else 1.0


def _lists(
    a_slice: Slice, factors: FactorModel, item_ids: list[str], ranking: RankingParams, scale: float = 1.0
) -> ListModel:
    trends = a_slice.trends
    return ListModel(
        factors=factors,
        item_ids=item_ids,
        popularity=a_slice.popularity,
        # The scale is measured before a half-life is chosen, and no trend counts in it.
        trend=trends.get(ranking.trend_half_life_days, next(iter(trends.values()))),
        ranking=ranking,
        trained_through_us=a_slice.as_of_us,
        as_of_us=a_slice.as_of_us,
        factor_scale=scale,
    )
