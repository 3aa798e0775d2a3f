"""Refused rows taken up again: which ones, corrected how, and by which batch and source they are accounted for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import yaml
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.errors import ConfigError, UsageError
from recsys.ratings.contract import RatingsContract
from recsys.ratings.kafka import KAFKA
from recsys.ratings.landing import Fault, Layout
from recsys.ratings.parse import TEXTS, parse_lines, parse_objects
from recsys.suppression import RULE, SAYS

_RENAME: Final = "rename"
_HEADER: Final = "header"
# Of such a message quarantine has a part, or a text that was made valid: it is not what was sent.
_NOT_AS_SENT: Final = ("message_too_large", "not_utf8")
_OFFSETS: Final = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Selection:
    """Some rows of quarantine: those that fulfil every condition that is given.

    Attributes:
        rules: one of them was broken.
        sources: names of files or ranges of offsets; ``*`` stands for any characters.
        batches: the row is of one of them.
        offsets: first and last offset of a message, both included.
    """

    rules: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    offsets: tuple[int, int] | None = None

    @property
    def is_everything(self) -> bool:
        """Whether there is no condition."""
        return self == Selection()

    def holds(self) -> Column:
        """Whether a row is one of them; never null."""
        found = sf.lit(True)
        if self.rules:
            found = found & sf.arrays_overlap(c.RULES, sf.array(*map(sf.lit, self.rules)))
        if self.sources:
            patterns = (r"[\s\S]*".join(map(re.escape, own.split("*"))) for own in self.sources)
            found = found & sf.col(c.SOURCE).rlike(f"^(?:{'|'.join(patterns)})$")
        if self.batches:
            found = found & sf.col(c.BATCH).isin(list(self.batches))
        if self.offsets is not None:
            found = found & sf.col(c.OFFSET).between(*self.offsets)
        return sf.coalesce(found, sf.lit(False))


def read_offsets(text: str) -> tuple[int, int]:
    """First and last offset of ``FIRST-LAST``.

    Raises:
        UsageError: the text is none, or the last comes before the first.
    """
    found = _OFFSETS.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError(f"--offsets {text}: expected the first and the last offset, for example 120-130.")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Corrections:
    """What is put right in refused rows before they are checked again.

    Attributes:
        rename: a source's name of a column → ours.
        values: our column → text as it was sent → text that is meant.
        header: the first line of csv files that are not in the landing folder any more.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    header: str | None = None

    def extend(self, contract: RatingsContract) -> RatingsContract:
        """The contract with the other names as well."""
        if not self.rename:
            return contract

        def with_names(columns: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
            known = dict.fromkeys((*columns, *self.rename.values()))
            return {column: (*columns.get(column, ()), *self._names_of(column)) for column in known}

        versions = {name: with_names(columns) for name, columns in contract.versions.items()}
        return contract.model_copy(update={"columns": with_names(contract.columns), "versions": versions})

    def _names_of(self, column: str) -> tuple[str, ...]:
        return tuple(name for name, own in self.rename.items() if own == column)


def parse_corrections(text: str, where: str) -> Corrections:
    """The corrections of a file.

    Args:
        text: YAML: ``rename`` (a source's column: ours), ``header``, and by our column a mapping of text to text.
        where: the file, for messages.

    Raises:
        ConfigError: it is not that; one line says which key.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(
            f"corrections '{where}' are no YAML: {' '.join(str(err).split())}. Correct the file."
        ) from err
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"corrections '{where}' must be a mapping of columns. {_EXAMPLE}")
    unknown = [str(key) for key in content if key not in (*TEXTS, _RENAME, _HEADER)]
    if unknown:
        known = ", ".join((_RENAME, _HEADER, *TEXTS))
        raise ConfigError(f"corrections '{where}': unknown key '{unknown[0]}'; known are {known}. {_EXAMPLE}")
    header = content.pop(_HEADER, None)
    if header is not None and not isinstance(header, str):
        raise ConfigError(f"corrections '{where}': '{_HEADER}' must be the first line of the file, as text. {_EXAMPLE}")
    for key, pairs in content.items():
        is_text = isinstance(pairs, dict) and all(isinstance(part, str) for pair in pairs.items() for part in pair)
        if not is_text or not pairs:
            raise ConfigError(
                f"corrections '{where}': '{key}' must map text to text; put numbers in quotes. {_EXAMPLE}"
            )
    rename = content.pop(_RENAME, {})
    wrong = [own for own in rename.values() if own not in TEXTS]
    if wrong:
        raise ConfigError(f"corrections '{where}': '{_RENAME}' names '{wrong[0]}'; columns are {', '.join(TEXTS)}.")
    return Corrections(rename, content, header)


_EXAMPLE: Final = """For example: value: {"five": "5"}"""


def correct(candidates: DataFrame, corrections: Corrections) -> DataFrame:
    """Put other texts in the place of those that the corrections name.

    Args:
        candidates: as `recsys.ratings.parse` makes them.
        corrections: the texts, by column.
    """
    new = {}
    for column, texts in corrections.values.items():
        pairs = [sf.lit(part) for pair in texts.items() for part in pair]
        new[column] = sf.coalesce(sf.try_element_at(sf.create_map(*pairs), sf.col(column)), sf.col(column))
    return candidates.withColumns(new) if new else candidates


def is_whole_file() -> Column:
    """Whether a row of quarantine stands for a whole file, which has to be read again."""
    is_forgotten = sf.array_contains(c.RULES, RULE) | (sf.col(c.REASON) == SAYS)
    return (
        sf.col(c.RAW).isNull()
        & sf.col(c.OFFSET).isNull()
        & ~is_forgotten
        & ~sf.startswith(c.SOURCE, sf.lit(KAFKA + ":"))
    )


def is_text_as_sent() -> Column:
    """Whether a row of quarantine has the text that was sent, so that it can be taken apart again."""
    return sf.col(c.RAW).isNotNull() & ~sf.arrays_overlap(c.RULES, sf.array(*map(sf.lit, _NOT_AS_SENT)))


def with_origin(rows: DataFrame) -> DataFrame:
    """Let the source of a row name its batch as well: a check keeps the source, and both are accounted for."""
    return rows.withColumn(c.SOURCE, sf.concat(sf.col(c.BATCH).cast("string"), sf.lit(":"), c.SOURCE)).drop(c.BATCH)


def split_origin(rows: DataFrame) -> DataFrame:
    """Batch and source apart again."""
    return rows.withColumns(
        {
            c.BATCH: sf.substring_index(c.SOURCE, ":", 1).cast("long"),
            c.SOURCE: sf.regexp_replace(c.SOURCE, "^[0-9]+:", ""),
        }
    )


def origin_of(batch: int, source: str) -> str:
    """What `with_origin` makes of a batch and a source."""
    return f"{batch}:{source}"


def parse_rows_again(rows: DataFrame, layout: Layout, fault: Fault | None, contract: RatingsContract) -> DataFrame:
    """Take the texts of files apart that quarantine has kept; lines that turn out to be a header are gone.

    Args:
        rows: ``source`` and ``raw``.
        layout: of the files.
        fault: that they still have as a whole.
        contract: names of our columns in JSON.

    Returns:
        Candidate rows.
    """
    return parse_lines(rows.select(c.SOURCE, sf.col(c.RAW).alias("value")), layout, fault, contract)


def parse_messages_again(rows: DataFrame, contract: RatingsContract) -> DataFrame:
    """Take messages apart that quarantine has kept.

    Args:
        rows: ``source``, ``offset`` and ``raw``.
        contract: names of our columns in each version.

    Returns:
        Candidate rows.
    """
    return parse_objects(rows.select(c.SOURCE, c.OFFSET, c.RAW), contract, contract.versions)
