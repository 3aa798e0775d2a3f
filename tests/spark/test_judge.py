from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.evaluation.baselines import fit_item_means
from recsys.evaluation.gate import decide
from recsys.evaluation.judge import (
    CANDIDATE,
    CANDIDATE_FACTORS,
    CHAMPION,
    CHAMPION_FACTORS,
    RECENT_POPULARITY,
    compare,
    count_held_users,
    judge,
)
from recsys.evaluation.params import EvaluationParams, GateParams
from recsys.evaluation.tune import Slice, choose_ranking
from recsys.ranking.model import ListModel, popularity_model, trend_model
from recsys.ranking.params import RankingParams
from tests.spark.split_frames import split_frame

PARAMS = EvaluationParams(k=2, bootstrap_samples=100)
IDS = ["a", "b", "c", "d", "e"]
COUNTS = np.array([5, 4, 3, 2, 0])

# `ann` and `bob` have a history, `new` has none, `old` has nothing held out. Item 9 is in no model.
USERS = {
    "ann": ({0: 5.0}, {1: 4.0, 9: 3.0}),
    "bob": ({3: 5.0, 0: 1.0}, {2: 5.0}),
    "new": ({}, {0: 2.0}),
    "old": ({1: 3.0}, {}),
}


def _factor_model(als: dict[str, Any] | None = None, **ranking: Any) -> ListModel:
    random = np.random.default_rng(0)
    params = AlsParams(**{"rank": 2, "reg": 0.1, "rating_half_life_days": None, **(als or {})})
    biases = np.array([0.5, 0, -0.5, 1, 0] if params.biases else [0] * 5, np.float32)
    mean = 3.0 if params.biases else 0.0
    factors = FactorModel(params, random.normal(size=(5, 2)).astype(np.float32), biases, mean)
    trend = np.array([0, 1, 4, 2, 1], np.float32)
    rule = RankingParams(**{"factor_weight": 1.0, "trend_floor": 0.5, **ranking})
    return ListModel(factors, IDS, COUNTS, trend, rule, trained_through_us=0, as_of_us=0, factor_scale=0.5)


def _list_by_numpy(model: ListModel, history: dict[int, float], k: int) -> list[int]:
    """Solve one user densely (implicit, alpha 1, weights 1) and sort all items he has not seen."""
    q = model.factors.item_factors.astype(np.float64)
    scores = np.log(model.trend + model.ranking.trend_floor)
    if history:
        seen, c = list(history), np.array(list(history.values()))
        A = q.T @ q + (q[seen].T * c) @ q[seen] + model.factors.params.reg * len(seen) * np.eye(2)
        scores = scores + model.ranking.factor_weight / model.factor_scale * q @ np.linalg.solve(A, (1 + c) @ q[seen])
    return [i for i in np.argsort(-scores) if i not in history][:k]


def test_popularity_by_hand(spark: SparkSession) -> None:
    found = judge(split_frame(spark, USERS), {"popularity": popularity_model(IDS, COUNTS, as_of_us=0)}, PARAMS)
    scores = found.contenders["popularity"]
    assert found.n_history.tolist() == [1, 2, 0]
    # Lists: ann b c, bob b c, new a b.
    second = 1 / np.log2(3)
    assert scores.ndcg == pytest.approx([1 / (1 + second), second, 1])
    assert scores.recall == pytest.approx([1 / 2, 1, 1])
    assert scores.average_precision == pytest.approx([1 / 2, 1 / 2, 1])
    assert scores.coverage == pytest.approx(3 / 5)
    assert found.summary()["popularity/ndcg_at_2"] == pytest.approx(float(scores.ndcg.mean()))
    assert scores.rmse is None


def test_factors_and_trend_rank_like_a_dense_solution_and_users_without_history_get_the_fallback(
    spark: SparkSession,
) -> None:
    model = _factor_model()
    found = judge(split_frame(spark, USERS), {"candidate": model}, PARAMS)
    recalls = []
    for observed, held in USERS.values():
        if held:
            listed = _list_by_numpy(model, dict(observed), 2)
            recalls.append(len(set(listed) & set(held)) / len(held))
    assert found.contenders["candidate"].recall.tolist() == recalls


def test_contenders_are_judged_as_if_alone_whatever_the_partitions(spark: SparkSession) -> None:
    split = split_frame(spark, USERS, users_per_block=1)
    model = _factor_model()
    contenders = {
        "candidate": model,
        "popularity": popularity_model(IDS, COUNTS, as_of_us=0),
        "candidate factors": model.factors_only(),
        "other": _factor_model({"reg": 1.0}),
    }
    together = judge(split.repartition(3), contenders, PARAMS, n_held_users=3)
    for name, contender in contenders.items():
        alone = judge(split.coalesce(1), {name: contender}, PARAMS, n_held_users=3).contenders[name]
        assert together.contenders[name].ndcg.tolist() == alone.ndcg.tolist()
        assert together.contenders[name].mean_score.tolist() == alone.mean_score.tolist()


def test_a_contender_that_knows_fewer_items_lists_only_those(spark: SparkSession) -> None:
    champion = trend_model(IDS[:2], COUNTS[:2], np.array([1, 2], np.float32), as_of_us=0)
    newcomer = trend_model(IDS, COUNTS, np.array([0, 0, 9, 0, 0], np.float32), as_of_us=0)
    found = judge(split_frame(spark, USERS), {"champion": champion, "candidate": newcomer}, PARAMS)
    assert found.contenders["champion"].recall.tolist() == [1 / 2, 0, 1]
    assert found.contenders["champion"].coverage == pytest.approx(2 / 5)


def test_rating_errors_are_those_of_the_pairs_that_can_be_predicted(spark: SparkSession) -> None:
    model = _factor_model({"objective": "explicit", "biases": True, "reg": 0.2}, factor_weight=None)
    # Only `ann` and `bob` have a history, and of their held-out items 1, 9 and 2 the model knows 1 and 2.
    errors = []
    for rated, held in (({0: 5.0}, (1, 4.0)), ({3: 5.0, 0: 1.0}, (2, 5.0))):
        seen, r = list(rated), np.array(list(rated.values()))
        features = np.column_stack((model.factors.item_factors, np.ones(5))).astype(np.float64)
        A = features[seen].T @ features[seen] + 0.2 * len(seen) * np.eye(3)
        x = np.linalg.solve(A, features[seen].T @ (r - 3.0 - model.factors.item_biases[seen]))
        errors.append(features[held[0]] @ x + 3.0 + model.factors.item_biases[held[0]] - held[1])
    scores = judge(split_frame(spark, USERS), {"candidate": model}, PARAMS).contenders["candidate"]
    assert scores.rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)
    assert scores.mae == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    assert scores.share_predicted == pytest.approx(2 / 4)


def test_the_item_mean_baseline_predicts_for_everybody_what_an_item_was_rated_on_average(spark: SparkSession) -> None:
    split = split_frame(spark, USERS)
    baseline = fit_item_means(split, IDS, as_of_us=0)
    found = judge(split, {"item mean": baseline}, PARAMS).contenders["item mean"]
    # Observed: item 0 5 and 1, item 1 3, item 3 5. Held out and rated before: ann's 1 (4), new's 0 (2).
    assert found.rmse == pytest.approx(np.sqrt(((3 - 4) ** 2 + (3 - 2) ** 2) / 2))
    assert found.share_predicted == pytest.approx(2 / 4)
    assert not baseline.problems()


def test_case_54_a_broken_candidate_is_not_run_and_is_refused(spark: SparkSession) -> None:
    champion = _factor_model()
    factors = champion.factors.item_factors.copy()
    factors[2, 1] = np.nan
    broken = replace(champion, factors=replace(champion.factors, item_factors=factors))
    found = judge(split_frame(spark, USERS), {CANDIDATE: broken, CHAMPION: champion}, PARAMS)
    assert np.isnan(found.contenders[CANDIDATE].ndcg).all()
    comparisons = compare(found, PARAMS)
    assert str(decide(comparisons, GateParams(min_users=1), broken.problems())).startswith("refused: 1 of 10 values")
    assert "not a number" in str(decide(comparisons, GateParams(min_users=1)))


def test_judged_users_are_the_same_sample_whatever_the_partitions(spark: SparkSession) -> None:
    users = {f"u{number:03}": ({number % 4: 1.0}, {4: 1.0}) for number in range(200)}
    split = split_frame(spark, users, users_per_block=50)
    assert count_held_users(split) == 200
    contenders = {"popularity": popularity_model(IDS, COUNTS, as_of_us=0)}
    some = EvaluationParams(k=2, max_users=50)
    found, again = judge(split, contenders, some), judge(split.repartition(4), contenders, some)
    assert 30 < found.n_users < 70
    assert found.contenders["popularity"].ndcg.tolist() == again.contenders["popularity"].ndcg.tolist()


def test_nobody_to_judge_is_not_judged(spark: SparkSession) -> None:
    model = _factor_model({"objective": "explicit"})
    found = judge(split_frame(spark, {"old": ({1: 3.0}, {})}), {CANDIDATE: model, CHAMPION: model}, PARAMS)
    assert found.n_users == 0
    assert decide(compare(found, PARAMS), GateParams()).outcome == "not judged"


def test_case_53_factors_fitted_to_noise_are_refused(spark: SparkSession) -> None:
    # Everyone likes only even or only odd items; the trend knows nothing of it.
    random = np.random.default_rng(1)
    ids = [str(i) for i in range(40)]
    users = {}
    for number in range(300):
        mine = random.permutation(np.arange(number % 2, 40, 2))
        users[f"u{number:03}"] = (dict.fromkeys(mine[:6].tolist(), 1.0), dict.fromkeys(mine[6:9].tolist(), 1.0))
    q = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    counts = np.full(40, 45)
    params = AlsParams(rank=2, rating_half_life_days=None)
    rule = RankingParams(factor_weight=1.0)
    good = ListModel(
        FactorModel(params, q, np.zeros(40, np.float32), 0.0), ids, counts, np.ones(40, np.float32), rule, 0, 0, 0.5
    )
    noise = replace(good, factors=replace(good.factors, item_factors=random.permutation(q)))
    contenders = {
        CANDIDATE: noise,
        CHAMPION: good,
        CANDIDATE_FACTORS: noise.factors_only(),
        CHAMPION_FACTORS: good.factors_only(),
        RECENT_POPULARITY: trend_model(ids, counts, good.trend, as_of_us=0),
    }
    split = split_frame(spark, users, users_per_block=100)
    verdict = decide(compare(judge(split, contenders, PARAMS), PARAMS), GateParams(min_users=100))
    assert verdict.outcome == "refused"
    assert verdict.reasons[0].startswith("NDCG@2 ")
    assert verdict.reasons[1].startswith("factors-only NDCG@2 ")


def test_the_grid_point_that_ranks_best_over_all_slices_is_chosen(spark: SparkSession) -> None:
    # Held-out items follow the factors (even or odd), the trend of half-life 1 says the opposite, that of 2 nothing.
    users = {f"u{n:02}": ({n % 2: 1.0, n % 2 + 2: 1.0}, {n % 2 + 4: 1.0}) for n in range(20)}
    ids = [str(i) for i in range(8)]
    q = np.eye(2, dtype=np.float32)[np.arange(8) % 2]
    factors = FactorModel(AlsParams(rank=2, rating_half_life_days=None), q, np.zeros(8, np.float32), 0.0)
    wrong = np.array([0, 0, 0, 0, 0, 0, 90, 90], np.float32)
    trends = {1.0: wrong, 2.0: np.zeros(8, np.float32)}
    split = split_frame(spark, users, users_per_block=10)
    slices = [Slice(split, np.ones(8, np.int64), trends, as_of_us=at) for at in (1, 2)]
    grid = EvaluationParams(
        k=1, tuned_factor_weights=(0.01, 1.0), tuned_half_lives_days=(1.0, 2.0), tuned_trend_floors=(0.1,)
    )
    tuned = choose_ranking(slices, factors, ids, RankingParams(explained_by=5), grid, min_users=40)
    assert (tuned.ranking.trend_half_life_days, tuned.ranking.explained_by) == (2.0, 5)
    assert tuned.n_users == 40
    assert [ndcg for _, ndcg in tuned.results] == [0, 1, 0, 1]
    # Two ratings of 1 along one axis, four items each: x = 2 * 2 / (4 + 2 + 0.1 * 2), and q = 1 at the top.
    assert tuned.factor_scale == pytest.approx(4 / 6.2, rel=1e-5)
    kept = choose_ranking(slices[:1], factors, ids, RankingParams(), grid, min_users=21)
    assert (kept.ranking, kept.results) == (RankingParams(), ())
