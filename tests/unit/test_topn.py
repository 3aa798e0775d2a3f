from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.ranking.topn import Scorer, TopN, list_users

NOTHING_SEEN = np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.uint16)


def list_by(
    *scores: list[float],
    n: int,
    seen: tuple[NDArray[np.int64], NDArray[Any]] | None = None,
    allowed: list[bool] | None = None,
) -> TopN:
    """The lists of users with these scores, one row each: every user has a factor of his own, which is his score."""
    items = np.array(scores, dtype=np.float32).T
    offsets, positions = seen or (np.zeros(len(scores) + 1, dtype=np.int64), np.zeros(0, dtype=np.uint16))
    prior = np.zeros(len(items), dtype=np.float32)
    if allowed is not None:
        prior[~np.array(allowed)] = -np.inf
    users = np.eye(len(scores), dtype=np.float32)
    [lists] = list_users(items, users, offsets, positions, [Scorer(1.0, prior, prior)], n)
    return lists


def test_the_best_unseen_items_come_first() -> None:
    seen = np.array([0, 1, 1]), np.array([0], dtype=np.uint16)
    positions, scores = list_by([5, 1, 4, 3], [1, 2, 3, 4], n=2, seen=seen)
    assert positions.tolist() == [[2, 3], [3, 2]]
    assert scores.tolist() == [[4, 3], [4, 3]]


def test_of_equal_scores_the_lower_position_comes_first() -> None:
    assert list_by([1, 2, 1, 2, 1], n=3)[0].tolist() == [[1, 3, 0]]


def test_a_scorer_weighs_affinities_and_adds_its_prior() -> None:
    scorer = Scorer(2.0, np.array([0, 10, 0], dtype=np.float32), np.zeros(3, dtype=np.float32))
    q = np.array([[4], [1], [3]], dtype=np.float32)
    ((positions, scores),) = list_users(q, np.ones((1, 1), dtype=np.float32), *NOTHING_SEEN, [scorer], 2)
    assert positions.tolist() == [[1, 0]]
    assert scores.tolist() == [[12, 8]]


@pytest.mark.parametrize("x", [0.0, np.nan, np.inf])
def test_case_64_a_user_without_finite_factors_gets_the_fallback_and_never_nan(x: float) -> None:
    scorer = Scorer(1.0, np.zeros(3, dtype=np.float32), np.array([1, 2, 3], dtype=np.float32))
    users = np.array([[x], [1]], dtype=np.float32)
    q = np.array([[3], [2], [1]], dtype=np.float32)
    ((positions, scores),) = list_users(q, users, np.array([0, 1, 1]), np.array([1]), [scorer], 3)
    assert positions.tolist() == [[2, 0, -1], [0, 1, 2]]
    assert scores.tolist() == [[3, 1, -np.inf], [3, 2, 1]]


def test_lists_do_not_depend_on_how_many_users_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    q = random.integers(-2, 3, (20, 4)).astype(np.float32)  # whole numbers: products are exact in any order
    x = random.integers(-2, 3, (7, 4)).astype(np.float32)
    offsets, seen = np.arange(0, 22, 3), random.integers(0, 20, 21)
    scorers = [Scorer(1.0, np.zeros(20, dtype=np.float32), np.zeros(20, dtype=np.float32))]
    ((at_once, _),) = list_users(q, x, offsets, seen, scorers, 5)
    monkeypatch.setattr("recsys.ranking.topn._AFFINITIES_AT_ONCE", 60)  # three users
    ((by_threes, _),) = list_users(q, x, offsets, seen, scorers, 5)
    assert by_threes.tolist() == at_once.tolist() == list_by(*(x @ q.T), n=5, seen=(offsets, seen))[0].tolist()


def test_case_63_an_item_that_left_the_catalogue_is_never_listed() -> None:
    assert list_by([9, 1, 2], n=3, allowed=[False, True, True])[0].tolist() == [[2, 1, -1]]


def test_case_64_a_score_that_is_not_finite_is_never_listed_and_short_lists_are_padded() -> None:
    positions, scores = list_by([np.nan, 1, np.inf, -np.inf], n=2)
    assert positions.tolist() == [[1, -1]]
    assert scores.tolist() == [[1, -np.inf]]


def test_a_user_who_has_seen_everything_gets_an_empty_list() -> None:
    positions, _ = list_by([1, 2], n=2, seen=(np.array([0, 2]), np.array([1, 0])))
    assert positions.tolist() == [[-1, -1]]


def test_no_users_and_no_items_give_empty_lists() -> None:
    prior = np.zeros(3, dtype=np.float32)
    nobody = np.zeros((0, 2), dtype=np.float32), np.zeros(1, dtype=np.int64), np.zeros(0)
    [(positions, _)] = list_users(np.zeros((3, 2), dtype=np.float32), *nobody, [Scorer(1.0, prior, prior)], 2)
    assert positions.shape == (0, 2)
    assert list_by([], n=2)[0].tolist() == [[-1, -1]]


@pytest.mark.parametrize(("item", "n"), [(3, 1), (-1, 1), (0, 0)])
def test_a_seen_item_outside_the_catalogue_or_an_empty_list_is_refused(item: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"position|at least one"):
        list_by([1, 2, 3], n=n, seen=(np.array([0, 1]), np.array([item])))


@given(data=st.data(), n_items=st.integers(1, 30), n=st.integers(1, 8))
def test_top_n_equals_sort_and_cut(data: st.DataObject, n_items: int, n: int) -> None:
    scores = data.draw(st.lists(st.integers(-3, 3), min_size=n_items, max_size=n_items))  # many ties
    seen = data.draw(st.sets(st.integers(0, n_items - 1)))
    ranked = sorted((i for i in range(n_items) if i not in seen), key=lambda i: (-scores[i], i))[:n]
    positions, _ = list_by(scores, n=n, seen=(np.array([0, len(seen)]), np.array(sorted(seen), dtype=np.uint16)))
    assert positions[0].tolist() == ranked + [-1] * (n - len(ranked))


@pytest.mark.parametrize("n", [1, 10, 100, 300])
def test_top_n_of_a_large_catalogue_equals_sort_and_cut(n: int) -> None:
    random = np.random.default_rng(n)
    scores = np.round(random.standard_normal((20, 5000)), 1)  # many ties
    scores[::2, :400] = np.inf  # more of them than places, and nothing that may be listed
    scores[::3, 600:900] = np.nan
    scores[::5, 900:] = -np.inf
    seen = [np.sort(random.choice(5000, 50 * u, replace=False)) for u in range(20)]
    for own, has_seen in zip(scores.astype(np.float32), seen, strict=True):
        q, x = np.zeros((5000, 1), dtype=np.float32), np.ones((1, 1), dtype=np.float32)
        [(positions, _)] = list_users(q, x, np.array([0, len(has_seen)]), has_seen, [Scorer(1.0, own, own)], n)
        allowed = np.isfinite(own)
        allowed[has_seen] = False
        ranked = sorted(np.flatnonzero(allowed).tolist(), key=lambda i, own=own: (-own[i], i))[:n]
        assert positions[0].tolist() == ranked + [-1] * (n - len(ranked))
