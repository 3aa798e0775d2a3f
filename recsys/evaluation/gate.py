"""The gate: whether a candidate may become the champion, and why.

Knows nothing of models or tables: it reads the numbers of a judgement and says a verdict in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from recsys.evaluation.params import GateParams

Rival = Literal["champion", "champion factors", "recent popularity"]
Outcome = Literal["passed", "refused", "not judged"]


@dataclass(frozen=True)
class Comparison:
    """The candidate and one rival, judged on the same users.

    Against ``champion factors`` both are ranked by their factors alone: in the lists themselves the trend can hide
    factors that have learned nothing.
    """

    rival: Rival
    metric: str  # as it is printed: "NDCG@10"
    candidate: float
    rival_value: float
    low: float  # of the interval of ``candidate - rival_value``
    high: float
    confidence: float
    n_users: int

    @property
    def difference(self) -> float:
        """Candidate less rival."""
        return self.candidate - self.rival_value

    def describe(self) -> str:
        """One clause for people, with every number the verdict rests on."""
        metric, rival = self.metric, self.rival
        if self.rival == "champion factors":
            metric, rival = f"factors-only {self.metric}", "champion"
        side = "above" if self.difference >= 0 else "below"
        return (
            f"{metric} {self.candidate:.3f} is {abs(self.difference):.3f} {side} the {rival}'s "
            f"{self.rival_value:.3f} ({self.confidence * 100:.3g} % interval {self.low:+.3f} to {self.high:+.3f}; "
            f"{self.n_users:,} users)"
        )


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one candidate."""

    outcome: Outcome
    promoted: bool
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    def __str__(self) -> str:
        return f"{self.outcome}: {'; '.join(self.reasons)}"


def decide(comparisons: Sequence[Comparison], params: GateParams, problems: Sequence[str] = ()) -> Verdict:
    """Say whether the candidate may be promoted.

    A candidate is refused when it is broken, when a metric is not a number, or when it is worse than a rival beyond
    what chance explains (the whole interval below zero): than the champion by more than ``max_loss``, than the
    champion's factors by anything, than recent popularity by anything if ``beat_popularity``. With fewer than
    ``min_users`` judged users nothing is proved: the champion stays, and a first model, which has none, goes through
    because any list is better than none.

    Args:
        comparisons: with the champion and its factors, if there is one, and with recent popularity.
        params: what is asked of a candidate.
        problems: what is wrong with the candidate's artifact (``ListModel.problems``).
    """
    compared = tuple(comparisons)
    if problems:
        return Verdict("refused", False, tuple(problems), compared)
    n_users = min((comparison.n_users for comparison in compared), default=0)
    if n_users < params.min_users:
        few = f"only {n_users:,} users have held-out ratings and gate.min_users is {params.min_users:,}"
        if any(comparison.rival == "champion" for comparison in compared):
            advice = "Lower gate.min_users, or wait for more ratings"
            return Verdict("not judged", False, (f"{few}: the champion stays. {advice}",), compared)
        return Verdict("not judged", True, (f"{few}: promoted as the first model",), compared)
    refusals = tuple(clause for comparison in compared if (clause := _refusal(comparison, params)))
    if refusals:
        return Verdict("refused", False, refusals, compared)
    return Verdict("passed", True, tuple(comparison.describe() for comparison in compared), compared)


def _refusal(comparison: Comparison, params: GateParams) -> str | None:
    """Why this comparison alone refuses the candidate; None when it does not."""
    values = (comparison.candidate, comparison.rival_value, comparison.low, comparison.high)
    if not all(isfinite(value) for value in values):
        return f"{comparison.metric} against the {comparison.rival} is not a number ({comparison.n_users:,} users)"
    is_worse = comparison.high < 0
    if comparison.rival == "champion":
        is_worse = is_worse and -comparison.difference > params.max_loss * comparison.rival_value
    elif comparison.rival == "recent popularity":
        is_worse = is_worse and params.beat_popularity
    return comparison.describe() if is_worse else None
