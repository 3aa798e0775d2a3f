"""The whole loop on real ratings: a history, then days of new ratings, some of them poisoned. Resumes where it was.

Everything is written under one folder (``--warehouse``, by default ``demo-warehouse/``).
"""

import argparse
import gzip
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyspark.sql import functions as sf

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from demo.landing_files import LandingFile, plan_steps, read_sample  # noqa: E402
from demo.show import show_lists, show_where  # noqa: E402
from jobs.pipeline import recorded_turns, turn  # noqa: E402
from jobs.runner import JobContext, configure_logging, make_context  # noqa: E402
from recsys import columns as c  # noqa: E402
from recsys.config import Settings, load_settings  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.evaluation.report import StepReport  # noqa: E402
from recsys.session import INTERPRETED, start_session  # noqa: E402
from recsys.store.registry import Registry  # noqa: E402

SAMPLE = ROOT / "data" / "movietweetings-100k"
CATALOGUE = LandingFile("movies.dat", lambda: gzip.decompress((SAMPLE / "movies.dat.gz").read_bytes()))


def demo_overrides(root: str) -> dict[str, str]:
    """What is not as by default: everything under one folder, and few buckets, because the sample is small."""
    return {
        "warehouse.root": root,
        "warehouse.buckets": "4",
        "landing.path": f"{root}/landing",
        "landing.catalogue": f"{root}/catalogue/movies.dat",
    }


def demo_settings(warehouse: Path) -> Settings:
    """The settings of a local demo."""
    conf = ROOT / "conf"
    return load_settings([conf / "base.yaml", conf / "local.yaml"], demo_overrides(str(warehouse)))


def place_catalogue(warehouse: Path) -> None:
    """Unpack the sample's titles and genres, once."""
    CATALOGUE.land(warehouse / "catalogue")


def run_steps(context: JobContext, steps: Sequence[Sequence[LandingFile]]) -> None:
    """Land the files of each step and run the pipeline once; steps that are done are printed again, not run again."""
    landing = Path(context.settings.landing.path)
    done = {report.step: report for report in recorded_turns(context)}
    width = shutil.get_terminal_size((120, 24)).columns
    print(StepReport.format_header(width, k=context.settings.evaluation.k), flush=True)
    for number, files in enumerate(steps):
        step = "history" if number == 0 else f"refresh {number}"
        if step not in done:
            for file in files:
                file.land(landing)
            progress = Progress(step)
            done[step] = StepReport.from_dict(turn(context, step=step, say=progress.say).details)
            progress.clear()
        report = done[step] if done[step].landed else count_landed(context, done[step], files)
        print(report.format_row(width), flush=True)


def count_landed(context: JobContext, report: StepReport, files: Sequence[LandingFile]) -> StepReport:
    """The report with the rows that the ledger has of a step's files.

    A step that was killed after it had taken them in finds nothing new when it is made again.
    """
    names = (c.LANDED, c.ACCEPTED, c.DUPLICATE, c.QUARANTINED)
    ours = context.tables.ledger.read().where(sf.col(c.SOURCE).isin([file.name for file in files]))
    [counts] = ours.agg(*(sf.coalesce(sf.sum(name), sf.lit(0)).alias(name) for name in names)).collect()
    return replace(report, **counts.asDict())


class Progress:
    """One line that says what is going on; rewritten in place on a terminal, and left out elsewhere."""

    def __init__(self, step: str) -> None:
        self._step, self._shown, self._started = step, sys.stderr.isatty(), time.monotonic()

    def say(self, line: str) -> None:
        """Show what happens now."""
        if self._shown:
            text = f"{self._step}, {time.monotonic() - self._started:4.0f} s: {line}"
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Run the demo; exit codes as those of the jobs."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--warehouse", type=Path, default=ROOT / "demo-warehouse", help="folder for everything")
    parser.add_argument("--refreshes", type=int, default=5, choices=range(2, 34), metavar="2..33", help="how many")
    args = parser.parse_args(argv)
    warehouse = args.warehouse.resolve()
    configure_logging()
    started = time.monotonic()
    print("MovieTweetings, 100,000 ratings of 2013: 80 % as history, then 33 days of new ones, some rows poisoned")
    print(f"warehouse: {warehouse}\n")
    try:
        steps = plan_steps(read_sample(SAMPLE), args.refreshes)
        place_catalogue(warehouse)
        settings = demo_settings(warehouse)
        Registry(settings.mlflow, settings.warehouse.root).open_in_background()  # while Spark starts
        spark = start_session("demo", conf=INTERPRETED)
        spark.sparkContext.setLogLevel("ERROR")
        context = make_context(spark, settings)
        run_steps(context, steps)
        show_lists(context)
        show_where(context)
    except RecsysError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    print(f"\n{time.monotonic() - started:.0f} s in all. Run it again: it changes nothing that is there.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
