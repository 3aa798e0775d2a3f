"""What tests of this folder share; each server is started when the first test asks for it, and stopped at the end."""

import os
from collections.abc import Iterator
from typing import Final

import pytest
from pyspark.sql import SparkSession
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from recsys.session import bundled_jars, start_session
from tests.cluster import kafka
from tests.cluster.hadoop import FOLDER, PORTS, PORTS_OF_ONE, Hadoop, missing
from tests.cluster.kafka import Kafka
from tests.cluster.undisturbed import World
from tests.sessions import TWO_TASKS

# Files whose tests go on from copies of one `world`; a process that runs another file has no need of it.
_OF_ONE_WORLD: Final = ("test_applications.py", "test_daemons.py", "test_erasure.py")


class _ByWorld(LoadScopeScheduling):
    """Of several processes, one runs all tests of a file, and of files with the same `world`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].rpartition("/")[2]
        return "of one world" if file in _OF_ONE_WORLD else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How tests are dealt out, whatever ``--dist`` says."""
    return _ByWorld(config, log)


@pytest.fixture(scope="session")
def hadoop() -> Iterator[Hadoop]:
    """HDFS and YARN, ready."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(lacking)
    cluster = cluster_of_this_process()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def cluster_of_this_process() -> Hadoop:
    """Tests in several processes at once have a cluster each."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return Hadoop()
    first = (1 + int(worker.removeprefix("gw"))) * PORTS_OF_ONE
    return Hadoop(FOLDER.with_name(f"{FOLDER.name}-{worker}"), PORTS[first : first + PORTS_OF_ONE])


@pytest.fixture(scope="session")
def world(spark: SparkSession, hadoop: Hadoop, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One world for all tests of faults; each works on a copy."""
    return World(spark, hadoop.fs, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The local session, with the Kafka connector where there is one: a JVM takes jars when it starts only."""
    jars = {jar.name: jar for jar in [*bundled_jars(), *([] if kafka.missing() else kafka.connector_jars())]}
    own = {"spark.jars": ",".join(map(str, jars.values())), "spark.driver.memory": "1g"}
    session = start_session("tests", conf={**TWO_TASKS, **own})
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka broker, ready."""
    lacking = kafka.missing()
    if lacking is not None:
        pytest.skip(lacking)
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
