"""The policy follows from what changed, and says why."""

import pytest

from recsys.als.params import AlsParams, PolicyParams
from recsys.als.policy import Change, choose_policy

PARAMS = AlsParams()
AUTO = PolicyParams(fold_in_below=0.01, cold_above=0.5)


def change(new_events: int, *, champion: AlsParams | None = PARAMS) -> Change:
    return Change(champion=champion, known_events=1000, new_events=new_events, new_items=4)


@pytest.mark.parametrize(
    ("new_events", "name", "why"),
    [
        (0, "none", "nothing new"),
        (9, "fold-in", "0.9% new events"),
        (10, "warm", "1.0% new events, 4 new items"),
        (500, "warm", "50.0% new events"),
        (501, "cold", "more than 50%"),
    ],
)
def test_the_share_of_new_events_decides(new_events: int, name: str, why: str) -> None:
    policy = choose_policy(change(new_events), PARAMS, AUTO)
    assert policy.name == name
    assert why in policy.why


def test_without_a_champion_every_fit_is_cold() -> None:
    forced = PolicyParams(policy="fold-in")
    assert choose_policy(change(5, champion=None), PARAMS, forced).name == "cold"


def test_another_rank_starts_afresh_and_says_so() -> None:
    policy = choose_policy(change(5), PARAMS.model_copy(update={"rank": 64}), AUTO)
    assert policy.name == "cold"
    assert policy.why == "als.rank changed from 16 to 64"


def test_another_lambda_goes_on_from_the_champion_however_few_the_news() -> None:
    other = PARAMS.model_copy(update={"reg": 0.2})
    assert choose_policy(change(10), other, AUTO).name == "warm"


def test_a_forced_policy_is_obeyed() -> None:
    for name in ("cold", "warm", "fold-in"):
        assert choose_policy(change(1), PARAMS, PolicyParams.model_validate({"policy": name})).name == name


@pytest.mark.parametrize(
    ("update", "forced", "fit", "reason"),
    [
        ({}, "cold", "cold", "forced by policy.policy"),
        ({}, "warm", "warm", "forced by policy.policy"),
        ({"reg": 0.2}, "auto", "warm", "parameters changed"),
        ({"rank": 64}, "auto", "cold", "als.rank changed from 16 to 64"),
    ],
)
def test_a_fit_that_nothing_could_judge_is_not_made_and_the_reason_says_when_it_will_be(
    update: dict[str, object], forced: str, fit: str, reason: str
) -> None:
    params = PARAMS.model_copy(update=update)
    policy = choose_policy(change(0), params, PolicyParams.model_validate({"policy": forced}))
    assert policy.name == "none"
    assert policy.why == (
        f"no rating newer than the champion's could judge a {fit} fit ({reason}): it is made once there are enough"
    )
