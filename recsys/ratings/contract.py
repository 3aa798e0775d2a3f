"""The contract with the sources of ratings: what a file must hold, who owns it, who depends on it.

What follows from it is generated: the rules and the table's constraints (`recsys.ratings.rules`), and the columns that
are looked for in a source (`source_schema`, `parquet_types`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from recsys import columns as c
from recsys.errors import ConfigError
from recsys.params import Section
from recsys.ratings.odcs import ContractFile, LogicalType, Names, Property, SlaProperty, custom_values

if TYPE_CHECKING:
    from pyspark.sql.types import DataType, StructType

Kind = Literal["ratings", "events"]
Reader = Literal["csv", "fields", "json", "parquet"]
UnknownColumns = Literal["ignore", "quarantine", "reject"]

LOGICAL_TYPES: Final[Mapping[str, LogicalType]] = {
    c.USER_ID: "string",
    c.ITEM_ID: "string",
    c.VALUE: "number",
    c.EVENT_TYPE: "string",
    c.EVENT_TIME: "timestamp",
    c.EVENT_ID: "string",
    c.WITHDRAWN: "boolean",
}
IDS: Final = (c.USER_ID, c.ITEM_ID, c.EVENT_ID)
# A source that has not these is of no use, whatever its contract says; the value of an event is its type's weight.
NEEDED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "ratings": (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME),
    "events": (c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIME, c.EVENT_ID),
}
_OPTIONAL: Final[Mapping[Kind, tuple[str, ...]]] = {
    "ratings": (c.EVENT_ID, c.WITHDRAWN),
    "events": (c.WITHDRAWN,),
}
# Types in the ratings table; a test holds them to `recsys.schemas`, because a producer's process has no Spark.
STORED: Final[Mapping[str, str]] = {
    c.USER_ID: "string",
    c.ITEM_ID: "string",
    c.VALUE: "double",
    c.EVENT_TIME: "timestamp",
    c.EVENT_ID: "string",
}
_UNITS: Final = {"min": 60, "h": 3600, "d": 86_400}
T = TypeVar("T")


class FileFormat(Section):
    """How the files with one ending are read. ``fields`` is for lines without a header, split at ``delimiter``."""

    reader: Reader
    delimiter: str | None = Field(default=None, min_length=1)
    fields: Names | None = None

    @model_validator(mode="after")
    def _fields_need_names(self) -> Self:
        if (self.reader == "fields") != (self.delimiter is not None and self.fields is not None):
            raise ValueError("reader 'fields' needs 'delimiter' and 'fields'; the other readers take neither")
        return self


class Consumer(Section):
    """A system that depends on the data, and whom to tell before they change."""

    name: str = Field(min_length=1)
    contact: str = Field(min_length=1)
    uses: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.contact})"


class RatingsContract(Section):
    """What a contract file says, in the terms of this system.

    Attributes:
        id: of the contract, the same in all of its versions.
        version: of the contract.
        owner: whom messages about a broken source name.
        contact: where the owner is reached.
        consumers: that the owner knows of.
        kind: ratings, of which the newest of a pair counts, or events, which are summed.
        columns: of a source by our names: the names that sources give them.
        required: columns that a source must have and whose values must not be missing.
        formats: by the ending of a file's name.
        value_range: of a rating's value or an event's weight, both ends included.
        weights: by event type; empty for ratings.
        earliest: event time before which a clock must be broken.
        clock_skew_seconds: an event may be this far in the future.
        max_lengths: characters of each id.
        unknown_columns: what is done with a source that has other columns, too.
        versions: of messages: the names of columns in each; a message that names none is of the first.
        volume: rows that a batch has at least and at most; None: any number.
        freshness: age of the newest batch at most; None: any.
    """

    id: str
    version: str
    owner: str
    contact: str
    consumers: tuple[Consumer, ...]
    kind: Kind
    columns: dict[str, tuple[str, ...]]
    required: frozenset[str]
    formats: dict[str, FileFormat]
    value_range: tuple[float, float]
    weights: dict[str, float]
    earliest: datetime
    clock_skew_seconds: float
    max_lengths: dict[str, int]
    unknown_columns: UnknownColumns
    versions: dict[str, dict[str, tuple[str, ...]]]
    volume: tuple[int, int] | None
    freshness: timedelta | None

    @property
    def owner_and_contact(self) -> str:
        """The owner as messages name him."""
        return f"{self.owner}, {self.contact}"

    @property
    def source_names(self) -> tuple[str, ...]:
        """Every name of every column, in a fixed order."""
        return tuple(dict.fromkeys(name for names in self.columns.values() for name in names))

    def source_schema(self) -> "StructType":
        """What is read of a source of text: every column as text, because the rules say what is wrong with it."""
        from pyspark.sql.types import StringType, StructField, StructType

        return StructType([StructField(name, StringType()) for name in self.source_names])

    def earliest_us(self) -> int:
        """First allowed event time, microseconds since 1970 UTC."""
        return (self.earliest - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

    def latest_us(self, now_us: int) -> int:
        """Last allowed event time by a clock, both in microseconds since 1970 UTC."""
        return now_us + int(self.clock_skew_seconds * 1e6)

    def format_of(self, name: str) -> tuple[str, FileFormat] | None:
        """Ending and format of a file name, None when the contract has no such ending."""
        plain = name.lower().removesuffix(".gz")
        for ending, file_format in self.formats.items():
            is_packed_parquet = file_format.reader == "parquet" and name.lower().endswith(".gz")
            if plain.endswith(ending) and not is_packed_parquet:
                return ending, file_format
        return None


def parquet_types(column: str) -> "tuple[type[DataType], ...]":
    """The types that a column of ours may have in a Parquet file."""
    from pyspark.sql import types as t

    allowed: Mapping[LogicalType, tuple[type[DataType], ...]] = {
        "string": (t.StringType, t.IntegralType),
        "number": (t.NumericType,),
        "timestamp": (t.NumericType, t.TimestampType, t.TimestampNTZType),
        "boolean": (t.BooleanType,),
    }
    return allowed[LOGICAL_TYPES[column]]


def load_contract(file: Path) -> RatingsContract:
    """Read the contract.

    Raises:
        ConfigError: the file cannot be read, or a key in it is unknown, missing or wrong; one line says which.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"contract file '{file}' does not exist. Check the setting 'contract'.") from err
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"contract file '{file}' cannot be read: {' '.join(str(err).split())}. Correct it.") from err
    try:
        return _translate(ContractFile.model_validate(content))
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{file}: '{key}' is {first['input']!r}: {first['msg']}. Correct it there.") from err
    except ValueError as err:
        raise ConfigError(f"{file}: {err}. Correct it there.") from err


def _translate(file: ContractFile) -> RatingsContract:
    """The contract that a file holds.

    Raises:
        ValueError: the file is one of the standard, but says what this system cannot keep.
    """
    [schema] = file.schema_
    ours = _Keys("customProperties", custom_values(file.custom_properties))
    shape = _Keys("schema.customProperties", custom_values(schema.custom_properties))
    kind = shape.take("kind", _KindOf, {"value": "ratings"}).value
    properties = _check_properties(schema.properties, kind)
    time = _Keys(f"{c.EVENT_TIME}.customProperties", custom_values(properties[c.EVENT_TIME].custom_properties))
    own_type = properties.get(c.EVENT_TYPE)
    kinds = _Keys(f"{c.EVENT_TYPE}.customProperties", custom_values(own_type.custom_properties if own_type else ()))
    value_range = _read_range(properties.get(c.VALUE), kind)
    weights = kinds.take("weights", _WeightsOf, {"value": {}}).value
    _check_weights(weights, value_range, kind)
    columns = {name: found.transform_source_objects or (name,) for name, found in properties.items()}
    contract = RatingsContract(
        id=file.id,
        version=file.version,
        owner=file.team.name,
        contact=file.support[0].channel,
        consumers=ours.take("consumers", _ConsumersOf, {"value": []}).value,
        kind=kind,
        columns=columns,
        required=frozenset(name for name, found in properties.items() if found.required),
        formats=shape.take("formats", _FormatsOf, {"value": {}}).value,
        value_range=value_range,
        weights=weights,
        earliest=_read_earliest(properties[c.EVENT_TIME]),
        clock_skew_seconds=time.take("clockSkewSeconds", _SecondsOf, {"value": 300.0}).value,
        max_lengths={
            name: properties[name].logical_type_options.max_length or 256 if name in properties else 256 for name in IDS
        },
        unknown_columns=shape.take("unknownColumns", _UnknownOf, {"value": "ignore"}).value,
        versions=_read_versions(shape.take("messageVersions", _VersionsOf, {"value": {"1": {}}}).value, columns),
        volume=schema.quality[0].must_be_between if schema.quality else None,
        freshness=_read_freshness(file.sla_properties),
    )
    for keys in (ours, shape, time, kinds):
        keys.require_empty()
    _check_names(contract)
    return contract


class _KindOf(Section):
    value: Kind


class _WeightsOf(Section):
    value: dict[str, Annotated[float, Field(gt=0)]]


class _ConsumersOf(Section):
    value: Annotated[tuple[Consumer, ...], Field(strict=False)]


class _FormatsOf(Section):
    value: dict[str, FileFormat] = Field(min_length=1)


class _SecondsOf(Section):
    value: float = Field(ge=0)


class _UnknownOf(Section):
    value: UnknownColumns


class _VersionsOf(Section):
    value: dict[str, dict[str, Names]] = Field(min_length=1)


class _Keys:
    """Keys of ours in one place of the file; each is taken once, and none may be left."""

    def __init__(self, place: str, found: dict[str, Any]) -> None:
        self._place, self._found = place, found
        self._known: list[str] = []

    def take(self, key: str, model: type[T], default: dict[str, Any]) -> T:
        """What a key says, checked."""
        self._known.append(key)
        content = {"value": self._found.pop(key)} if key in self._found else default
        try:
            return model(**content)
        except ValidationError as err:
            first = err.errors(include_url=False)[0]
            where = ".".join([key, *(str(part) for part in first["loc"][1:])])
            raise ValueError(f"'{self._place}.{where}' is {first['input']!r}: {first['msg']}") from err

    def require_empty(self) -> None:
        """Raise what is unknown."""
        if self._found:
            unknown, known = ", ".join(self._found), ", ".join(self._known)
            raise ValueError(f"unknown key '{unknown}' in {self._place}. Known keys there: {known}")


def _check_properties(found: tuple[Property, ...], kind: Kind) -> dict[str, Property]:
    allowed = (*NEEDED[kind], *_OPTIONAL[kind])
    properties = {own.name: own for own in found}
    if len(properties) < len(found):
        raise ValueError("two of the schema's properties have one name")
    for name, own in properties.items():
        if name not in allowed:
            raise ValueError(f"property '{name}' is not of {kind}. Known properties: {', '.join(allowed)}")
        if own.logical_type != LOGICAL_TYPES[name]:
            raise ValueError(f"property '{name}' has logicalType {own.logical_type}, it must be {LOGICAL_TYPES[name]}")
        stored = STORED.get(name)
        if own.physical_type is not None and stored is not None and own.physical_type.lower() != stored:
            raise ValueError(f"property '{name}' has physicalType {own.physical_type}, the ratings table has {stored}")
        if own.custom_properties and name not in (c.EVENT_TIME, c.EVENT_TYPE):
            raise ValueError(f"property '{name}' has customProperties, which nobody reads")
        _check_options(own)
    for name in NEEDED[kind]:
        if name not in properties:
            raise ValueError(f"the schema has no property '{name}', which {kind} need")
        if not properties[name].required:
            raise ValueError(f"property '{name}' must have 'required: true': {kind} are of no use without it")
    if kind == "events" and not properties[c.EVENT_ID].unique:
        raise ValueError(f"property '{c.EVENT_ID}' must have 'unique: true': events are summed, and each only once")
    return properties


def _check_options(own: Property) -> None:
    """What is said must be kept: an option that no rule comes of is an error."""
    given = own.logical_type_options.model_dump(exclude_none=True)
    known = {"string": {"minLength", "maxLength"}, "number": {"minimum", "maximum"}, "timestamp": {"minimum"}}
    allowed = known.get(own.logical_type, set()) if own.name != c.EVENT_TYPE else set()
    if unknown := sorted(given.keys() - allowed):
        raise ValueError(
            f"property '{own.name}' has logicalTypeOptions {', '.join(unknown)}, for which there is no rule"
        )
    if given.get("minLength", 1) != 1:
        raise ValueError(f"property '{own.name}' has minLength {given['minLength']}: ids have at least 1 character")


def _read_range(value: Property | None, kind: Kind) -> tuple[float, float]:
    if value is None:
        return 0.0, float("1e9")  # of an event's weight
    low, high = value.logical_type_options.minimum, value.logical_type_options.maximum
    for name, limit in (("minimum", low), ("maximum", high)):
        if not isinstance(limit, int | float) or not isfinite(limit):
            raise ValueError(f"property '{c.VALUE}' needs a number as logicalTypeOptions.{name}, found {limit!r}")
    if low > high:  # type: ignore[operator]
        raise ValueError(f"property '{c.VALUE}' has minimum {low} above maximum {high}")
    return float(low), float(high)  # type: ignore[arg-type]


def _check_weights(weights: dict[str, float], value_range: tuple[float, float], kind: Kind) -> None:
    if kind == "events" and not weights:
        raise ValueError(
            f"events need a weight for each type: customProperties of '{c.EVENT_TYPE}', property 'weights'"
        )
    too_heavy = [name for name, weight in weights.items() if weight > value_range[1]]
    if too_heavy:
        raise ValueError(f"the weight of '{too_heavy[0]}' is above {value_range[1]:g}")


def _read_earliest(time: Property) -> datetime:
    text = time.logical_type_options.minimum
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
    except ValueError as err:
        raise ValueError(
            f"property '{c.EVENT_TIME}' needs a time in ISO 8601 as logicalTypeOptions.minimum, found {text!r}"
        ) from err
    if moment.tzinfo is None:
        raise ValueError(
            f"property '{c.EVENT_TIME}': logicalTypeOptions.minimum {text!r} has no time zone, as Z for UTC"
        )
    return moment.astimezone(UTC)


def _read_versions(
    differing: Mapping[str, Mapping[str, tuple[str, ...]]], columns: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """The names of all columns in each version of messages, of which a contract says those that differ."""
    for version, names in differing.items():
        if unknown := sorted(names.keys() - columns.keys()):
            raise ValueError(
                f"messageVersions: version '{version}' names column '{unknown[0]}', which the schema has not"
            )
    return {version: columns | dict(names) for version, names in differing.items()}


def _read_freshness(promises: tuple[SlaProperty, ...]) -> timedelta | None:
    for promise in promises:
        if promise.property != "freshness":
            raise ValueError(f"slaProperties name '{promise.property}', which nobody watches; 'freshness' is watched")
        if promise.unit not in _UNITS or not isinstance(promise.value, int | float) or promise.value <= 0:
            raise ValueError(
                f"slaProperties: freshness is {promise.value!r} {promise.unit!r}, "
                f"but must be a number above 0 with a unit of {', '.join(_UNITS)}"
            )
        return timedelta(seconds=promise.value * _UNITS[promise.unit])
    return None


def _check_names(contract: RatingsContract) -> None:
    """A name in a source must not stand for two columns, and what a line's fields are called must be known."""
    versions = ((f"messageVersions '{version}'", columns) for version, columns in contract.versions.items())
    for where, columns in (("transformSourceObjects", contract.columns), *versions):
        taken: dict[str, str] = {}
        for column, names in columns.items():
            for name in names:
                if taken.setdefault(name, column) != column:
                    raise ValueError(f"{where} name '{name}' for both {taken[name]} and {column}")
    if not contract.formats:
        raise ValueError("schema.customProperties: 'formats' is missing; it says how files are read")
