import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys import columns as c
from recsys.config import Settings
from recsys.errors import PublicationError
from recsys.schemas import ITEMS
from recsys.session import ROOT
from recsys.store import generations
from recsys.store.generations import (
    PUBLISHED,
    ROLLED_BACK,
    Generation,
    WrittenLists,
    current,
    next_generation,
    publish,
    read_generation,
    read_history,
    served_stack,
    write_lists,
)
from recsys.store.maintenance import drop_old_generations, vacuum
from recsys.store.tables import Tables
from tests.publications import Lists, frame, have_published, lists_of, make_tables, publish_lists, read_lists


@pytest.fixture
def tables(spark: SparkSession, settings: Settings) -> Tables:
    return make_tables(spark, settings)


def test_lists_are_read_once_they_are_published_and_not_before(spark: SparkSession, tables: Tables) -> None:
    assert (current(tables), next_generation(tables)) == (None, 1)
    with pytest.raises(PublicationError, match="no generation has been published yet"):
        read_generation(tables)
    written = write_lists(tables, 1, frame(spark, 1, lists_of(1)))
    assert written == WrittenLists(1, n_users=2)
    assert current(tables) is None
    before = datetime.now(UTC)
    published = publish(tables, written, 7, {"user_blocks": 3}, "first")
    assert published == Generation(1, 1, 7, {"user_blocks": 3}, 2, published.published_at, PUBLISHED, "first")
    assert before <= published.published_at <= datetime.now(UTC)
    assert current(tables) == published
    assert read_lists(tables) == (1, lists_of(1))
    assert next_generation(tables) == 2


def test_a_published_generation_never_changes(spark: SparkSession, tables: Tables) -> None:
    publish_lists(spark, tables, 1)
    with pytest.raises(PublicationError, match="published and cannot change"):
        write_lists(tables, 1, frame(spark, 1, lists_of(9)))
    with pytest.raises(PublicationError, match="published already"):
        publish(tables, WrittenLists(1, 2), 1, {}, "again")
    assert read_lists(tables) == (1, lists_of(1))


def test_incomplete_lists_are_not_published(spark: SparkSession, tables: Tables) -> None:
    """Case 64: a score that is not a number never reaches a consumer."""
    nobody: Lists = {"ann": [("a", 1.0, "")], "bob": [("a", 1.0, "")]}
    not_a_number: Lists = {**lists_of(1), "bob": [("a", float("nan"), "")]}
    for lists, complaint in (
        (nobody, "lists for 2 of 2 users, 0 of 1 fallback list"),
        (not_a_number, "and 1 lists with scores that are not numbers"),
    ):
        with pytest.raises(PublicationError, match=complaint):
            write_lists(tables, 1, frame(spark, 1, lists))
    assert current(tables) is None


def test_of_two_jobs_that_publish_at_once_the_later_commit_fails(
    spark: SparkSession, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = write_lists(tables, 1, frame(spark, 1, lists_of(1)))
    theirs = write_lists(tables, 2, frame(spark, 2, lists_of(2)))

    def let_another_publish(point: str) -> None:
        monkeypatch.undo()
        publish(tables, theirs, 1, {}, "the quicker job")

    monkeypatch.setattr(generations, "pause_at", let_another_publish)
    with pytest.raises(PublicationError, match="another job published"):
        publish(tables, ours, 1, {}, "the slower job")
    assert [entry.generation for entry in read_history(tables)] == [2]


KILLED_WRITER = """
import sys, time
from pathlib import Path
from pyspark.sql import functions as sf
from recsys.schemas import RECOMMENDATIONS
from recsys.session import start_session
from recsys.store.generations import write_lists
from recsys.store.params import WarehouseParams
from recsys.store.tables import Tables

spark = start_session("killed", conf={"spark.master": "local[1]", "spark.sql.shuffle.partitions": "1"})
tables = Tables(spark, WarehouseParams(root=sys.argv[1]))
half_way = sys.argv[2]

def wait_at_half(batches):
    for batch in batches:
        if "bob" in batch.column("user_id").to_pylist():
            Path(half_way).touch()
            time.sleep(600)
        yield batch

users = spark.createDataFrame([(2, "ann", []), (2, "bob", [])], RECOMMENDATIONS).repartitionByRange(2, "user_id")
write_lists(tables, 2, users.mapInArrow(wait_at_half, RECOMMENDATIONS))
"""


def test_case_61_lists_killed_half_way_are_never_seen_and_the_rerun_publishes_once(
    spark: SparkSession, tables: Tables, tmp_path: Path
) -> None:
    publish_lists(spark, tables, 1)
    half_way = tmp_path / "half way"
    with subprocess.Popen([sys.executable, "-c", KILLED_WRITER, tables.root, str(half_way)], cwd=ROOT) as writer:
        while not half_way.exists():
            assert writer.poll() is None, "the writer ended before it was half way"
            time.sleep(0.1)
        written = list(Path(tables.root.removeprefix("file:"), "recommendations", "generation=2").glob("*.parquet"))
        writer.kill()
    assert written, "the first half is on disk"
    assert read_lists(tables) == (1, lists_of(1))
    publish_lists(spark, tables, next_generation(tables))
    assert read_lists(tables) == (2, lists_of(2))
    assert [entry.generation for entry in read_history(tables)] == [1, 2]


def test_case_61_lists_killed_before_they_were_published_are_replaced(spark: SparkSession, tables: Tables) -> None:
    publish_lists(spark, tables, 1)
    write_lists(tables, 2, frame(spark, 2, {"gone": [("x", 1.0, "")], **lists_of(2)}))
    assert read_lists(tables) == (1, lists_of(1))
    publish_lists(spark, tables, next_generation(tables))
    assert read_lists(tables) == (2, lists_of(2))


def test_case_61_lists_left_by_a_kill_are_replaced_even_when_maintenance_came_in_between(
    spark: SparkSession, tables: Tables
) -> None:
    publish_lists(spark, tables, 1)
    publish_lists(spark, tables, 2)
    write_lists(tables, 3, frame(spark, 3, {"gone": [("x", 1.0, "")], **lists_of(3)}))
    assert drop_old_generations(tables, keep=1) == [1]
    assert tables.recommendations.last_note() is None, "the last commit is maintenance's"
    publish_lists(spark, tables, next_generation(tables))
    assert read_lists(tables) == (3, lists_of(3))
    assert sorted(row[0] for row in tables.recommendations.read().select(c.GENERATION).collect()) == [2] * 3 + [3] * 3


def test_case_62_a_reader_sees_one_whole_generation_while_the_next_ones_are_published(
    spark: SparkSession, tables: Tables
) -> None:
    publish_lists(spark, tables, 1)
    seen: list[tuple[int, Lists]] = []
    done = threading.Event()

    def keep_reading() -> None:
        while not done.is_set():
            seen.append(read_lists(tables))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        for generation in (2, 3, 4):
            publish_lists(spark, tables, generation)
    finally:
        done.set()
        reader.join()
    numbers = [number for number, _ in seen]
    assert len(set(numbers)) > 1, "the reader saw a change"
    assert numbers == sorted(numbers)
    assert all(lists == lists_of(number) for number, lists in seen)


def test_case_63_items_removed_from_the_catalogue_leave_the_lists_that_name_them(
    spark: SparkSession, tables: Tables
) -> None:
    catalogue = [("a", 0, None, None, False, 1), ("b", 1, None, None, True, 1)]
    tables.items.append(spark.createDataFrame(catalogue, ITEMS))
    listed: Lists = {user: [("a", 2.0, "why"), ("b", 1.0, "why")] for user in (c.FALLBACK_USER_ID, "ann")}
    publish(tables, write_lists(tables, 1, frame(spark, 1, listed)), 1, {}, "test")
    assert read_lists(tables) == (1, {user: [("b", 1.0, "why")] for user in listed})


def test_maintenance_keeps_what_a_rollback_can_reach_and_what_is_not_published_yet(
    spark: SparkSession, tables: Tables
) -> None:
    have_published(spark, tables, {1: 1, 2: 1, 3: 1})
    write_lists(tables, 4, frame(spark, 4, lists_of(4)))
    assert drop_old_generations(tables, keep=2) == [1]
    assert drop_old_generations(tables, keep=2) == []
    tables.recommendations.join_small_files()
    vacuum(spark, [tables.recommendations, tables.generations], hours=0)
    stored = tables.recommendations.read().select(c.GENERATION).distinct().orderBy(c.GENERATION).collect()
    assert [row[0] for row in stored] == [2, 3, 4]
    assert read_lists(tables) == (3, lists_of(3))
    assert not list(Path(tables.root.removeprefix("file:"), "recommendations", "generation=1").glob("*.parquet"))


def test_a_rollback_takes_the_generations_above_its_target_off_the_stack() -> None:
    def history(*entries: tuple[int, str]) -> list[Generation]:
        return [
            Generation(sequence, generation, 1, {}, 0, datetime.now(UTC), state, "")
            for sequence, (generation, state) in enumerate(entries, 1)
        ]

    assert served_stack(history((1, PUBLISHED), (2, PUBLISHED), (3, PUBLISHED))) == [1, 2, 3]
    rolled_back = ((1, PUBLISHED), (2, PUBLISHED), (3, PUBLISHED), (2, ROLLED_BACK))
    assert served_stack(history(*rolled_back)) == [1, 2]
    assert served_stack(history(*rolled_back, (4, PUBLISHED))) == [1, 2, 4]
    assert served_stack(history(*rolled_back, (1, ROLLED_BACK))) == [1]
    assert served_stack(history(*rolled_back, (3, ROLLED_BACK))) == [1, 2, 3]
