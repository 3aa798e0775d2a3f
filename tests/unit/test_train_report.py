"""What a training reports: outcome, exit code and one line, by the gate's word."""

from dataclasses import replace

from jobs.train_model import TrainReport

NOT_JUDGED = TrainReport("warm", "4.7% new events", 3, False, "not judged", "only 12 users; the champion stays", 5, {})


def test_a_fit_that_too_few_users_judge_is_no_failure_and_the_champion_stays() -> None:
    result = NOT_JUDGED.to_result()
    assert (result.outcome, result.refusal) == ("not judged", None)
    assert result.message == "warm (4.7% new events): model version 3 not judged. only 12 users; the champion stays"


def test_a_refused_fit_ends_with_the_gates_exit_code() -> None:
    refusal = replace(NOT_JUDGED, verdict="refused", reasons="worse").to_result().refusal
    assert refusal is not None
    assert (refusal.exit_code, str(refusal)) == (4, "worse. The champion stays.")


def test_a_promoted_fit_is_ok_even_a_first_one_that_too_few_users_judge() -> None:
    for verdict in ("passed", "not judged"):
        result = replace(NOT_JUDGED, verdict=verdict, promoted=True).to_result()
        assert (result.outcome, result.refusal) == ("ok", None)


def test_where_nothing_was_fitted_the_reason_is_all_there_is_to_say() -> None:
    result = TrainReport("none", "nothing new since the champion", None, False, "no fit", "", 0, {}).to_result()
    assert (result.outcome, result.refusal, result.message) == ("ok", None, "none (nothing new since the champion)")
