"""How a model is judged and what it must show."""

from typing import Annotated

from pydantic import Field

from recsys.params import Section

# Lax only in that YAML's lists are tuples here.
Grid = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)]


class EvaluationParams(Section):
    """The temporal holdout, the numbers reported on it, and what a cold fit tunes just before it."""

    holdout_share: float = Field(default=0.05, gt=0, lt=1)  # newest share of all events, for a cold fit
    refresh_holdout_share: float = Field(default=0.5, gt=0, lt=1)  # newest share of the events since the champion
    k: int = Field(default=10, ge=1, le=1000)
    max_users: int = Field(default=20_000, ge=1)  # judged users, about, at most; sampled by a hash of the id
    baseline_half_life_days: float = Field(default=3.0, gt=0)  # of the recent-popularity baseline
    bootstrap_samples: int = Field(default=1000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    tuned_factor_weights: Grid = (0.25, 0.5, 1.0)
    tuned_half_lives_days: Grid = (1.0, 2.0, 3.0)
    tuned_trend_floors: Grid = (0.1, 1.0)
    validation_slices: int = Field(default=2, ge=1, le=20)
    validation_share: float = Field(default=0.025, gt=0, lt=0.5)  # of all events, in each slice


class GateParams(Section):
    """What a candidate must show to be promoted."""

    min_users: int = Field(default=500, ge=1)  # judged users below which no verdict is given
    max_loss: float = Field(default=0.03, ge=0)  # relative NDCG loss against the champion that is let pass
    beat_popularity: bool = True  # refuse a candidate significantly below recent popularity
    require_lineage: bool = False  # refuse a candidate whose tables can no longer be read as it was fitted on them
