import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.evaluation import metrics

# Three users with lists of three: hits at ranks 1 and 3 of two held; no hit of one held; one hit, five held.
LISTS = np.array([[4, 7, 2], [0, 1, -1], [3, 4, 5]], dtype=np.int32)
HELD_OFFSETS = np.array([0, 2, 3, 8])
HELD_ITEMS = np.array([2, 4, 9, 5, 20, 21, 22, 23], dtype=np.uint16)
HITS = np.array([[True, False, True], [False, False, False], [False, False, True]])
N_HELD = np.array([2, 1, 5])


def test_a_hit_is_a_listed_item_that_the_same_user_holds() -> None:
    assert metrics.find_hits(LISTS, HELD_OFFSETS, HELD_ITEMS).tolist() == HITS.tolist()


def test_padding_is_never_a_hit() -> None:
    lists = np.array([[1, -1], [-1, -1]], dtype=np.int32)
    # With -1 taken as a key, user 1's padding would fall on user 0's last item.
    assert not metrics.find_hits(lists, np.array([0, 1, 2]), np.array([2, 0])).any()


def test_ndcg_at_3_by_hand() -> None:
    second = (1 / 2) / (1 + 1 / np.log2(3) + 1 / 2)  # one hit at rank 3; five held, so three ideal ranks
    first = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    assert metrics.ndcg_at_k(HITS, N_HELD) == pytest.approx([first, 0, second])


def test_recall_and_average_precision_at_3_by_hand() -> None:
    assert metrics.recall_at_k(HITS, N_HELD) == pytest.approx([1, 0, 1 / 5])
    assert metrics.average_precision(HITS, N_HELD) == pytest.approx([(1 + 2 / 3) / 2, 0, (1 / 3) / 3])


def test_a_user_without_held_out_items_has_no_value() -> None:
    nothing = np.zeros((1, 3), dtype=bool)
    for metric in (metrics.ndcg_at_k, metrics.recall_at_k, metrics.average_precision):
        assert np.isnan(metric(nothing, np.array([0])))


@given(st.integers(0, 2**6 - 1), st.integers(0, 8))
def test_ranking_metrics_lie_between_nought_and_one(pattern: int, more_held: int) -> None:
    hits = np.array([[bool(pattern >> rank & 1) for rank in range(6)]])
    n_held = hits.sum(axis=1) + more_held
    if n_held[0]:
        for metric in (metrics.ndcg_at_k, metrics.recall_at_k, metrics.average_precision):
            assert 0 <= metric(hits, n_held)[0] <= 1 + 1e-12


def test_catalogue_metrics_by_hand() -> None:
    exposures = metrics.count_exposures(LISTS, 10)
    assert exposures.tolist() == [1, 1, 1, 1, 2, 1, 0, 1, 0, 0]
    assert metrics.coverage(exposures) == pytest.approx(0.7)
    assert metrics.gini(np.array([3, 3, 3])) == pytest.approx(0)
    assert metrics.gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    # Smoothed shares 2/4 and 2/4 of a two-item catalogue: one bit each.
    assert metrics.novelty(np.array([5, 1]), np.array([1, 1])) == pytest.approx(1)


def test_errors_by_hand() -> None:
    predicted, actual = np.array([1.0, 2, 3]), np.array([1.0, 4, 2])
    assert metrics.rmse(predicted, actual) == pytest.approx(np.sqrt(5 / 3))
    assert metrics.mae(predicted, actual) == pytest.approx(1)
    assert np.isnan(metrics.rmse(predicted[:0], actual[:0]))


def test_the_bootstrap_interval_is_the_normal_one_for_many_users() -> None:
    random = np.random.default_rng(1)
    right = random.normal(size=4000)
    left = right + random.normal(0.5, 1, size=4000)  # paired: the spread of `right` must not count
    interval = metrics.paired_bootstrap(left, right, samples=2000, confidence=0.95)
    mean, error = np.mean(left - right), np.std(left - right) / np.sqrt(4000)
    assert interval.difference == pytest.approx(mean)
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


@given(st.integers(0, 2**32), st.floats(-3, 3), st.sampled_from([0.5, 2.0]))
def test_the_bootstrap_repeats_itself_for_a_seed_and_moves_and_stretches_with_its_values(
    seed: int, shift: float, factor: float
) -> None:
    left, right = np.random.default_rng(2).random((2, 50))

    def interval(left: NDArray[np.float64], right: NDArray[np.float64], seed: int) -> list[float]:
        found = metrics.paired_bootstrap(left, right, samples=100, confidence=0.95, seed=seed)
        return [found.low, found.difference, found.high]

    drawn = interval(left, right, seed)
    assert drawn == interval(left, right, seed)
    assert drawn != interval(left, right, seed + 1)
    moved = interval(factor * left + shift, factor * right, seed)
    assert moved == pytest.approx([factor * value + shift for value in drawn])


def test_a_bootstrap_of_nobody_or_of_nan_is_nan() -> None:
    nobody = metrics.paired_bootstrap(np.zeros(0), np.zeros(0), samples=100, confidence=0.95)
    poisoned = metrics.paired_bootstrap(np.array([1, np.nan]), np.zeros(2), samples=100, confidence=0.95)
    assert np.isnan([nobody.low, nobody.high, poisoned.difference, poisoned.low]).all()
