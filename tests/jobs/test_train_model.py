from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import ingest_ratings, train_model
from jobs.runner import make_context
from recsys.als.plan import Resources
from recsys.errors import ConfigError
from tests.jobs.fingerprint import hash_tables
from tests.jobs.warehouses import arguments, land_csv, make_settings


def test_a_plan_says_what_a_fit_would_need_and_changes_nothing(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    landing, root = tmp_path / "landing", tmp_path / "warehouse"
    settings = make_settings(root, landing)
    context = make_context(spark, settings)
    land_csv(landing, "a.csv", "ann,m1,5,1700000000", "ann,m2,3,1700000001", "bob,m1,4,1700000002")
    ingest_ratings.run(context)
    before = hash_tables(spark, str(root))
    assert train_model.main([*arguments(root, landing, {}), "--plan"]) == 0
    page = capsys.readouterr().out
    assert "3 of 2 users and 2 items" in page
    assert "--conf spark.driver.memory=" in page
    assert hash_tables(spark, str(root)) == before
    assert context.tables.job_runs.read().count() == 0  # a plan is no run

    # The same arithmetic guards the job itself, before any table is read.
    megabyte = 1024**2
    small = Resources(1, 2, 1024 * megabyte, 1024 * megabyte, 10 * megabyte, 10 * megabyte, local=True)
    monkeypatch.setattr(train_model, "find_resources", lambda spark: small)
    with pytest.raises(ConfigError, match=r"this fit does not fit: machine memory: .* needed, 10 MiB there"):
        train_model.run(context)
