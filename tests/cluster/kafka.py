"""A real Kafka broker for tests: one node on loopback, from Maven artifacts, and Spark's connector to it.

Everything lies in one folder: configuration, data and log.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from recsys.session import ROOT
from tests.cluster.hadoop import PORTS, ClusterError, free_ports, one_at_a_time

_BUILD: Final = ROOT / "build" / "kafka"
_LIBRARY: Final = _BUILD / "broker"
_CONNECTOR: Final = _BUILD / "connector"
_HERE: Final = Path(__file__).parent
_TOKENS: Final = "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.2.0"
_READY_SECONDS: Final = 60.0
_PORTS: Final = range(PORTS.stop, PORTS.stop + 2_000)
_LOG4J: Final = """<Configuration status="ERROR">
<Appenders><Console name="out"><PatternLayout pattern="%d %p %c{1}: %m%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def missing() -> str | None:
    """What this machine lacks for a broker, and how to get it; None when it lacks nothing."""
    if shutil.which("java") is None:
        return "'java' was not found: install Java 17 to run the Kafka tests"
    try:
        fetch_jars()
    except ClusterError as err:
        return str(err)
    return None


def fetch_jars() -> None:
    """Download broker and connector once (55 MB); Maven keeps a repository of its own, which Spark's Ivy never sees.

    Raises:
        ClusterError: Maven is not there, or could not fetch them.
    """
    with one_at_a_time(_BUILD):
        if (_BUILD / "complete").exists():
            return
        if shutil.which("mvn") is None:
            raise ClusterError("'mvn' was not found: install Maven 3 to run the Kafka tests")
        told = "fetching Kafka's broker and Spark's connector (55 MB, under a minute, once) ..."
        print(told, file=sys.stderr, flush=True)
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        _maven("-f", str(_HERE / "kafka-broker.pom.xml"), *copy, f"-DoutputDirectory={_LIBRARY}")
        _maven("-f", str(_HERE / "kafka-connector.pom.xml"), *copy, f"-DoutputDirectory={_CONNECTOR}")
        # By itself: the project that it is a part of need not be there.
        _maven("dependency:copy", f"-Dartifact={_TOKENS}", f"-DoutputDirectory={_CONNECTOR}")
        (_BUILD / "complete").touch()


def connector_jars() -> list[Path]:
    """Spark's connector with what Spark lacks for it."""
    return sorted(_CONNECTOR.glob("*.jar"))


def _maven(*words: str) -> None:
    command = ["mvn", "-q", "-B", f"-Dmaven.repo.local={_BUILD / 'repository'}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_BUILD.parent)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-500:]
        raise ClusterError(f"Maven could not fetch Kafka's broker or Spark's connector to it: {said}")


class Kafka:
    """A broker in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "broker.log"
        self.port, self._controller = free_ports(2, _PORTS)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, with the data of the last time where there are any, and wait until it answers.

        Raises:
            ClusterError: it ended, or did not answer within a minute; the end of its log is in the message.
        """
        if not (self.folder / "server.properties").exists():
            self._format()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.folder / "server.properties"), heap=384),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if not _wait_until(lambda: self._answers() or not self._runs(), _READY_SECONDS) or not self._runs():
            end = " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])
            raise ClusterError(f"the broker does not answer; {self.log}: {end}")

    def stop(self) -> None:
        """Stop it; data and log stay."""
        if self._process is not None and self._runs():
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, as when its machine dies."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Make a topic, and wait until it can be written to."""
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        _results(self.admin.create_topics([topic]))
        assert _wait_until(lambda: name in self.admin.list_topics(timeout=10).topics, 20)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and wait until it is gone."""
        _results(self.admin.delete_topics([name]))
        assert _wait_until(lambda: name not in self.admin.list_topics(timeout=10).topics, 20)

    def add_partitions(self, name: str, total: int) -> None:
        """Give a topic more partitions, and wait until all can be written to."""
        _results(self.admin.create_partitions([NewPartitions(name, total)]))
        assert _wait_until(lambda: len(self.admin.list_topics(name, timeout=10).topics[name].partitions) == total, 20)

    def delete_before(self, name: str, partition: int, offset: int) -> None:
        """Delete messages as retention does: all before an offset."""
        _results(self.admin.delete_records([TopicPartition(name, partition, offset)]))

    def forbid(self, topic: str, *operations: AclOperation) -> None:
        """Let everybody do everything with a topic but this."""

        def rule(operation: AclOperation, says: AclPermissionType) -> AclBinding:
            literal = ResourcePatternType.LITERAL
            return AclBinding(ResourceType.TOPIC, topic, literal, "User:ANONYMOUS", "*", operation, says)

        rules = [rule(AclOperation.ALL, AclPermissionType.ALLOW)]
        _results(self.admin.create_acls([*rules, *(rule(each, AclPermissionType.DENY) for each in operations)]))

    def send(
        self, topic: str, values: Iterable[str | bytes | None], partition: int = 0, *, key: bytes | None = None
    ) -> None:
        """Send messages to one partition, in order, and wait until all are kept."""
        producer = Producer({"bootstrap.servers": self.servers, "log_level": 0, "message.max.bytes": 4_000_000})
        send_all(producer, topic, values, partition, key=key)

    @cached_property
    def admin(self) -> AdminClient:
        """A client for all else."""
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        try:
            return len(self.admin.list_topics(timeout=1).brokers) == 1
        except KafkaException:
            return False

    def _format(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.xml").write_text(_LOG4J)
        properties = self._properties()
        (self.folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        tool = "kafka.tools.StorageTool"
        [*_, cluster] = self._run(tool, "random-uuid").split()
        self._run(tool, "format", "--standalone", "-t", cluster, "-c", str(self.folder / "server.properties"))

    def _run(self, main: str, *words: str) -> str:
        done = subprocess.run(self._java(main, *words, heap=128), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{main} {' '.join(words)}: {(done.stdout + done.stderr).strip()[-500:]}")
        return done.stdout

    def _java(self, main: str, *words: str, heap: int) -> list[str]:
        options = [f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        return [shutil.which("java") or "java", *options, "-cp", f"{self.folder}:{_LIBRARY}/*", main, *words]

    def _properties(self) -> dict[str, object]:
        listeners = f"PLAINTEXT://{self.servers},CONTROLLER://127.0.0.1:{self._controller}"
        few = {
            f"{topic}.num.partitions": 4
            for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        }
        one = {
            f"{topic}.replication.factor": 1
            for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        }
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller}",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self.folder / "data",
            **few,
            **one,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            "message.max.bytes": 4_000_000,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }


def send_all(
    producer: Producer,
    topic: str,
    values: Iterable[str | bytes | None],
    partition: int = 0,
    *,
    key: bytes | None = None,
) -> None:
    """Send messages by a producer of one's own, and wait until all are kept."""
    failed: list[object] = []
    for value in values:
        producer.produce(
            topic, value, key=key, partition=partition, on_delivery=lambda err, _: failed.append(err) if err else None
        )
    assert producer.flush(30) == 0
    assert failed == []


def rating(user: str, item: str, value: float, time: int, **more: object) -> str:
    """A message."""
    return json.dumps({"user_id": user, "item_id": item, "value": value, "event_time": time, **more})


def _results(futures: "dict[object, object]") -> None:
    for future in futures.values():
        future.result(30)  # type: ignore[attr-defined]


def _wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.2)
    return False
