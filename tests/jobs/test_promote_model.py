import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from recsys.schemas import ITEMS
from recsys.session import ROOT
from recsys.store import champions, locks
from recsys.store.champions import ChampionMoves
from recsys.store.files import Files
from recsys.store.locks import MODELS, Lock
from recsys.store.maintenance import vacuum
from recsys.store.registry import (
    ATTEMPT,
    NOT_JUDGED,
    PARENT,
    PASSED,
    REPLACES,
    TABLE_VERSION,
    VERDICT,
    Registry,
)
from recsys.store.tables import SPECS, Tables
from tests.stores import place_empty_store


def log_fit(registry: Registry, key: str, parent: int | None, verdict: str = PASSED, **more_tags: str) -> int:
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    tags = {VERDICT: verdict, "reasons": "too few", PARENT: str(parent or "none"), **more_tags}
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


@dataclass
class Fitted:
    """A challenger that says which version of ``items`` it was fitted on, when there was no later one."""

    context: JobContext
    registry: Registry
    tables: Tables

    def commit(self, title: str) -> None:
        rows = self.context.spark.createDataFrame([("a", 0, title, None, True, 1)], ITEMS)
        self.tables.items.replace(rows, "true")


@pytest.fixture
def fitted(spark: SparkSession, settings: Settings) -> Fitted:
    place_empty_store(settings.warehouse.root)
    tables = Tables(spark, settings.warehouse)
    tables.items.create(SPECS["items"], {})
    registry = Registry(settings.mlflow, tables.root)
    fitted = Fitted(JobContext(spark, settings, tables, Files(spark)), registry, tables)
    fitted.commit("as it was")
    log_fit(registry, "fit", parent=None, **{f"{TABLE_VERSION}items": str(tables.items.version())})
    return fitted


def test_case_60_a_model_whose_tables_can_be_read_as_they_were_is_promoted_without_a_word(fitted: Fitted) -> None:
    fitted.commit("later")
    assert promote_model.run(fitted.context, version=1).warning == ""


def remove_files(fitted: Fitted) -> str:
    fitted.commit("later")
    vacuum(fitted.context.spark, [fitted.tables.items], 0)
    return "1 of its 1 files are gone"


def clean_log(fitted: Fitted) -> str:
    fitted.commit("later")
    fitted.tables.items.forget_log()
    return "the table's log does not reach back so far"


def make_again(fitted: Fitted) -> str:
    fitted.context.files.delete(fitted.tables.items.path, recursive=True)
    fitted.tables.items.forget()
    fitted.tables.items.create(SPECS["items"], {})
    return "the table ends with version 0: it was made again since"


@pytest.mark.parametrize("lose", [remove_files, clean_log, make_again])
def test_case_60_of_a_model_whose_tables_are_gone_promotion_warns_or_the_gate_refuses(
    fitted: Fitted, lose: Callable[[Fitted], str]
) -> None:
    why = lose(fitted)
    strict = fitted.context.settings.gate.model_copy(update={"require_lineage": True})
    context = replace(fitted.context, settings=fitted.context.settings.model_copy(update={"gate": strict}))
    with pytest.raises(GateRefusedError, match=rf"\('items' version 1: {why}\), and gate.require_lineage is set"):
        promote_model.run(context, version=1)
    assert fitted.registry.champion is None

    message = promote_model.run(fitted.context, version=1).to_result().message
    assert message.startswith("version 1 is champion; it replaced none. Warning: model version 1 was fitted on tables")
    assert fitted.registry.champion == 1


def test_case_60_a_model_that_does_not_say_what_it_was_fitted_on_is_refused_where_that_is_required(
    fitted: Fitted,
) -> None:
    silent = log_fit(fitted.registry, "silent", parent=None)
    strict = fitted.context.settings.gate.model_copy(update={"require_lineage": True})
    context = replace(fitted.context, settings=fitted.context.settings.model_copy(update={"gate": strict}))
    with pytest.raises(GateRefusedError, match="it names none"):
        promote_model.run(context, version=silent)


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


@dataclass
class Contested:
    """A registry whose champion is version 1; 2 and 3 passed against it. This process holds the lock."""

    registry: Registry
    lock: Lock
    files: Files
    root: str

    def let_another_take_over(self, promotes: int | None) -> None:
        """What another process does that finds the lock abandoned: it takes it and maybe makes a version champion."""
        later = Lock(self.files, self.root, MODELS, job="successor", expiry_seconds=60.0)
        later._holder = later._new_holder(self.lock.token + 1)
        assert self.files.create(later._path(later.token), locks._encode(later._holder))
        if promotes is not None:
            client = self.registry._client
            ChampionMoves(client, self.registry.model, later).move(promotes, 1)
        later.release()

    @property
    def outcomes(self) -> list[str]:
        """Of all attempts to promote version 2, oldest first."""
        tags = self.registry.describe(2).tags
        return [json.loads(tags[key])["outcome"] for key in sorted(tags) if key.startswith(ATTEMPT)]


@pytest.fixture
def contested(spark: SparkSession, settings: Settings) -> Iterator[Contested]:
    place_empty_store(settings.warehouse.root)
    files, root = Files(spark), Files(spark).resolve(settings.warehouse.root)
    registry = Registry(settings.mlflow, root)
    registry.promote(log_fit(registry, "one", parent=None), None)
    log_fit(registry, "two", parent=1)
    log_fit(registry, "three", parent=1)
    with Lock(files, root, MODELS, job="sleeper", expiry_seconds=60.0) as lock:
        yield Contested(registry, lock, files, root)


@pytest.mark.parametrize(("theirs", "stays"), [(3, 3), (2, 2), (None, 1)])
def test_cases_23_52_a_promotion_that_wakes_up_after_a_take_over_gives_the_alias_back_and_is_recorded(
    contested: Contested, monkeypatch: pytest.MonkeyPatch, theirs: int | None, stays: int
) -> None:
    """MLflow takes the last write of an alias, so this one cannot be refused: it is taken back."""

    def sleep(point: str) -> None:
        assert point == "champion:before_alias"
        monkeypatch.setattr(champions, "pause_at", lambda point: None)
        contested.let_another_take_over(theirs)

    monkeypatch.setattr(champions, "pause_at", sleep)
    with pytest.raises(LockedError, match="another job has taken it"):
        contested.registry.promote(2, 1)
    assert (contested.registry.champion, contested.registry.previous) == (stays, 1)
    assert [outcome.partition(":")[0] for outcome in contested.outcomes] == ["LockedError"]
    assert (REPLACES in contested.registry.describe(2).tags) == (stays == 2)


def test_case_52_an_alias_that_was_moved_too_late_by_one_who_died_is_repaired_by_the_next_promotion(
    contested: Contested, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep_and_die(point: str) -> None:
        monkeypatch.undo()
        contested.let_another_take_over(3)
        contested.registry._client.set_registered_model_alias(contested.registry.model, "champion", "2")
        raise KeyboardInterrupt

    monkeypatch.setattr(champions, "pause_at", sleep_and_die)
    with pytest.raises(KeyboardInterrupt):
        contested.registry.promote(2, 1)
    assert contested.registry.champion == 2, "the late write came last"
    contested.lock.release()
    files, root = contested.files, contested.root
    with Lock(files, root, MODELS, job="next", expiry_seconds=60.0), pytest.raises(ConcurrentPromotionError):
        contested.registry.promote(2, 1)
    assert contested.registry.champion == 3


def test_an_alias_that_a_person_moved_stays_where_it_is(contested: Contested) -> None:
    registry = contested.registry
    registry.promote(2, 1)
    registry._client.set_registered_model_alias(registry.model, "champion", "1")
    with pytest.raises(GateRefusedError):
        registry.promote(log_fit(registry, "four", parent=1, verdict=NOT_JUDGED), 1)
    assert registry.champion == 1
