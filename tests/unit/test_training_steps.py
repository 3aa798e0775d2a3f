"""What a training does around its fits is what its plan counts; Spark's part is played."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from recsys import training
from recsys.als.fit import FitResult, SweepReport
from recsys.als.model import FactorModel, initial_model
from recsys.als.params import AlsParams
from recsys.als.plan import Around, Resources, Statistics, plan_training
from recsys.als.policy import Policy
from recsys.blocks.split import Timeline
from recsys.config import Settings
from recsys.evaluation.gate import Verdict
from recsys.evaluation.tune import Tuning
from recsys.ranking.model import ListModel
from recsys.ranking.params import RankingParams
from recsys.training import TrainingData, train

N_ITEMS = 3
GIB = 1024**3


class Play:
    """Every step of Spark's as an entry of a list, in order; what is kept at once, at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.sweeps: list[int] = []
        self.kept = self.most_kept = 0
        for name in (
            "find_times",
            "count_events",
            "split_blocks",
            "count_held_users",
            "fit",
            "choose_ranking",
            "judge",
        ):
            monkeypatch.setattr(training, name, getattr(self, name))
        monkeypatch.setattr(training, "_cached", self.keep)
        monkeypatch.setattr(training, "compare", lambda judgement, params: [])
        monkeypatch.setattr(training, "decide", lambda *_: Verdict("passed", True, (), ()))

    @contextmanager
    def keep(self, split: object) -> Iterator[object]:
        self.kept += 1
        self.most_kept = max(self.most_kept, self.kept)
        yield split
        self.kept -= 1

    def find_times(self, blocks: object, shares: list[float]) -> Timeline:
        self.steps.append("read")
        return Timeline(1000, tuple(range(100, 100 + 10 * len(shares), 10)))

    def count_events(self, blocks: object, n_items: int, *, half_lives_days: list[float], **_: Any) -> Any:
        self.steps.append("read")
        return np.ones((1 + len(half_lives_days), n_items))

    def split_blocks(self, blocks: object, **_: Any) -> object:
        self.steps.append("read")
        return object()

    def count_held_users(self, split: object) -> int:
        return 5

    def fit(
        self,
        split: object,
        n_items: int,
        params: AlsParams,
        *,
        max_sweeps: int,
        measure: Callable[[FactorModel], float] | None = None,
        **_: Any,
    ) -> FitResult:
        self.sweeps.append(max_sweeps)
        model = initial_model(params, n_items)
        metrics = [measure(model) if measure else None for _ in range(max_sweeps)]
        return FitResult(model, tuple(SweepReport(i, 0.1, 1.0, m) for i, m in enumerate(metrics, 1)), "sweeps")

    def choose_ranking(self, slices: list[object], *_: Any, **__: Any) -> Tuning:
        """As recsys.evaluation.tune: the scale on the newest slice, then all rules on each."""
        self.steps += ["judge", *["tune"] * len(slices)]
        return Tuning(RankingParams(), 1.0, 5, ())

    def judge(self, split: object, contenders: dict[str, ListModel], *_: Any, **__: Any) -> Any:
        models = {id(model.factors) for model in contenders.values() if model.factors.item_factors.any()}
        self.steps += ["judge"] * len(models)
        return SimpleNamespace(contenders=dict.fromkeys(contenders, SimpleNamespace(ndcg=np.ones(5))))


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
def test_a_training_reads_fits_and_judges_as_often_as_its_plan_says(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, cold: bool
) -> None:
    play, als, evaluation = Play(monkeypatch), settings.als, settings.evaluation
    ids = [f"m{i}" for i in range(N_ITEMS)]
    counts, trend = np.ones(N_ITEMS, np.int64), np.ones(N_ITEMS, np.float32)
    champion = ListModel(initial_model(als, N_ITEMS), ids, counts, trend, settings.ranking, 0, 0)
    policy = Policy("cold" if cold else "warm", "because")
    assert train(TrainingData(cast(Any, None), ids, 0.5), settings, policy, champion) is not None

    around = Around(evaluation.validation_slices, rules=18, users=5, held_share=0.05)
    machine = Resources(1, 2, GIB, GIB, GIB, GIB, local=True)
    plan = plan_training(Statistics(9, 99, 1, np.full(N_ITEMS, 33.0)), machine, als, around)
    done = Counter(play.steps)
    assert done["read"] == plan.readings(cold=cold)
    assert done["judge"] == plan.judgements(cold=cold)
    assert done["tune"] == around.slices * cold
    assert tuple(play.sweeps) == plan.fits(cold=cold)
    assert play.most_kept == (around.slices if cold else 1)
