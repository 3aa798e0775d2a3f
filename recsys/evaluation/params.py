"""How a model is judged and what it must show."""

from pydantic import Field

from recsys.params import Section


class EvaluationParams(Section):
    """The temporal holdout and the numbers reported on it."""

    holdout_share: float = Field(default=0.1, gt=0, lt=1)  # newest share of events, for a cold fit
    k: int = Field(default=10, ge=1, le=1000)
    max_users: int = Field(default=20_000, ge=1)  # judged users at most, sampled by a hash of the id
    baseline_half_life_days: float = Field(default=3.0, gt=0)  # of the recent-popularity baseline
    bootstrap_samples: int = Field(default=1000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class GateParams(Section):
    """What a candidate must show to be promoted."""

    min_users: int = Field(default=100, ge=1)  # judged users below which no verdict is given
    max_loss: float = Field(default=0.05, ge=0)  # relative NDCG loss against the champion that is let pass
    beat_popularity: bool = True  # refuse a candidate significantly below recent popularity
