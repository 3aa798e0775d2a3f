"""When there is an alert, who tells of it, and when it is over."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from recsys.alerts.book import AlertBook, MemoryStore
from recsys.alerts.channels import Channel, Message
from recsys.alerts.faults import (
    BatchFacts,
    Fault,
    Judgement,
    Kind,
    Promise,
    RunEnd,
    judge_batches,
    judge_freshness,
    judge_lag,
    judge_run,
)
from recsys.alerts.params import AlertsParams
from recsys.session import ROOT

BOUNDS = AlertsParams(max_quarantined_share=0.1, max_lag_minutes=30.0)
PROMISE = Promise("ratings", "ann, ann@example.org", ("recsys (ops@example.org)",), (100, 1000), 3600.0)
GOOD = BatchFacts(batch=1, files=2, landed=200, quarantined=20)
OK = RunEnd("ingest_ratings", "run", "ok", 0, "done")
HERE = Channel("1 (json)", "json://here")
THERE = Channel("2 (json)", "json://there")


def kinds(judgement: Judgement) -> list[Kind]:
    return [fault.kind for fault in judgement.faults]


@pytest.mark.parametrize(
    ("batch", "kind", "said"),
    [
        (replace(GOOD, quarantined=21), Kind.QUARANTINE, "batch 1: 21 of 200 landed rows (10%)"),
        (replace(GOOD, damaged=1), Kind.QUARANTINE, "1 files as a whole"),
        (replace(GOOD, rules={"wrong_type": 1, "bad_id": 3}), Kind.SCHEMA_CHANGE, "wrong_type 1 rows or files"),
        (replace(GOOD, changed=("a.csv",)), Kind.FILE_CHANGED, "1 files came again under their name"),
        (replace(GOOD, landed=99, quarantined=0), Kind.VOLUME, "99 rows landed; contract 'ratings' promises 100"),
        (replace(GOOD, landed=1001), Kind.VOLUME, "1,001 rows landed"),
    ],
)
def test_a_batch_beyond_a_bound_is_one_fault_that_names_owner_and_consumers(
    batch: BatchFacts, kind: Kind, said: str
) -> None:
    [fault] = judge_batches([GOOD, batch], PROMISE, BOUNDS).faults
    assert (fault.kind, fault.subject) == (kind, "ratings")
    assert said in fault.says
    assert fault.people == "owner: ann, ann@example.org; depending on it: recsys (ops@example.org)"


def test_batches_within_all_bounds_are_no_fault_and_show_that_earlier_ones_are_over() -> None:
    judged = judge_batches([GOOD], PROMISE, BOUNDS)
    assert judged.faults == ()
    over = {Kind.QUARANTINE, Kind.FILE_CHANGED, Kind.SCHEMA_CHANGE, Kind.VOLUME}
    assert judged.checked == {(kind, "ratings") for kind in over}
    assert judge_batches([], PROMISE, BOUNDS) == Judgement(), "nothing came: nothing is known"


def test_data_are_stale_and_late_only_beyond_their_bounds() -> None:
    assert kinds(judge_freshness(3600, PROMISE)) == []
    assert kinds(judge_freshness(3601, PROMISE)) == [Kind.FRESHNESS]
    assert judge_freshness(1e9, replace(PROMISE, freshness_seconds=None)) == Judgement()
    assert kinds(judge_lag({"a.csv": 1800.0}, PROMISE, BOUNDS)) == []
    [fault] = judge_lag({"a.csv": 1801.0, "b.csv": 9000.0, "c.csv": 5.0}, PROMISE, BOUNDS).faults
    assert (fault.kind, fault.counts, fault.examples) == (
        Kind.LAG,
        {"files": 2, "oldest_seconds": 9000},
        ("b.csv", "a.csv"),
    )


@pytest.mark.parametrize(
    ("outcome", "code", "kind", "severity"),
    [
        ("UsageError", 2, Kind.FAILED_RUN, "failure"),
        ("DataRejectedError", 3, Kind.FAILED_RUN, "failure"),
        ("GateRefusedError", 4, Kind.GATE_REFUSED, "info"),
        ("LockedError", 5, Kind.FAILED_RUN, "failure"),
        ("Py4JJavaError", 1, Kind.FAILED_RUN, "failure"),
        ("ConservationError", 1, Kind.CONSERVATION, "failure"),
    ],
)
def test_every_run_that_does_not_end_with_0_is_a_fault(outcome: str, code: int, kind: Kind, severity: str) -> None:
    [fault] = judge_run(replace(OK, outcome=outcome, exit_code=code, message="no.")).faults
    assert (fault.kind, fault.subject, fault.severity) == (kind, "ingest_ratings", severity)


def test_a_run_that_somebody_interrupts_is_no_fault_and_ends_none() -> None:
    assert judge_run(replace(OK, outcome="KeyboardInterrupt", exit_code=1)) == Judgement()


def test_a_refusal_lasts_until_a_candidate_is_promoted() -> None:
    refusal = (Kind.GATE_REFUSED, "train_model")
    fold_in = replace(OK, job="train_model", details={"promoted": False})
    assert refusal not in judge_run(fold_in).checked
    assert refusal in judge_run(replace(fold_in, details={"promoted": True})).checked
    assert (Kind.GATE_REFUSED, "promote_model") in judge_run(replace(OK, job="promote_model")).checked


class Inbox:
    """Stands for channels: keeps what was sent, and fails on those that are down."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.down: set[str] = set()
        self.tries = 0

    def send(self, channels: Sequence[Channel], message: Message) -> Mapping[str, str]:
        self.tries += len(channels)
        self.messages += [(channel.label, message) for channel in channels if channel.label not in self.down]
        return {channel.label: "closed" for channel in channels if channel.label in self.down}

    def events(self) -> list[tuple[str, str]]:
        return [(message.event, message.kind) for _, message in self.messages]


class World:
    """One warehouse's alerts, an inbox, and a clock."""

    def __init__(self, *channels: Channel) -> None:
        self.store, self.inbox, self.now = MemoryStore(), Inbox(), 1e9
        self.channels = channels or (HERE,)
        self.runs = 0

    def book(self) -> AlertBook:
        return AlertBook(self.store, "/w/alerts", where="/w")

    def run(self, *faults: Fault, checked: Sequence[tuple[Kind, str]] = (), keep_seconds: float = 3600.0) -> None:
        """One run a minute after the last one."""
        self.now += 60.0
        self.runs += 1
        judgement = Judgement(faults, frozenset(checked))
        self.book().record(judgement, replace(OK, run_id=f"run{self.runs}"), self.channels, now=self.now)
        self.book().deliver(self.channels, self.inbox.send, now=self.now, keep_seconds=keep_seconds)


BAD = Fault(Kind.QUARANTINE, "ratings", "500 of 600 rows are bad", {"damaged_files": 500})
KEY = (BAD.kind, BAD.subject)


def test_case_95_a_fault_that_lasts_is_told_once_and_once_when_it_is_over() -> None:
    world = World()
    for _ in range(3):
        world.run(BAD, checked=[KEY])
    [alert] = world.book().open_alerts()
    assert (alert.runs, alert.opened, alert.seen) == (3, world.now - 120, world.now)
    world.run()
    assert len(world.book().open_alerts()) == 1, "a run that did not look at it says nothing of it"
    world.run(checked=[KEY])
    world.run(checked=[KEY])
    assert world.inbox.events() == [("opened", "quarantine"), ("resolved", "quarantine")]
    (_, opened), (_, resolved) = world.inbox.messages
    assert "500 of 600 rows are bad\ncounts: damaged_files 500" in opened.body
    assert "over after 4 min; 3 runs saw it" in resolved.body
    assert world.book().open_alerts() == []


def test_faults_of_other_kinds_subjects_and_variants_are_told_apart() -> None:
    world = World()
    run = Fault(Kind.FAILED_RUN, "train_model", "no", variant="OSError")
    others = [run, replace(run, variant="UsageError"), replace(run, subject="score_users"), BAD]
    world.run(*others)
    assert len(world.inbox.messages) == 4
    world.run(checked=[(run.kind, run.subject)])
    assert [alert.subject for alert in world.book().open_alerts()] == ["score_users", "ratings"]
    assert len(world.inbox.messages) == 6, "both failures of train_model are over"


def test_a_lock_that_another_holds_is_told_the_second_time_in_a_row() -> None:
    world = World()
    locked = judge_run(replace(OK, outcome="LockedError", exit_code=5)).faults[0]
    key = (locked.kind, locked.subject)
    world.run(locked)
    assert world.book().open_alerts() == []
    world.run(checked=[key])
    world.run(locked)
    assert world.inbox.messages == []
    world.run(locked)
    world.run(locked)
    assert world.inbox.events() == [("opened", "failed_run")]


def test_case_94_what_no_channel_takes_is_kept_in_its_order_and_delivered_by_a_later_run() -> None:
    world = World()
    world.inbox.down = {HERE.label}
    world.run(BAD, checked=[KEY])
    world.run(checked=[KEY])
    assert (world.inbox.messages, world.book().count_waiting()) == ([], 2)
    assert world.inbox.tries == 2, "one a run: the channel is known to be down"
    world.inbox.down = set()
    world.run()
    assert world.inbox.events() == [("opened", "quarantine"), ("resolved", "quarantine")]
    assert world.book().count_waiting() == 0


def test_case_94_only_the_channel_that_was_down_gets_the_message_later() -> None:
    world = World(HERE, THERE)
    world.inbox.down = {THERE.label}
    world.run(BAD)
    world.inbox.down = set()
    world.run(BAD)
    assert [label for label, _ in world.inbox.messages] == [HERE.label, THERE.label]


def test_case_94_a_channel_that_stays_down_is_tried_ever_more_rarely_and_given_up_after_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.inbox.down = {HERE.label}
    for _ in range(60):
        world.run(BAD, keep_seconds=1800.0)
    assert world.inbox.tries < 12
    assert world.book().count_waiting() == 0
    assert len([record for record in caplog.records if record.message.startswith("alert_dropped")]) == 1


def test_a_run_that_dies_before_it_tells_leaves_that_to_a_later_one() -> None:
    world = World()
    create = world.store.create

    def die(path: str, data: bytes) -> bool:
        if "outbox" in path:
            raise KeyboardInterrupt
        return create(path, data)

    world.store.create = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.run(BAD)
    world.store.create = create  # type: ignore[method-assign]
    world.now += 60.0
    world.run(BAD)
    world.run(BAD)
    assert world.inbox.events() == [("opened", "quarantine")]


def test_of_two_runs_that_see_a_fault_at_once_one_tells() -> None:
    world = World()
    first, second = world.book(), world.book()
    known = second._read_open()
    first.record(Judgement((BAD,)), OK, world.channels, now=world.now)
    second._see(BAD, known.get("quarantine.ratings"), OK, world.channels, world.now)
    assert first.count_waiting() == 1


def test_a_message_that_another_run_delivers_now_is_left_to_it_until_that_run_is_dead() -> None:
    world = World()
    world.book().record(Judgement((BAD,)), OK, world.channels, now=world.now)
    [path] = world.book()._list_messages(world.now)
    world.store.create(f"{path}.taken", b"")
    world.store._content[f"{path}.taken"] = (b"", world.now)
    world.run()
    assert world.inbox.messages == []
    world.now += 601.0
    world.run()
    assert world.inbox.events() == [("opened", "quarantine")]


def test_every_kind_of_alert_has_its_place_in_the_runbook() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(kind.value for kind in Kind)
