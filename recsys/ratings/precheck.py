"""The check of a rating before it lands, in plain Python: a producer learns at once what ingestion would refuse.

What a rating is refused for here has the name that it would have in quarantine. Of times fewer spellings are read than
Spark reads; nothing is let through that `recsys.ratings.validate` refuses: tests/spark/test_precheck.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import isinf
from typing import Any, Final

from recsys import columns as c
from recsys.ratings.contract import IDS, RatingsContract
from recsys.ratings.rules import (
    BAD_EVENT_TIME,
    BAD_WITHDRAWN,
    EVENT_TIME_IN_FUTURE,
    FURTHEST,
    MISSING_EVENT_TIME,
    MISSING_EVENT_TYPE,
    MISSING_VALUE,
    NOT_FINITE,
    NUMBER,
    VALUE_NOT_A_NUMBER,
    VALUE_NOT_FINITE,
    Finding,
    event_time_too_early,
    make_rules,
    unknown_event_type,
)

Texts = Mapping[str, str | None]  # our columns → what a source says of them

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(NUMBER, re.ASCII)
_NOT_FINITE: Final = re.compile(NOT_FINITE, re.ASCII)
_TIME: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,6}))?(?:(Z)|([+-])(\d{2}):(\d{2}))?)?", re.ASCII
)
_FURTHEST_ZONE: Final = timedelta(hours=18)  # Java's
_TRUE: Final = frozenset(("t", "true", "y", "yes", "1"))  # as Spark casts texts
_FALSE: Final = frozenset(("f", "false", "n", "no", "0"))
# What lands is JSON, and there ingestion takes a text that begins so for an object or an array.
_NESTED: Final = re.compile(r"\s*[\[{]", re.ASCII)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a rating: the rule's name, and the reason as quarantine words it."""

    rule: str
    reason: str


def find_problems(texts: Texts, contract: RatingsContract, *, now_us: int) -> list[Problem]:
    """Everything that is wrong with a rating, in the order of quarantine.

    Args:
        texts: of our columns; one that is not there is null.
        contract: ranges and limits.
        now_us: the clock, microseconds since 1970 UTC.
    """
    nested = [name for name in contract.columns if _NESTED.match(texts.get(name) or "")]
    if nested:
        return [Problem("nested_value", "a column holds an object or an array")]
    is_withdrawn = _read_boolean(texts.get(c.WITHDRAWN)) is True
    seconds = _read_number(texts.get(c.EVENT_TIME))
    value = None if is_withdrawn else _read_value(texts, contract)
    time_us = _read_time(texts.get(c.EVENT_TIME), seconds)
    typed: dict[str, Any] = {**_read_ids(texts, contract), c.VALUE: value, c.EVENT_TIME: time_us}
    broken = [rule for rule in make_rules(contract) if not rule.holds(typed[rule.column])]
    found: list[Finding] = [
        *(rule for rule in broken if rule.column in IDS),
        *([] if is_withdrawn or value is not None else [_why_no_value(texts, contract)]),
        *_check_time(texts.get(c.EVENT_TIME), seconds, time_us, contract, now_us),
        *(rule for rule in broken if rule.column not in IDS),
        *_check_withdrawn(texts.get(c.WITHDRAWN)),
    ]
    shown = texts if contract.kind == "ratings" else {**texts, c.VALUE: texts.get(c.EVENT_TYPE)}
    return [Problem(each.name, each.reason(shown.get(each.column))) for each in found]


def _read_ids(texts: Texts, contract: RatingsContract) -> dict[str, str | None]:
    """A blank event id counts as none."""
    ids = {name: texts.get(name) for name in IDS}
    return ids | ({c.EVENT_ID: None} if _is_blank(ids[c.EVENT_ID]) else {})


def _read_value(texts: Texts, contract: RatingsContract) -> float | None:
    if contract.kind == "events":
        return contract.weights.get(texts.get(c.EVENT_TYPE) or "")
    number = _read_number(texts.get(c.VALUE))
    return None if number is None or isinf(number) else number


def _read_number(text: str | None) -> float | None:
    """A number, infinite beyond the range of a double; None where the text is none."""
    return float(text) if text is not None and _NUMBER.match(text) else None


def _read_time(text: str | None, seconds: float | None) -> int | None:
    """Microseconds since 1970 UTC; None where the text is no time, or one that no timestamp can hold."""
    if seconds is not None:
        is_near = abs(seconds) < FURTHEST
        return int(Decimal(seconds * 1e6).quantize(Decimal(1), ROUND_HALF_UP)) if is_near else None
    match = _TIME.fullmatch(text or "")
    if match is None:
        return None
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}").replace(tzinfo=UTC)
    except ValueError:  # as 30 February
        return None
    moment += timedelta(microseconds=int((fraction or "0").ljust(6, "0")))
    if sign is not None:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        if offset > _FURTHEST_ZONE or int(minutes) > 59:
            return None
        return (moment - _EPOCH - (offset if sign == "+" else -offset)) // timedelta(microseconds=1)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _read_boolean(text: str | None) -> bool | None:
    plain = (text or "").strip(" \t\n\r\f\v").lower()
    return True if plain in _TRUE else False if plain in _FALSE else None


def _is_blank(text: str | None) -> bool:
    return text is None or not text.strip(" ")


def _why_no_value(texts: Texts, contract: RatingsContract) -> Finding:
    if contract.kind == "events":
        return MISSING_EVENT_TYPE if _is_blank(texts.get(c.EVENT_TYPE)) else unknown_event_type(contract)
    text = texts.get(c.VALUE)
    if text is None or _is_blank(text):
        return MISSING_VALUE
    return VALUE_NOT_FINITE if _NOT_FINITE.match(text) or _NUMBER.match(text) else VALUE_NOT_A_NUMBER


def _check_time(
    text: str | None, seconds: float | None, time_us: int | None, contract: RatingsContract, now_us: int
) -> list[Finding]:
    if _is_blank(text):
        return [MISSING_EVENT_TIME]
    if time_us is not None:
        return [EVENT_TIME_IN_FUTURE] if time_us > contract.latest_us(now_us) else []
    if seconds is None:
        return [BAD_EVENT_TIME]
    return [EVENT_TIME_IN_FUTURE if seconds > 0 else event_time_too_early(contract)]


def _check_withdrawn(text: str | None) -> list[Finding]:
    return [] if _is_blank(text) or _read_boolean(text) is not None else [BAD_WITHDRAWN]
