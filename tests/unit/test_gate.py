import pytest

from recsys.evaluation.gate import Comparison, Rival, decide
from recsys.evaluation.params import GateParams

PARAMS = GateParams(min_users=100, max_loss=0.05, beat_popularity=True)


def _against(
    rival: Rival, candidate: float, value: float, low: float, high: float, *, n_users: int = 412
) -> Comparison:
    return Comparison(rival, "NDCG@10", candidate, value, low, high, confidence=0.95, n_users=n_users)


def test_case_53_a_candidate_worse_than_the_champion_is_refused_with_the_numbers() -> None:
    verdict = decide([_against("champion", 0.101, 0.121, -0.031, -0.009)], PARAMS)
    assert not verdict.promoted
    assert str(verdict) == (
        "refused: NDCG@10 0.101 is 0.020 below the champion's 0.121 (95 % interval -0.031 to -0.009; 412 users)"
    )


def test_a_loss_within_what_is_let_pass_does_not_refuse() -> None:
    assert decide([_against("champion", 0.118, 0.121, -0.005, -0.001)], PARAMS).outcome == "passed"


def test_a_loss_that_chance_explains_does_not_refuse() -> None:
    assert decide([_against("champion", 0.101, 0.121, -0.050, 0.010)], PARAMS).outcome == "passed"


def test_a_first_model_is_judged_against_recent_popularity() -> None:
    worse = _against("recent popularity", 0.120, 0.140, -0.031, -0.009)
    verdict = decide([worse], PARAMS)
    assert (verdict.outcome, verdict.promoted) == ("refused", False)
    assert "below the recent popularity's 0.140" in verdict.reasons[0]
    assert decide([worse], GateParams(beat_popularity=False)).promoted


def test_case_53_factors_that_learned_nothing_are_refused_though_the_trend_carries_the_lists() -> None:
    verdict = decide(
        [_against("champion", 0.120, 0.121, -0.005, 0.003), _against("champion factors", 0.01, 0.06, -0.07, -0.03)],
        PARAMS,
    )
    assert verdict.outcome == "refused"
    assert verdict.reasons == (
        "factors-only NDCG@10 0.010 is 0.050 below the champion's 0.060 (95 % interval -0.070 to -0.030; 412 users)",
    )


def test_every_rival_that_refuses_is_named() -> None:
    verdict = decide(
        [_against("champion", 0.1, 0.2, -0.2, -0.05), _against("recent popularity", 0.1, 0.15, -0.1, -0.01)], PARAMS
    )
    assert len(verdict.reasons) == 2


def test_too_few_users_leave_the_champion_and_the_reason_says_what_to_do() -> None:
    verdict = decide([_against("champion", 0.1, 0.2, -0.2, -0.05, n_users=99)], PARAMS)
    assert (verdict.outcome, verdict.promoted) == ("not judged", False)
    assert verdict.reasons == (
        "only 99 users have held-out ratings and gate.min_users is 100: the champion stays. "
        "Lower gate.min_users, or wait for more ratings",
    )


@pytest.mark.parametrize("n_users", [99, None], ids=["few users", "nothing compared"])
def test_a_first_model_that_too_few_users_judge_goes_through(n_users: int | None) -> None:
    compared = [] if n_users is None else [_against("recent popularity", 0.1, 0.2, -0.2, -0.05, n_users=n_users)]
    verdict = decide(compared, PARAMS)
    assert (verdict.outcome, verdict.promoted) == ("not judged", True)
    assert verdict.reasons[0].endswith("gate.min_users is 100: promoted as the first model")


def test_case_54_a_metric_that_is_not_a_number_refuses() -> None:
    verdict = decide([_against("champion", float("nan"), 0.1, float("nan"), float("nan"))], PARAMS)
    assert (verdict.outcome, verdict.promoted) == ("refused", False)
    assert "not a number" in verdict.reasons[0]


def test_case_54_a_broken_model_is_refused_whatever_its_numbers() -> None:
    good = _against("champion", 0.2, 0.1, 0.05, 0.15)
    verdict = decide([good], PARAMS, problems=("3 item factors are not finite",))
    assert str(verdict) == "refused: 3 item factors are not finite"
