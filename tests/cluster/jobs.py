"""Jobs on the test cluster, started as a user starts them."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from demo.cluster import ONE_NODE
from recsys.session import INTERPRETED, ROOT
from tests.archive import CLASSPATH, with_archive
from tests.cluster.hadoop import Hadoop

_JAVA = "-XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true"
_JAVA_OPTIONS = {
    "spark.driver.extraJavaOptions": f"{_JAVA} -XX:ReservedCodeCacheSize=256m",
    "spark.executor.extraJavaOptions": _JAVA,
    "spark.yarn.am.extraJavaOptions": _JAVA,
}
# What fits on one node.
SIZES = {**ONE_NODE, **INTERPRETED, **_JAVA_OPTIONS}
# Nodes are this machine: neither jars nor Python need be copied, and classes come from the tests' archive.
SHARED = {
    "spark.recsys.python": "shared",
    "spark.yarn.jars": f"local:{CLASSPATH}",
    "spark.driver.extraClassPath": CLASSPATH,
    "spark.executor.extraClassPath": CLASSPATH,
    **{key: with_archive(options) for key, options in _JAVA_OPTIONS.items()},
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
    options: Sequence[str] = (),
) -> Ended:
    """Run ``./spark-submit.sh --env yarn`` to its end."""
    with submitted(hadoop, job, *words, mode=mode, conf=conf, environment=environment, options=options) as launcher:
        return ended(launcher)


@contextmanager
def submitted(
    hadoop: Hadoop,
    job: str,
    *words: str,
    mode: str = "cluster",
    conf: Mapping[str, str] = SHARED,
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator["subprocess.Popen[str]"]:
    """Start ``./spark-submit.sh --env yarn``; what it started is over at the end of the block.

    Args:
        hadoop: the cluster.
        job: a name of ours, or the path of a file.
        words: the job's arguments.
        mode: ``cluster`` or ``client``.
        conf: Spark's properties, over `SIZES`.
        environment: more variables of the submitter.
        options: more of the launcher.
    """
    command = [str(ROOT / "spark-submit.sh"), "--env", "yarn", "--deploy-mode", mode, *options]
    for key, value in {**SIZES, **conf}.items():
        command += ["--conf", f"{key}={value}"]
    command += [job if job.endswith(".py") else f"jobs/{job}.py", "--", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | hadoop.environment | dict(environment or {}),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def ended(launcher: "subprocess.Popen[str]") -> Ended:
    """What a launcher leaves, when it has ended."""
    out, err = launcher.communicate()
    return Ended(launcher.returncode, out, err)
