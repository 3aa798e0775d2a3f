"""Source schema, rules and the table's constraints say one thing, because they come from one contract."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.adoption import adopt_contract, keeps_events, read_consumers, register_consumer
from recsys.errors import ConfigError
from recsys.ratings.contract import RatingsContract, load_contract
from recsys.ratings.landing import Layout
from recsys.ratings.parse import parse_lines
from recsys.ratings.validate import check_rows, put_in_buckets, type_columns
from recsys.schemas import RATINGS
from recsys.session import ROOT
from recsys.store.files import Files
from recsys.store.params import WarehouseParams
from recsys.store.tables import SPECS, Table, Tables

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")
EVENTS = load_contract(ROOT / "conf/contracts/events.yaml")
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
NOW_US = int(NOON.timestamp()) * 1_000_000

# What cannot be said of a row of the table: it is about the text, where a null in the table is a withdrawn rating, or
# about the clock.
ABOUT_TEXT_OR_CLOCK = {
    "missing_value",
    "value_not_finite",
    "value_not_a_number",
    "bad_withdrawn",
    "event_time_in_future",
    "missing_event_type",
    "unknown_event_type",
}

an_id = st.one_of(
    st.none(),
    st.text(
        st.sampled_from(["7", "０", " ", "\t", "\x00", "\x7f", "\x85", "\ufffd", "é", "😀", "'", "\\"]), max_size=4
    ),
    st.sampled_from(["x" * 256, "x" * 257, "😀" * 256, "😀" * 257, "u", "NULL"]),
)
a_value = st.sampled_from([None, "", "0", "-0.0", "10", "10.000001", "-1e-9", "5", 7, 7.5, "NaN", "1e400", "abc"])
a_time = st.sampled_from(
    [None, "", 788918400, 788918399, 788918399.9999999, "1994-12-31T23:59:59.999Z", "1995-01-01T00:00:00Z", 0, -1,
     "2023-02-30", 1_700_000_000, NOW_US // 1_000_000 + 300, NOW_US // 1_000_000 + 301]
)  # fmt: skip
a_row = st.fixed_dictionaries(
    {c.USER_ID: an_id, c.ITEM_ID: an_id, c.EVENT_TIME: a_time, c.EVENT_ID: an_id},
    optional={
        c.VALUE: a_value,
        c.EVENT_TYPE: st.sampled_from(["view", "cart", "wave", "", None]),
        c.WITHDRAWN: st.sampled_from([None, "true", "false", True, "maybe"]),
    },
)


@pytest.fixture(scope="module")
def tables(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """The ratings tables of two warehouses, one under each contract."""
    made = {}
    for contract in (CONTRACT, EVENTS):
        path = Files(spark).resolve(str(tmp_path_factory.mktemp(contract.id) / "ratings"))
        made[contract.id] = Table(spark, Files(spark), "ratings", path)
        made[contract.id].create(SPECS["ratings"], {"recsys.buckets": "3"})
        adopt_contract(spark, made[contract.id], contract)
    return made


def constraints_of(table: Table) -> dict[str, str]:
    prefix = "delta.constraints."
    return {key.removeprefix(prefix): sql for key, sql in table.properties().items() if key.startswith(prefix)}


@pytest.mark.parametrize("contract", [CONTRACT, EVENTS], ids=lambda contract: contract.id)
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # no shrinking: every try is a Spark job of 80 rows
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(a_row, min_size=80, max_size=80))
def test_the_rules_accept_a_row_of_the_sources_schema_exactly_when_the_constraints_of_the_table_do(
    spark: SparkSession, tables: dict[str, Table], contract: RatingsContract, rows: list[dict[str, Any]]
) -> None:
    """Rows as JSON lines, so that the schema of the source is in it; constraints as the table has them."""
    lines = [(str(n), json.dumps(row)) for n, row in enumerate(rows)]
    frame = spark.createDataFrame(lines, f"{c.SOURCE} STRING, value STRING")
    candidates = put_in_buckets(parse_lines(frame, Layout("json"), None, contract), 2).cache()
    constraints = constraints_of(tables[contract.id])
    holds = [sf.coalesce(sf.expr(sql), sf.lit(False)).alias(name) for name, sql in constraints.items()]
    typed = type_columns(candidates, contract).select(c.SOURCE, c.WITHDRAWN, *holds)
    checked = check_rows(candidates, contract, now_us=NOW_US).select(c.SOURCE, c.RULES)
    found = checked.join(typed, c.SOURCE).collect()
    candidates.unpersist()
    assert len(found) == len(rows)
    for row in found:
        broken = {name.removeprefix("contract_") for name in constraints if not row[name]}
        refused = {_column_of(rule) for rule in row[c.RULES] or () if rule not in ABOUT_TEXT_OR_CLOCK}
        assert refused == broken, (rows[int(row[c.SOURCE])], row)


def _column_of(rule: str) -> str:
    columns = [name for name in RATINGS.names if rule.endswith(name) or rule.startswith(name)]
    return max(columns, key=len)


def a_rating(**changed: Any) -> Row:
    good = {c.USER_ID: "u", c.ITEM_ID: "i", c.VALUE: 5.0, c.EVENT_TIME: NOON, c.EVENT_ID: "e", c.BATCH: 1, c.BUCKET: 0}
    return Row(**{**good, **changed})


def test_case_43_a_frame_that_was_never_checked_is_refused_whole_and_the_constraint_is_named(
    spark: SparkSession, tables: dict[str, Table]
) -> None:
    table = tables[CONTRACT.id]
    table.append(spark.createDataFrame([a_rating(), a_rating(value=None), a_rating(value=10.0, user_id=" 7")], RATINGS))
    rows, version = table.read().count(), table.version()
    for column, value in (
        (c.VALUE, 11.0),
        (c.VALUE, float("nan")),
        (c.USER_ID, "u\x00"),
        (c.USER_ID, "\ufffd"),
        (c.USER_ID, ""),
        (c.ITEM_ID, "x" * 257),
        (c.EVENT_ID, " "),
        (c.EVENT_ID, "e\x00"),
        (c.EVENT_TIME, datetime(1994, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ):
        bad = spark.createDataFrame([a_rating(), a_rating(**{column: value})], RATINGS)
        with pytest.raises((PySparkException, Py4JJavaError), match=f"contract_{column}"):
            table.append(bad)
    assert (table.read().count(), table.version()) == (rows, version)


def test_a_table_takes_a_contract_in_one_commit_and_a_changed_one_only_where_its_rows_keep_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = Tables(spark, WarehouseParams(root=str(tmp_path), buckets=3)).open_or_create().ratings
    adopt_contract(spark, table, CONTRACT)
    assert table.version() == 1
    assert table.properties()["recsys.buckets"] == "3"
    assert table.properties()["delta.checkpointInterval"] == "50"
    assert (table.read().schema, keeps_events(table)) == (RATINGS, False)
    table.append(spark.createDataFrame([a_rating(value=8.0)], RATINGS))
    adopt_contract(spark, table, CONTRACT)
    assert table.version() == 2

    narrower = CONTRACT.model_copy(update={"value_range": (0.0, 5.0), "version": "2.0.0"})
    with pytest.raises(ConfigError, match=r"2\.0\.0 demands .*BETWEEN 0\.0D AND 5\.0D, which 1 ratings"):
        adopt_contract(spark, table, narrower)
    with pytest.raises(ConfigError, match=r"holds ratings, but contract 'events' is of events"):
        adopt_contract(spark, table, EVENTS)
    assert table.version() == 2

    adopt_contract(spark, table, CONTRACT.model_copy(update={"value_range": (0.0, 20.0)}))
    table.append(spark.createDataFrame([a_rating(value=20.0)], RATINGS))
    with pytest.raises((PySparkException, Py4JJavaError), match="contract_value"):
        table.append(spark.createDataFrame([a_rating(value=20.5)], RATINGS))


def test_a_table_that_was_filled_before_there_were_contracts_holds_ratings_and_takes_one(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = Tables(spark, WarehouseParams(root=str(tmp_path))).open_or_create().ratings
    table.append(spark.createDataFrame([a_rating()], RATINGS))
    with pytest.raises(ConfigError, match="one warehouse holds one kind"):
        adopt_contract(spark, table, EVENTS)
    adopt_contract(spark, table, CONTRACT)
    assert set(constraints_of(table)) == {f"contract_{name}" for name in RATINGS.names[:5]}
    assert table.read().count() == 1
    version = table.version()
    adopt_contract(spark, table, CONTRACT)
    assert table.version() == version


def test_owners_find_beside_their_data_who_reads_them_and_since_when(spark: SparkSession, tmp_path: Path) -> None:
    files, landing = Files(spark), f"file:{tmp_path}"
    assert read_consumers(files, landing, CONTRACT) == []
    for _ in range(2):
        for consumer in ("shop", "recsys"):
            register_consumer(files, landing, CONTRACT, consumer=consumer, warehouse="hdfs://x/w")
    first = read_consumers(files, landing, CONTRACT)
    assert [(entry["consumer"], entry["contract_version"], entry["warehouse"]) for entry in first] == [
        ("recsys", CONTRACT.version, "hdfs://x/w"),
        ("shop", CONTRACT.version, "hdfs://x/w"),
    ]
    assert "user_id" in first[0]["reads"]
    old = "2020-01-01T00:00:00+00:00"
    file = tmp_path / "_consumers" / "ratings.recsys.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "since": old}))
    newer = CONTRACT.model_copy(update={"version": "2.0.0"})
    register_consumer(files, landing, newer, consumer="recsys", warehouse="hdfs://x/w")
    again = read_consumers(files, landing, CONTRACT)
    assert (again[0]["contract_version"], again[0]["since"]) == ("2.0.0", old)
    assert again[1] == first[1]
    assert read_consumers(files, landing, EVENTS) == []


def test_a_landing_folder_that_cannot_be_written_to_is_read_all_the_same(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_consumers").write_text("a file where the folder should be")
    register_consumer(Files(spark), f"file:{tmp_path}", CONTRACT, consumer="recsys", warehouse="w")
    assert "consumer_not_registered" in caplog.text
