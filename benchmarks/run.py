"""Measure one target or all: ``python -m benchmarks.run --target 1 [--size 10M] [--repeat 3]``.

Progress goes to stderr; the last lines, on stdout, are one for each target.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data import parse_size
from benchmarks.measure import read_results, update_docs, warn, write_result
from benchmarks.process import WORK
from benchmarks.rows import TARGETS, Plan, measure_target
from recsys.errors import RecsysError, UsageError
from recsys.session import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


def main(argv: Sequence[str]) -> int:
    """Run from the command line; 0 when everything was measured, whether met or missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--target", type=int, action="append", choices=sorted(TARGETS), help="default: all of them")
    parser.add_argument("--size", type=_size, help="ratings, for example 10M or netflix; default: the target's own")
    parser.add_argument("--repeat", type=int, default=3, help="runs of everyone; 3")
    parser.add_argument("--rival-repeat", type=int, help="runs of every rival, where they take long; as many as ours")
    parser.add_argument("--iterations", type=int, help="of MLlib's fits; default: the row's own")
    parser.add_argument("--blocks", type=int, help="of MLlib's fits; default: its own, 10")
    parser.add_argument("--rank", type=int, help="instead of the row's own")
    parser.add_argument("--users", type=int, default=5000, help="that rivals list for in target 7; 5000")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="als setting of our engine")
    parser.add_argument("--because", help="what bounds a missed target, in words, instead of the profile's")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for warehouses; build/benchmarks")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the table; docs/benchmarks.md")
    args = parser.parse_args(argv)
    try:
        return _measure(args)
    except RecsysError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code


def _measure(args: argparse.Namespace) -> int:
    plan = Plan(
        size=args.size,
        repeat=args.repeat,
        rival_repeat=args.rival_repeat,
        iterations=args.iterations,
        als=dict(_setting(text) for text in args.set),
        rank=args.rank,
        work=args.work.resolve(),
        users=args.users,
        blocks=args.blocks,
    )
    lines, failed = [], 0
    for number in args.target or sorted(TARGETS):
        began = time.monotonic()
        try:
            measured = measure_target(number, plan)
        except RecsysError as err:  # the other targets can still be measured; the exit code says that this one was not
            lines.append(f"target {number}: not measured: {err}")
            failed = err.exit_code
            warn(lines[-1])
            continue
        file = write_result(measured, args.results, args.size)
        lines.append(measured.line(args.because))
        warn(f"{lines[-1]} ({time.monotonic() - began:.0f} s, {file.name})")
    results = read_results(args.results)
    if results:
        update_docs(results, args.page)
    print("\n".join(lines))
    return failed


def _size(text: str) -> str:
    try:
        parse_size(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return text


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--set {text}: '=' is missing. Write for example --set user_solver=cg.")
    return key, yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
