"""What is kept of batches: their entries in the ledger, and the claim of the one that is under way."""

import logging
from dataclasses import astuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.types import LongType, StructField, StructType, TimestampType

from recsys import columns as c
from recsys import schemas
from recsys.errors import TableDamagedError
from recsys.events import log_event
from recsys.ratings.ledger import Claim, Counts, Entry, Seen
from recsys.store.files import Files
from recsys.store.tables import Memo, Table, Tables

log = logging.getLogger(__name__)

_ledgers: Memo[Seen] = Memo()


def ledger_app(tables: Tables) -> str:
    """Whom the tables know the batches of this ledger from.

    A ledger that was lost and made again counts its batches afresh: its writes must not pass for repeated ones.
    """
    return f"ingest_ratings/{tables.ledger.identity()}"


def claim_file(tables: Tables) -> str:
    """Where the batch under way is kept."""
    return f"{claims_folder(tables)}/ingest_ratings.json"


def claims_folder(tables: Tables) -> str:
    """Where that is, and what a replay keeps beside it."""
    return f"{tables.root}/claims"


def read_claim(files: Files, path: str) -> Claim:
    """The batch that a killed run left open.

    Raises:
        TableDamagedError: its file is empty or cut off.
    """
    try:
        return Claim.from_json(files.read(path))
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise TableDamagedError(
            f"'{path}', which names the batch under way, is empty or cut off. Nothing was read or written. "
            "Run repair_tables: it restores what the batch needs from ledger and ratings."
        ) from err


def record_entries(spark: SparkSession, tables: Tables, claim: Claim, seen: Seen) -> None:
    """Write the entries of a batch to the ledger, and add them to what is known of it."""
    tables.ledger.append(make_ledger_rows(spark, claim))
    seen.add(claim.entries)
    _ledgers.put(tables.ledger, tables.ledger.state(), seen)


def make_ledger_rows(spark: SparkSession, claim: Claim) -> DataFrame:
    """The entries of a claim as rows of the ledger."""
    rows = [
        (e.batch, e.source, e.format, e.size, e.modified_ms, e.claimed_us, e.checksum, *astuple(e.counts), e.state)
        for e in claim.entries
    ]
    schema = StructType(
        [
            StructField(f.name, LongType() if f.dataType == TimestampType() else f.dataType)
            for f in schemas.INGEST_LEDGER
        ]
    )
    return (
        spark.createDataFrame(rows, schema)
        .coalesce(1)
        .withColumns({c.MODIFIED: sf.timestamp_millis(c.MODIFIED), c.CLAIMED_AT: sf.timestamp_micros(c.CLAIMED_AT)})
    )


def read_ledger(tables: Tables) -> Seen:
    """What earlier batches have taken in. A ledger that was lost goes on after the last batch of the ratings.

    One process reads a version of the ledger once: a loop that runs every few minutes adds its own entries to it.
    """
    state = tables.ledger.state()
    known = _ledgers.get(tables.ledger, state)
    if known is not None:
        return known
    entries = read_entries(tables.ledger)
    seen = Seen(entries)
    if not entries and tables.ratings.version() > 0:
        last = newest_batch(tables.ratings.read())
        if last > 0:
            log_event(log, "ledger_is_empty_but_ratings_are_not", level=logging.WARNING)
        seen.last_batch = seen.last_accepted_batch = last
    _ledgers.put(tables.ledger, state, seen)
    return seen


def newest_batch(ratings: DataFrame) -> int:
    """The newest batch among rows of ratings; 0 where there are none."""
    return int(ratings.agg(sf.coalesce(sf.max(c.BATCH), sf.lit(0))).collect()[0][0])


def read_entries(ledger: Table) -> list[Entry]:
    """All entries of the ledger."""
    rows = ledger.read().select(
        c.BATCH,
        c.SOURCE,
        c.FORMAT,
        c.SIZE,
        sf.unix_millis(c.MODIFIED),
        sf.unix_micros(c.CLAIMED_AT),
        c.CHECKSUM,
        sf.struct(c.LANDED, c.ACCEPTED, c.DUPLICATE, c.QUARANTINED),
        c.STATE,
    )
    return [
        Entry(
            batch=row[0],
            source=row[1],
            format=row[2],
            size=row[3],
            modified_ms=row[4],
            claimed_us=row[5],
            checksum=row[6],
            counts=Counts(*row[7]),
            state=row[8],
        )
        for row in rows.collect()
    ]


def count_batch(table: Table, batch: int) -> int:
    """Rows that a table has of one batch."""
    return table.read().where(sf.col(c.BATCH) == batch).count()
