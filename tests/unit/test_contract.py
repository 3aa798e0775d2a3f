"""The contract file: what it may hold, and what it says when it is wrong."""

from datetime import date
from pathlib import Path

import pytest
import yaml

from recsys.errors import ConfigError
from recsys.ratings.contract import load_contract
from recsys.session import ROOT

SHIPPED = ROOT / "conf/contracts/ratings.yaml"


def changed(tmp_path: Path, **keys: object) -> Path:
    content = yaml.safe_load(SHIPPED.read_text(encoding="utf-8")) | keys
    file = tmp_path / "ratings.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


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


def test_the_first_allowed_day_begins_at_midnight_utc(tmp_path: Path) -> None:
    contract = load_contract(changed(tmp_path, earliest=date(2000, 1, 1)))
    assert contract.earliest_us() == 946_684_800_000_000


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"owners": "x"}, "'owners'"),
        ({"value_range": [5, 1]}, "wrong way round"),
        ({"max_id_length": 0}, "'max_id_length' is 0"),
        ({"columns": {"user_id": ["u"]}}, "'columns.item_id'"),
        ({"formats": {".dat": {"reader": "fields"}}}, "needs 'delimiter'"),
    ],
)
def test_a_wrong_contract_is_named_with_its_key_in_one_line(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    file = changed(tmp_path, **keys)
    with pytest.raises(ConfigError) as caught:
        load_contract(file)
    message = str(caught.value)
    assert said in message
    assert str(file) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_missing_contract_says_which_setting_to_check(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist\. Check the setting 'contract'"):
        load_contract(tmp_path / "none.yaml")
