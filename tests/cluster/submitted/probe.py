"""A job for the tests of the launcher: it tells where it runs and what reached it. Started as the jobs are."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numba
import pyarrow as pa

from jobs.runner import JobContext, JobResult, run_job


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the tests ask it to do."""
    parser.add_argument("--executors", action="store_true", help="ask Python workers too")
    parser.add_argument("--secret", default="", help="variable whose value's hash is told")
    parser.add_argument("--wait", type=Path, metavar="FILE", help="make the file; go on when it is gone")
    parser.add_argument("--fail", action="store_true", help="end with an error that nobody foresaw")


def probe(context: JobContext) -> JobResult:
    """Report on the driver, and on Python workers where they are asked for."""
    args = context.args
    report: dict[str, object] = {
        "secret": sha256(os.environ.get(args.secret, "").encode()).hexdigest(),
        "driver": foreign_files(),
    }
    if args.executors:
        numbers = context.spark.range(0, 4, numPartitions=2)
        rows = numbers.mapInArrow(_double, "doubled long, foreign string").collect()
        report["workers"] = sorted({file for row in rows for file in json.loads(row["foreign"])})
        report["doubled"] = sorted(row["doubled"] for row in rows)
    if args.wait is not None:
        args.wait.touch()
        while args.wait.exists():
            time.sleep(0.1)
    if args.fail:
        raise ZeroDivisionError("nobody foresaw this")
    return JobResult(json.dumps(report))


def foreign_files() -> list[str]:
    """Python's own files in this process, modules and mapped libraries, that are in no folder of the YARN node."""
    node = os.path.realpath(os.getcwd()).partition("/usercache/")[0]
    loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "python" in line}
    files = {os.path.realpath(file) for file in (*loaded, *mapped, "/proc/self/exe") if file.startswith("/")}
    return sorted(file for file in files if not file.startswith(f"{node}/"))


def _double(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    @numba.njit
    def double(n: int) -> int:
        return 2 * n

    for batch in batches:
        doubled = [double(n) for n in batch.column(0).to_pylist()]
        told = json.dumps(foreign_files())
        yield pa.RecordBatch.from_pydict({"doubled": doubled, "foreign": [told] * len(doubled)})


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""
    return run_job("probe", probe, argv, description=__doc__ or "", arguments=add_options, records_itself=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
