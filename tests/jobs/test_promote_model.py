import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import promote_model
from jobs.runner import JobContext, make_context, perform
from recsys import columns as c
from recsys.config import Settings
from recsys.errors import ConcurrentPromotionError, GateRefusedError, LockedError
from recsys.ranking.model import trend_model
from recsys.session import ROOT
from recsys.store.files import Files
from recsys.store.locks import MODELS
from recsys.store.registry import NOT_JUDGED, PARENT, PASSED, VERDICT, Registry
from recsys.store.tables import Tables
from tests.stores import place_empty_store


def log_fit(registry: Registry, key: str, parent: int | None, verdict: str = PASSED) -> int:
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    tags = {VERDICT: verdict, "reasons": "too few", PARENT: str(parent or "none")}
    return registry.log_fit(model.to_files(), fit_key=key, params={}, tags=tags)


def test_the_challenger_becomes_champion_once(spark: SparkSession, settings: Settings) -> None:
    place_empty_store(settings.warehouse.root)
    tables = Tables(spark, settings.warehouse)
    context = JobContext(spark, settings, tables, Files(spark))
    registry = Registry(settings.mlflow, tables.root)
    registry.set_challenger(log_fit(registry, "one", parent=None))
    assert promote_model.run(context).to_result().message == "version 1 is champion; it replaced none"
    assert registry.champion == 1
    again = promote_model.run(context)
    assert not again.promoted
    assert again.to_result().message == "nothing to promote: there is no challenger. Champion: 1"


def test_a_challenger_that_too_few_users_judged_is_left_alone_and_refused_only_when_it_is_named(
    settings: Settings,
) -> None:
    place_empty_store(settings.warehouse.root)
    registry = Registry(settings.mlflow, settings.warehouse.root)
    registry.promote(log_fit(registry, "one", parent=None), None)
    registry.set_challenger(log_fit(registry, "two", parent=1, verdict=NOT_JUDGED))
    tables: Any = SimpleNamespace(root=settings.warehouse.root)
    nothing: Any = None  # no table is read, no file
    context = JobContext(nothing, settings, tables, nothing)
    said = "nothing to promote: version 2, the challenger, was not judged (too few). Champion: 1"
    assert promote_model.run(context).to_result().message == said
    with pytest.raises(GateRefusedError, match=r"version 2 has verdict 'not judged' \(too few\)"):
        promote_model.run(context, version=2)
    assert registry.champion == 1


RIVAL = """
import sys, time
from pathlib import Path
from jobs import promote_model
from jobs.runner import make_context, perform
from recsys.config import Settings
from recsys.errors import RecsysError
from recsys.session import start_session
from recsys.store.locks import MODELS
from recsys.store.registry import Registry

spark = start_session("rival", conf={"spark.master": "local[1]", "spark.sql.shuffle.partitions": "1"})
settings = Settings.model_validate_json(sys.argv[1])
context = make_context(spark, settings)
assert Registry(settings.mlflow, context.tables.root).champion == 1
Path(sys.argv[2], "ready").touch()
while not Path(sys.argv[2], "go").exists():
    time.sleep(0.01)
try:
    perform(context, "promote_model", lambda job: promote_model.run(job, version=3).to_result(), locks=(MODELS,))
except RecsysError as err:
    print(type(err).__name__)
else:
    print("ok")
"""


def test_case_52_of_two_processes_that_promote_at_once_exactly_one_wins_and_both_are_recorded(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    place_empty_store(settings.warehouse.root)
    context = make_context(spark, settings)
    registry = Registry(settings.mlflow, context.tables.root)
    registry.promote(log_fit(registry, "champion", parent=None), None)
    log_fit(registry, "ours", parent=1)
    log_fit(registry, "theirs", parent=1)
    command = [sys.executable, "-c", RIVAL, settings.model_dump_json(), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as rival:
        while not (tmp_path / "ready").exists():
            assert rival.poll() is None, rival.communicate()[1][-2000:]
            time.sleep(0.05)
        (tmp_path / "go").touch()
        try:
            perform(
                context, "promote_model", lambda job: promote_model.run(job, version=2).to_result(), locks=(MODELS,)
            )
            ours = "ok"
        except (LockedError, ConcurrentPromotionError) as err:
            ours = type(err).__name__
        theirs, errors = rival.communicate()
    outcomes = [ours, theirs.strip()]
    assert outcomes.count("ok") == 1, errors[-2000:]
    assert set(outcomes) - {"ok"} <= {"LockedError", "ConcurrentPromotionError"}
    assert registry.champion == 2 + outcomes.index("ok")
    assert registry.previous == 1
    recorded = context.tables.job_runs.read().select(c.OUTCOME).collect()
    assert sorted(row[0] for row in recorded) == sorted(outcomes)
