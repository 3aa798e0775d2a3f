"""Land ratings: check them as ingestion will, and put them into the landing folder as one file, or none of them.

Needs no Spark: python -m jobs.land_ratings FILE... answers in a second. What is wrong has the names of quarantine.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.runner import JobResult, read_settings, run_without_spark
from recsys.errors import UsageError
from recsys.landing_writer import Landed, LandingWriter
from recsys.ratings.contract import FileFormat, RatingsContract, load_contract
from recsys.session import ROOT

NAME = "land_ratings"
STDIN = "-"


def run(writer: LandingWriter, file_format: FileFormat | None, files: Sequence[str]) -> list[Landed]:
    """Land files, each by itself.

    Args:
        writer: of the landing folder.
        file_format: of standard input, the file ``-``.
        files: names.

    Raises:
        UsageError: a file is not there or of no known format, or there is no format for standard input.
        RatingsRefusedError: ratings in a file would be refused; the files before it were landed.
    """
    return [
        writer.write(read(writer, file_format, STDIN)) if name == STDIN else writer.write_file(Path(name))
        for name in files
    ]


def check(writer: LandingWriter, file_format: FileFormat | None, files: Sequence[str]) -> int:
    """Check files and land nothing; returns the number of ratings, all of them good. Raises as `run` does."""
    return sum(writer.check(read(writer, file_format, name))[1] for name in files)


def read(writer: LandingWriter, file_format: FileFormat | None, name: str) -> Iterator[Mapping[str, Any]]:
    """The ratings of a file, not checked."""
    if name != STDIN:
        return writer.read_file(Path(name))
    if file_format is None:
        raise UsageError("standard input has no name that tells its format: add --format, for example --format .csv.")
    return writer.read_text(sys.stdin.buffer.read(), file_format, "standard input")


def find_format(contract: RatingsContract, ending: str | None) -> FileFormat | None:
    """The format with an ending; None for none.

    Raises:
        UsageError: the contract has no such format of text.
    """
    if ending is None:
        return None
    formats = {own: found for own, found in contract.formats.items() if found.reader != "parquet"}
    if ending not in formats:
        raise UsageError(f"--format {ending}: the contract has {', '.join(formats)}.")
    return formats[ending]


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help="files of ratings; -: standard input")
        parser.add_argument("--format", metavar="ENDING", help="of standard input, an ending of the contract: .csv")

    def body(args: argparse.Namespace) -> JobResult:
        settings = read_settings(args)
        contract = load_contract(ROOT / settings.contract)
        if settings.landing.path is None:
            raise UsageError("landing.path is not set: there is no folder to land in.")
        writer = LandingWriter(settings.landing.path, contract, settings.landing)
        file_format = find_format(contract, args.format)
        if args.check:
            return JobResult(f"{check(writer, file_format, args.files):,} ratings are in order; nothing was landed")
        landed = run(writer, file_format, args.files)
        lines = [f"  {own.rows:>10,}  {own.path or 'nothing: the file has no rating'}" for own in landed]
        return JobResult("\n".join([f"landed {sum(own.rows for own in landed):,} ratings:", *lines]))

    return run_without_spark(NAME, body, argv, description=__doc__ or "", arguments=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
