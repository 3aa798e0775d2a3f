"""What others learn of a run: alerts, figures, run events. Nothing here ever changes how a job ends."""

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any, Final, Protocol

from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.alerts.book import AlertBook, FileStore, MemoryStore
from recsys.alerts.channels import Channel, Message, read_channels, send
from recsys.alerts.faults import (
    INGEST,
    BatchFacts,
    Judgement,
    Kind,
    Promise,
    RunEnd,
    judge_batches,
    judge_freshness,
    judge_lag,
    judge_run,
)
from recsys.alerts.params import AlertsParams
from recsys.batches import read_ledger
from recsys.config import Settings
from recsys.errors import RecsysError
from recsys.events import log_event
from recsys.failures import describe_failure
from recsys.ingestion import ClosedBatch
from recsys.landed_files import LandedFiles
from recsys.params import without_password
from recsys.ratings.contract import RatingsContract, load_contract
from recsys.ratings.landing import list_arrivals
from recsys.ratings.ledger import QUARANTINED, REPLAYED
from recsys.session import ROOT
from recsys.store.files import Files
from recsys.store.tables import Tables
from recsys.telemetry.lineage import Places, RunState, State, emit, make_event
from recsys.telemetry.metrics import write_alerts, write_run

log = logging.getLogger(__name__)

FOLDER: Final = "alerts"  # below the warehouse
BATCHES: Final = "batches"  # key of an ingestion's details: `BatchFacts` of the batches it closed
_KEPT_BATCHES: Final = 100
_SEEN: Final = "_recsys_seen"  # attribute of an error that an inner job has reported

_memory = MemoryStore()  # alerts of this process where the warehouse is not there, or does not answer


class Runs(Protocol):
    """What runs now."""

    @property
    def running(self) -> list[tuple[str, str]]: ...  # noqa: D102


class Context(Protocol):
    """What a job works with, as far as it matters here."""

    @property
    def spark(self) -> SparkSession: ...  # noqa: D102
    @property
    def settings(self) -> Settings: ...  # noqa: D102
    @property
    def tables(self) -> Tables: ...  # noqa: D102
    @property
    def files(self) -> Files: ...  # noqa: D102
    @property
    def runs(self) -> Runs: ...  # noqa: D102


def observe_start(context: Context, job: str, run_id: str, parent: tuple[str, str] | None) -> None:
    """Announce a run to the consumers."""
    with _harmless("run_start_not_announced", job):
        _emit(context.settings, context.tables, RunState(job, run_id, "START", time.time(), parent))


def observe_end(
    context: Context, row: Mapping[str, Any], parent: tuple[str, str] | None, error: BaseException | None
) -> None:
    """Tell whoever should know how a run ended.

    Args:
        context: of the run.
        row: its row of `job_runs`.
        parent: job and run that it was a part of.
        error: that it ended with; one that an inner job has been reported for is reported once.
    """
    job: str = row[c.JOB]
    run = RunEnd(
        job, row[c.RUN_ID], row[c.OUTCOME], row[c.EXIT_CODE], row[c.MESSAGE], json.loads(row[c.DETAILS] or "{}")
    )
    with _harmless("run_end_not_announced", job):
        state: State = "COMPLETE" if run.exit_code == 0 else "FAIL"
        ended = row[c.STARTED_AT].timestamp() + row[c.SECONDS]
        versions = dict(row[c.VERSIONS_IN]), dict(row[c.VERSIONS_OUT])
        _emit(
            context.settings,
            context.tables,
            RunState(job, run.run_id, state, ended, parent, run.message, dict(row[c.COUNTS]), *versions),
        )
    with _harmless("alerts_not_judged", job):
        judgement = judge_run(run)
        if _is_reported(error):
            judgement = Judgement(checked=judgement.checked)
        if job == INGEST:
            with _harmless("sources_not_judged", job):
                judgement += _judge_sources(context, run)
        _tell(context.settings, judgement, run, context.files, context.tables.root)
    _mark(error)
    _write_run_metrics(
        context.settings,
        context.files,
        run,
        started=row[c.STARTED_AT].timestamp(),
        seconds=row[c.SECONDS],
        counts=row[c.COUNTS],
    )


class BatchWatch:
    """Looks at the batches of one ingestion as they close, and tells of faults at once: a run may go on for hours."""

    def __init__(self, context: Context) -> None:
        """Nothing is known yet.

        Args:
            context: of the run, inside `perform`.
        """
        self._context = context
        self._facts: list[BatchFacts] = []

    @cached_property
    def _promise(self) -> Promise:
        return read_promise(self._context.settings)

    def look_at(self, closed: Sequence[ClosedBatch]) -> Sequence[ClosedBatch]:
        """Look at batches, and return them as they are."""
        context = self._context
        for batch in closed:
            with _harmless("batch_not_judged", INGEST):
                facts = describe_batch(context.tables, batch)
                self._facts.append(facts)
                faults = judge_batches([facts], self._promise, context.settings.alerts).faults
                if faults:
                    _, run_id = context.runs.running[-1] if context.runs.running else ("", uuid.uuid4().hex)
                    run = RunEnd(INGEST, run_id, "", 0, "")
                    _tell(context.settings, Judgement(faults), run, context.files, context.tables.root)
        return closed

    def details(self) -> dict[str, Any]:
        """The facts as details of the run: of many batches, the last ones, and those with faults first."""
        kept = sorted(self._facts, key=lambda own: (not own.quarantined and not own.changed, -own.batch))
        return {BATCHES: [asdict(own) for own in sorted(kept[:_KEPT_BATCHES], key=lambda own: own.batch)]}


def observe_stray_error(job: str, read: Callable[[], Settings], err: Exception) -> None:
    """Tell of an error that no run was recorded with: a job that could not begin, or whose row could not be written.

    Args:
        job: its name.
        read: the settings; where they are what is wrong, alerts go to the channels of the environment.
        err: the error.
    """
    if _is_reported(err):
        return
    with _harmless("error_not_reported", job):
        try:
            settings = read()
        except RecsysError:  # it may well be this one
            settings = Settings()
        code = err.exit_code if isinstance(err, RecsysError) else 1
        run = RunEnd(job, uuid.uuid4().hex, type(err).__name__, code, describe_failure(err))
        spark = SparkSession.getActiveSession()
        files = None if spark is None else Files(spark)
        _tell(settings, judge_run(run), run, files, settings.warehouse.root)
        if files is not None:
            _write_run_metrics(settings, files, run, started=time.time(), seconds=0.0, counts={})
    _mark(err)


def describe_batch(tables: Tables, closed: ClosedBatch) -> BatchFacts:
    """What alerts have to know of a batch; only one with rows in quarantine costs a query."""
    entries, counts = closed.claim.entries, closed.claim.counts
    worst = sorted((e for e in entries if e.counts.quarantined), key=lambda e: (-e.counts.quarantined, e.source))
    return BatchFacts(
        batch=closed.claim.batch,
        files=len(entries),
        landed=counts.landed,
        quarantined=counts.quarantined,
        worst=tuple(entry.source for entry in worst[:5]),
        damaged=sum(entry.state == QUARANTINED for entry in entries),
        rules=_count_rules(tables, closed.claim.batch) if counts.quarantined else {},
        changed=closed.came_again,
    )


def read_promise(settings: Settings) -> Promise:
    """What the contract in force says, as far as alerts need it.

    Raises:
        ConfigError: it cannot be read.
    """
    return make_promise(load_contract(ROOT / settings.contract))


def make_promise(contract: RatingsContract) -> Promise:
    """The same of a contract that has been read."""
    return Promise(
        contract=contract.id,
        owner=contract.owner_and_contact,
        consumers=tuple(map(str, contract.consumers)),
        rows=contract.volume,
        freshness_seconds=None if contract.freshness is None else contract.freshness.total_seconds(),
    )


def open_book(files: FileStore, root: str) -> AlertBook:
    """The alerts of a warehouse."""
    return AlertBook(files, f"{root}/{FOLDER}", where=without_password(root))


def _judge_sources(context: Context, run: RunEnd) -> Judgement:
    tables, settings = context.tables, context.settings
    promise = read_promise(settings)
    batches = [BatchFacts.from_dict(found) for found in run.details.get(BATCHES, [])]
    judgement = judge_batches(batches, promise, settings.alerts)
    if promise.freshness_seconds is not None:
        age = 0.0 if any(batch.landed for batch in batches) else _age_of_newest_batch(tables)
        judgement += judge_freshness(age, promise) if age is not None else Judgement()
    # After a run that did its work nothing waits.
    waiting = {} if run.exit_code == 0 else _find_waiting(LandedFiles(context.spark), tables, settings)
    return judgement + judge_lag(waiting, promise, settings.alerts)


def _age_of_newest_batch(tables: Tables) -> float | None:
    landed = tables.ledger.read().where(sf.col(c.STATE) != REPLAYED)  # a replay brings nothing new
    newest = landed.agg(sf.unix_micros(sf.max(c.CLAIMED_AT))).collect()[0][0]
    return None if newest is None else max(0.0, time.time() - newest / 1e6)


def _find_waiting(files: LandedFiles, tables: Tables, settings: Settings) -> dict[str, float]:
    """Seconds since each file landed that is not taken in."""
    path, now = settings.landing.path, time.time()
    if not path or not files.is_folder(path):
        return {}
    folder, seen = files.resolve(path), read_ledger(tables)
    arrivals = list_arrivals(files, folder, settings.landing, now_ms=int(now * 1000))
    return {a.source: now - a.modified_ms / 1000 for a in arrivals if not seen.is_unchanged(a)}


def _count_rules(tables: Tables, batch: int) -> dict[str, int]:
    rows = tables.quarantine.read().where(sf.col(c.BATCH) == batch).select(sf.explode(c.RULES).alias("rule"))
    return {row["rule"]: row["count"] for row in rows.groupBy("rule").count().collect()}


def _tell(settings: Settings, judgement: Judgement, run: RunEnd, files: Files | None, root: str) -> None:
    """Bring the alerts up to date and deliver what is due; in memory where the warehouse cannot keep them."""
    params, now = settings.alerts, time.time()
    channels = read_channels(params, os.environ)
    book = None
    if files is not None:
        try:
            if files.exists(root):
                kept = open_book(files, files.resolve(root))
                _update(kept, judgement, run, channels, params, now)
                book = kept
        except Exception as err:
            reason = (str(err).splitlines() or [""])[0]
            log_event(log, "alerts_not_stored", level=logging.WARNING, error=type(err).__name__, reason=reason)
    rest = judgement if book is None else Judgement(checked=judgement.checked)
    _update(open_book(_memory, root), rest, run, channels, params, now)
    if files is not None and book is not None and settings.metrics.folder is not None:
        with _harmless("metrics_not_written", run.job):
            _write_alert_metrics(book, files, settings.metrics.folder)


def _update(
    book: AlertBook,
    judgement: Judgement,
    run: RunEnd,
    channels: tuple[Channel, ...],
    params: AlertsParams,
    now: float,
) -> None:
    def deliver(to: Any, message: Message) -> Mapping[str, str]:
        return send(to, message, timeout_seconds=params.timeout_seconds)

    book.record(judgement, run, channels, now=now)
    book.deliver(channels, deliver, now=now, keep_seconds=params.keep_hours * 3600)


def _write_alert_metrics(book: AlertBook, files: Files, folder: str) -> None:
    open_by_kind = dict.fromkeys((kind.value for kind in Kind), 0)
    for alert in book.open_alerts():
        open_by_kind[alert.kind] += 1
    write_alerts(files, folder, open_by_kind=open_by_kind, waiting=book.count_waiting())


def _write_run_metrics(
    settings: Settings, files: Files, run: RunEnd, *, started: float, seconds: float, counts: Mapping[str, int]
) -> None:
    folder = settings.metrics.folder
    if folder is not None:
        with _harmless("metrics_not_written", run.job):
            write_run(
                files,
                folder,
                job=run.job,
                exit_code=run.exit_code,
                started=started,
                seconds=seconds,
                counts=counts,
            )


def _emit(settings: Settings, tables: Tables, run: RunState) -> None:
    lineage = settings.lineage
    if lineage.path is None and lineage.url is None:
        return
    landing, kafka = settings.landing.path, settings.kafka
    source = f"kafka://{kafka.bootstrap_servers}/{kafka.topic}" if landing is None else tables.files.resolve(landing)
    places = Places(tables.root, source, settings.mlflow.model)
    emit(make_event(run, places, lineage.namespace), lineage, tables.files, os.environ)


def _is_reported(err: BaseException | None) -> bool:
    return getattr(err, _SEEN, False)


def _mark(err: BaseException | None) -> None:
    if err is not None:
        setattr(err, _SEEN, True)


@contextmanager
def _harmless(event: str, job: str) -> Iterator[None]:
    """What fails inside it is logged, and the job goes on: telling of a fault must not be one."""
    try:
        yield
    except Exception:
        log.exception("%s job=%s", event, job)
