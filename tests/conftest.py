"""One Spark session for all tests; a fresh warehouse for each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys.config import Settings
from recsys.session import start_session
from tests.sessions import TWO_TASKS

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The shared local session: two cores, two shuffle partitions, Delta on."""
    session = start_session("tests", conf=TWO_TASKS)
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose warehouse and landing folder are this test's own; two buckets."""
    return Settings.model_validate(
        {
            "warehouse": {"root": str(tmp_path / "warehouse"), "buckets": 2, "users_per_block": 64},
            "landing": {"path": str(tmp_path / "landing")},
        }
    )
