"""Messages become candidate rows: poison with its reason, everything else as a line of a file would."""

from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession

from recsys.ratings.contract import load_contract
from recsys.ratings.kafka import OffsetRange, parse_messages
from recsys.ratings.validate import check_rows, put_in_buckets
from recsys.session import ROOT

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")
NOW_US = int(datetime(2024, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000
GOOD = b'{"user": "u", "item": "i", "rating": 5, "time": 1700000000}'
WHOLE = [OffsetRange("t", "id", 0, 0, 100)]


def messages(spark: SparkSession, *values: bytes | None, key: bytes | None = None, partition: int = 0) -> DataFrame:
    rows = [(partition, offset, key, value) for offset, value in enumerate(values)]
    return spark.createDataFrame(rows, "partition INT, offset LONG, key BINARY, value BINARY").coalesce(1)


def check(found: DataFrame, ranges: list[OffsetRange] = WHOLE) -> DataFrame:
    candidates = parse_messages(found, ranges, CONTRACT, max_bytes=400)
    return check_rows(put_in_buckets(candidates, 4), CONTRACT, now_us=NOW_US)


def test_every_poison_message_is_named_and_keeps_its_offset_and_text(spark: SparkSession) -> None:
    """Cases 34 and 36."""
    poison: list[tuple[bytes | None, str]] = [
        (None, "null_message"),
        (b"", "empty_message"),
        (b" \n", "empty_message"),
        (b"\xff\xfe", "not_utf8"),
        (GOOD[:-1] + b', "event_id": "\xc3("}', "not_utf8"),  # the rest of it would pass
        (b"hello", "broken_message"),
        (b"3", "broken_message"),
        (b"null", "broken_message"),
        (b"{", "broken_message"),
        (b"[" + GOOD + b"]", "broken_message"),
        (GOOD + GOOD, "broken_message"),
        (GOOD + b"," + GOOD, "broken_message"),
        (GOOD + b" x", "broken_message"),
        (GOOD[:-1] + b', "event_id": {"a": 1}}', "nested_value"),
        (GOOD[:-1] + b', "version": 2}', "unknown_version"),
        (GOOD[:-1] + b', "version": {"a": 1}}', "unknown_version"),
        (GOOD[:-1] + b', "more": "' + b"x" * 400 + b'"}', "message_too_large"),
        (b"{}", "missing_user_id"),
    ]
    rows = check(messages(spark, *(value for value, _ in poison))).orderBy("offset").collect()
    assert [(row.offset, row.rules[0]) for row in rows] == [(at, rule) for at, (_, rule) in enumerate(poison)]
    assert {row.source for row in rows} == {"kafka:t/0/0-99"}
    assert [row.raw for row in rows[:4]] == [None, "", " \n", "\ufffd\ufffd"]
    assert rows[10].raw == (GOOD + GOOD).decode()


def test_a_large_key_makes_a_message_too_large(spark: SparkSession) -> None:
    [row] = check(messages(spark, GOOD, key=bytes(400))).collect()
    assert (row.rules, row.reason) == (["message_too_large"], "459 bytes of key and value, allowed are 400")


def test_good_messages_of_the_ranges_are_taken_and_others_are_left_out(spark: SparkSession) -> None:
    versions = [GOOD, GOOD[:-1] + b', "version": 1}', GOOD[:-1] + b', "version": "1", "more": 2}', b"\n" + GOOD + b"\n"]
    ranges = [OffsetRange("t", "id", 0, 1, 4), OffsetRange("t", "id", 1, 0, 1)]
    found = messages(spark, *versions).union(messages(spark, *versions, partition=1))
    found = found.union(messages(spark, GOOD, partition=2))
    rows = check(found, ranges).orderBy("source", "offset").collect()
    assert [(row.source, row.offset) for row in rows] == [
        ("kafka:t/0/1-3", 1),
        ("kafka:t/0/1-3", 2),
        ("kafka:t/0/1-3", 3),
        ("kafka:t/1/0-0", 0),
    ]
    assert {(row.rules, row.user_id, row.item_id, row.value) for row in rows} == {(None, "u", "i", 5.0)}
