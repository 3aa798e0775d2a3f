"""The rules a rating must keep, as column expressions: one scan finds every reason why a row is refused."""

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.ratings.contract import IDS, RatingsContract
from recsys.ratings.parse import FAULT
from recsys.ratings.rules import Rule, make_rules

IS_DUPLICATE = "is_duplicate"

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_NOT_FINITE = r"(?i)^\s*[+-]?(nan|inf|infinity)\s*$"
_DAY = r"^\s*\d{4}-\d{2}-\d{2}"  # Spark reads '10:30' as a time of today
_FURTHEST = 1e12  # seconds; beyond it microseconds leave the range of a timestamp's arithmetic

_PROBLEMS: Final = "problems"
_TYPED: Final = (c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME, c.EVENT_ID)
_VALUE_TEXT: Final = "value_text"
_TIME_TEXT: Final = "time_text"
_SECONDS: Final = "seconds"
_WITHDRAWN_TEXT: Final = "withdrawn_text"


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
        ``source``, ``offset``, ``rules`` (all broken ones, none for a good row), ``reason``, ``raw`` (null for a good
        row), the columns of a rating (null for a bad row) and ``bucket``.
    """
    checked = _find_problems(type_columns(candidates, contract), contract, now_us)
    is_good = sf.size(_PROBLEMS) == 0
    return checked.select(
        c.SOURCE,
        c.OFFSET,
        sf.col(f"{_PROBLEMS}.rule").alias(c.RULES),
        sf.concat_ws("; ", f"{_PROBLEMS}.reason").alias(c.REASON),
        sf.when(~is_good, sf.col(c.RAW)).alias(c.RAW),
        *(sf.when(is_good, sf.col(name)).alias(name) for name in _TYPED),
        c.BUCKET,
    )


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
        number = value_text.try_cast("double")
        # Adding 0 makes 0 of -0. Java would read '0x1p3' and 'NaN', too.
        value = sf.when(value_text.rlike(_NUMBER) & (sf.abs(number) < float("inf")), number + sf.lit(0.0))
    seconds = sf.when(time_text.rlike(_NUMBER), time_text.try_cast("double"))
    micros = sf.when(sf.abs(seconds) < _FURTHEST, sf.round(seconds * 1e6).cast("long")).when(
        seconds.isNull() & time_text.rlike(_DAY), sf.unix_micros(time_text.try_cast("timestamp"))
    )
    typed = candidates.select(
        c.SOURCE,
        c.OFFSET,
        c.RAW,
        FAULT,
        c.BUCKET,
        c.USER_ID,
        c.ITEM_ID,
        sf.when(~sf.coalesce(withdrawn, sf.lit(False)), value).alias(c.VALUE),
        sf.timestamp_micros(micros).alias(c.EVENT_TIME),
        sf.when(~_is_blank(c.EVENT_ID), sf.col(c.EVENT_ID)).alias(c.EVENT_ID),
        value_text.alias(_VALUE_TEXT),
        time_text.alias(_TIME_TEXT),
        seconds.alias(_SECONDS),
        sf.col(c.WITHDRAWN).alias(_WITHDRAWN_TEXT),
        withdrawn.alias(c.WITHDRAWN),
    )
    if c.EVENT_ID in contract.required:
        return typed
    own_id = sf.lpad(sf.lower(sf.hex(sf.xxhash64(c.USER_ID, c.ITEM_ID, c.VALUE, c.EVENT_TIME))), 16, "0")
    return typed.withColumn(c.EVENT_ID, sf.coalesce(c.EVENT_ID, own_id))


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


def _weigh(event_type: Column, contract: RatingsContract) -> Column:
    weights = [part for name, weight in contract.weights.items() for part in (sf.lit(name), sf.lit(weight))]
    return sf.try_element_at(sf.create_map(*weights), event_type) if weights else sf.lit(None).cast("double")


def _find_problems(typed: DataFrame, contract: RatingsContract, now_us: int) -> DataFrame:
    """Add ``problems``: every rule that a row breaks, with its reason."""
    rules = make_rules(contract)
    checks = [
        *(_check_rule(rule) for rule in rules if rule.column in IDS),
        *(_check_event_type(contract) if contract.kind == "events" else _check_value()),
        *_check_time(contract, now_us),
        *(_check_rule(rule) for rule in rules if rule.column not in IDS),
        _check_withdrawn(),
    ]
    problems = sf.array_compact(sf.array(*checks))
    return typed.withColumn(_PROBLEMS, sf.when(sf.col(FAULT).isNotNull(), sf.array(FAULT)).otherwise(problems))


def _check_rule(rule: Rule) -> Column:
    holds = f"coalesce({rule.holds}, false)" if rule.null_breaks else rule.holds
    texts = {c.VALUE: _VALUE_TEXT, c.EVENT_TIME: _TIME_TEXT}
    says = _says(rule.column, texts[rule.column], rule.says) if rule.shows else sf.lit(f"{rule.column} {rule.says}")
    return _check(sf.expr(f"NOT ({holds})"), rule.name, says)


def _check_value() -> list[Column]:
    """Only where there is no number are the texts looked at again."""
    text, is_missing = sf.col(_VALUE_TEXT), _is_blank(_VALUE_TEXT)
    is_unread = sf.col(c.VALUE).isNull() & ~sf.coalesce(c.WITHDRAWN, sf.lit(False))
    is_infinite = text.rlike(_NOT_FINITE) | text.rlike(_NUMBER)
    return [
        _check(is_unread & is_missing, "missing_value", sf.lit("value is missing")),
        _check(is_unread & is_infinite, "value_not_finite", _says(c.VALUE, _VALUE_TEXT, "is not finite")),
        _check(
            is_unread & ~is_missing & ~is_infinite,
            "value_not_a_number",
            _says(c.VALUE, _VALUE_TEXT, "is not a number"),
        ),
    ]


def _check_event_type(contract: RatingsContract) -> list[Column]:
    is_missing, known = _is_blank(_VALUE_TEXT), ", ".join(contract.weights)
    is_unread = sf.col(c.VALUE).isNull() & ~sf.coalesce(c.WITHDRAWN, sf.lit(False))
    return [
        _check(is_unread & is_missing, "missing_event_type", sf.lit("event_type is missing")),
        _check(
            is_unread & ~is_missing,
            "unknown_event_type",
            _says(c.EVENT_TYPE, _VALUE_TEXT, f"is not of {known}"),
        ),
    ]


def _check_time(contract: RatingsContract, now_us: int) -> list[Column]:
    """That it is too early is a rule on the typed column, but for what no timestamp can hold."""
    time, seconds, is_missing = sf.col(c.EVENT_TIME), sf.col(_SECONDS), _is_blank(_TIME_TEXT)
    is_too_far = seconds.isNotNull() & time.isNull()
    latest = sf.timestamp_micros(sf.lit(contract.latest_us(now_us)))
    return [
        _check(is_missing, "missing_event_time", sf.lit("event_time is missing")),
        _check(
            time.isNull() & ~is_missing & ~is_too_far,
            "bad_event_time",
            _says(c.EVENT_TIME, _TIME_TEXT, "is not a time"),
        ),
        _check(
            is_too_far & (seconds < 0),
            "event_time_too_early",
            _says(c.EVENT_TIME, _TIME_TEXT, f"is before {contract.earliest:%Y-%m-%d}"),
        ),
        _check(
            (time > latest) | (is_too_far & (seconds > 0)),
            "event_time_in_future",
            _says(c.EVENT_TIME, _TIME_TEXT, "is in the future (milliseconds instead of seconds?)"),
        ),
    ]


def _is_blank(name: str) -> Column:
    return sf.coalesce(sf.trim(name) == "", sf.lit(True))


def _check_withdrawn() -> Column:
    is_wrong = ~_is_blank(_WITHDRAWN_TEXT) & sf.col(c.WITHDRAWN).isNull()
    return _check(is_wrong, "bad_withdrawn", _says(c.WITHDRAWN, _WITHDRAWN_TEXT, "is not true or false"))


def _says(column: str, text: str, what: str) -> Column:
    return sf.concat(sf.lit(f"{column} '"), sf.left(text, sf.lit(40)), sf.lit(f"' {what}"))


def _check(is_broken: Column, rule: str, reason: Column) -> Column:
    """The rule with its reason where it is broken, null elsewhere; what cannot be told breaks nothing."""
    return sf.when(is_broken, sf.struct(sf.lit(rule).alias("rule"), reason.alias("reason")))
