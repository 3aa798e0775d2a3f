"""Lists that tell which generation they are of, for tests of publishing and rolling back."""

from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession

from recsys import columns as c
from recsys.config import Settings
from recsys.schemas import GENERATIONS, RECOMMENDATIONS
from recsys.store.generations import PUBLISHED, Generation, publish, read_generation, write_lists
from recsys.store.tables import SPECS, Tables

Lists = dict[str, list[tuple[str, float, str]]]


def make_tables(spark: SparkSession, settings: Settings) -> Tables:
    """The three tables that publication touches: each costs a commit."""
    tables = Tables(spark, settings.warehouse)
    for table in (tables.recommendations, tables.generations, tables.items):
        table.create(SPECS[table.name], {})
    return tables


def frame(spark: SparkSession, generation: int, lists: Lists) -> DataFrame:
    """Lists by user as the table's rows."""
    return spark.createDataFrame([(generation, user, items) for user, items in lists.items()], RECOMMENDATIONS)


def lists_of(generation: int, users: tuple[str, ...] = ("ann", "bob")) -> Lists:
    """One item a user, named after the generation, and the fallback row."""
    return {user: [(f"item of {generation}", 1.0, "why")] for user in (c.FALLBACK_USER_ID, *users)}


def publish_lists(spark: SparkSession, tables: Tables, generation: int, model_version: int = 1) -> Generation:
    """Write and publish the lists of a generation."""
    written = write_lists(tables, generation, frame(spark, generation, lists_of(generation)))
    return publish(tables, written, model_version, {"user_blocks": 3}, "test")


def have_published(spark: SparkSession, tables: Tables, versions: dict[int, int]) -> None:
    """Leave the tables as publications of several generations do, model version by generation, in two commits."""
    lists = [(number, user, items) for number in versions for user, items in lists_of(number).items()]
    now = datetime.now(UTC)
    pointers = [(at, at, version, {}, 2, now, PUBLISHED, "test") for at, version in enumerate(versions.values(), 1)]
    tables.recommendations.append(spark.createDataFrame(lists, RECOMMENDATIONS))
    tables.generations.append(spark.createDataFrame(pointers, GENERATIONS))


def read_lists(tables: Tables) -> tuple[int, Lists]:
    """The generation that consumers read, and its lists by user."""
    pinned, lists = read_generation(tables)
    return pinned.generation, {row[c.USER_ID]: [tuple(entry) for entry in row[c.ITEMS]] for row in lists.collect()}
