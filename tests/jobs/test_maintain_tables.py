"""Maintenance takes away what nobody can reach, and consumers do not notice."""

import numpy as np
from pyspark.sql import SparkSession

from jobs import maintain_tables
from jobs.maintain_tables import MaintenanceReport
from jobs.runner import make_context
from recsys import columns as c
from recsys.config import Settings
from recsys.ranking.model import trend_model
from recsys.store.registry import ORPHAN, PASSED, VERDICT, Registry
from tests.publications import have_published, lists_of, read_lists
from tests.stores import place_empty_store


def test_old_generations_go_and_abandoned_models_are_tagged_while_the_lists_stay_as_they_are(
    spark: SparkSession, settings: Settings
) -> None:
    place_empty_store(settings.warehouse.root)
    two_kept = settings.warehouse.model_copy(update={"keep_generations": 2})
    context = make_context(spark, settings.model_copy(update={"warehouse": two_kept}))
    registry = Registry(settings.mlflow, context.tables.root)
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    for key in ("champion", "abandoned"):  # whoever logged the second one was killed before it did anything with it
        registry.log_fit(model.to_files(), fit_key=key, params={}, tags={VERDICT: PASSED})
    registry.promote(1, None)
    have_published(spark, context.tables, {1: 1, 2: 1, 3: 1})

    report = maintain_tables.run(context)

    assert (report.dropped_generations, report.orphans) == ([1], [2])
    assert read_lists(context.tables) == (3, lists_of(3))
    stored = context.tables.recommendations.read().select(c.GENERATION).distinct().collect()
    assert sorted(row[0] for row in stored) == [2, 3]
    assert ORPHAN in registry.describe(2).tags
    assert registry.champion == 1
    message = report.to_result().message
    assert message.startswith("dropped generations: [1]; joined ")
    assert message.endswith("; orphaned model versions tagged: [2]")

    assert maintain_tables.run(context) == MaintenanceReport([], 0, [])
    assert read_lists(context.tables) == (3, lists_of(3))
