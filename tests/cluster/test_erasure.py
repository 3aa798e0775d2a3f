"""Forgetting a user whose ratings, blocks and lists are on HDFS."""

from pathlib import Path

from pyspark.sql import SparkSession

from jobs import forget_user, ingest_ratings, score_users
from recsys.store.files import Files
from tests.cluster.hadoop import Hadoop
from tests.cluster.undisturbed import World, read_once
from tests.scans import find_texts

FORGOTTEN = "!-forgotten-7f3a"
DAY = 1_750_000_000


def test_case_91_a_user_forgotten_on_hdfs_is_in_no_file_there(
    spark: SparkSession, hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    warehouse, ids = world.copy(), tmp_path / "ids"
    ids.touch(mode=0o600)
    ids.write_text(f"{FORGOTTEN}\n")
    ratings = [f"{user},i{item:03},{5 + item % 3},{DAY + item}" for user in (FORGOTTEN, "u0001") for item in range(8)]
    text = "\n".join(["user_id,item_id,rating,timestamp", *ratings, f"{FORGOTTEN},i000,99,{DAY}", ""])
    Files(spark).write(f"{warehouse.root}/landing/3.csv", text.encode())
    words = warehouse.words(**{"landing.path": f"{warehouse.root}/landing"})
    assert ingest_ratings.main(words) == 0
    assert score_users.main([*words, "--force"]) == 0
    _, n_lists, _ = read_once(warehouse.root)
    hadoop.shell("-get", warehouse.root, str(tmp_path / "before"))
    places = {name.split("/")[0] for name in find_texts(tmp_path / "before", FORGOTTEN)}
    assert places == {"landing", "ratings", "user_blocks", "quarantine", "recommendations"}

    assert forget_user.main([*words, "--ids", str(ids), "--now"]) == 0

    hadoop.shell("-get", warehouse.root, str(tmp_path / "after"))
    assert find_texts(tmp_path / "after", FORGOTTEN) == set()
    assert read_once(warehouse.root)[1] == n_lists - 1
