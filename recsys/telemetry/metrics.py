"""Figures of a run in Prometheus' text format, for node_exporter's textfile collector.

One file a job, because jobs end at different times in different processes; a series is in one file only. Counters go on
from the file that is there; Prometheus sees a reset where it is lost.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

PREFIX: Final = "recsys"
ROW_COUNTS: Final = ("landed", "accepted", "duplicate", "quarantined")
_SAMPLE: Final = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')
_LABEL: Final = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

Labels = tuple[tuple[str, str], ...]


class FileStore(Protocol):
    """The part of `recsys.store.files.Files` that is needed here."""

    def read(self, path: str) -> bytes: ...  # noqa: D102
    def write(self, path: str, data: bytes) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Family:
    """One metric: its series by their labels."""

    name: str
    type: Literal["counter", "gauge"]
    help: str
    samples: Mapping[Labels, float]


def write_run(
    files: FileStore,
    folder: str,
    *,
    job: str,
    exit_code: int,
    started: float,
    seconds: float,
    counts: Mapping[str, int],
) -> None:
    """Bring a job's file up to date with one run.

    Args:
        files: replaces a file by a rename, so that a collector never reads a part of one.
        folder: of the collector.
        job: its name.
        exit_code: of the run.
        started: seconds since 1970 UTC.
        seconds: that it took.
        counts: what it counted, as in `job_runs`.
    """
    path = f"{folder}/{PREFIX}_{job}.prom"
    families = run_families(
        read_samples(files, path), job=job, exit_code=exit_code, started=started, seconds=seconds, counts=counts
    )
    files.write(path, render(families).encode())


def write_alerts(files: FileStore, folder: str, *, open_by_kind: Mapping[str, int], waiting: int) -> None:
    """Bring the file of the alerts, which all jobs share, up to date."""
    families = [
        Family(
            f"{PREFIX}_alerts_open",
            "gauge",
            "Alerts that are open.",
            {(("kind", kind),): float(n) for kind, n in sorted(open_by_kind.items())},
        ),
        Family(
            f"{PREFIX}_alert_messages_waiting",
            "gauge",
            "Messages that no channel has taken yet.",
            {(): float(waiting)},
        ),
    ]
    files.write(f"{folder}/{PREFIX}_alerts.prom", render(families).encode())


def run_families(
    before: Mapping[tuple[str, Labels], float],
    *,
    job: str,
    exit_code: int,
    started: float,
    seconds: float,
    counts: Mapping[str, int],
) -> list[Family]:
    """The figures of a job after one more run, by those before it."""
    own: Labels = (("job", job),)
    is_success = exit_code == 0

    def gauge(name: str, help_text: str, value: float | None) -> Family:
        return Family(f"{PREFIX}_{name}", "gauge", help_text, {} if value is None else {own: value})

    def counter(name: str, help_text: str, label: str, added: Mapping[str, float]) -> Family:
        full = f"{PREFIX}_{name}"
        kept = {labels: value for (metric, labels), value in before.items() if metric == full}
        for value_of_label, n in added.items():
            labels = (*own, (label, value_of_label))
            kept[labels] = kept.get(labels, 0.0) + n
        return Family(full, "counter", help_text, kept)

    last_success = (
        started + seconds if is_success else before.get((f"{PREFIX}_job_last_success_timestamp_seconds", own))
    )
    rows = {name: float(counts[name]) for name in ROW_COUNTS if name in counts}
    others = {(*own, ("count", name)): float(n) for name, n in sorted(counts.items())}
    return [
        gauge("job_last_end_timestamp_seconds", "When the last run of the job ended.", started + seconds),
        gauge("job_last_success_timestamp_seconds", "When the last run with exit code 0 ended.", last_success),
        gauge("job_last_duration_seconds", "How long the last run took.", seconds),
        gauge("job_last_exit_code", "Exit code of the last run.", float(exit_code)),
        counter("job_runs_total", "Runs of the job by exit code.", "exit_code", {str(exit_code): 1.0}),
        counter("job_rows_total", "Rows that runs of the job took in, by what became of them.", "result", rows),
        Family(f"{PREFIX}_job_last_count", "gauge", "What the last run counted, as in the table job_runs.", others),
    ]


def render(families: Sequence[Family]) -> str:
    """The text of a file, https://prometheus.io/docs/instrumenting/exposition_formats/; no family without a series."""
    lines = []
    for family in families:
        if family.samples:
            lines.append(f"# HELP {family.name} {_escape(family.help)}")
            lines.append(f"# TYPE {family.name} {family.type}")
        for labels, value in sorted(family.samples.items()):
            said = ",".join(f'{name}="{_escape_label(text)}"' for name, text in labels)
            lines.append(f"{family.name}{f'{{{said}}}' if said else ''} {value!r}")
    return "".join(f"{line}\n" for line in lines)


def read_samples(files: FileStore, path: str) -> dict[tuple[str, Labels], float]:
    """The series of a file of ours; none where there is no file, and none of a line that is not ours."""
    try:
        text = files.read(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is not None:
            labels = tuple((name, _unescape(value)) for name, value in _LABEL.findall(sample[2] or ""))
            found[(sample[1], labels)] = float(sample[3])
    return found


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    return _escape(text).replace('"', '\\"')


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
