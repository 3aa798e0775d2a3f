"""The loop without its jobs: what a turn does before there is any rating, and how it goes on after a failed one."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs import pipeline
from jobs.pipeline import keep_running, run_once
from jobs.runner import JobResult
from recsys import observation
from recsys.alerts.book import MemoryStore
from recsys.config import Settings
from recsys.errors import DataRejectedError, LockedError
from recsys.ratings.ledger import Seen

NOTHING = cast(Any, SimpleNamespace(settings=Settings()))  # the turns of these tests need no context


def test_before_any_rating_a_turn_is_an_ingestion_that_says_so(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    jobs = []

    def perform(context: object, name: str, *_: object, **__: object) -> JobResult:
        jobs.append(name)
        columns = ("landed", "accepted", "duplicate", "quarantined", "new_users", "new_items")
        return JobResult("", dict.fromkeys(columns, 0))

    monkeypatch.setattr(pipeline, "perform", perform)
    monkeypatch.setattr(pipeline, "read_ledger", lambda tables: Seen([]))
    monkeypatch.setattr(pipeline.Registry, "open_in_background", lambda registry: None)
    tables = SimpleNamespace(root=settings.warehouse.root)
    report, refusal = run_once(cast(Any, SimpleNamespace(settings=settings, tables=tables)))
    assert jobs == ["ingest_ratings"]
    assert (report.policy, report.why, report.verdict) == ("none", "no rating accepted yet", "no fit")
    assert (report.landed, report.sweeps, report.generation, refusal) == (0, 0, None, None)


def run_turns(monkeypatch: pytest.MonkeyPatch, outcomes: list[JobResult | Exception]) -> JobResult:
    """Keep running through turns with these outcomes; the last one is asked to stop."""
    stop, left = threading.Event(), list(outcomes)

    def turn(context: object, *, say: Callable[[str], None]) -> JobResult:
        outcome = left.pop(0)
        if not left:
            stop.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(pipeline, "turn", turn)
    return keep_running(NOTHING, 0.0, stop=stop)


def test_a_failed_turn_is_reported_and_the_next_one_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observation, "_memory", MemoryStore())
    done = JobResult("row of the table")
    outcomes = [DataRejectedError("too many bad rows"), RuntimeError("lost executor"), LockedError("held"), done]
    result = run_turns(monkeypatch, outcomes)
    assert result.counts == {"turns": 4, "failures": 2}  # to wait for a lock is no failure
    said = capsys.readouterr()
    assert said.out.splitlines() == ["row of the table"]
    assert said.err.splitlines() == [
        "error: too many bad rows",
        "error: the turn failed: RuntimeError. The log above says where.",
        "waiting: held",
    ]
    assert [record.message.split(" says=")[0] for record in caplog.records] == [
        "turn_failed",
        "alert_opened kind=failed_run subject=pipeline exit_code=1",
    ]
    assert "lost executor" in caplog.text


def test_asked_to_stop_it_makes_no_further_turn_and_does_not_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(pipeline, "turn", lambda *_, **__: pytest.fail("a turn was made"))
    assert keep_running(NOTHING, 3600.0, stop=stop).message == "stopped after 0 turns, 0 failed"
