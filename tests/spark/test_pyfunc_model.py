"""The registered model as MLflow's users load it; needs no JVM, and must need none."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.errors import UsageError
from recsys.ranking.model import ListModel
from recsys.ranking.params import RankingParams
from recsys.session import ROOT
from recsys.store.params import MlflowParams
from recsys.store.registry import PASSED, VERDICT, Registry, import_mlflow
from tests.stores import place_empty_store

import_mlflow()  # before the model's code does, because MLflow warns while it is imported

from recsys.serving.pyfunc_model import read_history  # noqa: E402

TODAY_US = 1_700_000_000_000_000  # 2023-11-14 22:13:20 UTC

ASK = """
import json, sys
for name in ("pyspark", "delta", "py4j"):
    sys.modules[name] = None
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/recsys@champion")
asked = pandas.DataFrame({"history": [
    [("a", 5.0), ("b", 1.0, "2023-11-04T22:13:20Z")],
    '[{"item_id": "a", "value": 5, "event_time": 1699136000}, "c"]',
    [],
    ["unknown"],
]}, index=[7, 8, 9, 10])
answer = model.predict(asked, params={"n": 2})
assert sorted(answer.columns) == ["items"] and list(answer.index) == [7, 8, 9, 10]
print(json.dumps({"two": answer["items"].tolist(), "all": model.predict(asked)["items"].tolist()}))
print(model.metadata.signature.inputs, file=sys.stderr)
"""


def personal_model() -> ListModel:
    factors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.8, 0.3], [0.1, 0.9]], np.float32)
    return ListModel(
        FactorModel(AlsParams(rank=2, rating_half_life_days=10.0), factors, np.zeros(5, np.float32), 0.0),
        ["a", "b", "c", "d", "e"],
        np.array([1, 1, 1, 1, 2]),
        np.array([1, 1, 1, 1, 2], np.float32),
        RankingParams(list_length=3),
        TODAY_US,
        TODAY_US,
    )


def test_the_champion_lists_for_users_histories_in_a_process_where_pyspark_cannot_be_imported(tmp_path: Path) -> None:
    place_empty_store(tmp_path)
    registry = Registry(MlflowParams(), str(tmp_path))
    model = personal_model()
    version = registry.log_fit(model.to_files(), fit_key="k", params={}, tags={VERDICT: PASSED})
    registry.promote(version, None)
    done = subprocess.run(
        [sys.executable, "-c", ASK, registry.tracking_uri], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    ten_days_ago = TODAY_US - 10 * 86_400_000_000
    expected = model.recommend(
        [[("a", 5.0), ("b", 1.0)], [("a", 5.0), ("c", 1.0)], [], []],
        times_us=[[TODAY_US, ten_days_ago], [1_699_136_000_000_000, TODAY_US], [], []],
    )
    assert [[entry["item_id"] for entry in items] for items in answers["all"]] == [
        [item_id for item_id, _ in items] for items in expected
    ]
    scores = [entry["score"] for items in answers["all"] for entry in items]
    assert scores == pytest.approx([score for items in expected for _, score in items])
    assert answers["two"] == [items[:2] for items in answers["all"]]
    assert answers["all"][2] == answers["all"][3]
    assert answers["all"][2][0]["item_id"] == "e"
    assert "'history': Any (required)" in done.stderr
    assert "Warning" not in done.stderr


def test_a_history_is_read_from_pairs_triples_mappings_ids_and_json() -> None:
    noon = datetime(2023, 11, 14, 12, tzinfo=UTC)
    noon_us = 1_699_963_200_000_000
    assert read_history([("a", 5), ("b", None), ("c", 1.5, noon), "d", {"item_id": "e", "event_time": None}], 0) == [
        ("a", 5.0, None),
        ("b", None, None),
        ("c", 1.5, noon_us),
        ("d", 1.0, None),
        ("e", 1.0, None),
    ]
    assert read_history('[["a", 2, "2023-11-14T13:00:00+01:00"], ["b", 2, 1699963200]]', 0) == [
        ("a", 2.0, noon_us),
        ("b", 2.0, noon_us),
    ]
    assert read_history(None, 0) == read_history(np.array([]), 0) == []


@pytest.mark.parametrize("cell", ["no JSON", 7, [7], [(7, 5.0)], [("a", "five")], [{"value": 5}], [("a", 1, 2, 3)]])
def test_a_history_that_is_none_is_refused_and_its_row_named(cell: object) -> None:
    with pytest.raises(UsageError, match=r"history of row 3: .* is not a list of ratings"):
        read_history(cell, 3)
