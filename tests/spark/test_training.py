"""A training judges before it refits, never on events that a model was fitted on, and says why when it cannot."""

from typing import NoReturn

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.score_users import refresh_model
from recsys.als.policy import Policy
from recsys.blocks.codec import to_micros
from recsys.config import Settings
from recsys.errors import NothingToTrainError
from recsys.evaluation.judge import CANDIDATE_FACTORS, CHAMPION_FACTORS
from recsys.ranking.model import ListModel
from recsys.store.items import Items
from recsys.training import Training, TrainingData, train
from tests.worlds import START, Event, item_ids, make_blocks, two_tastes

N_ITEMS = 40
COLD, WARM = Policy("cold", "test"), Policy("warm", "test")
SETTINGS = Settings.model_validate(
    {
        "als": {"rank": 4, "sweeps": 4, "warm_sweeps": 2, "reg": 0.01},
        "evaluation": {"holdout_share": 0.2, "validation_share": 0.1},
        "gate": {"min_users": 30},
    }
)


def train_judged(data: TrainingData, settings: Settings, policy: Policy, champion: ListModel | None = None) -> Training:
    training = train(data, settings, policy, champion)
    assert training is not None
    return training


def data_of(spark: SparkSession, events: list[Event], *, new_share: float = 1.0) -> TrainingData:
    return TrainingData(make_blocks(spark, events, item_ids(N_ITEMS)), item_ids(N_ITEMS), new_share)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return two_tastes(n_users=120, n_items=N_ITEMS, n_rated=10)


@pytest.fixture(scope="module")
def first(spark: SparkSession, events: list[Event]) -> Training:
    """A cold training on the older 70 % of the events."""
    return train_judged(data_of(spark, events[: len(events) * 7 // 10]), SETTINGS, COLD)


def test_a_first_model_that_knows_tastes_passes_and_is_refitted_on_everything(
    first: Training, events: list[Event]
) -> None:
    assert first.verdict.outcome == "passed"
    newest = events[len(events) * 7 // 10 - 1]
    assert first.model.trained_through_us == to_micros(newest.event_time)
    assert first.model.popularity.sum() == len(events) * 7 // 10
    judged = first.judgement
    assert judged is not None
    # Twenty items of each taste, ten on a list: chance finds half of the held-out ones, taste nearly all of them twice
    # as often as a list that ignores it.
    assert judged.contenders[CANDIDATE_FACTORS].recall.mean() > 1.5 * judged.contenders["popularity"].recall.mean()


def test_a_model_refitted_on_everything_needs_no_refresh(
    spark: SparkSession, first: Training, events: list[Event]
) -> None:
    blocks = data_of(spark, events[: len(events) * 7 // 10]).user_blocks
    batches, available = np.ones(N_ITEMS, np.int64), np.ones(N_ITEMS, np.bool_)
    refreshed = refresh_model(first.model, blocks, Items(item_ids(N_ITEMS), batches, available))
    assert refreshed.to_files() == first.model.to_files()


def test_case_53_a_candidate_that_learned_nothing_is_refused_and_not_refitted(
    spark: SparkSession, first: Training, events: list[Event]
) -> None:
    smothered = SETTINGS.als.model_copy(update={"reg": 1e6})  # all factors shrink to nothing
    settings = SETTINGS.model_copy(update={"als": smothered})
    training = train_judged(data_of(spark, events, new_share=0.3), settings, WARM, first.model)
    assert training.verdict.outcome == "refused"
    assert not training.verdict.promoted
    assert "below the champion's" in str(training.verdict)
    assert training.model.trained_through_us < to_micros(events[-1].event_time)


def test_the_holdout_never_begins_before_what_the_champion_was_fitted_on(
    spark: SparkSession, first: Training, events: list[Event]
) -> None:
    # All new events are two; the newest half of them is one rating by one user.
    known = len(events) * 7 // 10
    training = train_judged(data_of(spark, events[: known + 2], new_share=0.9), SETTINGS, WARM, first.model)
    assert training.judgement is not None
    assert training.judgement.n_users <= 2
    assert CHAMPION_FACTORS in training.judgement.contenders
    assert training.verdict.outcome == "not judged"
    assert not training.verdict.promoted


@pytest.mark.parametrize(
    "few",
    [
        pytest.param([("u0000", "i000")], id="one user with one rating"),
        pytest.param([("u0000", "i000"), ("u0000", "i001")], id="one user"),
        pytest.param([("u0000", "i000"), ("u0001", "i000")], id="one item"),
    ],
)
def test_next_to_nothing_still_gives_a_first_model(spark: SparkSession, few: list[tuple[str, str]]) -> None:
    rows = [Event(user, item, 8.0, START) for user, item in few]
    training = train_judged(data_of(spark, rows), SETTINGS, COLD, None)
    assert training.verdict.outcome == "not judged"
    assert training.verdict.promoted
    assert training.model.problems() == ()
    [listed] = training.model.recommend([[("i000", 8.0)]], 3)
    assert "i000" not in [item for item, _ in listed]


@pytest.mark.parametrize("policy", [COLD, WARM], ids=["cold", "warm"])
def test_only_late_events_give_no_fit_at_once_because_none_could_be_judged_fairly(
    spark: SparkSession, first: Training, events: list[Event], monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    def fit(*_: object, **__: object) -> NoReturn:
        pytest.fail("fitted, though no fit could be judged")

    monkeypatch.setattr("recsys.training.fit", fit)
    known = events[: len(events) * 7 // 10]
    late = Event("u0001", "i000", 8.0, START)
    assert train(data_of(spark, [*known, late], new_share=0.01), SETTINGS, policy, first.model) is None


def test_no_rating_at_all_says_what_is_missing(spark: SparkSession) -> None:
    withdrawn = [Event("u0000", "i000", None, START)]
    with pytest.raises(NothingToTrainError, match="no rating"):
        train(data_of(spark, withdrawn), SETTINGS, COLD, None)
