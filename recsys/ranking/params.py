"""How a list is scored and cut."""

from pydantic import Field

from recsys.params import Section


class RankingParams(Section):
    """Score of a list: ``factor_weight * x_u.q_i / factor_scale + log(trend_i + trend_floor)``.

    The scale, measured when the parameters are tuned, makes weights mean the same for every factorization.
    """

    list_length: int = Field(default=10, ge=1, le=10_000)
    factor_weight: float | None = Field(default=0.5, ge=0)  # null: factors only
    trend_floor: float = Field(default=0.3, gt=0)  # in decayed events
    trend_half_life_days: float = Field(default=2.0, gt=0)
    explained_by: int = Field(default=2, ge=0, le=20)  # ratings named as the reason of each item
