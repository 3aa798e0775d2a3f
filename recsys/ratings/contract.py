"""The contract with the sources of ratings: what a file must hold, who owns it, who depends on it."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from recsys import columns as c
from recsys.errors import ConfigError
from recsys.params import Section

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Reader = Literal["csv", "fields", "json", "parquet"]

REQUIRED = (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME)


class ColumnNames(Section):
    """For each column of a rating, the names that sources give it; the first that a file has is taken."""

    user_id: Names
    item_id: Names
    value: Names
    event_time: Names
    event_id: Names = (c.EVENT_ID,)
    withdrawn: Names = (c.WITHDRAWN,)

    def of(self, column: str) -> tuple[str, ...]:
        """The names of one column."""
        names: tuple[str, ...] = getattr(self, column)
        return names

    def all(self) -> tuple[str, ...]:
        """Every name of every column, in a fixed order."""
        return tuple(dict.fromkeys(name for column in type(self).model_fields for name in self.of(column)))


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


class RatingsContract(Section):
    """The whole of ``conf/contracts/ratings.yaml``."""

    owner: str = Field(min_length=1)
    consumers: Names
    columns: ColumnNames
    formats: dict[str, FileFormat] = Field(min_length=1)
    value_range: Annotated[tuple[float, float], Field(strict=False)]
    earliest: date
    clock_skew_seconds: float = Field(default=300.0, ge=0)
    max_id_length: int = Field(default=256, ge=1)

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.value_range[0] > self.value_range[1]:
            raise ValueError(f"value_range {list(self.value_range)} has its ends the wrong way round")
        return self

    def earliest_us(self) -> int:
        """First allowed event time, microseconds since 1970 UTC."""
        return int(datetime(self.earliest.year, self.earliest.month, self.earliest.day, tzinfo=UTC).timestamp()) * 10**6

    def format_of(self, name: str) -> tuple[str, FileFormat] | None:
        """Ending and format of a file name, None when the contract has no such ending."""
        plain = name.lower().removesuffix(".gz")
        for ending, file_format in self.formats.items():
            is_packed_parquet = file_format.reader == "parquet" and name.lower().endswith(".gz")
            if plain.endswith(ending) and not is_packed_parquet:
                return ending, file_format
        return None


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
        return RatingsContract.model_validate(content)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{file}: '{key}' is {first['input']!r}: {first['msg']}. Correct it there.") from err
