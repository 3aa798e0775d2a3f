"""The demo on HDFS and YARN: the same files and settings, every turn a job in cluster mode, models at a server.

Rating files land on HDFS, ``./spark-submit.sh`` runs ``jobs/pipeline.py`` after every step, and the lists are read back
without Spark. Run again it changes nothing that is there.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from demo.landing_files import LandingFile, plan_steps, read_sample  # noqa: E402
from demo.read_lists import Published, fetch_published, find_difference  # noqa: E402
from demo.run import CATALOGUE, SAMPLE, demo_overrides  # noqa: E402
from demo.show import N_USERS  # noqa: E402
from launch.cluster import conf_dir  # noqa: E402
from launch.command import Machine  # noqa: E402
from launch.hadoop import Hadoop  # noqa: E402
from launch.java import find_java  # noqa: E402
from recsys.errors import ConfigError, GateRefusedError, RecsysError  # noqa: E402
from recsys.evaluation.report import StepReport  # noqa: E402
from recsys.session import INTERPRETED  # noqa: E402

# A hundred thousand ratings ask for no more, and a cluster of one node has no more.
ONE_NODE: Final = {
    "spark.driver.memory": "1g",
    "spark.executor.memory": "512m",
    "spark.executor.memoryOverhead": "512m",
    "spark.executor.cores": "1",
    "spark.executor.instances": "2",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
}
SIZES: Final = {**ONE_NODE, **INTERPRETED}
_START_MLFLOW: Final = (
    "mlflow server --host 0.0.0.0 --port 5000 --allowed-hosts <that host>:5000 --backend-store-uri sqlite:///mlflow.db "
    "--serve-artifacts --artifacts-destination ./mlartifacts"
)


@dataclass(frozen=True)
class Place:
    """Where the demo runs.

    Attributes:
        root: folder on HDFS for everything.
        tracking_uri: address of an MLflow server that the cluster's nodes reach.
        conf: Spark properties.
        settings: of the jobs, over the demo's own.
    """

    root: str
    tracking_uri: str
    conf: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def warehouse(self) -> str:
        """The tables' folder."""
        return f"{self.root}/warehouse"

    def command(self) -> list[str]:
        """One turn of the loop, as a user would type it."""
        words = [str(ROOT / "spark-submit.sh"), "--env", "yarn", "--deploy-mode", "cluster"]
        for key, value in {**SIZES, **self.conf}.items():
            words += ["--conf", f"{key}={value}"]
        overrides = {**demo_overrides(self.root), "warehouse.root": self.warehouse, **self.settings}
        overrides["mlflow.tracking_uri"] = self.tracking_uri
        return [*words, "jobs/pipeline.py", "--", *(f"--set={key}={value}" for key, value in overrides.items())]


def run_steps(place: Place, steps: Sequence[Sequence[LandingFile]], environ: Mapping[str, str]) -> int:
    """Land the files of each step on HDFS and run the pipeline once, in cluster mode.

    Returns:
        0, or the exit code of the turn that ended all; the launcher has said why.

    Raises:
        ConfigError: HDFS did not take a file.
    """
    machine = Machine(ROOT, sys.executable, environ)
    log4j = ROOT / "conf" / "log4j2.properties"
    java = find_java(ROOT, environ)
    hdfs = Hadoop(java, machine.spark_home, conf_dir(environ), log4j, environ, machine.build)
    land(hdfs, f"{place.root}/catalogue", [CATALOGUE])
    print(StepReport.format_header(), flush=True)
    for files in steps:
        land(hdfs, f"{place.root}/landing", files)
        code = subprocess.run(place.command(), check=False, env=environ).returncode
        if code not in (0, GateRefusedError.exit_code):  # a refused candidate leaves the champion, and the loop goes on
            return code
    return 0


def land(hdfs: Hadoop, folder: str, files: Sequence[LandingFile]) -> None:
    """Copy the files that are not there yet; each appears whole or not at all."""
    there = hdfs.list_names(folder)
    if there is None:
        hdfs.make_folder(folder)
    new = [file for file in files if file.name not in (there or ())]
    with tempfile.TemporaryDirectory() as aside:
        for file in new:
            file.land(Path(aside))
        if new:
            hdfs.upload([Path(aside) / file.name for file in new], folder)


def show_published(published: Published) -> None:
    """Print some lists, as a consumer read them."""
    users = sorted(filter(None, published.lists))[:N_USERS]
    print(
        f"\n{len(published.lists):,} lists of generation {published.generation}, made by model version "
        f"{published.model_version}, read from HDFS without a JVM. Those of {N_USERS} users:"
    )
    for user in users:
        print(f"\nuser {user}")
        for rank, (item, score, _) in enumerate(published.lists[user], 1):
            print(f"  {rank:2}. {published.titles[item]:50.50} {score:6.2f}")


def compare(published: Published, warehouse: Path) -> int:
    """Say whether a local warehouse has the same lists; an exit code."""
    found = find_difference(published, fetch_published(str(warehouse)))
    if found.users:
        print(f"\n{len(found.users):,} users have a list here or in {warehouse} only, or one of another length.")
        return 1
    apart = f"{found.entries:,} of {found.n_entries:,} entries differ, scores by {found.score:.1e} at most"
    if not found.is_rounding:
        print(f"\nThe lists are not those of {warehouse}: {apart}.")
        return 1
    print(f"\nAll lists, their scores and their reasons are those of {warehouse} ({apart}).")
    return 0


def check_server(address: str) -> None:
    """Ask the tracking server whether it is there.

    Raises:
        ConfigError: it is not; with how to start one.
    """
    try:
        with urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310 - the user's own address
            if answer.status == 200:
                return
        reason = f"it answers {answer.status}"
    except (URLError, OSError, ValueError) as err:
        reason = str(err)
    raise ConfigError(
        f"no MLflow server at '{address}' ({reason}). Start one that the nodes reach, for example: {_START_MLFLOW}"
    )


def main(argv: Sequence[str]) -> int:
    """Run the demo; exit codes as those of the jobs."""
    parser = argparse.ArgumentParser(prog="make demo-cluster", description=__doc__)
    parser.add_argument("--root", default="hdfs:///recsys/demo", help="folder on HDFS for everything")
    parser.add_argument("--tracking-uri", required=True, help="an MLflow server, http://host:port")
    parser.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="a Spark property")
    parser.add_argument("--refreshes", type=int, default=5, choices=range(2, 34), metavar="2..33", help="how many")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="a local demo's warehouse with the same lists")
    args = parser.parse_args(argv)
    started = time.monotonic()
    place = Place(args.root, args.tracking_uri, dict(pair.split("=", 1) for pair in args.conf))
    print(f"everything lies under {place.root}, models at {place.tracking_uri}\n", flush=True)
    try:
        check_server(place.tracking_uri)
        code = run_steps(place, plan_steps(read_sample(SAMPLE), args.refreshes), os.environ)
        if code:
            return code
        published = fetch_published(place.warehouse)
    except (RecsysError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code if isinstance(err, RecsysError) else 1
    show_published(published)
    same = 0 if args.compare is None else compare(published, args.compare.resolve())
    print(f"\n{time.monotonic() - started:.0f} s in all. Remove it with: hadoop fs -rm -r {place.root}")
    return same


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
