"""What was measured: rows, medians and ranges, one line a target, JSON, a table and a plot."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.quality import reached
from recsys import __version__
from recsys.errors import ConfigError, UsageError
from recsys.session import ROOT

BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"
_PACKAGES: Final = ("pyspark", "delta-spark", "numpy", "numba", "pyarrow", "implicit", "cmfrec", "scipy")
_PLOT: Final = "benchmarks.svg"


@dataclass(frozen=True)
class Row:
    """One comparison within a target.

    Attributes:
        label: what was compared, in words.
        size: ratings, as named.
        value: what the goal is about; None when it could not be measured.
        unit: of ``value``: ``x`` for a ratio, else for example `` s``.
        goal: None: nothing was promised.
        better: which side of the goal is wanted.
        ours: samples of our side, in ``sample_unit``.
        rival: samples of the rival.
        sample_unit: of both.
        note: what a reader must know: quality, extrapolation, or why there is no value.
        bound: what takes our time, from the profile of the run.
        detail: everything else worth keeping.
        is_equal: whether our side came to the quality asked for; where not, ``value`` is of the whole run and no
            goal is met.
    """

    label: str
    size: str
    value: float | None
    unit: str
    goal: float | None
    better: Literal["higher", "lower"]
    ours: tuple[float, ...] = ()
    rival: tuple[float, ...] = ()
    sample_unit: str = "s"
    note: str = ""
    bound: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    is_equal: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        if self.goal is None:
            return True
        if self.value is None or not self.is_equal:
            return False
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    @property
    def margin(self) -> float:
        """Above 1 when met; the smallest of a target decides."""
        if self.goal is None:
            return float("inf")
        if self.value is None or self.value <= 0 or not self.is_equal:
            return 0.0
        return self.value / self.goal if self.better == "higher" else self.goal / self.value


@dataclass(frozen=True)
class Measured:
    """A target's rows.

    Attributes:
        target: its number in the table of targets.
        what: the target in a few words.
        rows: at least one.
        official: whether sizes and settings are those of the target.
        repeat: runs of ours in each row.
        rival_repeat: runs of every rival.
        machine: what it was measured on.
        when: date, UTC.
    """

    target: int
    what: str
    rows: tuple[Row, ...]
    official: bool
    repeat: int
    rival_repeat: int
    machine: dict[str, str]
    when: str

    @property
    def deciding(self) -> Row:
        """The row that is furthest from its goal."""
        return min(self.rows, key=lambda row: row.margin)

    def line(self, because: str | None = None) -> str:
        """For example ``target 1: 33.1x (goal 30x) met``, or ``... missed: what bounds it``."""
        row = self.deciding
        goal = "" if row.goal is None else f" (goal {format_number(row.goal)}{row.unit})"
        if row.value is None:
            return f"target {self.target}: not measured{goal}: {row.note}"
        text = f"target {self.target}: {_fixed(row.value)}{row.unit}{goal} "
        text += "met" if row.is_met else f"missed: {because or row.bound or 'see the table'}"
        if len(self.rows) > 1:
            others = (f"{r.label} {'-' if r.value is None else _fixed(r.value) + r.unit}" for r in self.rows)
            text += f" [{', '.join(others)}]"
        sizes = "/".join(dict.fromkeys(r.size for r in self.rows))
        return text if self.official else f"{text}, as a trial at {sizes}"

    def to_json(self) -> str:
        """All of it, for the results folder."""
        fields = asdict(self)
        for row, kept in zip(self.rows, fields["rows"], strict=True):
            kept["met"] = row.is_met
        return json.dumps({**fields, "line": self.line()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Measured":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        del fields["line"]
        rows = []
        for kept in fields["rows"]:
            del kept["met"]
            rows.append(Row(**{**kept, "ours": tuple(kept["ours"]), "rival": tuple(kept["rival"])}))
        return cls(**{**fields, "rows": tuple(rows)})


def today() -> str:
    """Date in UTC."""
    return datetime.now(UTC).strftime("%d %b %Y")


def describe_machine(cores: int) -> dict[str, str]:
    """Processor, memory and versions; nothing that names the machine.

    Args:
        cores: that contestants were given.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    found = {
        "processor": _read_processor(),
        "cores": f"{cores} used of {len(os.sched_getaffinity(0))}",
        "memory": f"{memory:.0f} GiB",
        "python": platform.python_version(),
        "recsys": __version__,
        "java": _read_java(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def median(samples: Sequence[float]) -> float | None:
    """The middle sample; None without any."""
    return statistics.median(samples) if samples else None


def seconds_to(curve: Sequence[dict[str, float]], goal: dict[str, float]) -> float | None:
    """Seconds until a run's quality was the rival's; None when it never was."""
    return next((point["seconds"] for point in curve if reached(point, goal)), None)


def extrapolate(fits: Sequence[dict[str, Any]], iterations: int) -> float:
    """Seconds of so many iterations on the line through two fits of different lengths.

    Raises:
        UsageError: one length only, or a longer fit that took no longer: such a line says nothing.
    """
    short, long = min(fits, key=_iterations), max(fits, key=_iterations)
    more, seconds = _iterations(long) - _iterations(short), long["seconds"] - short["seconds"]
    if more == 0 or seconds <= 0:
        raise UsageError(
            f"fits of {_iterations(short)} and {_iterations(long)} iterations took {short['seconds']:.1f} and "
            f"{long['seconds']:.1f} s, from which {iterations} cannot be extrapolated. Use more ratings."
        )
    return float(short["seconds"] + seconds / more * (iterations - _iterations(short)))


def explain(result: dict[str, Any]) -> str:
    """What bounds our side of a fit or job, from its stages, its sweeps and how busy its tasks were."""
    parts = [f"{name} {seconds:.1f} s" for name, seconds in result.get("stages", {}).items()]
    curve = result.get("curve", [])
    if curve:
        sweeps = [point["sweep_seconds"] for point in curve]
        before = curve[0]["seconds"] - sweeps[0]
        if not parts:
            parts.append(f"{max(before, 0.0):.1f} s before the first sweep")
        parts.append(f"{statistics.median(sweeps):.2f} s a sweep")
    if "tasks_busy" in result:
        busy = result["tasks_busy"]
        rest = "kernels and streaming to Python" if busy > 0.6 else "the driver, scheduling and waiting"
        parts.append(f"tasks busy {busy:.0%}, so mostly {rest}")
    return ", ".join(parts)


def write_result(measured: Measured, folder: Path, size: str | None) -> Path:
    """Write a target's JSON; a run at another size or with other settings than the target's has a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"target-{measured.target:02}" + ("" if measured.official else f"-{size or 'trial'}")
    file = folder / f"{name}.json"
    file.write_text(measured.to_json(), encoding="utf-8")
    return file


def read_results(folder: Path) -> list[Measured]:
    """All targets' results, by number, the official sizes first."""
    found = [Measured.from_json(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("target-*.json"))]
    return sorted(found, key=lambda measured: (measured.target, not measured.official))


def update_docs(results: Sequence[Measured], page: Path) -> None:
    """Replace what is between the marks of a page by the table and the plot; marks are added at its end.

    Raises:
        ConfigError: one mark without the other.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else "# Measurements\n"
    if (BEGIN in text) != (END in text):
        raise ConfigError(f"'{page}' has one of the marks '{BEGIN}' and '{END}' only. Put both or neither there.")
    draw(results, page.with_name(_PLOT))
    section = f"{BEGIN}\n{render(results)}\n![ratio of each row to its goal]({_PLOT})\n{END}"
    if BEGIN in text:
        text = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: section, text, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n## Targets of the engine\n\n{section}\n"
    page.write_text(text, encoding="utf-8")


def render(results: Sequence[Measured]) -> str:
    """A Markdown table of all rows: medians, and ranges where there are repetitions; machines below it."""
    lines = [
        "| target | what | ratings | ours | rival | result | goal | state | runs | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes: list[str] = []
    for measured in results:
        for row in measured.rows:
            state = "" if row.goal is None else ("met" if row.is_met else "**missed**")
            value = "not measured" if row.value is None else f"{_fixed(row.value)}{row.unit}"
            goal = "" if row.goal is None else f"{format_number(row.goal)}{row.unit}"
            sides = (_format_samples(row.ours, row.sample_unit), _format_samples(row.rival, row.sample_unit))
            cells = (str(measured.target), row.label, row.size, *sides, value, goal, state)
            runs = str(measured.repeat)
            if row.rival and measured.rival_repeat != measured.repeat:
                runs += f", rival {measured.rival_repeat}"
            lines.append(f"| {' | '.join(cells)} | {runs} | {measured.when} |")
            missed = row.bound if row.goal is not None and not row.is_met and row.value is not None else ""
            remark = "; ".join(filter(None, (row.note, f"bounded by: {missed}" if missed else "")))
            if remark:
                notes.append(f"- target {measured.target}, {row.label}, {row.size}: {remark}")
    machines = dict.fromkeys(", ".join(f"{k} {v}" for k, v in measured.machine.items()) for measured in results)
    lines += ["", *notes, "", *(f"Measured on: {machine}." for machine in machines), ""]
    return "\n".join(lines)


def draw(results: Sequence[Measured], file: Path) -> None:
    """A bar for every row that has a goal: how far above (right of 1) or below it the result is."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [(m, row) for m in results for row in m.rows if row.goal is not None and row.value is not None]
    # The same results make the same file: no date in it, and ids that do not change.
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 1.2 + 0.34 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        names = [f"{m.target}: {row.label}, {row.size}" for m, row in rows]
        axes.barh(range(len(rows)), [row.margin for _, row in rows], color=[_color(row) for _, row in rows])
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        for at, (_, row) in enumerate(rows):
            axes.text(row.margin, at, f" {_fixed(row.value or 0.0)}{row.unit}", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1, color="black", linewidth=1)
        if rows:
            axes.set_xscale("log")
        axes.set_xlabel("result over goal; 1 and more is met")
        figure.savefig(file, format="svg", metadata={"Date": None})


def format_number(value: float) -> str:
    """A goal without needless zeros."""
    return f"{value:g}"


def _fixed(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _color(row: Row) -> str:
    return "#2a7f62" if row.is_met else "#b5452c"


def _format_samples(samples: Sequence[float], unit: str) -> str:
    if not samples:
        return ""
    middle = f"{statistics.median(samples):.3g} {unit}"
    return middle if len(samples) == 1 else f"{middle} ({min(samples):.3g} to {max(samples):.3g})"


def _iterations(fitted: dict[str, Any]) -> int:
    return int(fitted["iterations"])


def _read_processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _read_java() -> str:
    """Version of the Java that sessions use: the one that set-up brought, else the system's."""
    brought = ROOT / ".jars" / "java" / "bin" / "java"
    java = str(brought) if brought.exists() else "java"
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    found = re.search(r'version "([^"]+)"', done.stderr)
    return found[1] if found else done.stderr.strip().splitlines()[0]


def warn(line: str) -> None:
    """Tell who waits."""
    print(line, file=sys.stderr, flush=True)
