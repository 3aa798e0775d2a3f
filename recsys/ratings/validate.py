"""The rules a rating must keep, as column expressions: one scan finds every reason why a row is refused."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.ratings.contract import RatingsContract
from recsys.ratings.parse import FAULT

IS_DUPLICATE = "is_duplicate"

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_NOT_FINITE = r"(?i)^\s*[+-]?(nan|inf|infinity)\s*$"
_DAY = r"^\s*\d{4}-\d{2}-\d{2}"  # Spark reads '10:30' as a time of today
_FURTHEST = 1e12  # seconds; beyond it microseconds leave the range of a timestamp's arithmetic


def exchange_by_bucket(candidates: DataFrame, buckets: int) -> DataFrame:
    """Bring the candidates of a bucket together, as duplicates are found and the ratings table is written.

    This comes before the rules: else Spark would plan and compile them once for each format that is read.
    """
    bucket = sf.pmod(sf.xxhash64(sf.coalesce(c.USER_ID, c.RAW)), sf.lit(buckets))
    return candidates.withColumn(c.BUCKET, bucket.cast("int")).repartition(c.BUCKET)


def check_rows(candidates: DataFrame, contract: RatingsContract, *, now_us: int) -> DataFrame:
    """Apply every rule to every candidate row.

    Args:
        candidates: as `exchange_by_bucket` returns them.
        contract: ranges and limits.
        now_us: the clock, microseconds since 1970 UTC; the same in a repeated run.

    Returns:
        ``source``, ``rules`` (the broken ones, empty for a good row), ``reason``, ``raw`` (null for a good row), the
        columns of a rating (null for a bad row) and ``bucket``.
    """
    value_text, time_text = sf.col(c.VALUE), sf.col(c.EVENT_TIME)
    is_withdrawn = sf.coalesce(sf.col(c.WITHDRAWN).try_cast("boolean"), sf.lit(False))
    value = sf.when(~is_withdrawn & value_text.rlike(_NUMBER), value_text.try_cast("double") + sf.lit(0.0))
    seconds = sf.when(time_text.rlike(_NUMBER), time_text.try_cast("double"))
    micros = sf.when(sf.abs(seconds) < _FURTHEST, sf.round(seconds * 1e6).cast("long")).when(
        seconds.isNull() & time_text.rlike(_DAY), sf.unix_micros(time_text.try_cast("timestamp"))
    )
    problems = sf.array_compact(
        sf.array(
            _check_id(c.USER_ID, contract),
            _check_id(c.ITEM_ID, contract),
            _check_value(value_text, value, is_withdrawn, contract),
            _check_time(time_text, seconds, micros, contract, now_us),
            sf.when(~_is_blank(c.EVENT_ID), _check_id(c.EVENT_ID, contract)),
            _check_withdrawn(),
        )
    )
    checked = candidates.select(
        c.SOURCE,
        c.RAW,
        sf.when(sf.col(FAULT).isNotNull(), sf.array(FAULT)).otherwise(problems).alias("problems"),
        c.USER_ID,
        c.ITEM_ID,
        value.alias(c.VALUE),
        sf.timestamp_micros(micros).alias(c.EVENT_TIME),
        sf.when(~_is_blank(c.EVENT_ID), sf.col(c.EVENT_ID)).alias(c.EVENT_ID),
        c.BUCKET,
    )
    is_good = sf.size("problems") == 0
    own_id = sf.lpad(sf.lower(sf.hex(sf.xxhash64(c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME))), 16, "0")
    return checked.select(
        c.SOURCE,
        sf.col("problems.rule").alias(c.RULES),
        sf.concat_ws("; ", "problems.reason").alias(c.REASON),
        sf.when(~is_good, sf.col(c.RAW)).alias(c.RAW),
        *(sf.when(is_good, sf.col(name)).alias(name) for name in (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME)),
        sf.when(is_good, sf.coalesce(c.EVENT_ID, own_id)).alias(c.EVENT_ID),
        c.BUCKET,
    )


def mark_duplicates(checked: DataFrame) -> DataFrame:
    """Add ``is_duplicate``: the row repeats an event of the same batch.

    Of the good rows with one user, item and event id the latest stays, then the highest value, then the one of the
    file that comes first by name.
    """
    same_event = Window.partitionBy(c.BUCKET, c.USER_ID, c.ITEM_ID, c.EVENT_ID).orderBy(
        sf.col(c.EVENT_TIME).desc(), sf.col(c.VALUE).desc_nulls_last(), c.SOURCE
    )
    is_repeated = sf.row_number().over(same_event) > 1
    return checked.withColumn(IS_DUPLICATE, (sf.size(c.RULES) == 0) & is_repeated)


def is_accepted() -> Column:
    """Whether a row of `mark_duplicates` goes to the ratings table."""
    return (sf.size(c.RULES) == 0) & ~sf.col(IS_DUPLICATE)


def is_quarantined() -> Column:
    """Whether a row of `check_rows` goes to quarantine."""
    return sf.size(c.RULES) > 0


def _check_id(name: str, contract: RatingsContract) -> Column:
    text = sf.col(name)
    limit = contract.max_id_length
    return _first_problem(
        [
            (_is_blank(name), f"missing_{name}", sf.lit(f"{name} is missing or blank")),
            (text.rlike(r"[\p{Cc}\uFFFD]"), f"bad_{name}", sf.lit(f"{name} holds control or undecodable characters")),
            (sf.length(text) > limit, f"long_{name}", sf.lit(f"{name} is longer than {limit} characters")),
        ]
    )


def _check_value(text: Column, value: Column, is_withdrawn: Column, contract: RatingsContract) -> Column:
    low, high = contract.value_range
    is_infinite = text.rlike(_NOT_FINITE) | sf.coalesce(sf.abs(value) == float("inf"), sf.lit(False))
    problem = _first_problem(
        [
            (_is_blank(c.VALUE), "missing_value", sf.lit("value is missing")),
            (is_infinite, "value_not_finite", _says(text, "is not finite", "value")),
            (value.isNull(), "value_not_a_number", _says(text, "is not a number", "value")),
            (~value.between(low, high), "value_out_of_range", _says(text, f"is not in {low:g}..{high:g}", "value")),
        ]
    )
    return sf.when(~is_withdrawn, problem)


def _check_time(text: Column, seconds: Column, micros: Column, contract: RatingsContract, now_us: int) -> Column:
    earliest, latest = contract.earliest_us(), now_us + int(contract.clock_skew_seconds * 1e6)
    is_too_far = seconds.isNotNull() & micros.isNull()
    advice = "is in the future (milliseconds instead of seconds?)"
    return _first_problem(
        [
            (_is_blank(c.EVENT_TIME), "missing_event_time", sf.lit("event_time is missing")),
            (micros.isNull() & ~is_too_far, "bad_event_time", _says(text, "is not a time", "event_time")),
            (
                (micros < earliest) | (is_too_far & (seconds < 0)),
                "event_time_too_early",
                _says(text, f"is before {contract.earliest}", "event_time"),
            ),
            ((micros > latest) | is_too_far, "event_time_in_future", _says(text, advice, "event_time")),
        ]
    )


def _check_withdrawn() -> Column:
    text = sf.col(c.WITHDRAWN)
    is_wrong = ~_is_blank(c.WITHDRAWN) & text.try_cast("boolean").isNull()
    return _first_problem([(is_wrong, "bad_withdrawn", _says(text, "is not true or false", "withdrawn"))])


def _is_blank(name: str) -> Column:
    return sf.coalesce(sf.trim(name) == "", sf.lit(True))


def _says(text: Column, what: str, name: str) -> Column:
    return sf.concat(sf.lit(f"{name} '"), sf.left(text, sf.lit(40)), sf.lit(f"' {what}"))


def _first_problem(checks: Sequence[tuple[Column, str, Column]]) -> Column:
    """The struct of the first check that fails, null when none does."""
    (failed, rule, reason), *others = checks
    problem = sf.when(failed, _problem(rule, reason))
    for failed, rule, reason in others:
        problem = problem.when(failed, _problem(rule, reason))
    return problem


def _problem(rule: str, reason: Column) -> Column:
    return sf.struct(sf.lit(rule).alias("rule"), reason.alias("reason"))
