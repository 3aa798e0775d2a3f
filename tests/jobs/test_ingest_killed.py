"""Cases 18 and 19: an ingestion that is killed anywhere and run again ends with the tables of an undisturbed one.

One child process ingests the same files into several copies of a warehouse, each in a thread that stops for ever at its
own pause point. Then the whole process group gets SIGKILL: every copy is left as a kill at that point leaves it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession

from jobs import ingest_ratings
from jobs.runner import make_context
from recsys.session import ROOT
from tests.jobs.warehouses import copy_warehouse, ingested_hashes, make_settings

POINTS = ("after_claim", "after_quarantine", "after_ratings", "after_items", "after_ledger", "after_blocks")
DAY = 1_700_000_000

CHILD = """
import os, sys, threading, time
from pathlib import Path
from jobs import ingest_ratings
from jobs.runner import make_context
from recsys.session import start_session
from tests.jobs.warehouses import make_settings

root = Path(sys.argv[1])
spark = start_session("killed", conf={"spark.master": "local[2]", "spark.sql.shuffle.partitions": "2"})
spark.sparkContext.setLogLevel("ERROR")
for point in sys.argv[2:]:
    os.environ["RECSYS_PAUSE_AT"], os.environ["RECSYS_PAUSE_FILE"] = f"ingest:{point}", str(root / f"{point}.paused")
    context = make_context(spark, make_settings(root / point, root / "landing"))
    threading.Thread(target=ingest_ratings.run, args=(context,), daemon=True).start()
    while not (root / f"{point}.paused").exists():
        time.sleep(0.05)
(root / "all.paused").touch()
time.sleep(3600)
"""


def land(folder: Path, name: str, *rows: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["user_id,item_id,rating,timestamp", *rows, ""]))


def kill_at_every_point(root: Path) -> None:
    """Run the child until all of its ingestions stand at their points, then SIGKILL it and its JVM."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), *POINTS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 500
        while not (root / "all.paused").exists():
            assert child.poll() is None, "the child ended by itself"
            assert time.monotonic() < deadline, sorted(path.name for path in root.glob("*.paused"))
            time.sleep(0.1)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_cases_18_and_19_killed_at_any_point_and_run_again_the_tables_are_those_of_an_undisturbed_run(
    spark: SparkSession, tmp_path: Path
) -> None:
    landing = tmp_path / "landing"
    land(landing, "1.csv", f"u1,i1,8,{DAY}", f"u2,i2,7,{DAY}")
    before = make_context(spark, make_settings(tmp_path / "before", landing))
    ingest_ratings.run(before)
    land(
        landing, "2.csv", f"u1,i1,3,{DAY + 9}", f"u3,i3,5,{DAY}", f"u3,i3,5,{DAY}", f"u3,,5,{DAY}", f"u4,i0,1e400,{DAY}"
    )
    land(landing, "3.csv")
    (landing / "4.csv").write_bytes(b"")
    for point in POINTS:
        shutil.copytree(tmp_path / "before", tmp_path / point)
    undisturbed = copy_warehouse(spark, tmp_path / "before", make_settings(tmp_path / "undisturbed", landing))
    ingest_ratings.run(undisturbed)
    expected = ingested_hashes(undisturbed)
    assert [rows for rows, _ in expected.values()][:4] == [4, 3, 4, 3]

    kill_at_every_point(tmp_path)

    for point in POINTS:
        rerun = make_context(spark, make_settings(tmp_path / point, landing))
        ingest_ratings.run(rerun)
        assert ingested_hashes(rerun) == expected, point
        assert not (tmp_path / point / "claims" / "ingest_ratings.json").exists()
