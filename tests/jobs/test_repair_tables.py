"""Cases 21, 40, 41 and 42: what is damaged is said in one line, repaired, and the next run ends as if undisturbed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import ingest_ratings, quarantine, repair_tables
from recsys.blocks.current import current_ratings
from tests.jobs.fingerprint import INGESTED, hash_tables, table_hash
from tests.jobs.warehouses import SMALL, arguments, land_csv

DAY = 1_700_000_000


class Repairs:
    """A warehouse of two batches, and the jobs on copies of it."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.landing, self.undisturbed = spark, folder / "landing", folder / "undisturbed"
        for n in (1, 2):
            land_csv(self.landing, f"{n}.csv", f"u{n},i{n},8,{DAY}", f"u{n},i9,{n},{DAY}", f"u{n},,5,{DAY}")
            assert ingest_ratings.main(arguments(self.undisturbed, self.landing, SMALL)) == 0
        self.expected = hash_tables(spark, str(self.undisturbed))

    def words(self, warehouse: Path) -> list[str]:
        return arguments(warehouse, self.landing, SMALL)

    def holds(self, warehouse: Path) -> dict[str, Any]:
        return hash_tables(self.spark, str(warehouse))

    def blocks(self, warehouse: Path) -> tuple[int, int]:
        """The blocks without what they say about their making."""
        rows = self.spark.read.format("delta").load(f"{warehouse}/user_blocks")
        return table_hash(rows, leave_out=["through_batch"])

    def checkpoint(self, warehouse: Path, table: str) -> None:
        deltas: Any = self.spark._jvm.org.apache.spark.sql.delta.DeltaLog  # type: ignore[union-attr]
        deltas.forTable(self.spark._jsparkSession, str(warehouse / table)).checkpoint()
        deltas.clearCache()


@pytest.fixture(scope="module")
def repairs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Repairs:
    return Repairs(spark, tmp_path_factory.mktemp("repair"))


@pytest.fixture
def warehouse(repairs: Repairs, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repairs.undisturbed, tmp_path / "warehouse"))


Say = Callable[[Callable[[list[str]], int], list[str]], tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a job: its exit code and what it said; a trace was never shown."""

    def run(job: Callable[[list[str]], int], words: list[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        code = job(words)
        said = capsys.readouterr()
        assert "Traceback" not in said.err, said.err
        assert "\tat " not in said.err, said.err
        return code, said.out, said.err

    return run


def damage(file: Path, keep: Callable[[bytes], bytes]) -> None:
    """As a file system does it: nothing else knows of it."""
    file.write_bytes(keep(file.read_bytes()))
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)


def last_commit(table: Path) -> Path:
    return max(file for file in (table / "_delta_log").iterdir() if file.suffix == ".json" and file.name[0] == "0")


def to_nothing(content: bytes) -> bytes:
    return b""


def to_its_first_line(content: bytes) -> bytes:
    return content[: content.index(b"\n") + 1]


def to_a_torn_line(content: bytes) -> bytes:
    return content[:-30]


@pytest.mark.parametrize(
    ("table", "keep"),
    [("ratings", to_nothing), ("ratings", to_its_first_line), ("items", to_a_torn_line), ("user_blocks", to_nothing)],
)
def test_case_42_a_torn_last_commit_is_refused_set_aside_and_its_batch_made_again_as_if_undisturbed(
    repairs: Repairs, warehouse: Path, say: Say, table: str, keep: Callable[[bytes], bytes]
) -> None:
    commit = last_commit(warehouse / table)
    damage(commit, keep)
    torn, words = commit.read_bytes(), repairs.words(warehouse)
    others = tuple(name for name in INGESTED if name != table)

    code, _, line = say(ingest_ratings.main, words)
    assert code == 1
    assert table in line
    assert "repair_tables" in line
    assert hash_tables(repairs.spark, str(warehouse), others) == {name: repairs.expected[name] for name in others}

    code, said, _ = say(repair_tables.main, [*words, "--dry-run"])
    assert code == 0
    assert f"{table}: can be repaired: commit {int(commit.stem)} " in said
    assert commit.read_bytes() == torn

    code, said, _ = say(repair_tables.main, words)
    assert code == 0
    assert f"{table}: repaired: commit {int(commit.stem)} " in said
    [kept] = (warehouse / "set_aside" / table).rglob("*.json")
    assert kept.read_bytes() == torn

    assert say(ingest_ratings.main, words)[0] == 0
    assert repairs.holds(warehouse) == repairs.expected
    assert "nothing is damaged" in say(repair_tables.main, [*words, "--dry-run"])[1]


@pytest.mark.parametrize("lost", ["ingest_ledger", "claim"])
def test_cases_21_42_a_lost_ledger_commit_or_a_torn_claim_costs_a_second_reading_and_counts_no_rating_twice(
    repairs: Repairs, warehouse: Path, say: Say, lost: str
) -> None:
    words, claim = repairs.words(warehouse), warehouse / "claims" / "ingest_ratings.json"
    if lost == "claim":
        claim.parent.mkdir(exist_ok=True)
        claim.write_text('{"batch": 3, "cla')
        code, _, line = say(ingest_ratings.main, words)
        assert code == 1
        assert f"{claim}', which names the batch under way, is empty or cut off" in line
        assert repairs.holds(warehouse) == repairs.expected
    else:
        damage(last_commit(warehouse / lost), to_nothing)
        assert say(ingest_ratings.main, words)[0] == 1
    code, _, _ = say(repair_tables.main, words)
    assert code == 0
    assert not claim.exists()
    assert say(ingest_ratings.main, words)[0] == 0
    ratings = repairs.spark.read.format("delta")
    now, before = (
        table_hash(current_ratings(ratings.load(f"{root}/ratings")), ["batch"])
        for root in (warehouse, repairs.undisturbed)
    )
    assert now == before
    assert repairs.blocks(warehouse) == repairs.blocks(repairs.undisturbed)
    rows = ratings.load(f"{warehouse}/ingest_ledger").collect()
    assert all(row.landed == row.accepted + row.duplicate + row.quarantined for row in rows)
    assert sum(row.accepted for row in rows) == ratings.load(f"{warehouse}/ratings").count()


@dataclass(frozen=True)
class Replayed:
    """The warehouse with a third batch, of which a replay, the fourth, has put the rating of a new item right."""

    root: Path
    words: list[str]
    holds: dict[str, Any]


@pytest.fixture
def replayed(repairs: Repairs, warehouse: Path, tmp_path: Path) -> Replayed:
    landing, corrections = tmp_path / "landing", tmp_path / "corrections.yaml"
    shutil.copytree(repairs.landing, landing)
    land_csv(landing, "3.csv", f"u3,i1,8,{DAY}", f"u3,i3,five,{DAY}")
    corrections.write_text("value: {five: '5'}")
    words = arguments(warehouse, landing, SMALL)
    assert ingest_ratings.main(words) == 0
    assert quarantine.main([*words, "--replay", "--rule", "value_not_a_number", "--map", str(corrections)]) == 0
    return Replayed(warehouse, words, repairs.holds(warehouse))


def test_case_42_the_torn_items_of_a_replay_are_made_again_with_the_next_ingestion(
    repairs: Repairs, replayed: Replayed, say: Say
) -> None:
    damage(last_commit(replayed.root / "items"), to_nothing)
    code, said, _ = say(repair_tables.main, replayed.words)
    assert code == 0
    assert "the ratings of batch 4 rated items that have no position" in said
    assert say(ingest_ratings.main, replayed.words)[0] == 0
    assert repairs.holds(replayed.root) == replayed.holds
    assert "nothing is damaged" in say(repair_tables.main, [*replayed.words, "--dry-run"])[1]


def test_case_42_the_torn_ratings_of_a_replay_are_lost_and_named_as_such(replayed: Replayed, say: Say) -> None:
    """Quarantine has their texts no more, and the file that they came in counts as read."""
    damage(last_commit(replayed.root / "ratings"), to_nothing)
    code, said, line = say(repair_tables.main, replayed.words)
    assert code == 1
    assert "the 1 ratings that replay 4 took out of quarantine are not in the table" in said
    assert "from a backup, or have them landed again" in said
    assert "1 damages are left, in ratings" in line


def test_case_41_a_damaged_checkpoint_is_set_aside_when_commits_have_its_rows_and_refused_when_nothing_has(
    repairs: Repairs, warehouse: Path, say: Say
) -> None:
    words, folder = repairs.words(warehouse), warehouse / "user_blocks" / "_delta_log"
    repairs.checkpoint(warehouse, "user_blocks")
    [checkpoint] = folder.glob("*.checkpoint.parquet")
    whole = checkpoint.read_bytes()
    damage(checkpoint, lambda content: content[:-100])
    code, said, _ = say(repair_tables.main, words)
    assert code == 0
    assert f"user_blocks: repaired: checkpoint {int(checkpoint.name[:20])} cannot be read. No row is lost." in said
    assert say(ingest_ratings.main, words)[0] == 0
    assert repairs.holds(warehouse) == repairs.expected

    checkpoint.write_bytes(whole[:-100])  # and now nothing else knows the rows
    for commit in folder.glob("*.json"):
        if int(commit.stem) <= int(checkpoint.name[:20]):
            commit.unlink()
    (folder / "_last_checkpoint").write_text(json.dumps({"version": int(checkpoint.name[:20]), "size": 1}))
    repairs.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    code, said, line = say(repair_tables.main, words)
    assert code == 1
    assert "user_blocks: cannot be repaired: " in said
    assert "Delete its folder and run ingest_ratings" in said
    code, _, line = say(ingest_ratings.main, words)
    assert code == 1
    assert "user_blocks" in line
    assert "repair_tables" in line

    shutil.rmtree(warehouse / "user_blocks")
    assert say(ingest_ratings.main, words)[0] == 0
    assert repairs.blocks(warehouse) == repairs.blocks(repairs.undisturbed)


def test_case_40_a_data_file_that_is_gone_is_named_with_what_can_be_done(
    repairs: Repairs, warehouse: Path, say: Say
) -> None:
    [file, *_] = sorted((warehouse / "ratings").glob("bucket=*/*.parquet"))
    file.unlink()
    code, said, line = say(repair_tables.main, repairs.words(warehouse))
    assert code == 1
    assert f"{file}' is gone. Put it back" in said
    assert "1 damages are left, in ratings" in line
