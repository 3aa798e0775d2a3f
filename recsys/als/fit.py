"""A fit: sweeps from a starting point until the holdout metric stops gaining; cold and warm differ in that point."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pyspark.sql import DataFrame

from recsys.als.descent import Descent
from recsys.als.model import FactorModel, initial_model
from recsys.als.params import AlsParams
from recsys.als.sums import RatingSums
from recsys.als.sweep import BlockPasses
from recsys.errors import NothingToTrainError
from recsys.events import log_event

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepReport:
    """One sweep.

    Attributes:
        sweep: its number, from 1.
        seconds: of the sweep without the measurement.
        loss: of the new item factors with the users they were solved for, regularisation included; of a one-pass sweep
            before the last, of the item factors it began with, and the users solved for them.
        metric: holdout metric of the new item factors; None when not measured.
    """

    sweep: int
    seconds: float
    loss: float
    metric: float | None


@dataclass(frozen=True)
class FitResult:
    """A finished fit.

    Attributes:
        model: the item factors of the best sweep by the metric, or of the last when not measured.
        sweeps: every sweep made.
        stopped: ``tolerance`` when the metric stopped gaining, else ``sweeps``.
    """

    model: FactorModel
    sweeps: tuple[SweepReport, ...]
    stopped: Literal["tolerance", "sweeps"]


def fit(
    split: DataFrame,
    n_items: int,
    params: AlsParams,
    *,
    start: FactorModel | None = None,
    measure: Callable[[FactorModel], float] | None = None,
    max_sweeps: int | None = None,
    on_sweep: Callable[[SweepReport], None] | None = None,
    tasks: int | None = None,
) -> FitResult:
    """Factorize the observed ratings of split blocks (Spark jobs: one, then one or more a sweep).

    The fit keeps its own packed copy of the observed columns in memory while it runs; ``split`` need not be cached, and
    is read once. Same blocks, partitions, tasks, parameters and start: the same factors.

    Args:
        split: rows of split blocks; held-out ratings are not read.
        n_items: number of items, above every position in the blocks.
        params: the problem and how it is solved.
        start: item factors to continue from, with new items at the end at zero; None: a cold fit.
        measure: holdout metric of item factors, higher is better. The fit stops when a sweep gains less than
            ``params.tolerance`` of the sweep before; if it was a one-pass step, one more is made, which ends with an
            exact half. None: all sweeps are made.
        max_sweeps: instead of ``params.sweeps`` (cold) or ``params.warm_sweeps`` (with a start).
        on_sweep: called after every sweep.
        tasks: of every pass; None: one a partition of ``split``, but no more than ``spark.default.parallelism``, which
            is the number of cores unless it is set.

    Raises:
        NothingToTrainError: no rating that says anything, with what was found.
        ValueError: the start has another rank, or more items.
    """
    most = max_sweeps or (params.sweeps if start is None else params.warm_sweeps)
    with BlockPasses(split, n_items, params, tasks) as passes:
        ratings = passes.count_ratings()
        _check_trainable(ratings, params)
        model = best = _starting_model(start, n_items, params, ratings)
        descent = Descent(passes, ratings, params)
        reports: list[SweepReport] = []
        stopped: Literal["tolerance", "sweeps"] = "sweeps"
        for number in range(1, most + 1):
            began = time.monotonic()
            model, loss = descent.sweep(model, last=stopped == "tolerance" or number == most)
            seconds = time.monotonic() - began
            reports.append(SweepReport(number, seconds, loss, measure(model) if measure else None))
            log_event(log, "sweep_done", **vars(reports[-1]))
            if on_sweep:
                on_sweep(reports[-1])
            if _is_best(reports):
                best = model
            gain = _relative_gain(reports)
            if gain is not None and gain < params.tolerance:
                stopped = "tolerance"
            if stopped == "tolerance" and not descent.is_unchecked:
                break
    return FitResult(best, tuple(reports), stopped)


def _is_best(reports: list[SweepReport]) -> bool:
    """Whether the last sweep has the highest metric so far; of unmeasured sweeps the last always is the best."""
    *before, last = (report.metric for report in reports)
    return last is None or all(metric is None or last > metric for metric in before)


def _relative_gain(reports: list[SweepReport]) -> float | None:
    """What the last sweep gained, as a share of the metric before; None for a first or unmeasured sweep."""
    last = reports[-1].metric
    before = reports[-2].metric if len(reports) > 1 else None
    if last is None or before is None:
        return None
    return (last - before) / max(abs(before), np.finfo(np.float64).tiny)


def _check_trainable(ratings: RatingSums, params: AlsParams) -> None:
    if not ratings.counts.any():
        found = f"{ratings.n_users} users with {ratings.n_ratings} ratings before the cut-off"
        if params.objective == "implicit" and ratings.n_ratings:
            found += ", none of them above 0, and the implicit objective learns from those only"
        raise NothingToTrainError(f"nothing to train on: {found}. Ingest ratings first, or move the cut-off.")


def _starting_model(start: FactorModel | None, n_items: int, params: AlsParams, ratings: RatingSums) -> FactorModel:
    mean = ratings.mean if params.biases else 0.0
    if start is None:
        model = initial_model(params, n_items, mean)
    else:
        if start.params.rank != params.rank:
            raise ValueError(
                f"the start has rank {start.params.rank}, the fit {params.rank}: start a cold fit instead."
            )
        model = replace(start.extended_to(n_items), params=params, mean=mean)
    # An item without ratings has no say in what users are like.
    rated = (ratings.counts > 0).astype(np.float32)
    return replace(model, item_factors=model.item_factors * rated[:, None], item_biases=model.item_biases * rated)
