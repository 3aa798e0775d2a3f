"""Resolve the Delta jars once into `.jars/`, so that starting a session needs no network.

Spark's own resolver (Ivy) does it, with a cache of its own; only the two jars that Spark lacks are kept,
and each must have the SHA-256 that requirements/jars.sha256 pins.
"""

import shutil
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from pyspark.sql import SparkSession

from recsys.session import ROOT, use_chosen_java

PACKAGES = "io.delta:delta-spark_4.2_2.13:4.4.0,io.delta:delta-storage:4.4.0"
# Everything else that delta-spark names is in Spark already, or only for catalogs we do not use.
EXCLUDED = "org.*:*,com.*:*,commons*:*,javax*:*,io.airlift:*,io.unitycatalog:*,io.delta:delta-kernel*"


def pinned() -> dict[str, str]:
    """File name → SHA-256 of the jars that must be there."""
    lines = (ROOT / "requirements" / "jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def is_complete(folder: Path) -> bool:
    """Whether every pinned jar is in the folder with its pinned content."""
    return all(
        (folder / name).is_file() and sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in pinned().items()
    )


def main() -> int:
    """Fill `.jars/`; 1 when a jar cannot be had or is not the pinned one."""
    target = ROOT / ".jars"
    target.mkdir(exist_ok=True)
    if is_complete(target):
        return 0
    print("resolving the Delta jars (about half a minute, once) ...", flush=True)
    use_chosen_java()
    with tempfile.TemporaryDirectory() as cache:
        session = (
            SparkSession.builder.master("local[1]")
            .config("spark.jars.ivy", cache)
            .config("spark.jars.packages", PACKAGES)
            .config("spark.jars.excludes", EXCLUDED)
            .config("spark.ui.enabled", "false")
            .getOrCreate()
        )
        session.stop()
        for name in pinned():
            found = list(Path(cache, "jars").glob(f"*{name}"))
            if len(found) != 1:
                print(f"error: the resolver did not bring {name}. Is the network there? Run 'make setup' again.")
                return 1
            shutil.copy(found[0], target / name)
    if not is_complete(target):
        print("error: a jar is not the one pinned in requirements/jars.sha256; it is not used. Remove .jars and retry.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
