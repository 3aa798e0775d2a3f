"""The rules on rows: each bad one is refused with its reason, each good one keeps its text and its time."""

import csv
import io
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys.ratings.contract import RatingsContract, UnknownColumns, load_contract
from recsys.ratings.items import number_new_items, parse_catalogue
from recsys.ratings.landing import Fault, Layout
from recsys.ratings.parse import parse_columns, parse_lines
from recsys.ratings.validate import check_rows, is_accepted, keep_checked, put_in_buckets
from recsys.session import ROOT

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")
EVENTS = load_contract(ROOT / "conf/contracts/events.yaml")
NOW_US = int(datetime(2024, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000
DAY = "1700000000"  # seconds, in November 2023
CSV = Layout(
    "csv",
    n_fields=6,
    places=(("user_id", 0), ("item_id", 1), ("value", 2), ("event_time", 3), ("event_id", 4), ("withdrawn", 5)),
    delimiter=",",
    header="user,item,rating,time,event_id,withdrawn",
)


def lines(spark: SparkSession, texts: list[str]) -> DataFrame:
    return spark.createDataFrame([("f", text) for text in texts], "source STRING, value STRING").coalesce(1)


def check(candidates: DataFrame, contract: RatingsContract = CONTRACT) -> DataFrame:
    return check_rows(put_in_buckets(candidates, 4), contract, now_us=NOW_US)


def broken_rules(checked: DataFrame) -> dict[str, list[str]]:
    return {row["raw"]: row["rules"] for row in checked.where("rules IS NOT NULL").collect()}


def test_case_8_9_and_10_every_bad_field_of_a_line_is_named(spark: SparkSession) -> None:
    expected = {
        f"u,i,NaN,{DAY},,": ["value_not_finite"],
        f"u,i,-Infinity,{DAY},,": ["value_not_finite"],
        f"u,i,1e400,{DAY},,": ["value_not_finite"],
        f"u,i,-1,{DAY},,": ["value_out_of_range"],
        f"u,i,10.5,{DAY},,": ["value_out_of_range"],
        f"u,i,,{DAY},,": ["missing_value"],
        f"u,i,abc,{DAY},,": ["value_not_a_number"],
        f"u,i,0x1p3,{DAY},,": ["value_not_a_number"],  # Java would read an 8
        f",i,5,{DAY},,": ["missing_user_id"],
        f"  ,i,5,{DAY},,": ["missing_user_id"],
        f"u\x00,i,5,{DAY},,": ["bad_user_id"],
        f"u,i\ufffd,5,{DAY},,": ["bad_item_id"],
        f"{'x' * 257},i,5,{DAY},,": ["long_user_id"],
        "u,i,5,,,": ["missing_event_time"],
        "u,i,5,2023-02-30,,": ["bad_event_time"],
        "u,i,5,10:30,,": ["bad_event_time"],  # Spark would read it as today
        "u,i,5,0,,": ["event_time_too_early"],
        "u,i,5,1970-01-01T00:00:00Z,,": ["event_time_too_early"],
        f"u,i,5,{DAY}000,,": ["event_time_in_future"],  # milliseconds
        "u,i,5,1e300,,": ["event_time_in_future"],
        "u,i,5,3093527980800,,": ["event_time_in_future"],  # the year 99999
        "u,i,5,1717200301,,": ["event_time_in_future"],  # one second over the allowed skew
        f"u,i,5,{DAY},,maybe": ["bad_withdrawn"],
        ",,NaN,soon,,": ["missing_user_id", "missing_item_id", "value_not_finite", "bad_event_time"],
        f"{'x' * 256}\x00,  ,11,788918399,,maybe": [
            "bad_user_id",
            "long_user_id",
            "missing_item_id",
            "value_out_of_range",
            "event_time_too_early",
            "bad_withdrawn",
        ],
        f"u,i,5,{DAY}": ["broken_line"],
        f"u,i,5,{DAY},,,": ["broken_line"],
        f'"u,i,5,{DAY},,': ["broken_line"],
    }
    checked = check(parse_lines(lines(spark, list(expected)), CSV, None, CONTRACT))
    assert broken_rules(checked) == expected
    [reason] = checked.where(sf.col("raw") == ",,NaN,soon,,").select("reason").collect()[0]
    assert reason == (
        "user_id is missing or blank; item_id is missing or blank; value 'NaN' is not finite; "
        "event_time 'soon' is not a time"
    )


def test_case_9_ids_stay_the_text_they_are_and_times_are_utc(spark: SparkSession) -> None:
    good = [
        CSV.header,
        "",
        f"007,i,0,{DAY},e1,false",
        f"7,i,10,{DAY}.25,e2,",
        f" 7,i,+.5e1,{DAY},e3,",
        "７,i,5,2023-11-14T22:13:20Z,e4,",
        '"a,""b""",i,5,2023-11-15 00:13:20+02:00,e5,',
        "w,i,,1717200300,e6,true",  # withdrawn, at the allowed skew
        f"x,i,5,{DAY}, ,",  # no event id
    ]
    checked = check(parse_lines(lines(spark, good), CSV, None, CONTRACT))
    rows = checked.select(
        "event_id",
        "user_id",
        "value",
        sf.unix_micros("event_time").alias("us"),
        "rules",
        "raw",
    )
    assert sorted(tuple(row) for row in rows.collect()) == [
        ("", "x", 5.0, 1_700_000_000_000_000, None, None),
        ("e1", "007", 0.0, 1_700_000_000_000_000, None, None),
        ("e2", "7", 10.0, 1_700_000_000_250_000, None, None),
        ("e3", " 7", 5.0, 1_700_000_000_000_000, None, None),
        ("e4", "７", 5.0, 1_700_000_000_000_000, None, None),
        ("e5", 'a,"b"', 5.0, 1_700_000_000_000_000, None, None),
        ("e6", "w", None, 1_717_200_300_000_000, None, None),
    ]


fields = st.lists(st.text("ab ,;|\\'é\t", max_size=4), min_size=1, max_size=8)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(fields, min_size=100, max_size=100), quoted=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_a_line_of_csv_with_and_without_quotes_has_the_fields_that_it_was_made_from(
    spark: SparkSession, rows: list[list[str]], quoted: Literal[0, 1]
) -> None:
    texts = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line, quoting=quoted, lineterminator="").writerow(row)
        texts.append(line.getvalue())
    found = parse_lines(lines(spark, texts), CSV, None, CONTRACT).select(
        "raw", "fault.rule", *(name for name, _ in CSV.places)
    )
    expected = {
        text: ("broken_line", *[None] * 6) if len(row) != 6 else (None, *(field or None for field in row))
        for text, row in zip(texts, rows, strict=True)
        if text.strip(" ")
    }
    for raw, *got in found.collect():
        assert got[0] == expected[raw][0], raw
        assert got[0] is not None or tuple(got) == expected[raw], raw


def test_case_13_json_that_is_not_one_flat_object_with_all_keys_is_refused(spark: SparkSession) -> None:
    good = '{"user": "u", "item": 42, "rating": 7.5, "time": 1700000000, "more": [1]}'
    expected = {
        '{"user": "u", "item": "i", "rating": 7': ["broken_line"],
        '[{"user": "u", "item": "i", "rating": 7, "time": 1700000000}]': ["broken_line"],
        f"{good}{good}": ["broken_line"],  # two on a line: the second would be lost
        f"{good} x": ["broken_line"],
        "null": ["broken_line"],
        "{}": ["missing_user_id", "missing_item_id", "missing_value", "missing_event_time"],
        '{"user": null, "item": "i", "rating": 7, "time": 1700000000}': ["missing_user_id"],
        '{"user": {"id": 1}, "item": "i", "rating": 7, "time": 1700000000}': ["nested_value"],
        '{"user": "u", "item": "i", "rating": 1e400, "time": 1700000000}': ["value_not_a_number"],
        '{"user": "u\\u0000", "item": "i", "rating": 7, "time": 1700000000}': ["bad_user_id"],
    }
    checked = check(parse_lines(lines(spark, [good, *expected]), Layout("json"), None, CONTRACT)).cache()
    assert broken_rules(checked) == expected
    assert [tuple(row) for row in checked.where("rules IS NULL").select("user_id", "item_id", "value").collect()] == [
        ("u", "42", 7.5)
    ]
    checked.unpersist()


@pytest.mark.parametrize("policy", ["ignore", "quarantine"])
def test_case_11_a_key_of_json_that_the_contract_does_not_know_is_for_the_contract_to_decide(
    spark: SparkSession, policy: UnknownColumns
) -> None:
    contract = CONTRACT.model_copy(update={"unknown_columns": policy})
    good = f'{{"user": "u", "item": "i", "rating": 7, "time": {DAY}}}'
    more = f'{{"user": "u", "item": "i", "rating": 7, "time": {DAY}, "mood": 1, "place": null}}'
    checked = check(parse_lines(lines(spark, [good, more]), Layout("json"), None, contract), contract)
    found = {row["raw"]: (row["rules"], row["reason"]) for row in checked.where("rules IS NOT NULL").collect()}
    said = (["unknown_column"], "the contract has no column mood, place")
    assert found == ({} if policy == "ignore" else {more: said})


def test_an_event_counts_the_weight_of_its_type_and_is_refused_without_type_or_id(spark: SparkSession) -> None:
    layout = Layout("csv", 6, tuple((name, n) for n, name in enumerate(EVENTS.columns)), delimiter=",", header="h")
    assert [name for name, _ in layout.places] == [
        "user_id", "item_id", "event_type", "event_time", "event_id", "withdrawn"
    ]  # fmt: skip
    good = {f"u,i,view,{DAY},e1,": 1.0, f"u,i,purchase,{DAY},e2,false": 10.0, f"u,i,view,{DAY},e1,true": None}
    bad = {
        f"u,i,wave,{DAY},e3,": ["unknown_event_type"],
        f"u,i,VIEW,{DAY},e3,": ["unknown_event_type"],
        f"u,i,,{DAY},e3,": ["missing_event_type"],
        f"u,i,view,{DAY},,": ["missing_event_id"],
        f"u,i,view,{DAY}, ,": ["missing_event_id"],
        f",i,,{DAY},,": ["missing_user_id", "missing_event_id", "missing_event_type"],
    }
    checked = check(parse_lines(lines(spark, [*good, *bad]), layout, None, EVENTS), EVENTS).cache()
    assert broken_rules(checked) == bad
    accepted = checked.where("rules IS NULL").select("event_id", "value")
    assert sorted(map(tuple, accepted.collect()), key=str) == [("e1", 1.0), ("e1", None), ("e2", 10.0)]
    [reason] = checked.where(sf.col("raw").startswith("u,i,wave")).select("reason").collect()[0]
    assert reason == "event_type 'wave' is not of view, cart, purchase"
    checked.unpersist()


def test_lines_split_at_a_delimiter_and_columns_of_parquet_are_read_alike(spark: SparkSession) -> None:
    layout = Layout("fields", 4, (("user_id", 0), ("item_id", 1), ("value", 2), ("event_time", 3)), delimiter="::")
    split = parse_lines(lines(spark, [f"1::0075::8::{DAY}", f"2::3::8::{DAY}::x"]), layout, None, CONTRACT)
    names = (
        ("user_id", "u", "bigint"),
        ("item_id", "i", "string"),
        ("value", "v", "double"),
        ("event_time", "t", "timestamp"),
    )
    typed = spark.sql(
        "SELECT 'f' source, 1L u, '0075' i, 8D v, timestamp'2023-11-14 22:13:20Z' t "
        "UNION ALL SELECT 'f', 2L, '3', double('NaN'), null"
    )
    columns = parse_columns(typed, Layout("parquet", names=names))
    checked = check(split.unionByName(columns)).cache()
    good = checked.where("rules IS NULL").drop("source", "rules", "reason", "raw")
    assert len(good.collect()) == 2
    assert good.distinct().count() == 1  # the same user, item, value, time, event id and bucket
    assert broken_rules(checked) == {
        f"2::3::8::{DAY}::x": ["broken_line"],
        '{"u":2,"i":"3","v":"NaN"}': ["value_not_finite", "missing_event_time"],
    }
    checked.unpersist()


def test_a_fault_of_the_whole_file_refuses_every_line_with_the_header(spark: SparkSession) -> None:
    fault = Fault("missing_column", "no column for value", by_line=True)
    checked = check(parse_lines(lines(spark, [CSV.header, "u,i,5"]), CSV, fault, CONTRACT))
    assert broken_rules(checked) == {CSV.header: ["missing_column"], "u,i,5": ["missing_column"]}


def test_case_15_an_event_twice_in_a_batch_is_kept_once_and_a_correction_is_another_event(spark: SparkSession) -> None:
    texts = [
        f"u,i,5,{DAY},,",
        f"u,i,5,{DAY},,",  # the same event
        f"u,i,6,{DAY},,",  # another value: another event
        f"u,i,1,{DAY},x,",
        "u,i,2,1700000009,x,",  # one id, newer: this one stays
        f"v,i,2,{DAY},x,",  # another user's event of that id
    ]
    checked = keep_checked(check(parse_lines(lines(spark, texts), CSV, None, CONTRACT)), 2).rows
    kept = checked.where(is_accepted()).select("user_id", "value", sf.unix_seconds("event_time"))
    assert sorted(tuple(row) for row in kept.collect()) == [
        ("u", 2.0, 1_700_000_009),
        ("u", 5.0, 1_700_000_000),
        ("u", 6.0, 1_700_000_000),
        ("v", 2.0, 1_700_000_000),
    ]


def test_new_items_get_the_next_positions_in_the_order_of_their_ids(spark: SparkSession) -> None:
    items = spark.createDataFrame([("b", 0), ("x", 1)], "item_id STRING, position INT")
    events = spark.createDataFrame([("x",), ("é",), ("a",), ("a",), ("Z",)], "item_id STRING")
    catalogue = parse_catalogue(
        spark.createDataFrame([("a::A (1999)::Drama|War",), ("Z::Zed::",), ("q::other::x",)], "value STRING")
    )
    rows = number_new_items(events, items, catalogue, batch=3).orderBy("position").collect()
    assert [tuple(row) for row in rows] == [
        ("Z", 2, "Zed", [], True, 3),
        ("a", 3, "A (1999)", ["Drama", "War"], True, 3),
        ("é", 4, None, None, True, 3),
    ]
