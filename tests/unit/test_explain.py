from typing import Any

import numpy as np
import pytest

from recsys.als.model import FactorModel, solve_users
from recsys.als.params import AlsParams
from recsys.ranking.explain import explain_lists

IMPLICIT = {"alpha": 2.0}
EXPLICIT = {"objective": "explicit"}
BIASED = {"objective": "explicit", "biases": True}

# Three users: three ratings, none, two.
OFFSETS = np.array([0, 3, 3, 5])
ITEMS = np.array([0, 2, 5, 1, 4], dtype=np.int32)
VALUES = np.array([5, 3, 1, 4, 2], dtype=np.float32)
WEIGHTS = np.array([1, 0.5, 0.25, 1, 1], dtype=np.float32)


def _model(als: dict[str, Any], rank: int = 3) -> FactorModel:
    random = np.random.default_rng(3)
    params = AlsParams(**{"rank": rank, "reg": 0.2, "rating_half_life_days": None, **als})
    biases = random.normal(size=7) if params.biases else np.zeros(7)
    mean = 3.5 if params.biases else 0.0
    return FactorModel(params, random.normal(size=(7, rank)).astype(np.float32), biases.astype(np.float32), mean)


def _contributions_by_numpy(model: FactorModel, u: int, i: int) -> dict[int, float]:
    """The definition: solve the user with the target of one rating at a time, all others set to 0."""
    rows = slice(OFFSETS[u], OFFSETS[u + 1])
    params, q = model.params, model.item_factors.astype(np.float64)
    features = np.column_stack((q, np.ones(7))) if params.biases else q
    rated, values, weights = ITEMS[rows], VALUES[rows].astype(np.float64), WEIGHTS[rows]
    if params.objective == "implicit":
        w = params.alpha * values * weights
        targets, A = 1 + w, q.T @ q
    else:
        w = weights
        targets, A = w * (values - model.mean - model.item_biases[rated]), np.zeros((features.shape[1],) * 2)
    A = A + (features[rated].T * w) @ features[rated] + params.reg * len(rated) * np.eye(features.shape[1])
    wanted = np.append(q[i], 0) if params.biases else q[i]
    return {
        int(j): float(wanted @ np.linalg.solve(A, target * features[j]))
        for j, target in zip(rated, targets, strict=True)
    }


@pytest.mark.parametrize("als", [IMPLICIT, EXPLICIT, BIASED], ids=["implicit", "explicit", "biased"])
def test_contributions_are_what_each_rating_alone_gives_largest_first(als: dict[str, Any]) -> None:
    model = _model(als)
    lists = np.array([[1, 3], [6, 6], [0, -1]], dtype=np.int32)
    because, contributions = explain_lists(model, OFFSETS, ITEMS, VALUES, WEIGHTS, lists, 4)
    for u, slot, i in ((0, 0, 1), (0, 1, 3), (2, 0, 0)):
        expected = sorted(_contributions_by_numpy(model, u, i).items(), key=lambda pair: -pair[1])
        padding = 4 - len(expected)
        assert because[u, slot].tolist() == [j for j, _ in expected] + [-1] * padding
        assert contributions[u, slot] == pytest.approx([value for _, value in expected] + [0] * padding, abs=1e-5)
    assert (because[1] == -1).all()
    assert (because[2, 1] == -1).all()


@pytest.mark.parametrize("als", [IMPLICIT, EXPLICIT, BIASED], ids=["implicit", "explicit", "biased"])
def test_contributions_add_up_to_the_factors_part_of_the_score(als: dict[str, Any]) -> None:
    model = _model(als)
    lists = np.tile(np.arange(7, dtype=np.int32), (3, 1))
    _, contributions = explain_lists(model, OFFSETS, ITEMS, VALUES, WEIGHTS, lists, 3)
    x = solve_users(model, OFFSETS, ITEMS, VALUES, WEIGHTS).x
    np.testing.assert_allclose(contributions.sum(axis=2), x @ model.item_factors.T, atol=1e-5)


def test_the_most_explaining_rating_is_the_one_most_like_the_item() -> None:
    factors = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    model = FactorModel(AlsParams(rank=2, reg=0.1), factors, np.zeros(3, np.float32), 0.0)
    ones = np.ones(2, dtype=np.float32)
    rated = np.array([0, 1], dtype=np.int32)
    because, _ = explain_lists(model, np.array([0, 2]), rated, 5 * ones, ones, np.array([[2]], dtype=np.int32), 1)
    assert because.tolist() == [[[0]]]


def test_nothing_is_named_when_nothing_is_asked_for() -> None:
    lists = np.zeros((3, 1), dtype=np.int32)
    assert explain_lists(_model(IMPLICIT), OFFSETS, ITEMS, VALUES, WEIGHTS, lists, 0)[0].shape == (3, 1, 0)


def test_more_factors_than_ratings_without_regularisation_stay_finite() -> None:
    model = _model({**EXPLICIT, "reg": 0.0}, rank=4)
    lists = np.zeros((3, 1), dtype=np.int32)
    assert np.isfinite(explain_lists(model, OFFSETS, ITEMS, VALUES, WEIGHTS, lists, 3)[1]).all()
