"""Which fit the news deserve: retraining is continuing, so the question is only how much of it."""

from dataclasses import dataclass
from typing import Literal

from recsys.als.params import AlsParams, PolicyParams

# What a fit's factors depend on; a change of any other parameter lets a warm fit go on from them.
_SHAPING = ("objective", "rank", "biases")

PolicyName = Literal["none", "fold-in", "warm", "cold"]


@dataclass(frozen=True)
class Change:
    """What is new since the champion was fitted."""

    champion: AlsParams | None  # parameters of the champion; None when there is none
    known_events: int  # rating events the champion was fitted on
    new_events: int  # accepted since
    new_items: int


@dataclass(frozen=True)
class Policy:
    """The fit that was chosen, and the sentence that says why."""

    name: PolicyName
    why: str


def choose_policy(change: Change, params: AlsParams, settings: PolicyParams) -> Policy:
    """Decide between no fit, fold-in (item factors stay), a warm fit and a cold fit.

    A forced policy (``settings.policy``) is obeyed wherever it is possible: without a champion to go on from, every
    fit is a cold one, and without an event that is new to the champion there is none, because none could be judged.
    """
    if change.champion is None:
        return Policy("cold", "no champion yet")
    wanted = _choose_against(change.champion, change, params, settings)
    if change.new_events == 0 and wanted.name in ("warm", "cold"):
        return Policy("none", why_not_judged(wanted))
    return wanted


def why_not_judged(policy: Policy) -> str:
    """Why a fit is not made that was wanted: candidate and champion are only compared on what neither was fitted on."""
    return (
        f"no rating newer than the champion's could judge a {policy.name} fit ({policy.why}): "
        "it is made once there are enough"
    )


def _choose_against(champion: AlsParams, change: Change, params: AlsParams, settings: PolicyParams) -> Policy:
    for name in _SHAPING:
        old, new = getattr(champion, name), getattr(params, name)
        if old != new:
            return Policy("cold", f"als.{name} changed from {old} to {new}")
    if settings.policy != "auto":
        return Policy(settings.policy, "forced by policy.policy")
    if change.new_events == 0:
        if champion != params:
            return Policy("warm", "parameters changed")
        return Policy("none", "nothing new since the champion")
    share = change.new_events / max(change.known_events, 1)
    news = f"{share:.1%} new events, {change.new_items:,} new items"
    if share > settings.cold_above:
        return Policy("cold", f"{news}: more than {settings.cold_above:.0%}")
    if share < settings.fold_in_below:
        return Policy("fold-in", f"{news}: less than {settings.fold_in_below:.1%}")
    return Policy("warm", news)
