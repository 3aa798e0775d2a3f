"""Parameters of the factorization: they define the model, not how a run is carried out."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.params import Section


class AlsParams(Section):
    """The weighted problem of docs/architecture.md, section ALS; letters of the papers in brackets.

    min sum_obs w_ui (t_ui - x_u.q_i)^2 + a0 sum_all (x_u.q_i)^2 + reg sum_u n_u^nu |x_u|^2 + reg sum_i n_i^nu |q_i|^2
    """

    objective: Literal["explicit", "implicit"] = "implicit"
    rank: int = Field(default=16, ge=1, le=1024)
    reg: float = Field(default=0.1, ge=0)  # lambda
    reg_exponent: float = Field(default=1.0, ge=0, le=1)  # nu; 1 is Spark's scaling, 0 is flat
    alpha: float = Field(default=1.0, gt=0)  # implicit: confidence c = alpha |r|
    unobserved_weight: float = Field(default=1.0, ge=0)  # a0, implicit only; 1 is Hu, Koren & Volinsky
    biases: bool = False  # explicit only
    sweeps: int = Field(default=12, ge=1, le=1000)  # at most, for a cold fit
    warm_sweeps: int = Field(default=3, ge=1, le=1000)  # at most, for a warm fit
    tolerance: float = Field(default=0.001, ge=0)  # relative gain of the holdout metric below which a fit stops
    user_solver: Literal["auto", "exact", "cg"] = "auto"  # auto: exact where that costs little, else cg
    cg_steps: int = Field(default=3, ge=1, le=100)  # user_solver cg: steps from the last factors
    item_solver: Literal["auto", "exact", "cg", "one-pass"] = "auto"  # auto: the fastest that is safe for the data
    item_steps: int = Field(default=10, ge=1, le=50)  # item_solver cg: passes of an item half, at most
    # item_solver cg: residual left of a half, as a share; None: 0.01 if explicit, 0.3 if implicit
    item_tolerance: float | None = Field(default=None, gt=0, lt=1)
    rating_half_life_days: float | None = Field(default=30.0, gt=0)  # age weight of a rating; null: none
    max_ratings_per_user: int = Field(default=20_000, ge=0)  # the newest, that a fit sees of one user; 0: all
    seed: int = Field(default=42, ge=0)

    @model_validator(mode="after")
    def _check_biases(self) -> Self:
        if self.biases and self.objective == "implicit":
            raise ValueError("biases are for the explicit objective only")
        return self


class PolicyParams(Section):
    """When the pipeline fits, and how."""

    policy: Literal["auto", "cold", "warm", "fold-in"] = "auto"
    fold_in_below: float = Field(default=0.002, ge=0, le=1)  # share of new events below which factors stay
    cold_above: float = Field(default=0.5, gt=0)  # share of new events above which a fit starts afresh
