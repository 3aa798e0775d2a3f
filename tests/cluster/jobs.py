"""Jobs on the test cluster, started as a user starts them."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import pyspark

from recsys.session import ROOT
from tests.cluster.hadoop import Hadoop

# What fits on one node; nodes are this machine, so that neither jars nor Python need be copied.
SIZES = {
    "spark.driver.memory": "1g",
    "spark.executor.memory": "512m",
    "spark.executor.memoryOverhead": "512m",
    "spark.executor.cores": "1",
    "spark.executor.instances": "2",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m "
    "-Djava.net.preferIPv4Stack=true",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true",
    "spark.yarn.am.extraJavaOptions": "-XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true",
}
SHARED = {
    "spark.recsys.python": "shared",
    "spark.yarn.jars": f"local:{os.path.dirname(pyspark.__file__)}/jars/*",
}


@dataclass(frozen=True)
class Ended:
    """What a launcher's process left."""

    code: int
    out: str
    err: str


def submit(
    hadoop: Hadoop,
    job: str,
    *words: str,
    mode: str = "cluster",
    conf: Mapping[str, str] = SHARED,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run ``./spark-submit.sh --env yarn`` to its end."""
    command = [str(ROOT / "spark-submit.sh"), "--env", "yarn", "--deploy-mode", mode]
    for key, value in {**SIZES, **conf}.items():
        command += ["--conf", f"{key}={value}"]
    command += [f"jobs/{job}.py", "--", *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | hadoop.environment | dict(environment or {}),
    )
    return Ended(done.returncode, done.stdout, done.stderr)
