"""Show what is wrong, what has landed, what is in the warehouse, what is served, what ran last and who holds a lock."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import functions as sf

from jobs.runner import JobContext, JobResult, run_job
from recsys import columns as c
from recsys.adoption import read_consumers
from recsys.alerts.book import Alert
from recsys.observation import open_book
from recsys.ratings.contract import load_contract
from recsys.ratings.ledger import REPLAYED
from recsys.session import ROOT
from recsys.store.generations import Generation, read_history
from recsys.store.locks import Holder, read_holders
from recsys.store.registry import ModelVersion, Registry
from recsys.store.tables import Table, Tables

LAST_RUNS = 8
LAST_BATCHES = 5
SHOWN_METRICS = ("ndcg", "recall", "rmse")  # a version's metrics whose names begin so


@dataclass(frozen=True)
class ContractStatus:
    """What is agreed with the owner of the data."""

    id: str
    version: str
    owner: str
    consumers: list[str]  # those that the owner lists, with their contacts
    registered: list[str]  # those that registered themselves beside the data
    freshness_seconds: float | None  # age of the newest batch at most


@dataclass(frozen=True)
class Status:
    """Everything the page shows; the field names are the keys of ``--json``."""

    warehouse: str
    at: datetime
    rows: dict[str, int]
    alerts: list[Alert]
    messages_waiting: int  # that no channel has taken yet
    sources: dict[str, Any]
    batches: list[dict[str, Any]]  # the last ones, newest first
    contract: ContractStatus
    blocks_behind: int  # batches that are in the ratings and not yet in the user blocks
    models: dict[str, ModelVersion]
    generation: Generation | None
    generation_written_at: datetime | None  # a rollback makes an old generation current, not its lists young
    runs: list[dict[str, Any]]
    locks: list[Holder]


def run(context: JobContext) -> Status:
    """Read the state of the warehouse: table logs, three small tables, the registry's aliases and the lock files."""
    tables = context.tables
    history = read_history(tables)
    now = history[-1] if history else None
    book = open_book(context.files, tables.root)
    return Status(
        warehouse=tables.root,
        at=datetime.now(UTC),
        rows=count_rows(tables),
        alerts=book.open_alerts(),
        messages_waiting=book.count_waiting(),
        sources=read_sources(tables),
        batches=read_batches(tables, LAST_BATCHES),
        contract=read_contract(context),
        blocks_behind=count_batches_behind(tables),
        models=read_models(Registry(context.settings.mlflow, tables.root)),
        generation=now,
        generation_written_at=next((e.published_at for e in history if now and e.generation == now.generation), None),
        runs=read_runs(tables, LAST_RUNS),
        locks=read_holders(context.files, tables.root),
    )


def count_rows(tables: Tables) -> dict[str, int]:
    """Rows of each table; Delta answers from the log's statistics, without reading data."""
    everything = (
        tables.ratings,
        tables.quarantine,
        tables.ledger,
        tables.items,
        tables.user_blocks,
        tables.recommendations,
        tables.generations,
        tables.job_runs,
    )

    def count(table: Table) -> int:
        return table.read().count()

    with ThreadPoolExecutor(4) as pool:
        return dict(zip((table.name for table in everything), pool.map(count, everything), strict=True))


def read_sources(tables: Tables) -> dict[str, Any]:
    """What the ledger says has landed, and when last."""
    [row] = (
        tables.ledger.read()
        .agg(
            sf.count_if(sf.col(c.STATE) != REPLAYED).alias("files"),
            sf.max(c.BATCH).alias("last_batch"),
            sf.max(sf.when(sf.col(c.STATE) != REPLAYED, sf.col(c.CLAIMED_AT))).alias("last_claimed_at"),
            *(sf.sum(name).alias(name) for name in (c.LANDED, c.ACCEPTED, c.DUPLICATE, c.QUARANTINED)),
        )
        .collect()
    )
    found: dict[str, Any] = {key: value or 0 for key, value in row.asDict().items()}
    claimed: datetime | None = row["last_claimed_at"]
    return {**found, "last_claimed_at": claimed.astimezone(UTC) if claimed else None}


def read_batches(tables: Tables, last: int) -> list[dict[str, Any]]:
    """What the last batches took in, newest first."""
    rows = (
        tables.ledger.read()
        .groupBy(c.BATCH)
        .agg(
            sf.max(c.CLAIMED_AT).alias(c.CLAIMED_AT),
            sf.count("*").alias("files"),
            *(sf.sum(name).alias(name) for name in (c.LANDED, c.ACCEPTED, c.DUPLICATE, c.QUARANTINED)),
        )
        .orderBy(sf.desc(c.BATCH))
        .limit(last)
        .collect()
    )
    return [{**row.asDict(), c.CLAIMED_AT: row[c.CLAIMED_AT].astimezone(UTC)} for row in rows]


def read_contract(context: JobContext) -> ContractStatus:
    """Owner, consumers and promises of the contract in force.

    Raises:
        ConfigError: it cannot be read.
    """
    contract = load_contract(ROOT / context.settings.contract)
    landing = context.settings.landing.path
    found = [] if landing is None else read_consumers(context.files, context.files.resolve(landing), contract)
    return ContractStatus(
        id=contract.id,
        version=contract.version,
        owner=contract.owner_and_contact,
        consumers=[str(consumer) for consumer in contract.consumers],
        registered=[f"{entry['consumer']} since {entry.get('since')}" for entry in found],
        freshness_seconds=None if contract.freshness is None else contract.freshness.total_seconds(),
    )


def count_batches_behind(tables: Tables) -> int:
    """Batches whose ratings were accepted and are not in the user blocks: more than none after a crash only."""
    through = tables.user_blocks.read().agg(sf.max(c.THROUGH_BATCH)).collect()[0][0] or 0
    is_news = (sf.col(c.BATCH) > through) & (sf.col(c.ACCEPTED) > 0)
    return tables.ledger.read().where(is_news).select(c.BATCH).distinct().count()


def read_models(registry: Registry) -> dict[str, ModelVersion]:
    """The versions that have an alias."""
    versions = {
        "champion": registry.champion,
        "challenger": registry.challenger,
        "previous": registry.previous,
    }
    return {name: registry.describe(version) for name, version in versions.items() if version is not None}


def read_runs(tables: Tables, last: int) -> list[dict[str, Any]]:
    """The last runs of jobs, newest first; looking at the status is none."""
    rows = (
        tables.job_runs.read()
        .orderBy(sf.desc(c.STARTED_AT))
        .limit(last)
        .select(c.STARTED_AT, c.JOB, c.OUTCOME, c.EXIT_CODE, c.SECONDS, c.MESSAGE)
        .collect()
    )
    return [{**row.asDict(), c.STARTED_AT: row[c.STARTED_AT].astimezone(UTC)} for row in rows]


def format_page(status: Status) -> str:
    """The page for people."""
    sections = {
        "Alerts": list(_format_alerts(status)),
        "Sources": _format_sources(status),
        "Batches": [_format_batch(entry) for entry in status.batches] or ["none yet"],
        "Contract": list(_format_contract(status)),
        "Tables": [", ".join(f"{name} {rows:,}" for name, rows in status.rows.items() if rows) or "empty"],
        "Blocks": _format_blocks(status.blocks_behind),
        "Models": list(_format_models(status)),
        "Lists": _format_lists(status),
        "Runs": [_format_run(entry) for entry in status.runs] or ["none yet"],
        "Locks": [f"{holder.name}: {holder}" for holder in status.locks] or ["none held"],
    }
    lines = [f"{status.warehouse} at {status.at:%Y-%m-%d %H:%M:%S} UTC"]
    for title, content in sections.items():
        for number, line in enumerate(content):
            lines.append(f"{title if number == 0 else '':<9}{line}")
    return "\n".join(lines)


def format_json(status: Status) -> str:
    """The same for machines; times in ISO 8601."""

    def encode(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    return json.dumps(asdict(status), default=encode, indent=1)


def _format_alerts(status: Status) -> Iterator[str]:
    if not status.alerts:
        yield "none open"
    for alert in status.alerts:
        since = _age(datetime.fromtimestamp(alert.opened, UTC), status.at)
        seen = f"for {since}, seen by {alert.runs:,} runs"
        yield f"{alert.severity:<8}{alert.kind}: {alert.subject}, {seen}: {alert.says}"
    if status.messages_waiting:
        yield f"{status.messages_waiting:,} messages wait for a channel that is down. See the log of the last run."


def _format_batch(entry: dict[str, Any]) -> str:
    when, rows = (
        f"{entry[c.CLAIMED_AT]:%Y-%m-%d %H:%M:%S}",
        f"{entry['files']:,} files, {entry[c.LANDED]:,} rows landed",
    )
    return (
        f"{when}  batch {entry[c.BATCH]}: {rows} = {entry[c.ACCEPTED]:,} accepted + {entry[c.DUPLICATE]:,} duplicate "
        f"+ {entry[c.QUARANTINED]:,} quarantined"
    )


def _format_sources(status: Status) -> list[str]:
    found = status.sources
    if not found["files"]:
        return ["nothing has landed yet. Run ingest_ratings."]
    return [
        f"{found['files']:,} files in {found['last_batch']:,} batches, "
        f"the last one {_age(found['last_claimed_at'], status.at)} ago",
        f"{found[c.LANDED]:,} rows landed = {found[c.ACCEPTED]:,} accepted + {found[c.DUPLICATE]:,} duplicate "
        f"+ {found[c.QUARANTINED]:,} quarantined",
    ]


def _format_contract(status: Status) -> Iterator[str]:
    found, claimed = status.contract, status.sources.get("last_claimed_at")
    yield f"{found.id} {found.version}, owner {found.owner}"
    listed, registered = ", ".join(found.consumers) or "none listed", ", ".join(found.registered) or "none"
    yield f"consumers: {listed}; registered: {registered}"
    if found.freshness_seconds is not None and claimed is not None:
        promised = status.at - timedelta(seconds=found.freshness_seconds)
        verdict = "as fresh as promised" if claimed >= promised else "NOT as fresh as promised: ask the owner"
        yield f"the newest batch is {_age(claimed, status.at)} old, {_age(promised, status.at)} are allowed: {verdict}"


def _format_blocks(behind: int) -> list[str]:
    if not behind:
        return ["up to date with the ratings"]
    return [f"{behind:,} {'batch' if behind == 1 else 'batches'} behind. Run ingest_ratings again."]


def _format_models(status: Status) -> Iterator[str]:
    if not status.models:
        yield "none. Run train_model, then promote_model."
    for name, model in status.models.items():
        metrics = [
            f"{key} {value:.4f}" for key, value in sorted(model.metrics.items()) if key.startswith(SHOWN_METRICS)
        ]
        age = _age(model.created_at, status.at)
        yield f"{name:<11}version {model.version}, {model.verdict}, fitted {age} ago. {', '.join(metrics)}"


def _format_lists(status: Status) -> list[str]:
    now, written = status.generation, status.generation_written_at
    if now is None or written is None:
        return ["none published. Run score_users."]
    return [
        f"generation {now.generation} by model version {now.model_version} for {now.n_users:,} users, "
        f"{now.state} {_age(now.published_at, status.at)} ago, lists {_age(written, status.at)} old ({now.reason})"
    ]


def _format_run(entry: dict[str, Any]) -> str:
    when, seconds = f"{entry[c.STARTED_AT]:%Y-%m-%d %H:%M:%S}", entry[c.SECONDS]
    return f"{when}  {entry[c.JOB]:<16}{entry[c.OUTCOME]:<24}{seconds:>7.1f} s  {entry[c.MESSAGE][:100]}"


def _age(then: datetime, now: datetime) -> str:
    seconds = max(0, int((now - then).total_seconds()))
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for machines")

    def body(context: JobContext) -> JobResult:
        status = run(context)
        return JobResult(format_json(status) if context.args.json else format_page(status))

    return run_job(
        "status", body, argv, description=__doc__, arguments=add_options, records_itself=True, only_looks=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
