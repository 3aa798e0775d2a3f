"""What every job does around its own steps: arguments, settings, session, locks, the `job_runs` row, the exit code."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession

from recsys import columns as c
from recsys.alerts.channels import check_channels, read_channels
from recsys.config import Settings, load_settings
from recsys.errors import LockedError, RecsysError, StorageError, UsageError
from recsys.events import log_event
from recsys.failures import describe_failure
from recsys.ingestion import check_sources
from recsys.losses import Losses
from recsys.observation import observe_end, observe_start, observe_stray_error
from recsys.ratings.contract import load_contract
from recsys.schemas import JOB_RUNS
from recsys.secrets import take_secrets
from recsys.session import ROOT, start_session
from recsys.store.faults import explain, told_in_one_line
from recsys.store.files import Files
from recsys.store.locks import Lock
from recsys.store.outcome import Ending, end_with_jvm, hand_over, yarn_attempt
from recsys.store.tables import Tables

log = logging.getLogger(__name__)

ENVIRONMENTS = ("local", "yarn")
LOCK_PAUSE = 2.0  # seconds between two tries of a second attempt to take a lock


@dataclass
class RunRows:
    """Rows for `job_runs` of a job and of those it calls: one commit when the outermost has ended, however it ended."""

    running: list[tuple[str, str]] = field(default_factory=list)  # job and run id, the innermost last
    rows: list[dict[str, Any]] = field(default_factory=list)
    begun: int = 0  # runs so far
    around: "RunRows | None" = None  # of a job that runs on for weeks: those inside it do not wait for its end

    @contextmanager
    def one_deeper(self, job: str, run_id: str) -> Iterator[None]:
        """Inside it, a job runs; left by whatever way, an interrupt among them, or no later row would be committed."""
        self.running.append((job, run_id))
        self.begun += 1
        if self.around is not None:
            self.around.begun += 1
        try:
            yield
        finally:
            self.running.pop()

    @property
    def parent(self) -> tuple[str, str] | None:
        """Job and run id of what runs around the next job."""
        return self.running[-1] if self.running else None


@dataclass(frozen=True)
class JobContext:
    """What a job works with."""

    spark: SparkSession
    settings: Settings
    tables: Tables
    files: Files
    args: argparse.Namespace = field(default_factory=argparse.Namespace)
    runs: RunRows = field(default_factory=RunRows)


@dataclass(frozen=True)
class JobResult:
    """What a job reports: it becomes the `job_runs` row and the last line on the screen."""

    message: str
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    versions_in: Mapping[str, int] = field(default_factory=dict)
    versions_out: Mapping[str, int] = field(default_factory=dict)
    outcome: str = "ok"  # in a word; all of them end with exit code 0
    refusal: RecsysError | None = None  # the job did its work and the answer is no: recorded, and its exit code


def run_job(
    name: str,
    body: Callable[[JobContext], JobResult],
    argv: Sequence[str],
    *,
    description: str,
    locks: Sequence[str] = (),
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    records_itself: bool = False,
    makes_tables: bool = False,
    only_looks: bool = False,
    repairs: bool = False,
) -> int:
    """Run one job from its command line and return the exit code of the process.

    That is what the scheduler sees; in YARN's cluster mode the launcher takes the job's own code to it, see
    `recsys.store.outcome`.

    Args:
        name: The job's name, as in ``jobs/<name>.py``.
        body: The job's steps.
        argv: Arguments after the program name.
        description: First line of ``--help``.
        locks: What the job changes; taken in this order, given back at its end.
        arguments: Adds the job's own options.
        records_itself: The body calls :func:`perform` for what it does.
        makes_tables: The job takes in landed files, and a new warehouse is made where there is none; other jobs refuse
            a mistyped path.
        only_looks: The job changes nothing, and nobody is told when it fails.
        repairs: The job is there for damaged tables: it gets them unopened, and calls :func:`perform` itself.
    """
    end_with_jvm()
    parser = argument_parser(name, description)
    if arguments is not None:
        arguments(parser)

    def run_body() -> JobResult:
        take_secrets()
        args = parser.parse_args(argv)
        configure_logging(verbose=args.verbose)
        if args.check:
            check_channels(read_channels(read_settings(args).alerts, os.environ))
            return JobResult("arguments and settings are in order")
        try:
            context = open_context(name, args, makes_tables=makes_tables, opens_tables=not repairs)
            return body(context) if records_itself or repairs else perform(context, name, body, locks=locks)
        except Exception as err:
            if not only_looks:
                observe_stray_error(name, lambda: read_settings(args), err)
            raise

    return _tell(_run_to_its_end(name, run_body))


def run_without_spark(
    name: str,
    body: Callable[[argparse.Namespace], JobResult],
    argv: Sequence[str],
    *,
    description: str,
    arguments: Callable[[argparse.ArgumentParser], None],
) -> int:
    """Run a job that needs neither Spark nor the tables, and that `job_runs` does not know; returns its exit code.

    Args:
        name: The job's name, as in ``jobs/<name>.py``.
        body: The job's steps; it reads its settings itself.
        argv: Arguments after the program name.
        description: First line of ``--help``.
        arguments: Adds the job's own options.
    """
    parser = argument_parser(name, description)
    arguments(parser)

    def run_body() -> JobResult:
        args = parser.parse_args(argv)
        configure_logging(verbose=args.verbose)
        return body(args)

    return _tell(_run_to_its_end(name, run_body))


def _tell(ending: Ending) -> int:
    if not ending.error or ending.message:
        print(ending.message)
    if ending.error:
        print(ending.error, file=sys.stderr)
    return hand_over(ending)


def argument_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options every job has."""
    parser = argparse.ArgumentParser(
        prog=f"./spark-submit.sh jobs/{name}.py --",
        description=description,
        epilog="exit codes: 0 ok, 2 usage or configuration, 3 data rejected, 4 gate refused, 5 locked, 1 anything else",
    )
    parser.add_argument("--env", choices=ENVIRONMENTS, default="local", help="which conf/<env>.yaml to read")
    parser.add_argument("--conf", action="append", default=[], type=Path, metavar="FILE", help="more settings, over it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, e.g. als.rank=64")
    parser.add_argument("--warehouse", metavar="PATH", help="short for --set warehouse.root=PATH")
    parser.add_argument("--verbose", action="store_true", help="log every event, not only warnings")
    parser.add_argument("--check", action="store_true", help="read arguments and settings, and start nothing")
    return parser


def read_settings(args: argparse.Namespace) -> Settings:
    """Settings of a job: base, environment, further files, then ``--set`` and ``--warehouse``.

    Raises:
        ConfigError: see :func:`recsys.config.load_settings`.
        ConfigError: others can read the file with the addresses of alert channels, or it has something else in it.
        UsageError: a ``--set`` that is not ``key=value``.
    """
    overrides: dict[str, str] = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}: expected key=value, for example --set als.rank=64.")
        overrides[key] = value
    if args.warehouse is not None:
        overrides["warehouse.root"] = json.dumps(args.warehouse)
    conf = ROOT / "conf"
    settings = load_settings([conf / "base.yaml", conf / f"{args.env}.yaml", *args.conf], overrides)
    read_channels(settings.alerts, os.environ)
    return settings


def open_context(name: str, args: argparse.Namespace, *, makes_tables: bool, opens_tables: bool = True) -> JobContext:
    """Settings, session and tables of a job.

    Raises:
        ConfigError: see :func:`read_settings`; or the contract cannot be read.
        UsageError: there is no warehouse, and the job is not one that makes it; or what it would take in is not there.
    """
    settings = read_settings(args)  # before the session: a typing error must not cost a JVM
    if makes_tables:
        load_contract(ROOT / settings.contract)
    spark = start_session(name, env=args.env)
    spark.sparkContext.setLogLevel("INFO" if args.verbose else "ERROR")
    files = Files(spark)
    if makes_tables:
        check_sources(files, settings)  # before tables are made at what may be a mistyped path
    elif not _has_warehouse(files, settings):
        root = settings.warehouse.root
        raise UsageError(
            f"there is no warehouse at '{root}'. Correct warehouse.root, or run ingest_ratings there first."
        )
    if not opens_tables:
        return JobContext(spark, settings, Tables(spark, settings.warehouse), files, args)
    return make_context(spark, settings, args)


def _has_warehouse(files: Files, settings: Settings) -> bool:
    """Whether there is one, whole or damaged."""
    return files.exists(f"{files.resolve(settings.warehouse.root)}/ratings/_delta_log")


def make_context(spark: SparkSession, settings: Settings, args: argparse.Namespace | None = None) -> JobContext:
    """The context for a session that runs already: how jobs are called from Python."""
    tables = Tables(spark, settings.warehouse)
    tables.open_or_create()
    return JobContext(spark, settings, tables, tables.files, args or argparse.Namespace())


def perform(
    context: JobContext,
    name: str,
    body: Callable[[JobContext], JobResult],
    *,
    locks: Sequence[str] = (),
    checks_tables: bool = True,
) -> JobResult:
    """Run a job's steps under its locks and record the run, whatever its outcome.

    Args:
        context: of the job.
        name: of the job.
        body: its steps.
        locks: what it changes.
        checks_tables: refuse tables whose log has lost its end. A job that is there for such tables does not, and lets
            the whole ones know of its lock itself.

    Raises:
        TableDamagedError: a table's last commit is damaged.
        RecsysError: as the body raises it, after the run has been recorded.
    """
    started, clock, run_id, parent = datetime.now(UTC), time.monotonic(), uuid.uuid4().hex, context.runs.parent
    observe_start(context, name, run_id, parent)
    before = Losses.of(context.spark)
    begun = context.runs.begun
    try:
        with (
            context.runs.one_deeper(name, run_id),
            told_in_one_line(),
            hold_locks(context, locks, holder=name, fences=checks_tables),
        ):
            if checks_tables:
                context.tables.check_last_commits()
            result = body(context)
    except BaseException as err:
        code = err.exit_code if isinstance(err, RecsysError) else 1
        failed = JobResult(describe_failure(err), {**_count_losses(context, before), **_count_inner(context, begun)})
        ended = type(err).__name__, code
        row = _add_run(context, run_id, name, failed, ended, started, time.monotonic() - clock)
        if isinstance(err, Exception):  # whoever interrupts does not wait for a commit: the next one has this row
            _try_to_write_runs(context, name)  # the job's own error matters more
            observe_end(context, row, parent, err)
        raise
    seconds = time.monotonic() - clock
    also = {**_count_losses(context, before), **_count_inner(context, begun)}
    result = replace(result, counts={**result.counts, **also})
    ended = (result.outcome, 0) if result.refusal is None else (type(result.refusal).__name__, result.refusal.exit_code)
    row = _add_run(context, run_id, name, result, ended, started, seconds)
    if checks_tables:
        _write_runs(context)
    else:
        _try_to_write_runs(context, name)
    observe_end(context, row, parent, result.refusal)
    log_event(log, "job_done", job=name, seconds=seconds, **result.counts)
    return result


@contextmanager
def hold_locks(context: JobContext, names: Sequence[str], *, holder: str, fences: bool = True) -> Iterator[None]:
    """Hold every named lock, or none.

    A second attempt of YARN's waits until the locks that the first one may have died with have expired.

    Raises:
        LockedError: another job holds one of them.
    """
    warehouse = context.settings.warehouse
    patience = 1.25 * warehouse.lock_expiry_seconds if yarn_attempt() > 1 else 0.0
    with ExitStack() as stack:
        for name in names:
            expiry, fence = warehouse.lock_expiry_seconds, context.tables.fence if fences else _leave_unfenced
            lock = Lock(context.files, warehouse.root, name, job=holder, expiry_seconds=expiry, fence=fence)
            _take(lock, patience)
            stack.push(partial(_give_back, lock))
        yield


def _leave_unfenced(name: str) -> None:
    """A commit on top of a damaged one would hide it."""
    log_event(log, "tables_not_fenced_yet", lock=name)


def _give_back(
    lock: Lock, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
) -> None:
    """Release a lock. Where the file system does not take that, it expires: how the job ended matters more."""
    try:
        lock.__exit__(kind, err, trace)
    except (StorageError, OSError) as lost:
        log_event(log, "lock_not_given_back", level=logging.WARNING, lock=lock.name, error=str(lost))


def _take(lock: Lock, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            lock.acquire()
            return
        except LockedError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOCK_PAUSE)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set, so that what a running job is at ends in order."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def configure_logging(*, verbose: bool = False) -> None:
    """Events to standard error: warnings always, everything with ``--verbose``."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("recsys").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("jobs").setLevel(logging.INFO if verbose else logging.WARNING)


def _run_to_its_end(name: str, body: Callable[[], JobResult]) -> Ending:
    """Run the body; whatever happens there becomes an exit code and a line."""
    try:
        with told_in_one_line():
            result = body()
    except RecsysError as err:
        return Ending(err.exit_code, error=f"error: {err}")
    except Exception as err:  # the top of the job: logged once, here
        log.exception("job_failed job=%s", name)
        error = f"error: {name} failed: {describe_failure(err)} The log above says where."
        return Ending(1, error=error, trace=traceback.format_exc().strip())
    if result.refusal is None:
        return Ending(0, result.message)
    return Ending(result.refusal.exit_code, result.message, f"refused: {result.refusal}")


def _add_run(
    context: JobContext,
    run_id: str,
    name: str,
    result: JobResult,
    ended: tuple[str, int],
    started: datetime,
    seconds: float,
) -> dict[str, Any]:
    row = {
        c.RUN_ID: run_id,
        c.JOB: name,
        c.PARAMETERS: context.settings.model_dump_json(),
        c.VERSIONS_IN: dict(result.versions_in),
        c.VERSIONS_OUT: dict(result.versions_out),
        c.COUNTS: {key: int(value) for key, value in result.counts.items()},
        c.DETAILS: json.dumps(dict(result.details)),
        c.OUTCOME: ended[0],
        c.EXIT_CODE: ended[1],
        c.MESSAGE: result.message,
        c.STARTED_AT: started,
        c.SECONDS: seconds,
    }
    context.runs.rows.append(row)
    return row


def _try_to_write_runs(context: JobContext, name: str) -> None:
    try:
        _write_runs(context)
    except Exception as lost:
        why = describe_failure(explain(lost) or lost)
        log_event(log, "job_run_not_recorded", level=logging.ERROR, job=name, error=why)


def _write_runs(context: JobContext) -> None:
    """Commit the rows when the outermost job ends: a turn of the pipeline is one commit, not five."""
    runs = context.runs
    if not runs.running:
        rows, runs.rows = runs.rows, []
        context.tables.job_runs.append(context.spark.createDataFrame(rows, JOB_RUNS).coalesce(1))


def _count_inner(context: JobContext, begun: int) -> dict[str, int]:
    """Runs inside this one, itself not counted; nothing where there were none."""
    inner = context.runs.begun - begun - 1
    return {c.INNER_RUNS: inner} if inner > 0 else {}


def _count_losses(context: JobContext, before: Losses | None) -> dict[str, int]:
    """What the cluster lost since then; nothing on one machine, and nothing when Spark itself has ended."""
    if before is None:
        return {}
    try:
        now = Losses.of(context.spark)
    except Exception:  # the driver's JVM is gone, and the job's own error says more
        log.exception("losses_not_counted")
        return {}
    return {} if now is None else now.since(before)
