"""What a warehouse holds, as hashes that do not depend on clocks, generated ids or the folder it is in."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.store.params import MlflowParams
from recsys.store.registry import Registry

# What a rerun may change: clocks, versions of tables, which count the commits that it repeats, and why a generation was
# published, because it may find nothing left to fit.
_CLOCKS = {c.PUBLISHED_AT, c.MODIFIED, c.CLAIMED_AT, c.TABLE_VERSIONS, c.RATINGS_VERSION}
INGESTED = ("ratings", "quarantine", "ingest_ledger", "items", "user_blocks")
PUBLISHED = ("recommendations", "generations")


def table_hash(rows: DataFrame, leave_out: Sequence[str] = ()) -> tuple[int, int]:
    """Number of rows and the sum of their hashes, whatever their order."""
    return hash_each({"rows": rows}, leave_out)["rows"]


def hash_tables(spark: SparkSession, root: str, names: Sequence[str] = INGESTED) -> dict[str, tuple[int, int]]:
    """The hash of each of these tables of a warehouse."""
    tables = {name: spark.read.format("delta").load(f"{root}/{name}") for name in names}
    if "generations" in tables:
        tables["generations"] = tables["generations"].drop(c.REASON)
    return hash_each(tables)


def hash_each(tables: Mapping[str, DataFrame], leave_out: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """The hash of each, by one query: a query costs a third of a second whatever it reads."""
    hashes = []
    for name, rows in tables.items():
        columns = [column for column in rows.columns if column not in {*_CLOCKS, *leave_out}]
        hashes.append(
            rows.select(sf.lit(name).alias("name"), sf.xxhash64(*columns).cast("decimal(38,0)").alias("hash"))
        )
    found = reduce(DataFrame.union, hashes).groupBy("name").agg(sf.count("*"), sf.sum("hash")).collect()
    return {**dict.fromkeys(tables, (0, 0)), **{row[0]: (int(row[1]), int(row[2])) for row in found}}


def hash_models(root: str, mlflow: MlflowParams | None = None) -> dict[str, Any]:
    """The registered versions with their verdicts and files; the aliases."""
    registry = Registry(mlflow or MlflowParams(), root)
    versions = {
        version: [registry.describe(version).verdict, sorted(registry.load(version).items())]
        for version in registry.versions()
    }
    aliases = [registry.champion, registry.challenger, registry.previous]
    return {"versions": versions, "champion, challenger, previous": aliases}


def fingerprint(spark: SparkSession, root: str, mlflow: MlflowParams | None = None) -> dict[str, Any]:
    """A hash of every table, and the models; these are under the warehouse, unless ``mlflow`` says where."""
    return {**hash_tables(spark, root, (*INGESTED, *PUBLISHED)), **hash_models(root, mlflow)}
