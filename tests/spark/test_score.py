import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys import columns as c
from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.ranking.model import ListModel, popularity_model
from recsys.ranking.params import RankingParams
from recsys.ranking.score import fallback_row, score_blocks
from recsys.schemas import RECOMMENDATIONS
from tests.spark.split_frames import split_frame

IDS = ["saw", "hostel", "bambi", "dumbo", "news"]
USERS = {
    "ann": ({0: 5.0, 2: 1.0}, {}),
    "bob": ({2: 4.0, 3: 5.0}, {}),
    "eve": ({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, {}),
    "new": ({}, {1: 3.0}),
}


def _model(**ranking: object) -> ListModel:
    q = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0, 0]], np.float32)
    rule = RankingParams.model_validate({"list_length": 2, "factor_weight": 1.0, **ranking})
    return ListModel(
        factors=FactorModel(AlsParams(rank=2, rating_half_life_days=None), q, np.zeros(5, np.float32), 0.0),
        item_ids=IDS,
        popularity=np.array([3, 2, 5, 4, 1]),
        trend=np.array([0.1, 0.3, 0.2, 0.4, 0.6], np.float32),
        ranking=rule,
        trained_through_us=0,
        as_of_us=0,
    )


def test_lists_are_those_of_recommend_with_the_ratings_that_explain_them(spark: SparkSession) -> None:
    model = _model()
    lists = score_blocks(split_frame(spark, USERS), model, None, 7)
    assert lists.schema == RECOMMENDATIONS
    rows = {row[c.USER_ID]: row for row in lists.collect()}
    assert {row[c.GENERATION] for row in rows.values()} == {7}
    histories = [[(IDS[i], value) for i, value in observed.items()] for observed, _ in USERS.values()]
    for user, expected in zip(USERS, model.recommend(histories), strict=True):
        listed = [(entry[c.ITEM_ID], entry[c.SCORE]) for entry in rows[user][c.ITEMS]]
        assert [item for item, _ in listed] == [item for item, _ in expected]
        assert [score for _, score in listed] == pytest.approx([score for _, score in expected], rel=1e-6)
    reasons = {user: {entry[c.ITEM_ID]: entry[c.REASON] for entry in row[c.ITEMS]} for user, row in rows.items()}
    assert reasons["ann"]["hostel"] == "rated saw and bambi"
    # By A_u^-1 = [[2.07, 0.63], [0.63, 10.07]]^-1, liking Bambi speaks against Hostel: 2.07 * 0.1 - 0.63 * 0.9 < 0.
    assert reasons["bob"] == {"news": "trending", "hostel": "rated dumbo"}
    assert reasons["eve"] == {"news": "trending"}  # all she has not rated; no padding
    assert reasons["new"] == {"news": "trending", "dumbo": "trending"}


def test_case_63_items_that_are_not_available_are_in_no_list(spark: SparkSession) -> None:
    available = np.array([True, False, True, True, False])
    lists = score_blocks(split_frame(spark, USERS), _model(explained_by=1), available, 1)
    listed = {row[c.USER_ID]: [tuple(entry)[::2] for entry in row[c.ITEMS]] for row in lists.collect()}
    assert listed["ann"] == [("dumbo", "rated bambi")]
    assert listed["eve"] == []
    assert fallback_row(_model(), available, 1)[2][0][0] == "dumbo"


def test_case_64_no_list_holds_a_score_that_is_not_finite(spark: SparkSession) -> None:
    poisoned = {**USERS, "poison": ({0: float("inf")}, {})}
    lists = score_blocks(split_frame(spark, poisoned), _model(), None, 1)
    listed = {row[c.USER_ID]: row[c.ITEMS] for row in lists.collect()}
    assert [entry[c.ITEM_ID] for entry in listed["poison"]] == ["news", "dumbo"]
    assert all(np.isfinite(entry[c.SCORE]) for entries in listed.values() for entry in entries)


def test_the_fallback_row_is_a_row_of_the_table_and_a_baseline_can_be_published(spark: SparkSession) -> None:
    row = fallback_row(_model(), None, 3)
    (stored,) = spark.createDataFrame([row], RECOMMENDATIONS).collect()
    assert stored[c.USER_ID] == c.FALLBACK_USER_ID
    assert [(entry[c.ITEM_ID], entry[c.REASON]) for entry in stored[c.ITEMS]] == [
        ("news", "trending"),
        ("dumbo", "trending"),
    ]
    baseline = popularity_model(IDS, np.array([3, 2, 5, 4, 1]), as_of_us=0)
    rows = score_blocks(split_frame(spark, {"ann": ({2: 5.0}, {})}), baseline, None, 1).collect()
    assert [entry[c.ITEM_ID] for entry in rows[0][c.ITEMS]] == ["dumbo", "saw", "hostel", "news"]
    assert {entry[c.REASON] for entry in rows[0][c.ITEMS]} == {"trending"}
