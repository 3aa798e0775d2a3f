"""What a run makes of the contract before it reads a source.

The ratings table is held to it, and the owner of the data can see which system reads them. The caller holds the tables
lock.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from recsys.errors import ConfigError
from recsys.events import log_event
from recsys.ratings.contract import RatingsContract
from recsys.ratings.rules import is_ours, make_constraints
from recsys.store.files import Files
from recsys.store.tables import SPECS, Table

log = logging.getLogger(__name__)

CONSUMERS: Final = "_consumers"  # folder in the landing folder; by its name nothing in it is taken for ratings
_KIND: Final = "recsys.kind"
_CONSTRAINT: Final = "delta.constraints."


def keeps_events(ratings: Table) -> bool:
    """Whether the table holds events, which are summed, or ratings, of which the newest counts."""
    return ratings.properties().get(_KIND) == "events"


def adopt_contract(spark: SparkSession, ratings: Table, contract: RatingsContract) -> None:
    """Give the ratings table the contract's constraints; nothing happens when it has them.

    Raises:
        ConfigError: the table was filled under a contract of the other kind, or holds ratings that this one forbids.
    """
    properties = ratings.properties()
    wanted = make_constraints(contract)
    if ratings.version() == 0:  # just made: one commit gives it everything
        _make_again(spark, ratings, {**properties, _KIND: contract.kind, **_as_properties(wanted)})
        return
    kind = properties.get(_KIND, "ratings")
    if kind != contract.kind:
        raise ConfigError(
            f"'{ratings.path}' holds {kind}, but contract '{contract.id}' is of {contract.kind}: "
            "one warehouse holds one kind. Set warehouse.root to another folder, or 'contract' to the former contract."
        )
    kept = {
        name: sql for key, sql in properties.items() if is_ours(name := key.removeprefix(_CONSTRAINT)) and name != key
    }
    changed = {name: sql for name, sql in wanted.items() if not _is_same(kept.get(name), sql)}
    if changed:
        _require_kept(ratings, contract, changed)
    table = f"delta.`{ratings.path.replace('`', '``')}`"
    for name in kept:
        if name in changed or name not in wanted:
            spark.sql(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    for name, sql in changed.items():
        spark.sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({sql})")
        log_event(log, "constraint_set", table=ratings.name, constraint=name, contract_version=contract.version)


def _is_same(kept: str | None, wanted: str) -> bool:
    """Whether two conditions are one: what was set by ALTER TABLE comes back with a space between any two tokens."""
    return kept is not None and "".join(kept.split()) == "".join(wanted.split())


def _make_again(spark: SparkSession, table: Table, properties: Mapping[str, str]) -> None:
    spec = SPECS[table.name]
    builder = DeltaTable.replace(spark).location(table.path).addColumns(spec.schema)
    for key, value in properties.items():
        builder = builder.property(key, value)
    builder.partitionedBy(*spec.partitioned_by).execute()


def _as_properties(constraints: Mapping[str, str]) -> dict[str, str]:
    return {f"{_CONSTRAINT}{name}": sql for name, sql in constraints.items()}


def _require_kept(ratings: Table, contract: RatingsContract, constraints: Mapping[str, str]) -> None:
    broken = [sf.count_if(~sf.coalesce(sf.expr(sql), sf.lit(False))).alias(name) for name, sql in constraints.items()]
    for name, count in ratings.read().agg(*broken).collect()[0].asDict().items():
        if count:
            raise ConfigError(
                f"contract '{contract.id}' {contract.version} demands {constraints[name]}, which {count:,} ratings in "
                f"'{ratings.path}' break. Widen it again, or begin a new warehouse under it."
            )


def register_consumer(files: Files, landing: str, contract: RatingsContract, *, consumer: str, warehouse: str) -> None:
    """Let the owner of the data see, beside them, which system reads them: one small file a system.

    A landing folder that is only read is no failure: the owner's own list in the contract then has to do.
    """
    file = f"{landing}/{CONSUMERS}/{contract.id}.{consumer}.json"
    entry = {
        "consumer": consumer,
        "warehouse": warehouse,
        "contract": contract.id,
        "contract_version": contract.version,
        "reads": list(contract.columns),
    }
    if consumer not in {known.name for known in contract.consumers}:
        log_event(log, "consumer_not_in_contract", level=logging.WARNING, consumer=consumer, owner=contract.owner)
    try:
        kept = _read_entry(files, file)
        if {**kept, "since": None} != {**entry, "since": None}:
            since = kept.get("since") or datetime.now(UTC).isoformat(timespec="seconds")
            files.write(file, json.dumps({**entry, "since": since}, indent=1).encode())
    except OSError as err:
        log_event(log, "consumer_not_registered", level=logging.WARNING, file=file, error=str(err).splitlines()[0])


def read_consumers(files: Files, landing: str, contract: RatingsContract) -> list[dict[str, Any]]:
    """The systems that registered themselves, by name."""
    folder = f"{landing}/{CONSUMERS}"
    if not files.is_folder(folder):
        return []
    found = (_read_entry(files, status.path) for status in files.list_files(folder) if status.path.endswith(".json"))
    return sorted((entry for entry in found if entry.get("contract") == contract.id), key=lambda e: str(e["consumer"]))


def _read_entry(files: Files, file: str) -> dict[str, Any]:
    """What a system wrote; nothing when it is not there or not ours."""
    if not files.exists(file):
        return {}
    try:
        found = json.loads(files.read(file))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "consumer" in found else {}
