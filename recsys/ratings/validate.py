"""The rules a rating must keep, as column expressions: one scan finds every reason why a row is refused."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Final

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.ratings.contract import IDS, RatingsContract
from recsys.ratings.parse import FAULT
from recsys.ratings.rules import (
    BAD_EVENT_TIME,
    BAD_WITHDRAWN,
    DAY,
    EVENT_TIME_IN_FUTURE,
    FURTHEST,
    MISSING_EVENT_TIME,
    MISSING_EVENT_TYPE,
    MISSING_VALUE,
    NOT_FINITE,
    NUMBER,
    SHOWN,
    VALUE_NOT_A_NUMBER,
    VALUE_NOT_FINITE,
    Finding,
    Rule,
    event_time_too_early,
    make_rules,
    unknown_event_type,
)
from recsys.schemas import NO_EVENT_ID
from recsys.suppression import RULE, SAYS, Suppression

IS_DUPLICATE = "is_duplicate"

_PROBLEMS: Final = "problems"
_KEY: Final = "key"
_TYPED: Final = (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME, c.EVENT_ID)
_VALUE_TEXT: Final = "value_text"
_TIME_TEXT: Final = "time_text"
_SECONDS: Final = "seconds"
_WITHDRAWN_TEXT: Final = "withdrawn_text"
_TEXTS: Final = {  # what a reason shows of a column
    c.VALUE: _VALUE_TEXT,
    c.EVENT_TYPE: _VALUE_TEXT,
    c.EVENT_TIME: _TIME_TEXT,
    c.WITHDRAWN: _WITHDRAWN_TEXT,
}


@dataclass(frozen=True)
class _Check:
    """A rule on the texts of a row.

    Attributes:
        is_broken: null where it cannot be told; that breaks nothing.
        problem: the rule with its reason where it is broken, null elsewhere.
    """

    is_broken: Column
    problem: Column


@dataclass(frozen=True)
class Checked:
    """The rows of a batch after the check, which Spark keeps until they are released.

    Attributes:
        rows: as `check_rows` returns them, with ``is_duplicate``.
    """

    rows: DataFrame
    _kept: tuple[DataFrame, ...]

    def release(self) -> None:
        """Give the memory back."""
        for each in self._kept:
            each.unpersist()


def bucket_of(user_id: Column | str, buckets: int) -> Column:
    """The bucket that a user is in, for as long as there is a warehouse."""
    return sf.pmod(sf.xxhash64(user_id), sf.lit(buckets)).cast("int")


def put_in_buckets(candidates: DataFrame, buckets: int) -> DataFrame:
    """Add ``bucket``, the one that a row's user is in; a row without a user is in any."""
    bucket = bucket_of(sf.coalesce(c.USER_ID, c.RAW), buckets)
    return candidates.withColumn(c.BUCKET, bucket)


def check_rows(
    candidates: DataFrame, contract: RatingsContract, *, now_us: int, suppressed: Suppression | None = None
) -> DataFrame:
    """Apply every rule to every candidate row.

    Args:
        candidates: as `put_in_buckets` returns them.
        contract: ranges and limits.
        now_us: the clock, microseconds since 1970 UTC; the same in a repeated run.
        suppressed: users who were forgotten: a row of theirs, or a bad one that names them, breaks one rule only, which
            keeps nothing of it.

    Returns:
        ``source``, ``offset``, ``rules`` (all broken ones), ``reason`` and ``raw`` (all three null for a good row, raw
        also for one of a forgotten user), the columns of a rating (null for a bad row) and ``bucket``.
    """
    checked = _find_problems(type_columns(candidates, contract), contract, now_us)
    if suppressed is not None:
        checked = _suppress(checked, suppressed)
    is_good = sf.col(_PROBLEMS).isNull()
    return checked.select(
        c.SOURCE,
        c.OFFSET,
        sf.col(f"{_PROBLEMS}.rule").alias(c.RULES),
        sf.when(~is_good, sf.concat_ws("; ", f"{_PROBLEMS}.reason")).alias(c.REASON),
        sf.when(~is_good, sf.col(c.RAW)).alias(c.RAW),
        *(sf.when(is_good, sf.col(name)).alias(name) for name in _TYPED),
        c.BUCKET,
    )


def _suppress(checked: DataFrame, suppressed: Suppression) -> DataFrame:
    is_bad = sf.col(_PROBLEMS).isNotNull()
    is_theirs = suppressed.holds() | (is_bad & suppressed.is_named_in(c.RAW))
    rule = sf.array(sf.struct(sf.lit(RULE).alias("rule"), sf.lit(SAYS).alias("reason")))
    return checked.withColumns(
        {_PROBLEMS: sf.when(is_theirs, rule).otherwise(sf.col(_PROBLEMS)), c.RAW: sf.when(~is_theirs, sf.col(c.RAW))}
    )


def is_suppressed() -> Column:
    """Whether a row of `check_rows` is of a user who was forgotten."""
    return sf.array_contains(c.RULES, RULE)


def type_columns(candidates: DataFrame, contract: RatingsContract) -> DataFrame:
    """Bring the texts of a row to the types of the ratings table; what is no number or no time becomes null.

    Returns:
        ``source``, ``offset``, ``raw``, ``fault``, ``bucket``, the columns of a rating, and what the checks need of
        the texts.
    """
    value_text, time_text = sf.col(c.VALUE), sf.col(c.EVENT_TIME)
    withdrawn = sf.col(c.WITHDRAWN).try_cast("boolean")
    if contract.kind == "events":
        value_text = sf.col(c.EVENT_TYPE)
        value = _weigh(value_text, contract)
    else:
        number = _read_number(value_text)
        # Adding 0 makes 0 of -0.
        value = sf.when(sf.abs(number) < float("inf"), number + sf.lit(0.0))
    seconds = _read_number(time_text)
    micros = sf.when(sf.abs(seconds) < FURTHEST, sf.round(seconds * 1e6).cast("long")).when(
        seconds.isNull() & time_text.rlike(DAY), sf.unix_micros(time_text.try_cast("timestamp"))
    )
    return candidates.select(
        c.SOURCE,
        c.OFFSET,
        c.RAW,
        FAULT,
        c.BUCKET,
        c.USER_ID,
        c.ITEM_ID,
        sf.when(~sf.coalesce(withdrawn, sf.lit(False)), value).alias(c.VALUE),
        sf.timestamp_micros(micros).alias(c.EVENT_TIME),
        sf.when(~_is_blank(c.EVENT_ID), sf.col(c.EVENT_ID)).otherwise(NO_EVENT_ID).alias(c.EVENT_ID),
        value_text.alias(_VALUE_TEXT),
        time_text.alias(_TIME_TEXT),
        seconds.alias(_SECONDS),
        sf.col(c.WITHDRAWN).alias(_WITHDRAWN_TEXT),
        withdrawn.alias(c.WITHDRAWN),
    )


def _read_number(text: Column) -> Column:
    """A double, null where the text is no number; infinite beyond its range.

    Most are whole numbers as they would be written again, which costs a tenth of a pattern.
    """
    whole = text.try_cast("bigint")
    # Java would read '0x1p3' and 'NaN', too.
    other = sf.when(text.rlike(NUMBER), text.try_cast("double"))
    return sf.when(whole.cast("string") == text, whole.cast("double")).otherwise(other)


def keep_checked(checked: DataFrame, parts: int) -> Checked:
    """Bring the rows of a bucket together, keep them, and mark those that repeat an event of the batch (Spark jobs).

    Of the good rows with one user, item and event id the latest stays, then the highest value, then the one of the
    file that comes first by name; of those without an id, one of each time and value. The exchange comes after the
    rules: a good row is half of what was read of it. Only events whose hash comes twice are sorted and compared, few or
    none of a batch.

    Args:
        checked: as `check_rows` returns them.
        parts: into which the rows go, by bucket.
    """
    has_no_id = sf.col(c.EVENT_ID) == NO_EVENT_ID
    content = [sf.when(has_no_id, sf.col(name)) for name in (c.EVENT_TIME, c.VALUE)]
    event = [*map(sf.col, (c.USER_ID, c.ITEM_ID, c.EVENT_ID)), *content]
    key = sf.xxhash64(*event)
    kept = checked.repartitionById(parts, c.BUCKET).withColumn(_KEY, key).persist()
    repeated = kept.where(_is_good()).select(_KEY).mapInArrow(_find_repeated, f"{_KEY} LONG").persist()
    try:
        if repeated.count() == 0:
            rows = kept.withColumn(IS_DUPLICATE, sf.lit(False))
        else:
            # A hash may be that of several events.
            same_event = Window.partitionBy(c.BUCKET, _KEY, *event).orderBy(
                sf.col(c.EVENT_TIME).desc(), sf.col(c.VALUE).desc_nulls_last(), c.SOURCE
            )
            suspects = kept.join(repeated, _KEY, "left_semi")
            marked = suspects.withColumn(IS_DUPLICATE, _is_good() & (sf.row_number().over(same_event) > 1))
            others = kept.join(repeated, _KEY, "left_anti").withColumn(IS_DUPLICATE, sf.lit(False))
            rows = others.unionByName(marked)
    except BaseException:
        repeated.unpersist()
        kept.unpersist()
        raise
    return Checked(rows.drop(_KEY), (kept, repeated))


def _find_repeated(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The hashes that a partition, and so a user, has more than once.

    Sorting bare numbers takes a third of the time of Spark's aggregation, exchange included, and some 30 bytes a row.
    """
    parts = [batch.column(0).to_numpy() for batch in batches]
    if parts:
        hashes, times = np.unique(np.concatenate(parts), return_counts=True)
        yield pa.RecordBatch.from_arrays([pa.array(hashes[times > 1])], [_KEY])


def is_accepted() -> Column:
    """Whether a row of `keep_checked` goes to the ratings table."""
    return _is_good() & ~sf.col(IS_DUPLICATE)


def is_quarantined() -> Column:
    """Whether a row of `check_rows` goes to quarantine."""
    return sf.col(c.RULES).isNotNull()


def _is_good() -> Column:
    return sf.col(c.RULES).isNull()


def _weigh(event_type: Column, contract: RatingsContract) -> Column:
    weights = [part for name, weight in contract.weights.items() for part in (sf.lit(name), sf.lit(weight))]
    return sf.try_element_at(sf.create_map(*weights), event_type) if weights else sf.lit(None).cast("double")


def _find_problems(typed: DataFrame, contract: RatingsContract, now_us: int) -> DataFrame:
    """Add ``problems``: every rule that a row breaks, with its reason; null where it breaks none."""
    rules = make_rules(contract)
    checks = [
        *(_check_rule(rule) for rule in rules if rule.column in IDS),
        *(_check_event_type(contract) if contract.kind == "events" else _check_value()),
        *_check_time(contract, now_us),
        *(_check_rule(rule) for rule in rules if rule.column not in IDS),
        _check_withdrawn(),
    ]
    is_bad = reduce(or_, (sf.coalesce(check.is_broken, sf.lit(False)) for check in checks))
    # array_compact also ends a piece of generated code, which as one would be too long for the JVM to compile.
    broken = sf.array_compact(sf.array(*(check.problem for check in checks)))
    # Reasons are put together for bad rows only; that is most of what a rule costs.
    return typed.withColumn(_PROBLEMS, sf.when(sf.col(FAULT).isNotNull(), sf.array(FAULT)).when(is_bad, broken))


def _check_rule(rule: Rule) -> _Check:
    holds = f"coalesce({rule.sql}, false)" if rule.null_breaks else rule.sql
    return _check(sf.expr(f"NOT ({holds})"), rule)


def _check_value() -> list[_Check]:
    """Only where there is no number are the texts looked at again."""
    text, is_missing = sf.col(_VALUE_TEXT), _is_blank(_VALUE_TEXT)
    is_unread = sf.col(c.VALUE).isNull() & ~sf.coalesce(c.WITHDRAWN, sf.lit(False))
    is_infinite = text.rlike(NOT_FINITE) | text.rlike(NUMBER)
    return [
        _check(is_unread & is_missing, MISSING_VALUE),
        _check(is_unread & is_infinite, VALUE_NOT_FINITE),
        _check(is_unread & ~is_missing & ~is_infinite, VALUE_NOT_A_NUMBER),
    ]


def _check_event_type(contract: RatingsContract) -> list[_Check]:
    is_missing = _is_blank(_VALUE_TEXT)
    is_unread = sf.col(c.VALUE).isNull() & ~sf.coalesce(c.WITHDRAWN, sf.lit(False))
    return [
        _check(is_unread & is_missing, MISSING_EVENT_TYPE),
        _check(is_unread & ~is_missing, unknown_event_type(contract)),
    ]


def _check_time(contract: RatingsContract, now_us: int) -> list[_Check]:
    """That it is too early is a rule on the typed column, but for what no timestamp can hold."""
    time, seconds, is_missing = sf.col(c.EVENT_TIME), sf.col(_SECONDS), _is_blank(_TIME_TEXT)
    is_too_far = seconds.isNotNull() & time.isNull()
    latest = sf.timestamp_micros(sf.lit(contract.latest_us(now_us)))
    return [
        _check(is_missing, MISSING_EVENT_TIME),
        _check(time.isNull() & ~is_missing & ~is_too_far, BAD_EVENT_TIME),
        _check(is_too_far & (seconds < 0), event_time_too_early(contract)),
        _check((time > latest) | (is_too_far & (seconds > 0)), EVENT_TIME_IN_FUTURE),
    ]


def _is_blank(name: str) -> Column:
    return sf.coalesce(sf.trim(name) == "", sf.lit(True))


def _check_withdrawn() -> _Check:
    return _check(~_is_blank(_WITHDRAWN_TEXT) & sf.col(c.WITHDRAWN).isNull(), BAD_WITHDRAWN)


def _check(is_broken: Column, finding: Finding) -> _Check:
    """As `Finding.reason` words it."""
    reason = sf.lit(f"{finding.column} {finding.says}")
    if finding.shows:
        text = sf.left(_TEXTS[finding.column], sf.lit(SHOWN))
        reason = sf.concat(sf.lit(f"{finding.column} '"), text, sf.lit(f"' {finding.says}"))
    problem = sf.struct(sf.lit(finding.name).alias("rule"), reason.alias("reason"))
    return _Check(is_broken, sf.when(is_broken, problem))
