"""One cluster for all tests of this folder; it is started when the first of them asks, and stopped at the end."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from tests.cluster.hadoop import Hadoop, missing
from tests.cluster.undisturbed import World


@pytest.fixture(scope="session")
def hadoop() -> Iterator[Hadoop]:
    """HDFS and YARN, ready."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(lacking)
    cluster = Hadoop()
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def world(spark: SparkSession, hadoop: Hadoop, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One world for all tests of faults; each works on a copy."""
    return World(spark, hadoop.fs, tmp_path_factory.mktemp("world"))
