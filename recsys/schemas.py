"""Explicit schemas of the eight Delta tables (docs/architecture.md, Tables) and of the split blocks.

Binary columns are little-endian NumPy arrays. Sizes: U users and N ratings in the block.
"""

import re
from typing import Final

from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructType,
    TimestampType,
)

from recsys import columns as c

_PRIMITIVES: Final[dict[str, DataType]] = {
    "STRING": StringType(),
    "INT": IntegerType(),
    "LONG": LongType(),
    "FLOAT": FloatType(),
    "DOUBLE": DoubleType(),
    "BOOLEAN": BooleanType(),
    "BINARY": BinaryType(),
    "TIMESTAMP": TimestampType(),
}


def _table(ddl: str) -> StructType:
    # Spark's own parser needs a running session, and this module is imported before there is one.
    schema = StructType()
    for column in _split(ddl):
        name, _, dtype = column.partition(" ")
        schema.add(name.removesuffix(":"), _type(dtype.removesuffix(" NOT NULL")), not dtype.endswith(" NOT NULL"))
    return schema


def _type(text: str) -> DataType:
    outer, _, inner = text.removesuffix(">").partition("<")
    match outer:
        case "ARRAY":
            return ArrayType(_type(inner))
        case "MAP":
            key, value = _split(inner)
            return MapType(_type(key), _type(value))
        case "STRUCT":
            return _table(inner)
        case _:
            return _PRIMITIVES[outer]


def _split(text: str) -> list[str]:
    """Split at the commas that are not inside angle brackets."""
    return [part.strip() for part in re.split(r",(?![^<]*>)", text)]


RATINGS: Final = _table(
    f"{c.USER_ID} STRING NOT NULL, {c.ITEM_ID} STRING NOT NULL, {c.VALUE} DOUBLE, "
    f"{c.EVENT_TIME} TIMESTAMP NOT NULL, {c.EVENT_ID} STRING NOT NULL, {c.BATCH} LONG NOT NULL, {c.BUCKET} INT NOT NULL"
)

NO_EVENT_ID: Final = ""  # of a rating that came without one; it sorts before all others

QUARANTINE: Final = _table(
    f"{c.BATCH} LONG NOT NULL, {c.SOURCE} STRING NOT NULL, {c.OFFSET} LONG, {c.RAW} STRING, "
    f"{c.RULES} ARRAY<STRING> NOT NULL, {c.REASON} STRING NOT NULL"
)

# One row a file or range of offsets; `landed = accepted + duplicate + quarantined` is the conservation law. `modified`
# tells without reading it that a file is the one of last time; `claimed_at` is the clock of the batch's time rules.
INGEST_LEDGER: Final = _table(
    f"{c.BATCH} LONG NOT NULL, {c.SOURCE} STRING NOT NULL, {c.FORMAT} STRING NOT NULL, {c.SIZE} LONG NOT NULL, "
    f"{c.MODIFIED} TIMESTAMP NOT NULL, {c.CLAIMED_AT} TIMESTAMP NOT NULL, {c.CHECKSUM} STRING NOT NULL, "
    f"{c.LANDED} LONG NOT NULL, {c.ACCEPTED} LONG NOT NULL, "
    f"{c.DUPLICATE} LONG NOT NULL, {c.QUARANTINED} LONG NOT NULL, {c.STATE} STRING NOT NULL"
)

ITEMS: Final = _table(
    f"{c.ITEM_ID} STRING NOT NULL, {c.POSITION} INT NOT NULL, {c.TITLE} STRING, {c.GENRES} ARRAY<STRING>, "
    f"{c.AVAILABLE} BOOLEAN NOT NULL, {c.BATCH} LONG NOT NULL"
)

# Users ascending by UTF-8 bytes, a user's ratings ascending by item position. A withdrawn rating stays as
# an entry whose value is NaN, so that an older event that arrives late cannot bring it back. Where events are
# summed, an item is there once for each event id, ascending by id. Layers: `recsys.blocks.codec`.
USER_BLOCKS: Final = _table(
    f"{c.BUCKET} INT NOT NULL, {c.BLOCK} INT NOT NULL, {c.LAYER} INT NOT NULL, "
    f"{c.N_USERS} INT NOT NULL, {c.N_RATINGS} LONG NOT NULL, "
    f"{c.USER_IDS} ARRAY<STRING> NOT NULL, "
    f"{c.OFFSETS} BINARY NOT NULL, "  # int64, U + 1
    f"{c.ITEMS} BINARY NOT NULL, "  # uint16 when all positions fit, else uint32; N
    f"{c.VALUES} BINARY NOT NULL, "  # uint8 codes when the dictionary is not empty, else float32; N
    f"{c.DICTIONARY} BINARY NOT NULL, "  # float32, at most 256 values ascending, NaN last; may be empty
    f"{c.TIMES} BINARY NOT NULL, "  # int64 microseconds since 1970 UTC; N
    # int32 offsets N + 1, then UTF-8; N; or empty, when all ids are. They break ties between events of one time.
    f"{c.EVENT_IDS} BINARY NOT NULL, "
    f"{c.OLDEST} LONG NOT NULL, {c.NEWEST} LONG NOT NULL, "  # of the times
    f"{c.THROUGH_BATCH} LONG NOT NULL, {c.RATINGS_VERSION} LONG NOT NULL"
)

# What one fit, judgement or scoring reads: the ratings before the cut-off, without withdrawn ones, and beside
# them the held-out ones. Never stored. `weights` (float32, N) is empty when no rating is weighted by its age.
SPLIT_BLOCKS: Final = _table(
    f"{c.BUCKET} INT NOT NULL, {c.BLOCK} INT NOT NULL, {c.USER_IDS} ARRAY<STRING> NOT NULL, "
    f"{c.OFFSETS} BINARY NOT NULL, {c.ITEMS} BINARY NOT NULL, {c.VALUES} BINARY NOT NULL, "
    f"{c.DICTIONARY} BINARY NOT NULL, {c.WEIGHTS} BINARY NOT NULL, "
    f"{c.HELD_OFFSETS} BINARY NOT NULL, {c.HELD_ITEMS} BINARY NOT NULL, {c.HELD_VALUES} BINARY NOT NULL"
)

RECOMMENDATIONS: Final = _table(
    f"{c.GENERATION} LONG NOT NULL, {c.USER_ID} STRING NOT NULL, "
    f"{c.ITEMS} ARRAY<STRUCT<{c.ITEM_ID}: STRING, {c.SCORE}: FLOAT, {c.REASON}: STRING>> NOT NULL"
)

# The pointer: the row with the highest sequence names the generation that consumers read.
GENERATIONS: Final = _table(
    f"{c.SEQUENCE} LONG NOT NULL, {c.GENERATION} LONG NOT NULL, {c.MODEL_VERSION} LONG NOT NULL, "
    f"{c.TABLE_VERSIONS} MAP<STRING, LONG> NOT NULL, {c.N_USERS} LONG NOT NULL, "
    f"{c.PUBLISHED_AT} TIMESTAMP NOT NULL, {c.STATE} STRING NOT NULL, {c.REASON} STRING NOT NULL"
)

# Users who were forgotten, of whom no id is kept: `recsys.suppression`. Made by the first forget_user.
SUPPRESSED_USERS: Final = _table(
    f"{c.USER_HASH} STRING NOT NULL, {c.SUPPRESSED_AT} TIMESTAMP NOT NULL, {c.LISTED_IN} ARRAY<LONG> NOT NULL"
)

JOB_RUNS: Final = _table(
    f"{c.RUN_ID} STRING NOT NULL, {c.JOB} STRING NOT NULL, {c.PARAMETERS} STRING NOT NULL, "
    f"{c.VERSIONS_IN} MAP<STRING, LONG> NOT NULL, {c.VERSIONS_OUT} MAP<STRING, LONG> NOT NULL, "
    f"{c.COUNTS} MAP<STRING, LONG> NOT NULL, {c.DETAILS} STRING NOT NULL, {c.OUTCOME} STRING NOT NULL, "
    f"{c.EXIT_CODE} INT NOT NULL, {c.MESSAGE} STRING NOT NULL, {c.STARTED_AT} TIMESTAMP NOT NULL, "
    f"{c.SECONDS} DOUBLE NOT NULL"
)
