"""Take in rating files that have landed and messages of a topic: ratings, quarantine, items, ledger, user blocks.

Killed at any point and run again, it ends with the tables of an undisturbed run: see docs/architecture.md, Ingestion.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.runner import LOCK_PAUSE, JobContext, JobResult, RunRows, hold_locks, perform, run_job, stop_on_signals
from recsys.errors import BrokerError, DataRejectedError, LockedError, MessagesLostError, RecsysError, UsageError
from recsys.ingestion import ClosedBatch, Ingestion, Messages
from recsys.observation import BatchWatch
from recsys.ratings.kafka import OffsetRange
from recsys.ratings.ledger import Counts
from recsys.store.locks import TABLES
from recsys.streaming import TopicStream
from recsys.user_blocks import bring_blocks_up_to_date

NAME = "ingest_ratings"


@dataclass(frozen=True)
class IngestReport:
    """What one run took in; rows unless it says otherwise."""

    batches: int
    files: int
    counts: Counts
    new_users: int
    new_items: int
    seconds: float
    versions: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)  # what alerts have to know of the batches
    ranges: int | None = None  # of offsets; None where no topic is read
    notes: Sequence[str] = ()  # what the operator should know though all is well

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        counts = self.counts
        sources = f"{self.files:,} files" + ("" if self.ranges is None else f" and {self.ranges:,} ranges of offsets")
        return JobResult(
            f"ingested {sources}: {counts.landed:,} rows landed = {counts.accepted:,} accepted + "
            f"{counts.duplicate:,} duplicate + {counts.quarantined:,} quarantined; "
            f"{self.new_users:,} new users, {self.new_items:,} new items"
            + "".join(f"\nnote: {note}" for note in self.notes),
            counts={
                "batches": self.batches,
                "files": self.files,
                "landed": counts.landed,
                "accepted": counts.accepted,
                "duplicate": counts.duplicate,
                "quarantined": counts.quarantined,
                "new_users": self.new_users,
                "new_items": self.new_items,
                **({} if self.ranges is None else {"ranges": self.ranges}),
            },
            details={**self.details, **({"notes": list(self.notes)} if self.notes else {})},
            versions_out=self.versions,
        )


@dataclass
class Tally:
    """What has been taken in so far."""

    batches: int = 0
    files: int = 0
    ranges: int = 0
    counts: Counts = field(default_factory=Counts)
    new_users: int = 0
    new_items: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, closed: Iterable[ClosedBatch]) -> None:
        """Count batches in."""
        for batch in closed:
            ranges = len(batch.claim.ranges)
            self.batches += 1
            self.ranges += ranges
            self.files += len(batch.claim.entries) - ranges
            self.counts += batch.claim.counts
            self.new_items += batch.new_items

    def to_report(
        self, context: JobContext, notes: Sequence[str] = (), details: Mapping[str, Any] | None = None
    ) -> IngestReport:
        """The report of a run that ends now."""
        return IngestReport(
            batches=self.batches,
            files=self.files,
            counts=self.counts,
            new_users=self.new_users,
            new_items=self.new_items,
            seconds=time.monotonic() - self.started,
            versions=context.tables.versions(),
            details=details or {},
            ranges=None if context.settings.kafka.topic is None else self.ranges,
            notes=tuple(notes),
        )


def run(context: JobContext, *, new_generation: bool = False) -> IngestReport:
    """Bring ratings, items and user blocks up to date with what has landed. Call it under the tables lock.

    What one source refuses or cannot give does not keep the other's ratings from the blocks; the first such error is
    raised at the end.

    Args:
        context: of the job.
        new_generation: accept that messages are gone that were not read, or that the topic was made again.

    Raises:
        UsageError: the landing folder or the catalogue does not exist, or there is no such topic.
        DataRejectedError: too many rows of a batch are bad; nothing of it was accepted, batches before it were.
        SourceChangedError: a file vanished or changed while it was read; nothing of its batch was accepted.
        BrokerError: Kafka does not answer; batches before it did not were accepted.
        MessagesLostError: messages are gone that were not read; nothing of their batch was accepted.
    """
    tally = Tally()
    ingestion = Ingestion(context.spark, context.tables, context.settings)
    watch = BatchWatch(context)
    stream = _open_topic(context, new_generation=new_generation)
    tally.add(watch.look_at(ingestion.finish_interrupted(None if new_generation else _read_again_with(stream))))

    def take_in_files() -> None:
        for arrivals in ingestion.new_batches():
            tally.add(watch.look_at(ingestion.take_in(arrivals)))

    def take_in_messages() -> None:
        if stream is not None:
            stream.prepare(ingestion)
            stream.read(lambda messages: tally.add(watch.look_at(ingestion.take_in_messages(messages))))

    refusals: list[RecsysError] = []
    for take_in in (take_in_files, take_in_messages):
        try:
            take_in()
        except (DataRejectedError, BrokerError, MessagesLostError) as err:
            refusals.append(err)
    notes: list[str] = []
    tally.new_users = bring_blocks_up_to_date(
        context.tables, through_batch=ingestion.seen.last_accepted_batch, tell=notes.append
    )
    if refusals:
        raise refusals[0]
    return tally.to_report(context, [*([] if stream is None else stream.notes), *notes], watch.details())


def follow(context: JobContext, stop: threading.Event, *, new_generation: bool = False) -> IngestReport:
    """Keep reading the topic until somebody asks to stop: the batch under way is ended, and no other begun.

    Each batch holds the tables lock for itself, so that other jobs come in between, and leaves a `job_runs` row.

    Raises:
        UsageError: the settings name no topic, or there is none of that name.
        RecsysError: as `run` raises it; it ends the run.
    """
    tally = Tally()
    stream = _open_topic(context, new_generation=new_generation)
    if stream is None:
        raise UsageError("--continuous reads a topic: set kafka.bootstrap_servers and kafka.topic.")
    own_row = replace(context, runs=RunRows(around=context.runs))  # committed at once, not when the whole run ends

    def take_in(messages: Messages) -> None:
        with _wait_for_tables(context, stop):
            perform(own_row, NAME, lambda job: take_in_batch(job, messages).to_result())

    def take_in_batch(job: JobContext, messages: Messages) -> IngestReport:
        batch, watch = Tally(), BatchWatch(job)
        ingestion = Ingestion(job.spark, job.tables, job.settings)  # others may have written since the last one
        closed = [
            *watch.look_at(ingestion.finish_interrupted(stream.read_again)),
            *watch.look_at(ingestion.take_in_messages(messages)),
        ]
        notes: list[str] = []
        last = ingestion.seen.last_accepted_batch
        new_users = bring_blocks_up_to_date(job.tables, through_batch=last, tell=notes.append)
        for own in (batch, tally):
            own.add(closed)
            own.new_users += new_users
        return batch.to_report(job, notes, watch.details())

    with _wait_for_tables(context, stop):
        ingestion = Ingestion(context.spark, context.tables, context.settings)
        tally.add(ingestion.finish_interrupted(None if new_generation else stream.read_again))
        stream.prepare(ingestion)
    stream.read(take_in, stop=stop)
    return tally.to_report(context, stream.notes)


@contextmanager
def _wait_for_tables(context: JobContext, stop: threading.Event) -> Iterator[None]:
    """Hold the tables lock, however long another job has it; only a request to stop ends the waiting."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold_locks(context, (TABLES,), holder=NAME))
                break
            except LockedError:
                if stop.wait(LOCK_PAUSE):
                    raise
        yield


def _open_topic(context: JobContext, *, new_generation: bool) -> TopicStream | None:
    if context.settings.kafka.topic is None:
        return None
    return TopicStream(context.spark, context.tables, context.settings, new_generation=new_generation)


def _read_again_with(stream: TopicStream | None) -> Callable[[Sequence[OffsetRange]], Messages]:
    if stream is not None:
        return stream.read_again

    def refuse(ranges: Sequence[OffsetRange]) -> Messages:
        raise UsageError(
            f"a batch of topic '{ranges[0].topic}' was interrupted. Set kafka.bootstrap_servers and kafka.topic "
            "to end it, or run ingest_ratings --new-generation to give it up."
        )

    return refuse


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--continuous", action="store_true", help="keep reading the topic (kafka.topic), until SIGTERM; no files"
        )
        parser.add_argument(
            "--new-generation",
            action="store_true",
            help="accept that unread messages are gone or that the topic was made again, and go on with what is there",
        )

    def body(context: JobContext) -> JobResult:
        new_generation = context.args.new_generation
        if context.args.continuous:
            return follow(context, stop_on_signals(), new_generation=new_generation).to_result()
        with hold_locks(context, (TABLES,), holder=NAME):
            return run(context, new_generation=new_generation).to_result()

    return run_job(NAME, body, argv, description=__doc__ or "", arguments=add_options, makes_tables=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
