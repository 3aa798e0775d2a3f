"""Resolve jars once into `.jars/`, so that starting a session needs no network.

Spark's own resolver (Ivy) does it, with a cache of its own; only jars that Spark lacks are kept, and each must have the
SHA-256 that is pinned. Delta's are needed (requirements/jars.sha256); those of Spark's Kafka connector
(requirements/jars-kafka.sha256) only to read a topic, and set-up goes on without them where they cannot be had.
"""

import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from recsys.session import ROOT, use_chosen_java

DELTA = "io.delta:delta-spark_4.2_2.13:4.4.0,io.delta:delta-storage:4.4.0"
KAFKA = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"
# Everything else that these name is in Spark already, or only for catalogs we do not use.
EXCLUDED = {
    DELTA: "org.*:*,com.*:*,commons*:*,javax*:*,io.airlift:*,io.unitycatalog:*,io.delta:delta-kernel*",
    KAFKA: "org.apache.hadoop:*,org.slf4j:*,org.scala-lang*:*,com.*:*,org.lz4:*,at.yawk*:*,org.xerial*:*,javax*:*,"
    "commons-logging:*",
}
# A session is how Spark resolves; each packages need one of their own, hence a process.
RESOLVE = """
import sys
from pyspark.sql import SparkSession
cache, packages, excluded = sys.argv[1:]
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
builder = builder.config("spark.jars.ivy", cache).config("spark.jars.packages", packages)
builder.config("spark.jars.excludes", excluded).getOrCreate().stop()
"""


def pinned(file: str) -> dict[str, str]:
    """File name → SHA-256 of the jars that must be there."""
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def is_complete(folder: Path, file: str) -> bool:
    """Whether every jar that the file pins is in the folder with its pinned content."""
    return all(
        (folder / name).is_file() and sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in pinned(file).items()
    )


def resolve(target: Path, file: str, packages: str) -> str | None:
    """Bring the jars that a file pins into the folder, all or none; otherwise what went wrong."""
    if is_complete(target, file):
        return None
    with tempfile.TemporaryDirectory() as cache:
        words = [cache, packages, EXCLUDED[packages]]
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE, *words], stdout=sys.stdout, stderr=sys.stderr, check=False
        )
        found = {name: list(Path(cache, "jars").glob(f"*_{name}")) for name in pinned(file)}
        lacking = [name for name, jars in found.items() if len(jars) != 1]
        if done.returncode or lacking:
            return f"the resolver did not bring {', '.join(lacking) or packages}. Is the network there?"
        for name, digest in pinned(file).items():
            if sha256(found[name][0].read_bytes()).hexdigest() != digest:
                return f"{name} is not the one that requirements/{file} pins; it is not used. Remove .jars and retry."
        for name, [jar] in found.items():
            shutil.copy(jar, target / name)
    return None


def main() -> int:
    """Fill `.jars/`; 1 when a Delta jar cannot be had or is not the pinned one."""
    target = ROOT / ".jars"
    target.mkdir(exist_ok=True)
    use_chosen_java()
    print("resolving jars (under a minute, once) ...", flush=True)
    lacking = resolve(target, "jars.sha256", DELTA)
    if lacking is not None:
        print(f"error: {lacking} Run 'make setup' again.")
        return 1
    lacking = resolve(target, "jars-kafka.sha256", KAFKA)
    if lacking is not None:
        print(f"note: topics cannot be read, all else works: {lacking}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
