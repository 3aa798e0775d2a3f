"""What the contract demands of a rating's typed columns, said once: rules of the check and constraints of the table.

A rule is a condition in SQL on the columns of the ratings table. The check of what has landed evaluates each by itself,
so that a row keeps every reason why it is refused; Delta holds their conjunction, column by column, against whoever
else writes. What cannot be said of a row of the table alone, as that its time is not after the clock's, is in
`recsys.ratings.validate` only.
"""

from dataclasses import dataclass
from typing import Final

from recsys import columns as c
from recsys.ratings.contract import IDS, RatingsContract

# Control characters, and what stands where bytes were no UTF-8: an id that holds one was damaged on its way.
_DAMAGED: Final = r"'[\\p{Cc}\\x{FFFD}]'"  # no raw literal: Delta puts spaces between the tokens of a constraint
_PREFIX: Final = "contract_"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: as quarantine keeps it.
        column: of the ratings table.
        holds: SQL, null where the column is.
        says: what follows the column's name in the reason.
        shows: whether the reason shows the value, as it never does of an id.
        null_breaks: whether a null breaks the rule, too.
    """

    name: str
    column: str
    holds: str
    says: str
    shows: bool = False
    null_breaks: bool = False


def make_rules(contract: RatingsContract) -> tuple[Rule, ...]:
    """Every rule on typed columns, in the order in which reasons are listed."""
    low, high = contract.value_range
    return (
        *(rule for name in IDS for rule in _rules_of_id(name, contract)),
        Rule(
            "value_out_of_range",
            c.VALUE,
            f"{c.VALUE} BETWEEN {low!r}D AND {high!r}D",
            f"is not in {low:g}..{high:g}",
            shows=True,
        ),
        Rule(
            "event_time_too_early",
            c.EVENT_TIME,
            f"{c.EVENT_TIME} >= TIMESTAMP'{contract.earliest:%Y-%m-%d %H:%M:%S.%f}Z'",
            f"is before {contract.earliest:%Y-%m-%d}",
            shows=True,
        ),
    )


def make_constraints(contract: RatingsContract) -> dict[str, str]:
    """CHECK constraints of the ratings table by name: one a column, so that a violation names the column.

    Only a withdrawn rating has a null, its value; for a constraint unlike a rule null is a violation.
    """
    held: dict[str, list[str]] = {}
    for rule in make_rules(contract):
        held.setdefault(rule.column, []).append(rule.holds)
    constraints = {f"{_PREFIX}{column}": " AND ".join(conditions) for column, conditions in held.items()}
    constraints[f"{_PREFIX}{c.VALUE}"] = f"{c.VALUE} IS NULL OR {constraints[f'{_PREFIX}{c.VALUE}']}"
    return constraints


def is_ours(constraint: str) -> bool:
    """Whether a constraint of the table is one that `make_constraints` makes."""
    return constraint.startswith(_PREFIX)


def _rules_of_id(name: str, contract: RatingsContract) -> tuple[Rule, Rule, Rule]:
    limit, is_required = contract.max_lengths[name], name in contract.required
    return (
        Rule(f"missing_{name}", name, f"trim({name}) != ''", "is missing or blank", null_breaks=is_required),
        Rule(f"bad_{name}", name, f"NOT {name} RLIKE {_DAMAGED}", "holds control or undecodable characters"),
        Rule(f"long_{name}", name, f"length({name}) <= {limit}", f"is longer than {limit} characters"),
    )
