"""From lines and columns as they landed to candidate rows: our columns as text, beside the raw row."""

import re
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as sf
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from recsys import columns as c
from recsys.ratings.contract import LOGICAL_TYPES, RatingsContract
from recsys.ratings.landing import UNKNOWN_COLUMN, Fault, Layout

FAULT = "fault"  # struct<rule, reason>: why a row could not be taken apart; null when it could
_FAULT_TYPE = "struct<rule: string, reason: string>"
_BROKEN = "_broken"

TEXTS = tuple(LOGICAL_TYPES)
CANDIDATES = f"{c.SOURCE} STRING, {c.OFFSET} LONG, {c.RAW} STRING, {FAULT} {_FAULT_TYPE}, " + ", ".join(
    f"{name} STRING" for name in TEXTS
)


def read_source(folder: str, *, is_flat: bool) -> Column:
    """Name of a row's file below the landing folder, of which Spark gives the percent-encoded path with each row.

    Args:
        folder: the landing folder.
        is_flat: whether all files lie in the folder itself: their names alone cost a third.
    """
    if is_flat:
        return _decode(sf.col("_metadata.file_name"))
    path = _decode(sf.col("_metadata.file_path"))
    below = f"{re.sub(r'^[a-z0-9+.-]+:(//[^/]*)?', '', folder.rstrip('/'))}/"
    return sf.substring(path, sf.locate(below, path) + len(below), sf.lit(2**31 - 1))


def _decode(path: Column) -> Column:
    """Few names are encoded at all, and this is done for every row."""
    return sf.when(path.contains("%"), sf.url_decode(sf.replace(path, sf.lit("+"), sf.lit("%2B")))).otherwise(path)


def parse_lines(lines: DataFrame, layout: Layout, fault: Fault | None, contract: RatingsContract) -> DataFrame:
    """Take lines apart.

    Args:
        lines: ``source``, ``value``; header lines and empty ones among them.
        layout: of the file they are from.
        fault: of the whole file: then no line is taken apart.
        contract: names of our columns in JSON.

    Returns:
        Candidate rows: ``source``, ``offset`` (null), ``raw``, ``fault`` and the columns in `TEXTS`, all text.
    """
    return _of_file(_take_apart(lines, layout, fault, contract))


def _take_apart(lines: DataFrame, layout: Layout, fault: Fault | None, contract: RatingsContract) -> DataFrame:
    rows = lines.select(c.SOURCE, sf.make_valid_utf8("value").alias(c.RAW)).where(sf.trim(c.RAW) != "")
    if fault is not None:
        return rows.select(c.SOURCE, c.RAW, make_fault(fault.rule, fault.reason).alias(FAULT), *_texts({}))
    if layout.reader == "csv":
        # Every line like the header is one: files made by joining files have several, and none is a rating.
        return _parse_csv(rows.where(sf.col(c.RAW) != layout.header), layout)
    if layout.reader == "fields":
        return _parse_fields(rows, layout)
    return parse_objects(rows, contract)


def parse_columns(rows: DataFrame, layout: Layout) -> DataFrame:
    """Bring the columns of a Parquet file to text; the raw row is the JSON of those columns.

    Args:
        rows: ``source`` and the file's columns that ``layout`` names.
        layout: our columns with their names and types in the file.
    """
    # To the microsecond, so that a replay reads the same time.
    options = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}
    raw = sf.to_json(sf.struct(*(sf.col(f"`{name}`") for _, name, _ in layout.names)), options)
    texts = {column: _to_text(sf.col(f"`{name}`"), kind) for column, name, kind in layout.names}
    return _of_file(rows.select(c.SOURCE, raw.alias(c.RAW), _no_fault().alias(FAULT), *_texts(texts)))


def _of_file(candidates: DataFrame) -> DataFrame:
    """The place of a row in a file is not kept: Spark does not know it."""
    return candidates.withColumn(c.OFFSET, sf.lit(None).cast("long"))


def _to_text(column: Column, kind: str) -> Column:
    if kind.startswith("timestamp"):
        return (sf.unix_micros(column.cast("timestamp")).cast("decimal(20, 0)") / 1_000_000).cast("string")
    return column.cast("string")


def _parse_csv(rows: DataFrame, layout: Layout) -> DataFrame:
    names = [f"_{place}" for place in range(layout.n_fields)]
    schema = ", ".join(f"{name} STRING" for name in [*names, _BROKEN])
    options = {"sep": layout.delimiter, "escape": '"', "columnNameOfCorruptRecord": _BROKEN}
    is_quoted = sf.contains(c.RAW, sf.lit('"'))
    # Where nothing is quoted the delimiter separates fields, and to split at it costs a third of Spark's CSV parser.
    apart = rows.withColumns(
        {
            "fields": sf.from_csv(sf.when(is_quoted, sf.col(c.RAW)), schema, options),
            "parts": sf.when(~is_quoted, sf.split(c.RAW, _as_regex(layout.delimiter), -1)),
        }
    )
    broken = sf.col(f"fields.{_BROKEN}").isNotNull() | (sf.size("parts") != layout.n_fields)
    reason = sf.lit(f"the line has not the {layout.n_fields} fields of the header")
    texts = {
        column: sf.coalesce(f"fields._{place}", sf.nullif(sf.get("parts", sf.lit(place)), sf.lit("")))
        for column, place in layout.places
    }
    return apart.select(
        c.SOURCE, c.RAW, sf.when(broken, make_fault("broken_line", reason)).alias(FAULT), *_texts(texts)
    )


def _parse_fields(rows: DataFrame, layout: Layout) -> DataFrame:
    fields = rows.withColumn("fields", sf.split(c.RAW, _as_regex(layout.delimiter), -1))
    found = sf.size("fields")
    reason = sf.concat(sf.lit(f"expected {layout.n_fields} fields, found "), found.cast("string"))
    fault = sf.when(found != layout.n_fields, make_fault("broken_line", reason))
    texts = {column: sf.get("fields", sf.lit(place)) for column, place in layout.places}
    return fields.select(c.SOURCE, c.RAW, fault.alias(FAULT), *_texts(texts))


def _as_regex(delimiter: str) -> str:
    """A pattern for exactly this text; of one escaped character Java makes none, and splits in half the time."""
    return rf"\{delimiter}" if len(delimiter) == 1 and not delimiter.isalnum() else rf"\Q{delimiter}\E"


def parse_objects(
    rows: DataFrame, contract: RatingsContract, versions: Mapping[str, Mapping[str, Sequence[str]]] | None = None
) -> DataFrame:
    """Take texts apart that must each be one JSON object.

    Args:
        rows: ``raw`` and whatever is to be kept beside it.
        contract: names of our columns, and what is done with others.
        versions: names of our columns in each version of the objects, of which each says its own; one that does not is
            of the first. Without it there are no versions.

    Returns:
        The rows with ``fault`` and the columns in `TEXTS`, all text.
    """
    layouts = {"": contract.columns} if versions is None else versions
    names = [name for columns in layouts.values() for own in columns.values() for name in own]
    known = list(dict.fromkeys(names if versions is None else [c.VERSION, *names]))
    # Read as an array of one: of `{…}{…}` or `{…} x` the parser would return the first object and drop the rest.
    schema = ArrayType(StructType([StructField(name, StringType()) for name in known]))
    objects = rows.withColumn("objects", sf.from_json(sf.concat(sf.lit("["), c.RAW, sf.lit("]")), schema))
    first = sf.get("objects", sf.lit(0))
    is_object = (sf.size("objects") == 1) & sf.col(c.RAW).rlike(r"^\s*\{[\s\S]*\}\s*$") & first.isNotNull()
    version = (
        sf.coalesce(first.getField(c.VERSION), sf.lit(next(iter(layouts)))) if versions is not None else sf.lit("")
    )
    texts = {column: _choose(first, version, column, layouts) for column in contract.columns}
    is_nested = sf.lit(False)
    for text in texts.values():
        is_nested = is_nested | sf.coalesce(text.rlike(r"^\s*[\[{]"), sf.lit(False))
    what = "line" if versions is None else "message"
    fault = sf.when(
        ~sf.coalesce(is_object, sf.lit(False)), make_fault(f"broken_{what}", f"the {what} is not one JSON object")
    )
    if versions is not None:
        reason = sf.concat(
            sf.lit("version '"), sf.left(version, sf.lit(40)), sf.lit(f"' is not of {', '.join(layouts)}")
        )
        fault = fault.when(~version.isin(list(layouts)), make_fault("unknown_version", reason))
    fault = fault.when(is_nested, make_fault("nested_value", "a column holds an object or an array"))
    if contract.unknown_columns != "ignore":
        unknown = sf.array_except(sf.json_object_keys(c.RAW), sf.array(*(sf.lit(name) for name in known)))
        reason = sf.concat(sf.lit("the contract has no column "), sf.left(sf.array_join(unknown, ", "), sf.lit(200)))
        fault = fault.when(sf.size(unknown) > 0, make_fault(UNKNOWN_COLUMN, reason))
    return objects.select(*rows.columns, fault.alias(FAULT), *_texts(texts))


def _choose(first: Column, version: Column, column: str, layouts: Mapping[str, Mapping[str, Sequence[str]]]) -> Column:
    """The field that holds a column; where all versions call it the same, nobody asks for the version."""
    fields = {name: sf.coalesce(*(first.getField(own) for own in columns[column])) for name, columns in layouts.items()}
    if len({tuple(columns[column]) for columns in layouts.values()}) == 1:
        return next(iter(fields.values()))
    return sf.coalesce(*(sf.when(version == name, field) for name, field in fields.items()))


def _texts(found: dict[str, Column]) -> list[Column]:
    return [found.get(column, sf.lit(None).cast("string")).alias(column) for column in TEXTS]


def make_fault(rule: str, reason: Column | str) -> Column:
    """What ``fault`` holds of a row that could not be taken apart."""
    why = sf.lit(reason) if isinstance(reason, str) else reason
    return sf.struct(sf.lit(rule).alias("rule"), why.alias("reason")).cast(_FAULT_TYPE)


def _no_fault() -> Column:
    return sf.lit(None).cast(_FAULT_TYPE)
