"""A Kafka topic, by the client and the Spark source that Spark's Kafka connector brings.

Nothing is ever skipped: ``failOnDataLoss`` stays on, and messages of transactions that were not committed are not read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from py4j.java_gateway import JavaPackage
from py4j.protocol import Py4JJavaError
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession

from recsys import columns as c
from recsys.errors import BrokerError, ConfigError, MessagesLostError, UsageError
from recsys.params import require_private
from recsys.store.params import KafkaParams

# What brokers, client and connector say; the classes differ with where it was noticed.
_LOST = re.compile(
    r"KAFKA_DATA_LOSS|OffsetOutOfRange|may have been (lost|missed)|_WITH_TRIGGER_AVAILABLENOW|PREFETCHED"
)
_UNKNOWN = re.compile(r"UnknownTopicOrPartition|UnknownTopicId")
_REFUSED = re.compile(r"(Topic|Cluster|Group)AuthorizationException|(Sasl|Ssl)AuthenticationException")
_SILENT = re.compile(
    r"TimeoutException|Timed out|DisconnectException|No resolvable bootstrap|Failed to create new Kafka"
)

_NEVER_MS: Final = 100 * 365 * 86_400_000  # whoever keeps messages for a hundred years keeps them for good
_DROPPED_AFTER_MS: Final = 600_000  # a broker looks every five minutes, and then takes the file away after one


@dataclass(frozen=True)
class TopicState:
    """A topic as its brokers describe it; offsets by partition.

    Attributes:
        topic_id: what tells it from a topic that had its name before.
        first: the oldest offset that is still there.
        end: the offset after the last message of a transaction that was committed.
    """

    topic_id: str
    first: dict[int, int]
    end: dict[int, int]


class Topic:
    """One topic."""

    def __init__(self, spark: SparkSession, params: KafkaParams) -> None:
        """Read what the client needs; nobody is asked yet.

        Raises:
            ConfigError: the connector is not there; the client's properties cannot be read, or others may read them.
        """
        assert params.topic is not None  # noqa: S101
        self._spark = spark
        jvm: Any = spark._jvm  # the classic session has one
        self._jvm = jvm
        if isinstance(jvm.org.apache.kafka.clients.admin.Admin, JavaPackage):
            raise ConfigError(
                f"topic '{params.topic}': Spark's Kafka connector is not there. Run 'make setup' again where Maven "
                "Central can be reached, or give it to Spark by "
                "spark.jars.packages=org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0."
            )
        self.name = params.topic
        self._params = params
        timeout_ms = int(params.timeout_seconds * 1000)
        self._client = {
            **self._read_properties(params.client_properties),
            "bootstrap.servers": str(params.bootstrap_servers),
            "isolation.level": "read_committed",
            "request.timeout.ms": str(min(30_000, timeout_ms)),
            "default.api.timeout.ms": str(timeout_ms),
        }

    def describe(self) -> TopicState:
        """Ask the brokers.

        Raises:
            BrokerError: none answered.
            UsageError: there is no such topic.
        """
        kafka = self._jvm.org.apache.kafka
        with self._admin() as admin:
            topics = admin.describeTopics(self._jvm.java.util.List.of(self.name)).allTopicNames().get()
            found = topics.get(self.name)
            partitions = [int(own.partition()) for own in found.partitions()]
            committed = kafka.clients.admin.ListOffsetsOptions(kafka.common.IsolationLevel.READ_COMMITTED)

            def ask(spec: Any) -> dict[int, int]:
                asked = self._jvm.java.util.HashMap()
                for partition in partitions:
                    asked.put(kafka.common.TopicPartition(self.name, partition), spec)
                answers = admin.listOffsets(asked, committed)
                return {
                    partition: int(
                        answers.partitionResult(kafka.common.TopicPartition(self.name, partition)).get().offset()
                    )
                    for partition in partitions
                }

            spec = kafka.clients.admin.OffsetSpec
            return TopicState(str(found.topicId().toString()), ask(spec.earliest()), ask(spec.latest()))

    def read_topic_id(self) -> str:
        """The id alone."""
        with self._admin() as admin:
            topics = admin.describeTopics(self._jvm.java.util.List.of(self.name)).allTopicNames().get()
            return str(topics.get(self.name).topicId().toString())

    def kept_ms(self) -> int | None:
        """How long a message can stay after it was sent; None when nothing takes it away.

        A broker drops whole segments, when the newest message in them is old enough by its own time, which a producer
        gives. Where the topic does not bound how far ahead that may be, a producer's wrong clock makes it longer.

        Raises:
            BrokerError: none answered, or they do not tell.
            UsageError: there is no such topic, or the client may not ask.
        """
        config = self._jvm.org.apache.kafka.common.config
        topic = config.ConfigResource(config.ConfigResource.Type.TOPIC, self.name)
        with self._admin() as admin:
            found = admin.describeConfigs(self._jvm.java.util.List.of(topic)).all().get().get(topic)
            settings = {str(entry.name()): str(entry.value()) for entry in found.entries().toArray()}
        try:
            policy, kept_ms = settings["cleanup.policy"], int(settings["retention.ms"])
            longest_ms = kept_ms + int(settings["segment.ms"]) + _DROPPED_AFTER_MS
            ahead_ms = int(settings.get("message.timestamp.after.max.ms", _NEVER_MS))
        except (KeyError, ValueError) as err:
            raise BrokerError(
                f"topic '{self.name}': its brokers do not tell how long it keeps messages ({err})."
            ) from err
        if settings.get("message.timestamp.type") == "CreateTime" and ahead_ms < _NEVER_MS:
            longest_ms += ahead_ms
        return longest_ms if "delete" in policy.split(",") and kept_ms >= 0 and longest_ms < _NEVER_MS else None

    def read(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> DataFrame:
        """The messages of some partitions from one offset up to another, which must all be there when they are read."""
        reader = self._spark.read.format("kafka").options(**self._options())
        reader = reader.option("assign", json.dumps({self.name: sorted(starts)}))
        reader = reader.option("startingOffsets", self._to_json(starts)).option("endingOffsets", self._to_json(ends))
        return reader.load().select(c.PARTITION, c.OFFSET, "key", "value")

    def stream(self, starts: Mapping[int, int]) -> DataFrame:
        """All messages from now on; ``starts`` are of all partitions, and count where the checkpoint knows nothing."""
        reader = self._spark.readStream.format("kafka").options(**self._options()).option("subscribe", self.name)
        reader = reader.option("startingOffsets", self._to_json(starts))
        reader = reader.option("maxOffsetsPerTrigger", str(self._params.max_offsets_per_batch))
        return reader.load().select(c.PARTITION, c.OFFSET, "key", "value")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Errors of Kafka as ours, whoever noticed them: the client, a task or the stream.

        Raises:
            BrokerError: no broker answered in time.
            MessagesLostError: messages are gone.
            UsageError: there is no such topic, or the client may not do it.
        """
        try:
            yield
        except (Py4JJavaError, StreamingQueryException) as err:
            servers, text = self._params.bootstrap_servers, str(err)
            if _LOST.search(text):
                raise MessagesLostError(
                    f"topic '{self.name}': messages were deleted while they were read. Nothing of their batch was "
                    "accepted. Run the job again: it says which offsets are gone."
                ) from err
            if _UNKNOWN.search(text):
                raise UsageError(
                    f"there is no topic '{self.name}' at {servers}. Create it, or correct kafka.topic; "
                    "the client's user may also not be allowed to see it."
                ) from err
            refused = _REFUSED.search(text)
            if refused is not None:
                raise UsageError(
                    f"topic '{self.name}': Kafka at {servers} refuses this client ({refused[0]}). Its user needs "
                    "Describe, DescribeConfigs and Read on the topic; who it is, kafka.client_properties says."
                ) from err
            if _SILENT.search(text):
                raise BrokerError(
                    f"topic '{self.name}': Kafka at {servers} did not answer within "
                    f"{self._params.timeout_seconds:g} s. Nothing of the batch under way was accepted, and what was "
                    "accepted before stays. Look after the brokers (kafka.bootstrap_servers), then run the job again: "
                    "it goes on where it stopped."
                ) from err
            raise

    @contextmanager
    def _admin(self) -> Iterator[Any]:
        properties = self._jvm.java.util.Properties()
        for key, value in self._client.items():
            properties.setProperty(key, value)
        with self.translated_errors():
            admin = self._jvm.org.apache.kafka.clients.admin.Admin.create(properties)
            try:
                yield admin
            finally:
                admin.close(self._jvm.java.time.Duration.ZERO)

    def _options(self) -> dict[str, str]:
        timeout_ms = str(int(self._params.timeout_seconds * 1000))
        own = {"failOnDataLoss": "true", "kafkaConsumer.pollTimeoutMs": timeout_ms}
        return own | {f"kafka.{key}": value for key, value in self._client.items()}

    def _to_json(self, offsets: Mapping[int, int]) -> str:
        return json.dumps({self.name: {str(partition): offset for partition, offset in sorted(offsets.items())}})

    def _read_properties(self, path: str | None) -> dict[str, str]:
        if path is None:
            return {}
        try:
            require_private(Path(path))
            text = Path(path).read_text(encoding="utf-8")
        except OSError as err:
            raise ConfigError(f"kafka.client_properties '{path}' cannot be read ({err.strerror}). Correct it.") from err
        properties = self._jvm.java.util.Properties()
        properties.load(self._jvm.java.io.StringReader(text))
        return {str(key): str(properties.getProperty(key)) for key in properties.stringPropertyNames()}
