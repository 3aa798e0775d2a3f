import json
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.errors import ModelArtifactError, UsageError
from recsys.ranking import model as list_model
from recsys.ranking.model import ListModel, popularity_model, trend_model
from recsys.ranking.params import RankingParams

# One factor: liking `saw` (q = 1) means liking `alien` (q = 0.9) and not `bambi` (q = -1). `news` is not rated yet.
IDS = ["saw", "alien", "bambi", "news"]
DAY = 86_400_000_000


def _model(
    *, als: dict[str, Any] | None = None, biases: list[float] | None = None, scale: float = 1.0, **ranking: Any
) -> ListModel:
    params = AlsParams(**{"rank": 1, "reg": 0.1, "rating_half_life_days": None, **(als or {})})
    factors = np.array([[1], [0.9], [-1], [0]], dtype=np.float32)
    item_biases = np.array(biases or [0, 0, 0, 0], dtype=np.float32)
    return ListModel(
        factors=FactorModel(params, factors, item_biases, mean=0.0),
        item_ids=list(IDS),
        popularity=np.array([9, 5, 7, 0]),
        trend=np.array([0, 1, 3, 9], dtype=np.float32),
        ranking=RankingParams(**{"list_length": 3, "factor_weight": None, **ranking}),
        trained_through_us=100 * DAY,
        as_of_us=101 * DAY,
        factor_scale=scale,
    )


def _ids(lists: list[list[tuple[str, float]]]) -> list[list[str]]:
    return [[item_id for item_id, _ in items] for items in lists]


def test_ranked_by_factors_only_items_without_factors_come_last_and_rated_ones_never() -> None:
    assert _ids(_model().recommend([[("saw", 5.0)], [("bambi", 5.0)]])) == [
        ["alien", "bambi", "news"],
        ["alien", "saw", "news"],
    ]


def test_the_score_is_the_weighted_and_scaled_factor_part_plus_the_logarithm_of_the_trend() -> None:
    model = _model(scale=0.5, factor_weight=1.0, trend_floor=0.5)
    # Implicit, one rating of 5, alpha 1: x = (1 + 5) q / (q'q of all items + 5 q q + reg * 1) with q = 1.
    x = 6 / (1 + 0.81 + 1 + 5 + 0.1)
    (scores,) = model.recommend([[("saw", 5.0)]])
    expected = {"news": np.log(9.5), "bambi": -2 * x + np.log(3.5), "alien": 2 * x * 0.9 + np.log(1.5)}
    assert dict(scores) == pytest.approx(expected, rel=1e-5)
    assert [item_id for item_id, _ in scores] == sorted(expected, key=lambda item_id: -expected[item_id])
    assert model.factors_only().recommend([[("saw", 5.0)]], n=1) == [[("alien", pytest.approx(0.9 * x, rel=1e-5))]]


def test_item_biases_rank_explicit_lists() -> None:
    model = _model(als={"objective": "explicit", "biases": True}, biases=[0, 0, 5, 0])
    assert _ids(model.recommend([[("saw", 0.01)]]))[0][0] == "bambi"


@pytest.mark.parametrize("factor_weight", [None, 0.0, 1.0])
def test_a_user_nobody_knows_is_listed_what_trends(factor_weight: float | None) -> None:
    model = _model(factor_weight=factor_weight)
    assert _ids(model.recommend([[], [("unknown item", 5.0)]])) == [["news", "bambi", "alien"]] * 2
    assert [item_id for item_id, _ in model.list_fallback()] == ["news", "bambi", "alien"]


def test_case_63_the_fallback_leaves_out_what_is_not_available() -> None:
    available = np.array([True, True, True, False])
    assert [item_id for item_id, _ in _model().list_fallback(available)] == ["bambi", "alien", "saw"]


def test_the_last_rating_of_an_item_counts_and_a_withdrawn_one_may_be_listed_again() -> None:
    model = _model()
    twice, withdrawn = [("bambi", 5.0), ("saw", 5.0), ("bambi", None)], [("saw", 5.0)]
    assert model.recommend([twice]) == model.recommend([withdrawn])
    assert model.recommend([[("saw", 1.0), ("saw", 5.0)]]) == model.recommend([withdrawn])


def test_a_list_is_shorter_than_asked_only_where_the_catalogue_is() -> None:
    assert [len(items) for items in _model().recommend([[("saw", 5.0)]], n=100)] == [3]


def test_an_infinite_rating_is_refused() -> None:
    with pytest.raises(UsageError, match="'saw' is inf"):
        _model().recommend([[("saw", float("inf"))]])


def test_ages_count_only_for_a_model_that_weighs_ratings_by_age() -> None:
    histories, times = [[("saw", 5.0), ("bambi", 4.0)]], [[100 * DAY, 1 * DAY]]
    ageless, aged = _model(), _model(als={"rating_half_life_days": 1.0})
    assert ageless.recommend(histories, times_us=times) == ageless.recommend(histories)
    # `saw` is one half-life old: c = 2.5; `bambi` is a hundred: c = 0, and b = 1 + c = 1 stays.
    x = (3.5 - 1) / (1 + 0.81 + 1 + 2.5 + 2 * 0.1)
    assert aged.recommend(histories, n=1, times_us=times) == [[("alien", pytest.approx(0.9 * x, rel=1e-5))]]


def test_baselines_list_the_same_to_everybody_but_what_he_rated() -> None:
    counts = np.array([9, 5, 7, 0])
    popular = popularity_model(list(IDS), counts, as_of_us=0)
    assert _ids(popular.recommend([[], [("saw", 1.0)]], n=2)) == [["saw", "bambi"], ["bambi", "alien"]]
    recent = trend_model(list(IDS), counts, np.array([0, 0.5, 0.1, 2], dtype=np.float32), as_of_us=0)
    assert _ids(recent.recommend([[]], n=2)) == [["news", "alien"]]


def test_a_refreshed_model_keeps_its_factors_and_lists_new_items_by_trend() -> None:
    trend = np.array([0, 1, 3, 1, 20], dtype=np.float32)
    fresh = _model(factor_weight=1.0).refreshed([*IDS, "new"], np.array([9, 5, 7, 1, 2]), trend, as_of_us=102 * DAY)
    assert not fresh.problems()
    assert _ids(fresh.recommend([[("saw", 5.0)]]))[0][0] == "new"
    assert fresh.trained_through_us == 100 * DAY
    with pytest.raises(ValueError, match="do not begin with"):
        fresh.refreshed(["other", *IDS], trend.astype(np.int64), trend, as_of_us=0)


def test_reading_what_was_written_gives_the_same_model() -> None:
    model = _model(als={"rating_half_life_days": 30.0}, scale=0.7, factor_weight=0.25)
    model.item_ids[0] = 'naïve "id", \u2028 and all'
    again = ListModel.from_files({**model.to_files(), "MLmodel": b"not ours"})
    assert again.recommend([[("alien", 3.0)]]) == model.recommend([[("alien", 3.0)]])
    assert (again.factors.params, again.ranking, again.item_ids) == (
        model.factors.params,
        model.ranking,
        model.item_ids,
    )
    assert (again.trained_through_us, again.as_of_us) == (model.trained_through_us, model.as_of_us)
    assert again.to_files() == model.to_files()


@given(st.data())
def test_case_55_one_flipped_bit_anywhere_refuses_the_model(data: st.DataObject) -> None:
    files = _model().to_files()
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name]) * 8 - 1))
    content = bytearray(files[name])
    content[place // 8] ^= 1 << place % 8
    with pytest.raises(ModelArtifactError, match=r"tampered|cannot be read"):
        ListModel.from_files({**files, name: bytes(content)})


@pytest.mark.parametrize("name", ["model.json", "item_factors.npy", "item_ids.json"])
def test_a_missing_file_refuses_the_model(name: str) -> None:
    files = _model().to_files()
    del files[name]
    with pytest.raises(ModelArtifactError, match=f"{name} is missing"):
        ListModel.from_files(files)


def _with_factors(factors: np.ndarray[Any, Any]) -> ListModel:
    return replace(_model(), factors=replace(_model().factors, item_factors=factors))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (_with_factors(np.array([[1], [np.nan], [0], [0]], dtype=np.float32)), "1 of 4 values .* not finite"),
        (_with_factors(np.ones((4, 2), dtype=np.float32)), r"shape \(4, 2\), expected \(4, 1\)"),
        (_with_factors(np.ones((3, 1), dtype=np.float32)), r"shape \(3, 1\), expected \(4, 1\)"),
        (popularity_model([], np.zeros(0, dtype=np.int64), as_of_us=0), "item set is empty"),
        (replace(_model(), trend=np.array([0, 1, -1, np.inf], dtype=np.float32)), "not finite.*negative"),
        (replace(_model(), item_ids=["saw", "saw", "bambi", "news"]), "1 item ids are there twice"),
        (replace(_model(), factors=replace(_model().factors, mean=float("nan"))), "mean rating"),
        (_model(scale=0.0), "factor scale is 0"),
    ],
)
def test_case_54_a_model_that_cannot_serve_says_why_and_is_not_read(broken: ListModel, problem: str) -> None:
    assert broken.problems()
    with pytest.raises(ModelArtifactError, match=problem):
        ListModel.from_files(broken.to_files())


class _Payload:
    """What a pickle can do: runs when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def _with_trend_file(content: bytes) -> dict[str, bytes]:
    files = _model().to_files()
    manifest = json.loads(files["model.json"])
    del manifest["sha256"]
    manifest["files"]["trend.npy"] = sha256(content).hexdigest()
    return {**files, "trend.npy": content, "model.json": list_model._seal(manifest)}


def test_a_pickle_is_not_run_and_other_types_are_not_read_even_with_the_right_hash(tmp_path: Path) -> None:
    pickled = BytesIO()
    np.save(pickled, np.array([_Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
    doubles = BytesIO()
    np.save(doubles, np.zeros(4))
    for content in (pickled.getvalue(), doubles.getvalue()):
        with pytest.raises(ModelArtifactError, match="does not describe this model"):
            ListModel.from_files(_with_trend_file(content))
    assert not (tmp_path / "ran").exists()
