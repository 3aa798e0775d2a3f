"""What a replay is told and what the ledger keeps of it."""

from itertools import permutations

import pytest

from jobs.quarantine import read_map
from recsys.errors import ConfigError, UsageError
from recsys.ratings.contract import load_contract
from recsys.ratings.kafka import KAFKA, OffsetRange
from recsys.ratings.landing import Layout, find_layout
from recsys.ratings.ledger import Claim, Counts, Entry, Replay, Seen
from recsys.ratings.quarantine import Corrections, Selection, parse_corrections, read_offsets
from recsys.session import ROOT

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")


def entry(batch: int, counts: Counts, state: str, source: str = "a.csv") -> Entry:
    return Entry(batch, source, "csv", 10, 5, 7, "A", counts, state)


def test_corrections_name_columns_and_map_text_to_text() -> None:
    text = 'rename: {stars: value}\nheader: "user_id,item_id"\nitem_id: {"old": "new"}\nvalue: {"five": "5", "": "0"}\n'
    assert parse_corrections(text, "map.yaml") == Corrections(
        {"stars": "value"}, {"item_id": {"old": "new"}, "value": {"five": "5", "": "0"}}, "user_id,item_id"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping"),
        ("- value", "must be a mapping"),
        ("value: {", "no YAML"),
        ("stars: {five: '5'}", "unknown key 'stars'"),
        ("value: {five: 5}", "'value' must map text to text; put numbers in quotes"),
        ("value: five", "'value' must map text to text"),
        ("value: {}", "'value' must map text to text"),
        ("rename: {stars: rating}", "'rename' names 'rating'; columns are user_id"),
        ("header: [user_id]", "'header' must be the first line"),
    ],
)
def test_other_corrections_are_refused_with_the_file_and_the_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        parse_corrections(text, "map.yaml")
    assert "'map.yaml'" in str(refused.value)


def test_a_map_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"corrections cannot be read from '/none\.yaml'"):
        read_map("/none.yaml")


def test_other_names_come_after_those_of_the_contract_in_files_and_in_every_version_of_messages() -> None:
    extended = Corrections(rename={"stars": "value", "key": "event_id"}).extend(CONTRACT)
    assert extended.columns["value"] == ("value", "rating", "stars")
    assert extended.columns["event_id"][-1] == "key"
    assert extended.versions["1"]["value"][-1] == "stars"
    assert extended.columns["user_id"] == CONTRACT.columns["user_id"]
    assert Corrections().extend(CONTRACT) is CONTRACT


def test_offsets_are_two_numbers_in_order() -> None:
    assert read_offsets("120-130") == (120, 130)
    for text in ("120", "130-120", "-5", "a-b"):
        with pytest.raises(UsageError, match="for example 120-130"):
            read_offsets(text)


def test_a_selection_without_a_condition_is_everything() -> None:
    assert Selection().is_everything
    assert not Selection(offsets=(0, 0)).is_everything
    assert not Selection(batches=(0,)).is_everything


def test_refused_rows_are_read_as_their_file_was_and_csv_needs_a_header() -> None:
    assert find_layout("a.jsonl", CONTRACT) == find_layout("a.parquet", CONTRACT) == (Layout("json"), None)
    assert find_layout("a.csv", CONTRACT) is None
    assert find_layout("a.png", CONTRACT) is None
    found = find_layout("a.dat", CONTRACT)
    assert found is not None
    assert (found[0].reader, found[0].delimiter, found[0].n_fields) == ("fields", "::", 4)
    found = find_layout("a.csv.gz", CONTRACT, "item,user,x,rating,time")
    assert found is not None
    assert dict(found[0].places) == {"user_id": 1, "item_id": 0, "value": 3, "event_time": 4}
    assert found[1] is None


def test_whatever_the_order_of_its_entries_a_replayed_file_has_the_rows_of_all_of_them() -> None:
    whole = entry(1, Counts(1, 0, 0, 1), "quarantined")
    replays = [entry(2, Counts(2, 2, 0, 0), "replayed"), entry(3, Counts(0, 1, 0, -1), "replayed")]
    for entries in permutations([whole, *replays]):
        seen = Seen(entries)
        assert seen.landed_before("A") == 3
        assert (seen.last_batch, seen.last_accepted_batch) == (3, 3)
    assert Seen([whole]).landed_before("A") is None


def test_the_replay_of_a_topic_that_was_made_again_since_does_not_bring_its_name_back() -> None:
    def messages(batch: int, topic_id: str, state: str) -> Entry:
        own = OffsetRange("ratings", topic_id, 0, 0, 5)
        return Entry(batch, own.source, KAFKA, 5, 5, 7, topic_id, Counts(0, 1, 0, -1), state)

    seen = Seen([messages(1, "old", "accepted"), messages(2, "new", "accepted"), messages(3, "old", "replayed")])
    assert seen.topic_id("ratings") == "new"
    assert seen.last_batch == 3


def test_the_claim_of_a_replay_survives_its_file_and_reads_no_source() -> None:
    own = OffsetRange("ratings", "id", 0, 0, 5)
    entries = (Entry(3, own.source, KAFKA, 5, 5, 7, "id", Counts(0, 1, 0, -1), "replayed"),)
    claim = Claim(3, 7, entries, Replay("replay-1", (1, 2), 5))
    assert Claim.from_json(claim.to_json()) == claim
    assert claim.ranges == []
    assert Claim(3, 7, entries).ranges == [own]
