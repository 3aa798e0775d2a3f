from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import rollback
from jobs.runner import JobContext
from recsys.config import Settings
from recsys.errors import PublicationError, RegistryError
from recsys.ranking.model import trend_model
from recsys.store import generations
from recsys.store.files import Files
from recsys.store.generations import ROLLED_BACK, next_generation, read_history
from recsys.store.registry import PASSED, VERDICT, Registry
from recsys.store.tables import Tables
from tests.publications import have_published, lists_of, make_tables, read_lists
from tests.stores import place_empty_store

Promote = Callable[[], int]


@pytest.fixture
def tables(spark: SparkSession, settings: Settings) -> Tables:
    return make_tables(spark, settings)


@pytest.fixture
def context(spark: SparkSession, settings: Settings, tables: Tables) -> JobContext:
    place_empty_store(settings.warehouse.root)
    return JobContext(spark, settings, tables, Files(spark))


@pytest.fixture
def registry(context: JobContext) -> Registry:
    return Registry(context.settings.mlflow, context.tables.root)


@pytest.fixture
def promote(registry: Registry) -> Promote:
    """Log a model and make it champion."""

    def log_and_promote() -> int:
        model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
        key = f"fit-{len(registry.versions())}"
        version = registry.log_fit(model.to_files(), fit_key=key, params={}, tags={VERDICT: PASSED})
        registry.promote(version, registry.champion)
        return version

    return log_and_promote


def test_case_58_one_command_puts_lists_and_model_back_together(
    spark: SparkSession, tables: Tables, context: JobContext, registry: Registry, promote: Promote
) -> None:
    have_published(spark, tables, {1: promote(), 2: promote()})
    message = rollback.run(context, reason="bad lists").to_result().message
    assert message == "consumers read generation 1 (before: 2); champion is version 1 (before: 2)"
    assert (registry.champion, read_lists(tables)) == (1, (1, lists_of(1)))
    latest = read_history(tables)[-1]
    assert (latest.sequence, latest.state, latest.reason) == (3, ROLLED_BACK, "bad lists")
    with pytest.raises(PublicationError, match="generation 1 is the first"):
        rollback.run(context)
    assert next_generation(tables) == 3  # numbers are not used again


def test_a_rollback_killed_half_way_is_finished_by_the_same_command(
    spark: SparkSession,
    tables: Tables,
    context: JobContext,
    registry: Registry,
    promote: Promote,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have_published(spark, tables, {1: promote(), 2: promote(), 3: promote()})

    class Killed(BaseException):
        """Stands for SIGKILL: no handler of ours catches it."""

    def kill(point: str) -> None:
        raise Killed(point)

    monkeypatch.setattr(generations, "pause_at", kill)
    with pytest.raises(Killed, match="rollback:after_lists"):
        rollback.run(context)
    assert (registry.champion, read_lists(tables)) == (3, (2, lists_of(2)))
    monkeypatch.undo()
    rollback.run(context)
    assert (registry.champion, read_lists(tables)) == (2, (2, lists_of(2)))


def test_a_champion_that_never_published_is_put_back_alone(
    spark: SparkSession, tables: Tables, context: JobContext, registry: Registry, promote: Promote
) -> None:
    have_published(spark, tables, {1: promote()})
    promote()
    rollback.run(context)
    assert (registry.champion, len(read_history(tables))) == (1, 1)


def test_case_59_a_rollback_to_a_deleted_version_changes_nothing(
    spark: SparkSession, tables: Tables, context: JobContext, registry: Registry, promote: Promote
) -> None:
    have_published(spark, tables, {1: promote(), 2: promote()})
    registry._client.delete_model_version("recsys", "1")
    with pytest.raises(RegistryError, match="no version 1: it was deleted"):
        rollback.run(context)
    assert (registry.champion, read_lists(tables)) == (2, (2, lists_of(2)))


def test_a_rollback_to_lists_that_are_gone_or_never_were_changes_nothing(
    spark: SparkSession, tables: Tables, context: JobContext, registry: Registry, promote: Promote
) -> None:
    with pytest.raises(PublicationError, match="no generation has been published yet"):
        rollback.run(context)
    have_published(spark, tables, {1: promote(), 2: promote()})
    tables.recommendations.delete("generation = 1")
    with pytest.raises(PublicationError, match=r"generation 1 has lists for 0 of 2 users.* Maintenance has dropped it"):
        rollback.run(context)
    with pytest.raises(PublicationError, match="generation 7 was never published"):
        rollback.run(context, to=7)
    assert (registry.champion, read_lists(tables)) == (2, (2, lists_of(2)))
