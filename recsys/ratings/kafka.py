"""Messages of a Kafka topic: the ranges of offsets that batches take, and from a message to a candidate row."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.ratings.contract import RatingsContract
from recsys.ratings.parse import FAULT, make_fault, parse_objects

KAFKA: Final = "kafka"  # the format of the ledger's entries that are ranges of offsets
MESSAGE_BYTES: Final = 100  # of a message, about

_SOURCE: Final = re.compile(r"kafka:(.+)/(\d+)/(\d+)-(\d+)")
_POISON: Final = "poison"
_SHOWN: Final = 1000  # characters of a message that is too large which quarantine keeps


@dataclass(frozen=True, order=True)
class OffsetRange:
    """Messages of one partition from offset ``start`` on, up to ``end`` and without that.

    Attributes:
        topic: its name.
        topic_id: what tells it from a topic that had the name before, or will have it.
        partition: number.
        start: first offset.
        end: the offset after the last.
    """

    topic: str
    topic_id: str
    partition: int
    start: int
    end: int

    @property
    def source(self) -> str:
        """What ledger and quarantine call it: topic, partition, first and last offset."""
        return f"{KAFKA}:{self.topic}/{self.partition}/{self.start}-{self.end - 1}"

    def __len__(self) -> int:
        """Offsets, not messages: marks of transactions have offsets, too."""
        return self.end - self.start

    @classmethod
    def from_source(cls, source: str, topic_id: str) -> "OffsetRange":
        """The range that ledger and quarantine call so."""
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise ValueError(f"'{source}' names no range of offsets")
        topic, partition, first, last = found.groups()
        return cls(topic, topic_id, int(partition), int(first), int(last) + 1)


def describe_ranges(ranges: Iterable[OffsetRange]) -> str:
    """The ranges as messages to people name them."""
    return ", ".join(
        f"partition {own.partition} offsets {own.start:,} to {own.end - 1:,} ({len(own):,})" for own in sorted(ranges)
    )


def parse_messages(
    messages: DataFrame, ranges: Sequence[OffsetRange], contract: RatingsContract, *, max_bytes: int
) -> DataFrame:
    """Take messages apart. One that is no JSON object is poison: it becomes a row with a fault, as any other bad row.

    Args:
        messages: ``partition``, ``offset``, ``key`` and ``value`` as bytes; those outside of ``ranges`` are left out.
        ranges: at most one a partition.
        contract: names of our columns in each version of the messages.
        max_bytes: of key and value together; what is larger is no rating and is not looked into.

    Returns:
        Candidate rows: ``source`` (of the range), ``offset``, ``raw``, ``fault`` and the columns in `TEXTS`, all text.
    """
    size = sf.coalesce(sf.octet_length("key"), sf.lit(0)) + sf.octet_length("value")
    is_too_large = sf.coalesce(size > max_bytes, sf.lit(False))
    is_utf8 = sf.is_valid_utf8(sf.col("value").cast("string"))
    text = sf.make_valid_utf8(sf.col("value").cast("string"))
    own_fault = (
        sf.when(sf.col("value").isNull(), make_fault("null_message", "the message has no value"))
        .when(
            is_too_large,
            make_fault(
                "message_too_large",
                sf.concat(size.cast("string"), sf.lit(f" bytes of key and value, allowed are {max_bytes}")),
            ),
        )
        .when(~is_utf8, make_fault("not_utf8", "the message is not UTF-8"))
        .when(text.rlike(r"^\s*$"), make_fault("empty_message", "the message is empty"))
    )
    first, last = _of_partition(ranges, lambda own: own.start), _of_partition(ranges, lambda own: own.end - 1)
    rows = messages.where(sf.col(c.OFFSET).between(first, last)).select(
        _of_partition(ranges, lambda own: own.source).alias(c.SOURCE),
        sf.col(c.OFFSET),
        sf.when(is_too_large, sf.left(text, sf.lit(_SHOWN))).otherwise(text).alias(c.RAW),
        own_fault.alias(_POISON),
    )
    candidates = parse_objects(rows, contract, contract.versions)
    return candidates.withColumn(FAULT, sf.coalesce(_POISON, FAULT)).drop(_POISON)


def _of_partition(ranges: Sequence[OffsetRange], tell: Callable[[OffsetRange], int | str]) -> Column:
    """Something of the range that a message's partition has, null where it has none."""
    pairs = [part for own in ranges for part in (sf.lit(own.partition), sf.lit(tell(own)))]
    return sf.try_element_at(sf.create_map(*pairs), sf.col(c.PARTITION))
