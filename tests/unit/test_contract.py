"""The contract file: what it may hold, what follows from it, and what it says when it is wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql.types import BooleanType, LongType, StringType, TimestampType

from recsys.errors import ConfigError
from recsys.ratings.contract import STORED, RatingsContract, load_contract, parquet_types
from recsys.ratings.params import IngestParams
from recsys.ratings.parse import TEXTS
from recsys.ratings.rules import make_constraints, make_rules
from recsys.schemas import RATINGS
from recsys.session import ROOT

SHIPPED = ROOT / "conf/contracts/ratings.yaml"
EVENTS = ROOT / "conf/contracts/events.yaml"
Content = dict[str, Any]


def read(file: Path) -> Content:
    content: Content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def column(content: Content, name: str) -> Content:
    found: Content = next(own for own in content["schema"][0]["properties"] if own["name"] == name)
    return found


def custom(content: Content, name: str) -> Content:
    found: Content = next(own for own in content["customProperties"] if own["property"] == name)
    return found


def load(tmp_path: Path, change: Callable[[Content], object], base: Path = SHIPPED) -> RatingsContract:
    content = read(base)
    change(content)
    file = tmp_path / "contract.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_contract(file)


def test_the_shipped_contract_finds_the_format_by_the_ending() -> None:
    contract = load_contract(SHIPPED)
    readers = {name: found[1].reader for name in ("a.csv", "A.CSV.gz", "d/x.dat", "b.jsonl.gz", "c.parquet")
               if (found := contract.format_of(name))}  # fmt: skip
    assert readers == {
        "a.csv": "csv",
        "A.CSV.gz": "csv",
        "d/x.dat": "fields",
        "b.jsonl.gz": "json",
        "c.parquet": "parquet",
    }
    assert contract.format_of("x.png") is None
    assert contract.format_of("x.parquet.gz") is None


def test_the_shipped_contracts_say_who_owns_the_data_who_depends_on_them_and_what_is_promised() -> None:
    for file in (SHIPPED, EVENTS):
        contract = load_contract(file)
        assert contract.owner_and_contact == f"{contract.id}-team, {contract.id}-team@example.org"
        assert [consumer.name for consumer in contract.consumers] == [IngestParams().consumer]
        assert contract.volume == (1, 100_000_000)
    assert load_contract(SHIPPED).freshness == timedelta(days=2)
    assert load_contract(EVENTS).weights == {"view": 1.0, "cart": 3.0, "purchase": 10.0}


def test_the_first_allowed_moment_has_a_zone(tmp_path: Path) -> None:
    def later(content: Content) -> None:
        column(content, "event_time")["logicalTypeOptions"]["minimum"] = "2000-01-01T02:00:00+02:00"

    contract = load(tmp_path, later)
    assert contract.earliest == datetime(2000, 1, 1, tzinfo=UTC)
    assert contract.earliest_us() == 946_684_800_000_000


def test_the_schema_of_a_source_is_every_known_name_as_text() -> None:
    contract = load_contract(EVENTS)
    assert contract.source_schema().names[:3] == ["user_id", "userId", "user"]
    assert {field.dataType for field in contract.source_schema()} == {StringType()}
    assert {name for names in contract.columns.values() for name in names} == set(contract.source_schema().names)
    assert set(contract.columns) <= set(TEXTS)


def test_types_of_parquet_follow_from_the_logical_types() -> None:
    assert isinstance(LongType(), parquet_types("user_id"))
    assert not isinstance(TimestampType(), parquet_types("user_id"))
    assert not isinstance(StringType(), parquet_types("value"))
    assert isinstance(TimestampType(), parquet_types("event_time"))
    assert isinstance(BooleanType(), parquet_types("withdrawn"))


def test_stored_types_are_those_of_the_ratings_table() -> None:
    assert {name: RATINGS[name].dataType.simpleString() for name in STORED} == STORED
    assert set(RATINGS.names) - set(STORED) == {"batch", "bucket"}


def test_every_rule_is_part_of_the_constraint_of_its_column_and_every_column_of_a_rating_has_one() -> None:
    for file in (SHIPPED, EVENTS):
        contract = load_contract(file)
        constraints = make_constraints(contract)
        for rule in make_rules(contract):
            assert rule.sql in constraints[f"contract_{rule.column}"]
        rating = set(RATINGS.names) - {"batch", "bucket"}
        assert {f"contract_{name}" for name in rating} == set(constraints)


def remove(name: str) -> Callable[[Content], object]:
    return lambda content: content["schema"][0]["properties"].remove(column(content, name))


def on(name: str, /, **keys: Any) -> Callable[[Content], object]:
    return lambda content: column(content, name).update(keys)


def on_schema(name: str, value: Any) -> Callable[[Content], object]:
    def change(content: Content) -> None:
        kept = [own for own in content["schema"][0]["customProperties"] if own["property"] != name]
        content["schema"][0]["customProperties"] = [*kept, {"property": name, "value": value}]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(owners="x"), "'owners'"),
        (lambda content: content.update(kind="events"), "'kind' is 'events'"),
        (lambda content: content.update(apiVersion="v4.0.0"), "'apiVersion' is 'v4.0.0'"),
        (lambda content: content.pop("team"), "'team'"),
        (lambda content: content.update(support=[]), "'support'"),
        (remove("item_id"), "no property 'item_id', which ratings need"),
        (on("user_id", required=False), "'user_id' must have 'required: true'"),
        (on("user_id", logicalType="number"), "'user_id' has logicalType number, it must be string"),
        (on("user_id", name="customer"), "property 'customer' is not of ratings"),
        (on("value", physicalType="float"), "physicalType float, the ratings table has double"),
        (on("value", logicalTypeOptions={"minimum": 5, "maximum": 1}), "minimum 5.0 above maximum 1.0"),
        (on("value", logicalTypeOptions={"minimum": 5}), "logicalTypeOptions.maximum"),
        (
            on("value", logicalTypeOptions={"minimum": 5, "maximum": 9, "maxLength": 3}),
            "maxLength, for which there is no rule",
        ),
        (on("value", transformSourceObjects=["user"]), "'user' for both user_id and value"),
        (on("user_id", logicalTypeOptions={"maxLength": 0}), "logicalTypeOptions.maxLength' is 0"),
        (on("event_time", logicalTypeOptions={"minimum": "1995-01-01"}), "has no time zone"),
        (on("event_time", logicalTypeOptions={"minimum": "soon"}), "needs a time in ISO 8601"),
        (on("event_time", customProperties=[{"property": "skew", "value": 1}]), "unknown key 'skew'"),
        (on_schema("kind", "likes"), "'schema.customProperties.kind' is 'likes'"),
        (on_schema("unknownColumns", "drop"), "'schema.customProperties.unknownColumns' is 'drop'"),
        (on_schema("unkownColumns", "reject"), "unknown key 'unkownColumns' in schema.customProperties. Known keys"),
        (on_schema("formats", {".dat": {"reader": "fields"}}), "needs 'delimiter'"),
        (on_schema("kind", "events"), "property 'value' is not of events"),
        (lambda content: content.update(slaProperties=[{"property": "latency", "value": 1}]), "'freshness' is watched"),
        (
            lambda content: content.update(slaProperties=[{"property": "freshness", "value": 2, "unit": "weeks"}]),
            "with a unit of min, h, d",
        ),
        (
            lambda content: custom(content, "consumers").update(value=[{"name": "x"}]),
            "'customProperties.consumers.0.contact'",
        ),
    ],
)
def test_a_wrong_contract_is_named_with_its_key_in_one_line(
    tmp_path: Path, change: Callable[[Content], object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, change)
    message = str(caught.value)
    assert said in message
    assert str(tmp_path) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (on("event_id", unique=False), "'event_id' must have 'unique: true'"),
        (on("event_id", required=False), "'event_id' must have 'required: true'"),
        (on("event_type", customProperties=[]), "events need a weight for each type"),
        (on("event_type", customProperties=[{"property": "weights", "value": {"view": 0}}]), "weights.view' is 0"),
    ],
)
def test_events_need_unique_ids_and_a_weight_for_each_type(
    tmp_path: Path, change: Callable[[Content], object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, change, EVENTS)
    assert said in str(caught.value)


def test_a_missing_contract_says_which_setting_to_check(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist\. Check the setting 'contract'"):
        load_contract(tmp_path / "none.yaml")
