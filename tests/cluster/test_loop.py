"""The loop on HDFS and YARN, started as a user starts it: the same lists as on one machine, read without a JVM."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.pipeline import main
from tests.cluster.hadoop import Hadoop
from tests.cluster.jobs import submit
from tests.jobs.test_pipeline import SETTINGS, land
from tests.jobs.warehouses import arguments
from tests.tracking_server import tracking_server
from tests.worlds import two_tastes

Lists = dict[str, list[str]]

# In a process of its own: delta-rs may abort an interpreter that ends, after everything was read and printed.
_READ_LISTS = """
import json, sys
from deltalake import DeltaTable
root = sys.argv[1]
pointer = max(DeltaTable(f"{root}/generations").to_pyarrow_table().to_pylist(), key=lambda row: row["sequence"])
rows = DeltaTable(f"{root}/recommendations").to_pyarrow_table().to_pylist()
lists = {r["user_id"]: [e["item_id"] for e in r["items"]] for r in rows if r["generation"] == pointer["generation"]}
print(json.dumps(lists), flush=True)
"""


def read_lists(root: str) -> Lists:
    """What a consumer reads: the lists of the current generation, without Spark."""
    done = subprocess.run([sys.executable, "-c", _READ_LISTS, root], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    lists: Lists = json.loads(done.stdout)
    return lists


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server."""
    with tracking_server(tmp_path_factory.mktemp("server") / "kept") as address:
        yield address


def test_a_turn_in_cluster_mode_publishes_the_lists_of_a_local_turn(
    hadoop: Hadoop, server: str, tmp_path: Path
) -> None:
    landing = tmp_path / "landing"
    land(landing, "1.csv", two_tastes(n_users=60, n_items=30, n_rated=8))
    root = f"{hadoop.fs}/recsys/{tmp_path.name}"
    hadoop.shell("-mkdir", "-p", root)
    hadoop.shell("-put", str(landing), f"{root}/landing")
    settings = {f"--set={key}={value}" for key, value in SETTINGS.items()}

    ended = submit(
        hadoop,
        "pipeline",
        *sorted(settings),
        f"--warehouse={root}/warehouse",
        f"--set=landing.path={root}/landing",
        f"--set=mlflow.tracking_uri={server}",
    )
    assert ended.code == 0, ended.err
    assert "cold" in ended.out

    assert main(arguments(tmp_path / "warehouse", landing, SETTINGS)) == 0
    assert read_lists(f"{root}/warehouse") == read_lists(str(tmp_path / "warehouse"))


def test_a_refusal_is_the_exit_code_and_is_not_tried_again(hadoop: Hadoop) -> None:
    """spark-submit alone returns 1 for every failure in cluster mode, and YARN runs a failed driver twice."""
    ended = submit(hadoop, "status", f"--warehouse={hadoop.fs}/recsys/nothing")
    assert ended.code == 2, ended.err
    assert "there is no warehouse at" in ended.err
    assert hadoop.attempts() == 1
