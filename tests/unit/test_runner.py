"""What is recorded of a job's run, however it ends."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.runner import JobContext, JobResult, RunRows, perform
from recsys import columns as c
from recsys.config import Settings
from recsys.errors import UsageError

Rows = list[dict[str, Any]]


class Recorder:
    """Stands for session and tables: every commit to `job_runs` as the list of its rows."""

    sparkContext = SimpleNamespace(master="local[2]")  # noqa: N815

    def __init__(self) -> None:
        self.commits: list[Rows] = []
        self.job_runs = self

    def createDataFrame(self, rows: Rows, schema: object) -> "Recorder":  # noqa: N802
        self.rows = rows
        return self

    def coalesce(self, n: int) -> "Recorder":
        return self

    def check_last_commits(self) -> None:
        """Nothing is damaged here."""

    def append(self, rows: "Recorder") -> None:
        self.commits.append(rows.rows)


def open_recorded(settings: Settings) -> tuple[JobContext, Recorder]:
    recorder = Recorder()
    return JobContext(cast(Any, recorder), settings, cast(Any, recorder), cast(Any, None)), recorder


def jobs_of(commits: list[Rows]) -> list[list[tuple[str, str, int]]]:
    return [[(row[c.JOB], row[c.OUTCOME], row[c.EXIT_CODE]) for row in rows] for rows in commits]


def done(_: JobContext) -> JobResult:
    return JobResult("done")


def test_a_turn_and_its_jobs_are_one_commit_and_a_failed_one_is_recorded(settings: Settings) -> None:
    context, recorder = open_recorded(settings)

    def refuse(_: JobContext) -> JobResult:
        raise UsageError("no such thing")

    perform(context, "turn", lambda inner: perform(inner, "step", done))
    with pytest.raises(UsageError):
        perform(context, "wrong", refuse)
    assert jobs_of(recorder.commits) == [[("step", "ok", 0), ("turn", "ok", 0)], [("wrong", "UsageError", 2)]]


def test_a_run_says_how_many_ran_inside_it_and_those_commit_at_once_where_it_runs_on_for_weeks(
    settings: Settings,
) -> None:
    context, recorder = open_recorded(settings)

    def batches(job: JobContext) -> JobResult:
        own = replace(job, runs=RunRows(around=job.runs))
        perform(own, "batch", done)
        perform(own, "batch", done)
        return done(job)

    perform(context, "turn", lambda job: perform(job, "step", lambda inner: perform(inner, "part", done)))
    perform(context, "continuous", batches)
    [turn, batch, _, continuous] = [{row[c.JOB]: row[c.COUNTS] for row in rows} for rows in recorder.commits]
    assert turn == {"part": {}, "step": {c.INNER_RUNS: 1}, "turn": {c.INNER_RUNS: 2}}
    assert batch == {"batch": {}}
    assert continuous == {"continuous": {c.INNER_RUNS: 2}}


def test_after_an_interrupt_later_runs_are_recorded_and_the_interrupted_one_with_them(settings: Settings) -> None:
    """As in a notebook, whose process goes on."""
    context, recorder = open_recorded(settings)

    def interrupted(_: JobContext) -> JobResult:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(context, "turn", lambda inner: perform(inner, "step", interrupted))
    assert recorder.commits == [], "whoever interrupts does not wait for a commit"
    perform(context, "next", done)
    interrupt = "KeyboardInterrupt", 1
    assert jobs_of(recorder.commits) == [[("step", *interrupt), ("turn", *interrupt), ("next", "ok", 0)]]


def test_a_run_is_recorded_with_its_settings_and_without_their_password(settings: Settings) -> None:
    secret = "http://user:secret@host"
    mlflow = settings.mlflow.model_copy(update={"tracking_uri": secret})
    context, recorder = open_recorded(settings.model_copy(update={"mlflow": mlflow}))

    def fail(_: JobContext) -> JobResult:
        raise OSError(f"cannot reach {secret}")

    with pytest.raises(OSError, match="cannot reach"):
        perform(context, "job", fail)
    [[row]] = recorder.commits
    assert "secret" not in str(row)
    assert '"tracking_uri":"http://***@host"' in row[c.PARAMETERS]
    assert row[c.MESSAGE] == "OSError: cannot reach http://***@host."


def test_what_a_job_found_is_its_outcome(settings: Settings) -> None:
    context, recorder = open_recorded(settings)
    perform(context, "job", lambda _: JobResult("few users", outcome="not judged"))
    assert jobs_of(recorder.commits) == [[("job", "not judged", 0)]]
