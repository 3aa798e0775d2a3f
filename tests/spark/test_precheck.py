"""The check before landing and the check of what has landed say the same of every rating."""

import itertools
import json
import random
from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.landing_writer import to_line
from recsys.ratings.contract import RatingsContract
from recsys.ratings.landing import Layout
from recsys.ratings.parse import parse_lines
from recsys.ratings.precheck import Texts, find_problems
from tests.spark.test_validation import CONTRACT, DAY, EVENTS, NOW_US, check, lines

IDS = [
    "u",
    "007",
    "7",
    " 7",
    "",
    "  ",
    "u\x00",
    "u\ufffd",
    "u\x85",
    "u\u2028",
    "７",
    "x" * 256,
    "x" * 257,
    "𐍈" * 256,
    "[u",
    "\t",
]
VALUES = [
    *(
        "0",
        "5",
        "10",
        "-0",
        "+5",
        " 5",
        "5 ",
        "5\t",
        "5.",
        ".5",
        "5e0",
        "5E-1",
        "1e400",
        "-1e400",
        "1e-400",
        "10.5",
        "-1",
    ),
    *(
        "NaN",
        "nan",
        "Infinity",
        "-inf",
        "abc",
        "0x1p3",
        "1_000",
        "５",
        "5d",
        "5f",
        "5L",
        "",
        " ",
        "{}",
        "5\u2028",
        "5\n",
    ),
    *("9223372036854775807", "9223372036854775808", "007", "5,0", "--5", "1e", "\x0b5"),
]
TIMES = [
    *(DAY, f"{DAY}.5", f"{DAY}000", f" {DAY} ", "0", "-1", "1e9", "1e300", "-1e300", "1e400", "3093527980800", "NaN"),
    *("1717200300", "1717200301", "788918399", "788918400", "", " ", "soon", "10:30", "2023-02-30", "2023-02-29"),
    *(
        "2023-11-14",
        "2023-11-14T22:13:20",
        "2023-11-14 22:13:20",
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20.123456Z",
    ),
    *("2023-11-14T22:13:20+01:00", "2023-11-14T22:13:20-18:00", "2023-11-14T24:00:00", "2023-11-14T23:59:60"),
    *("2023-13-01", "0001-01-01", "9999-12-31", "1994-12-31T23:59:59.999999Z", "1995-01-01T00:59:59+01:00"),
    *("1970-01-01T00:00:00Z", "2024-06-01T00:05:00Z", "2024-06-01T00:05:00.000001Z", "2023-11-14T22:13:20+19:00"),
]
# What only Spark reads: the check before landing asks for another spelling.
ONLY_SPARK = [
    *(
        "2023-11-14T22:13",
        "2023-11-14T22",
        "2023-11-14 22:13:20 UTC",
        " 2023-11-14",
        "2023-11-14T22:13:20 Europe/Paris",
    ),
    *("2023-11-14T22:13:20.123456789Z", "2023-11-14T2:3:4", "2023-11-14T22:13:20+1:00"),
]
WITHDRAWN = [None, "", " ", "true", "TRUE", " t ", "y", "1", "false", "no", "0", "maybe", "2", "tr\x00ue", "\t"]


def one_odd(contract: RatingsContract) -> Iterator[dict[str, str | None]]:
    """Ratings that are right but for one column, or not even there; and others of anything."""
    odd: dict[str, list[str | None]] = {c.USER_ID: [*IDS, None], c.ITEM_ID: [*IDS, None], c.EVENT_ID: [*IDS, None]}
    odd |= {c.EVENT_TIME: [*TIMES, None], c.WITHDRAWN: WITHDRAWN}
    right: dict[str, str | None] = {c.USER_ID: "u", c.ITEM_ID: "i", c.EVENT_ID: "e", c.EVENT_TIME: DAY}
    if contract.kind == "events":
        odd[c.EVENT_TYPE] = [*contract.weights, "", " ", "VIEW ", "[", None]
        right[c.EVENT_TYPE] = next(iter(contract.weights))
    else:
        odd[c.VALUE], right[c.VALUE] = [*VALUES, None], "5"
    for column, texts in odd.items():
        yield from ({**right, column: text} for text in texts)
    chosen = random.Random(7)
    for _ in range(400):
        yield {column: chosen.choice([*texts, *[right.get(column)] * len(texts)]) for column, texts in odd.items()}


def refused(spark: SparkSession, ratings: list[Texts], contract: RatingsContract) -> list[list[str]]:
    """The rules that each rating breaks when it has landed."""
    numbered = [to_line(rating, contract).decode().strip() for rating in ratings]
    candidates = parse_lines(lines(spark, numbered), Layout("json"), None, contract)
    rows = check(candidates.withColumn(c.OFFSET, sf.monotonically_increasing_id()), contract).select(c.OFFSET, c.RULES)
    return [row[c.RULES] or [] for row in sorted(rows.collect(), key=lambda row: row[c.OFFSET])]


@pytest.mark.parametrize("contract", [CONTRACT, EVENTS], ids=["ratings", "events"])
def test_what_is_refused_before_it_lands_and_why_is_what_would_be_refused_afterwards(
    spark: SparkSession, contract: RatingsContract
) -> None:
    ratings = list(one_odd(contract))
    told = [[problem.rule for problem in find_problems(own, contract, now_us=NOW_US)] for own in ratings]
    found = refused(spark, ratings, contract)
    assert len(found) == len(told)
    differing = [
        (json.dumps(rating), before, after)
        for rating, before, after in zip(ratings, told, found, strict=True)
        if before != after
    ]
    assert differing == []
    assert sum(map(bool, told)) > len(told) / 4, "few are bad: the test shows little"
    assert not all(told)


def test_a_time_that_only_spark_reads_is_asked_for_in_another_spelling(spark: SparkSession) -> None:
    ratings: list[Texts] = [{c.USER_ID: "u", c.ITEM_ID: "i", c.VALUE: "5", c.EVENT_TIME: text} for text in ONLY_SPARK]
    told = [[problem.rule for problem in find_problems(own, CONTRACT, now_us=NOW_US)] for own in ratings]
    assert told == [["bad_event_time"]] * len(ONLY_SPARK)
    assert list(itertools.chain(*refused(spark, ratings, CONTRACT))) == [], "they are not refused once landed"
