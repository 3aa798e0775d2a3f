"""One cluster for all tests of this folder; it is started when the first of them asks, and stopped at the end."""

from collections.abc import Iterator

import pytest

from tests.cluster.hadoop import Hadoop, missing


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
