"""What the contract demands of a rating, said once: rules of both checks and constraints of the table.

A rule is a condition on a column of the ratings table, as SQL and in Python, from one set of data. The check of what
has landed (`recsys.ratings.validate`) evaluates each by itself, so that a row keeps every reason why it is refused; so
does the check before anything lands (`recsys.ratings.precheck`), without Spark; Delta holds their conjunction, column
by column, against whoever else writes. What cannot be said of a row of the table alone, as that its time is not after
the clock's, or that a text was no number, is a finding: its name and words are here, how it is found in both checks.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from recsys import columns as c
from recsys.ratings.contract import IDS, RatingsContract

# Patterns that Java and Python read alike, Python with re.ASCII. The last part is the end of a text and nothing but it:
# Java's $ also matches before a line separator, and Python's \Z is Java's \z.
_END: Final = r"(?![\s\S])"
NUMBER: Final = rf"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*{_END}"
NOT_FINITE: Final = rf"(?i)^\s*[+-]?(nan|inf|infinity)\s*{_END}"
DAY: Final = r"^\s*\d{4}-\d{2}-\d{2}"  # Spark reads '10:30' as a time of today
FURTHEST: Final = 1e12  # seconds; beyond it microseconds leave the range of a timestamp's arithmetic
SHOWN: Final = 40  # characters of a value that a reason shows

# Control characters, and what stands where bytes were no UTF-8: an id that holds one was damaged on its way.
_DAMAGED: Final = r"'[\\p{Cc}\\x{FFFD}]'"  # no raw literal: Delta puts spaces between the tokens of a constraint
_PREFIX: Final = "contract_"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Finding:
    """Something wrong with a rating, and how quarantine words it.

    Attributes:
        name: as quarantine keeps it.
        column: that the reason names.
        says: what follows the column's name in the reason.
        shows: whether the reason shows the value, as it never does of an id.
    """

    name: str
    column: str
    says: str
    shows: bool = False

    def reason(self, text: str | None) -> str:
        """The reason of a row that has this text in the column."""
        return f"{self.column} '{(text or '')[:SHOWN]}' {self.says}" if self.shows else f"{self.column} {self.says}"


class Condition(Protocol):
    """What a value must be. A null is neither right nor wrong."""

    def sql(self, column: str) -> str:
        """The condition on a column; null where that is."""
        ...

    def holds(self, value: Any) -> bool:
        """Whether a value keeps it."""
        ...


@dataclass(frozen=True)
class NotBlank:
    """A text that is more than spaces; or nothing at all, where it may be absent."""

    or_absent: bool = False

    def sql(self, column: str) -> str:  # noqa: D102
        return f"({column} = '' OR trim({column}) != '')" if self.or_absent else f"trim({column}) != ''"

    def holds(self, value: str) -> bool:  # noqa: D102
        return value.strip(" ") != "" or (self.or_absent and value == "")


@dataclass(frozen=True)
class Undamaged:
    """A text without control characters and without what stands where bytes were no UTF-8."""

    def sql(self, column: str) -> str:  # noqa: D102
        return f"NOT {column} RLIKE {_DAMAGED}"

    def holds(self, value: str) -> bool:  # noqa: D102
        return not any(char < " " or "\x7f" <= char <= "\x9f" or char == "\ufffd" for char in value)


@dataclass(frozen=True)
class MaxLength:
    """A text of at most so many characters."""

    limit: int

    def sql(self, column: str) -> str:  # noqa: D102
        return f"length({column}) <= {self.limit}"

    def holds(self, value: str) -> bool:  # noqa: D102
        return len(value) <= self.limit


@dataclass(frozen=True)
class Between:
    """A number in a range, both ends included."""

    low: float
    high: float

    def sql(self, column: str) -> str:  # noqa: D102
        return f"{column} BETWEEN {self.low!r}D AND {self.high!r}D"

    def holds(self, value: float) -> bool:  # noqa: D102
        return self.low <= value <= self.high


@dataclass(frozen=True)
class NotBefore:
    """A moment that is this one or later; in Python, microseconds since 1970 UTC."""

    moment: datetime

    def sql(self, column: str) -> str:  # noqa: D102
        return f"{column} >= TIMESTAMP'{self.moment:%Y-%m-%d %H:%M:%S.%f}Z'"

    def holds(self, value: int) -> bool:  # noqa: D102
        return value >= (self.moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Rule(Finding):
    """A finding that can be told by the typed value alone.

    Attributes:
        condition: which a value must keep.
        null_breaks: whether a null breaks the rule, too.
    """

    condition: Condition
    null_breaks: bool = False

    @property
    def sql(self) -> str:
        """The condition on the rule's column; null where that is."""
        return self.condition.sql(self.column)

    def holds(self, value: Any) -> bool:
        """Whether a typed value keeps the rule."""
        return not self.null_breaks if value is None else self.condition.holds(value)


MISSING_VALUE: Final = Finding("missing_value", c.VALUE, "is missing")
VALUE_NOT_FINITE: Final = Finding("value_not_finite", c.VALUE, "is not finite", shows=True)
VALUE_NOT_A_NUMBER: Final = Finding("value_not_a_number", c.VALUE, "is not a number", shows=True)
MISSING_EVENT_TYPE: Final = Finding("missing_event_type", c.EVENT_TYPE, "is missing")
MISSING_EVENT_TIME: Final = Finding("missing_event_time", c.EVENT_TIME, "is missing")
BAD_EVENT_TIME: Final = Finding("bad_event_time", c.EVENT_TIME, "is not a time", shows=True)
EVENT_TIME_IN_FUTURE: Final = Finding(
    "event_time_in_future", c.EVENT_TIME, "is in the future (milliseconds instead of seconds?)", shows=True
)
BAD_WITHDRAWN: Final = Finding("bad_withdrawn", c.WITHDRAWN, "is not true or false", shows=True)


def unknown_event_type(contract: RatingsContract) -> Finding:
    """An event of a type that has no weight."""
    return Finding("unknown_event_type", c.EVENT_TYPE, f"is not of {', '.join(contract.weights)}", shows=True)


def event_time_too_early(contract: RatingsContract) -> Rule:
    """A time before the contract's first one."""
    return Rule(
        "event_time_too_early",
        c.EVENT_TIME,
        f"is before {contract.earliest:%Y-%m-%d}",
        shows=True,
        condition=NotBefore(contract.earliest),
    )


def make_rules(contract: RatingsContract) -> tuple[Rule, ...]:
    """Every rule on typed columns, in the order in which reasons are listed."""
    low, high = contract.value_range
    return (
        *(rule for name in IDS for rule in _rules_of_id(name, contract)),
        Rule("value_out_of_range", c.VALUE, f"is not in {low:g}..{high:g}", shows=True, condition=Between(low, high)),
        event_time_too_early(contract),
    )


def make_constraints(contract: RatingsContract) -> dict[str, str]:
    """CHECK constraints of the ratings table by name: one a column, so that a violation names the column.

    Only a withdrawn rating has a null, its value; for a constraint unlike a rule null is a violation.
    """
    held: dict[str, list[str]] = {}
    for rule in make_rules(contract):
        held.setdefault(rule.column, []).append(rule.sql)
    constraints = {f"{_PREFIX}{column}": " AND ".join(conditions) for column, conditions in held.items()}
    constraints[f"{_PREFIX}{c.VALUE}"] = f"{c.VALUE} IS NULL OR {constraints[f'{_PREFIX}{c.VALUE}']}"
    return constraints


def is_ours(constraint: str) -> bool:
    """Whether a constraint of the table is one that `make_constraints` makes."""
    return constraint.startswith(_PREFIX)


def _rules_of_id(name: str, contract: RatingsContract) -> tuple[Rule, Rule, Rule]:
    limit, is_required = contract.max_lengths[name], name in contract.required
    not_blank = NotBlank(or_absent=not is_required)
    return (
        Rule(f"missing_{name}", name, "is missing or blank", condition=not_blank, null_breaks=is_required),
        Rule(f"bad_{name}", name, "holds control or undecodable characters", condition=Undamaged()),
        Rule(f"long_{name}", name, f"is longer than {limit} characters", condition=MaxLength(limit)),
    )
