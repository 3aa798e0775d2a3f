"""From a Kafka topic to batches of messages, by Structured Streaming; the ledger says what was read.

docs/architecture.md, Kafka, says why. The caller holds the tables lock in `TopicStream.prepare` and while a batch is
handled.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from recsys.config import Settings
from recsys.errors import LockedError, MessagesLostError, UsageError
from recsys.events import log_event
from recsys.ingestion import Ingestion, Messages
from recsys.ratings.kafka import OffsetRange, describe_ranges
from recsys.store.kafka import Topic, TopicState
from recsys.store.pause import pause_at
from recsys.store.streams import Checkpoints
from recsys.store.tables import Tables

log = logging.getLogger(__name__)

_POLL = 1  # seconds between two looks at whether a continuous stream shall stop
_ACCEPT = "To accept the loss and go on with what is there, run ingest_ratings --new-generation once"


class _StoppedError(Exception):
    """Tells Spark that a batch was not handled."""


class TopicStream:
    """What one run reads of the topic of the settings.

    Attributes:
        notes: what the operator should know, though the run goes on.
    """

    def __init__(
        self, spark: SparkSession, tables: Tables, settings: Settings, *, new_generation: bool = False
    ) -> None:
        """Nobody is asked yet.

        Args:
            spark: the session.
            tables: of the warehouse.
            settings: with a topic.
            new_generation: accept that messages are gone or that the topic was made again; go on with what is there.

        Raises:
            ConfigError: the connector is not there, or the client's properties cannot be read.
        """
        self._topic = Topic(spark, settings.kafka)
        self._tables = tables
        self._settings = settings.kafka
        self._new_generation = new_generation
        self._topic_id = ""
        self._starts: dict[int, int] = {}
        self._failure: BaseException | None = None
        self._handling = threading.Lock()
        self.notes: list[str] = []

    def prepare(self, ingestion: Ingestion) -> None:
        """Find out where to go on, and put what will never be read into the ledger.

        Raises:
            BrokerError: Kafka does not answer.
            MessagesLostError: messages are gone that were not read, or the topic was made again.
            UsageError: there is no such topic.
        """
        state = self._topic.describe()
        skipped = self._find_skipped(ingestion, state)
        if skipped:
            ingestion.skip(skipped)
            self.notes.append(f"left out for good: {describe_ranges(skipped)}")
        known = ingestion.seen.next_offsets(self._topic.name, state.topic_id)
        self._topic_id, self._starts = state.topic_id, {partition: known.get(partition, 0) for partition in state.first}
        self._checkpoints = Checkpoints(self._tables.files, self._tables.root, self._topic.name, state.topic_id)
        # What is left out moves the ledger's end, and no checkpoint can be there.
        self._checkpoint = self._checkpoints.begin() if skipped else self._choose_checkpoint(is_first=not known)

    def read(self, handle: Callable[[Messages], None], *, stop: threading.Event | None = None) -> None:
        """Read what is there now, in batches; with ``stop`` also what comes, until that is set.

        Raises:
            BrokerError: Kafka does not answer.
            MessagesLostError: messages are gone that were not read.
            ConservationError: the stream would leave messages out.
            Exception: what ``handle`` raises ends the stream.
        """
        writer = self._topic.stream(self._starts).writeStream.queryName(f"ratings from {self._topic.name}")
        writer = writer.option("checkpointLocation", self._checkpoint)
        writer = writer.foreachBatch(lambda rows, batch: self._handle(rows, batch, handle, stop))
        if stop is None:
            writer = writer.trigger(availableNow=True)
        else:
            writer = writer.trigger(processingTime=f"{round(self._settings.batch_seconds * 1000)} milliseconds")
        with self._topic.translated_errors():
            query = writer.start()
            try:
                self._wait_for(query, stop)
            except StreamingQueryException:
                if self._failure is None:
                    raise
            finally:
                query.stop()
            if self._failure is not None:
                raise self._failure

    def read_again(self, ranges: Sequence[OffsetRange]) -> Messages:
        """The messages of a batch that was interrupted.

        Raises:
            BrokerError: Kafka does not answer.
            MessagesLostError: the topic was made again, or the messages are gone.
            UsageError: they are of another topic than that of the settings.
        """
        if ranges[0].topic != self._topic.name:
            raise UsageError(
                f"a batch of topic '{ranges[0].topic}' was interrupted, but kafka.topic is '{self._topic.name}'. "
                "Run ingest_ratings once with the old settings, or with --new-generation to give that batch up."
            )
        state = self._topic.describe()
        if state.topic_id != ranges[0].topic_id:
            raise MessagesLostError(self._say_made_again(ranges[0].topic_id, state.topic_id))
        gone = [own for own in ranges if state.first.get(own.partition, own.end) > own.start]
        if gone:
            raise MessagesLostError(self._say_lost(gone))
        self._topic_id = state.topic_id
        starts, ends = {own.partition: own.start for own in ranges}, {own.partition: own.end for own in ranges}
        return Messages(self._topic.read(starts, ends), ranges, self._require_same_topic)

    def _find_skipped(self, ingestion: Ingestion, state: TopicState) -> list[OffsetRange]:
        """The ranges that this run leaves out for good: before the first that is read ever, or lost and given up."""
        name, known_id = self._topic.name, ingestion.seen.topic_id(self._topic.name)
        known = ingestion.seen.next_offsets(name, state.topic_id)

        def cut(ends: dict[int, int]) -> list[OffsetRange]:
            ranges = (OffsetRange(name, state.topic_id, own, known.get(own, 0), ends[own]) for own in sorted(ends))
            return [own for own in ranges if own.start < own.end]

        if known_id is None:
            return cut(state.end if self._settings.starting_offsets == "latest" else state.first)
        if known_id != state.topic_id:
            if not self._new_generation:
                raise MessagesLostError(self._say_made_again(known_id, state.topic_id))
            log_event(log, "topic_made_again", level=logging.WARNING, topic=name, topic_id=state.topic_id)
            self.notes.append(f"topic '{name}' was made again and is read from its beginning")
            return cut(state.first)
        short = [own for own, end in state.end.items() if known.get(own, 0) > end]
        if short:
            raise MessagesLostError(
                f"topic '{name}', partition {short[0]}: it ends before offset {state.end[short[0]]:,}, but was read up "
                f"to {known[short[0]]:,}. Its brokers have lost messages, and new ones would take the offsets of those "
                "that were read. Nothing was taken in. Make the topic again, have its producers send what is missing, "
                "and run ingest_ratings --new-generation."
            )
        lost = cut(state.first)
        if lost and not self._new_generation:
            raise MessagesLostError(self._say_lost(lost))
        return lost

    def _choose_checkpoint(self, *, is_first: bool) -> str:
        """The last checkpoint where it and the ledger agree, else a new one that begins where the ledger ends."""
        newest = self._checkpoints.newest()
        if newest is None:
            if not is_first:
                self._note("checkpoint_lost", "the stream's checkpoint is not there")
            return self._checkpoints.begin()
        try:
            progress = self._checkpoints.progress(newest)
        except ValueError as err:
            self._note("checkpoint_broken", f"the stream's checkpoint cannot be read: {err}")
            return self._checkpoints.begin()
        apart = [own for own, start in sorted(self._starts.items()) if not progress.holds(own, start)]
        if apart:
            self._note("checkpoint_disagrees", f"the stream's checkpoint {newest} is not where the ledger ends")
            return self._checkpoints.begin()
        return newest

    def _note(self, event: str, what: str) -> None:
        log_event(log, event, level=logging.WARNING, topic=self._topic.name, starts=self._starts)
        self.notes.append(f"{what}; a new one begins where the ledger ends, so nothing is left out or read twice")

    def _handle(
        self, rows: DataFrame, batch: int, handle: Callable[[Messages], None], stop: threading.Event | None
    ) -> None:
        with self._handling:
            if stop is not None and stop.is_set():
                raise _StoppedError
            try:
                pause_at("kafka:batch_begins")
                handle(Messages(rows, self._ranges_of(batch), self._require_same_topic))
            except BaseException as err:
                if stop is None or not stop.is_set() or not isinstance(err, LockedError):
                    self._failure = err  # Spark's error has only its text
                raise

    def _wait_for(self, query: StreamingQuery, stop: threading.Event | None) -> None:
        if stop is None:
            query.awaitTermination()
            return
        while not stop.is_set() and not query.awaitTermination(_POLL):
            pass
        with self._handling:  # the batch under way ends in order, and no other begins
            pass

    def _ranges_of(self, batch: int) -> list[OffsetRange]:
        """What Spark has in a batch, from the log that it writes before."""
        starts = self._checkpoints.end_of(self._checkpoint, batch - 1)
        ends = self._checkpoints.end_of(self._checkpoint, batch)
        return [
            OffsetRange(self._topic.name, self._topic_id, own, starts.get(own, 0), ends[own])
            for own in sorted(ends)
            if starts.get(own, 0) < ends[own]
        ]

    def _require_same_topic(self) -> None:
        found = self._topic.read_topic_id()
        if found != self._topic_id:
            raise MessagesLostError(self._say_made_again(self._topic_id, found))

    def _say_made_again(self, old: str, new: str) -> str:
        return (
            f"topic '{self._topic.name}' is not the one that was read: it was deleted and made again (id {old}, now "
            f"{new}), and its offsets begin anew. What of the old one was not read is gone. Nothing was taken in of "
            f"the new one. {_ACCEPT}."
        )

    def _say_lost(self, lost: Sequence[OffsetRange]) -> str:
        return (
            f"topic '{self._topic.name}': messages were deleted before they were read: {describe_ranges(lost)}. "
            "Nothing was taken in. Have their producers send them again, and let the topic keep messages longer "
            f"(retention.ms, retention.bytes). {_ACCEPT}; the ledger keeps the offsets as skipped."
        )
