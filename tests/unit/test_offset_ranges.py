"""What the ledger knows of a topic: which offsets were read, and of which topic."""

from pathlib import Path

import pytest
import yaml

from recsys.errors import ConfigError, ConservationError
from recsys.ratings.contract import load_contract
from recsys.ratings.kafka import OffsetRange, describe_ranges
from recsys.ratings.ledger import Claim, Counts, Seen, make_range_entries
from recsys.session import ROOT
from recsys.store.params import KafkaParams


def seen(*batches: list[OffsetRange]) -> Seen:
    return Seen(entry for batch, ranges in enumerate(batches, 1) for entry in make_range_entries(batch, 7, ranges, {}))


def test_a_range_is_found_again_by_its_name_in_the_ledger() -> None:
    own = OffsetRange("some.topic-1_x", "id", 12, 100, 200)
    assert own.source == "kafka:some.topic-1_x/12/100-199"
    assert OffsetRange.from_source(own.source, "id") == own
    assert describe_ranges([own]) == "partition 12 offsets 100 to 199 (100)"
    [entry] = make_range_entries(3, 7_000, [own], {own.source: Counts(2, 1, 1, 0)})
    assert (entry.size, entry.checksum, entry.modified_ms, entry.counts) == (100, "id", 7, Counts(2, 1, 1, 0))
    assert Claim.from_json(Claim(3, 7, (entry,)).to_json()).ranges == [own]


def test_each_topic_of_a_name_has_offsets_of_its_own_and_the_newest_is_known() -> None:
    known = seen(
        [OffsetRange("t", "old", 0, 0, 5)],
        [OffsetRange("t", "old", 0, 5, 9), OffsetRange("t", "old", 1, 0, 2)],
        [OffsetRange("t", "new", 0, 0, 3)],
    )
    assert known.topic_id("t") == "new"
    assert known.topic_id("other") is None
    assert known.next_offsets("t", "old") == {0: 9, 1: 2}
    assert known.next_offsets("t", "new") == {0: 3}
    assert known.next_offsets("t", "newest") == {}
    assert known.last_batch == 3


def test_what_was_read_is_left_out_and_what_would_leave_messages_out_is_refused() -> None:
    known = seen([OffsetRange("t", "a", 0, 0, 5), OffsetRange("t", "a", 1, 0, 5)])
    offered = [OffsetRange("t", "a", 0, 3, 8), OffsetRange("t", "a", 1, 0, 5), OffsetRange("t", "a", 2, 0, 1)]
    known.require_no_gap(offered)
    assert known.leave_out_known(offered) == [OffsetRange("t", "a", 0, 5, 8), OffsetRange("t", "a", 2, 0, 1)]
    for late in (OffsetRange("t", "a", 0, 6, 8), OffsetRange("t", "b", 0, 1, 8)):
        with pytest.raises(
            ConservationError, match=rf"partition 0: a batch begins at offset {late.start}, but the ledger"
        ):
            known.require_no_gap([late])


def test_a_range_is_none_of_the_files() -> None:
    known = seen([OffsetRange("t", "a", 0, 0, 5)])
    assert not known.has_name("kafka:t/0/0-4")
    assert known.landed_before("a") is None


def test_a_contract_names_the_columns_of_each_version_of_messages(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "conf/contracts/ratings.yaml").read_text())
    [versions] = [own for own in content["schema"][0]["customProperties"] if own["property"] == "messageVersions"]
    file = tmp_path / "contract.yaml"

    def load(value: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, tuple[str, ...]]]:
        versions["value"] = value
        file.write_text(yaml.safe_dump(content))
        return load_contract(file).versions

    found = load({"1": {}, "2": {"user_id": ["uid"]}})
    assert list(found) == ["1", "2"]
    assert (found["1"]["user_id"], found["2"]["user_id"]) == (("user_id", "userId", "user"), ("uid",))
    assert found["2"]["item_id"] == found["1"]["item_id"]
    with pytest.raises(ConfigError, match="version '2' names column 'stars', which the schema has not"):
        load({"1": {}, "2": {"stars": ["s"]}})
    with pytest.raises(ConfigError, match="messageVersions '1' name 'item' for both user_id and item_id"):
        load({"1": {"user_id": ["item"]}})


def test_a_topic_without_brokers_is_refused() -> None:
    with pytest.raises(ValueError, match="given both or neither"):
        KafkaParams(topic="ratings")
