"""How a list is scored and cut."""

from pydantic import Field

from recsys.params import Section


class RankingParams(Section):
    """Score of a list: ``factor_weight * x_u.q_i + log(trend_i + trend_floor)``."""

    list_length: int = Field(default=10, ge=1, le=10_000)
    factor_weight: float | None = Field(default=1.0, ge=0)  # beta; null: factors only
    trend_floor: float = Field(default=0.1, gt=0)  # epsilon, in decayed events
    trend_half_life_days: float = Field(default=3.0, gt=0)
    explained_by: int = Field(default=2, ge=0, le=20)  # ratings named as the reason of each item
