"""How a job's end reaches the launcher from a driver on the cluster, and what YARN gets to see of it; no JVM."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import runner
from jobs.runner import JobContext, JobResult, hold_locks, run_job
from launch import command, follow
from recsys.errors import GateRefusedError, LockedError, RegistryError
from recsys.store import outcome
from recsys.store.outcome import OUTCOME, Ending, hand_over, yarn_attempt

PATH = "hdfs:///recsys/launch/outcomes/x.json"


class FakeFiles:
    """Takes what would be written."""

    written: dict[str, bytes]

    def __init__(self, session: object) -> None:
        self.session = session

    def write(self, path: str, data: bytes) -> None:
        FakeFiles.written[path] = data


@pytest.fixture
def on_cluster(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In cluster mode; the list says what sessions were started."""
    started: list[str] = []
    FakeFiles.written = {}
    monkeypatch.setenv(OUTCOME, PATH)
    monkeypatch.setattr(outcome, "Files", FakeFiles)
    monkeypatch.setattr(outcome, "start_session", lambda app, **_: started.append(app))
    monkeypatch.setattr(outcome.SparkSession, "getActiveSession", lambda: None)
    return started


def written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FakeFiles.written[PATH])
    return found


@pytest.mark.parametrize("code", range(6))
def test_elsewhere_a_job_ends_with_its_own_code_and_leaves_nothing(
    code: int, on_cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OUTCOME)
    assert hand_over(Ending(code)) == code
    assert (on_cluster, FakeFiles.written) == ([], {})


@pytest.mark.parametrize(("code", "for_yarn"), [(0, 0), (1, 1), (2, 0), (3, 0), (4, 0), (5, 0)])
def test_yarn_runs_again_what_nobody_expected_and_nothing_else(code: int, for_yarn: int, on_cluster: list[str]) -> None:
    assert hand_over(Ending(code, "m", "e", "t")) == for_yarn
    assert written() == {"exit_code": code, "message": "m", "error": "e", "trace": "t"}


def test_the_launcher_reads_what_the_driver_writes(on_cluster: list[str]) -> None:
    hand_over(Ending(4, "judged", "refused: no"))
    assert follow.Outcome.parse(FakeFiles.written[PATH].decode()) == follow.Outcome(4, "judged", "refused: no", "")
    assert command.OUTCOME == OUTCOME


def test_an_end_before_any_session_starts_one_because_yarn_fails_a_driver_without(on_cluster: list[str]) -> None:
    hand_over(Ending(2))
    assert on_cluster == ["outcome"]


def test_a_running_session_is_used(on_cluster: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome.SparkSession, "getActiveSession", lambda: "a session")
    hand_over(Ending(0))
    assert on_cluster == []


@pytest.mark.parametrize("code", [0, 1, 4])
def test_where_nothing_can_be_written_the_job_s_code_is_all_there_is(
    code: int, on_cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("safe mode")

    monkeypatch.setattr(FakeFiles, "write", fail)
    assert hand_over(Ending(code)) == code


@pytest.mark.parametrize(
    ("container", "attempt"),
    [
        ("container_1700000000000_0001_01_000001", 1),
        ("container_1700000000000_0012_02_000001", 2),
        ("container_e17_1700000000000_0001_02_000001", 2),
        ("docker-4711", 1),
    ],
)
def test_the_attempt_is_in_the_container_s_name(container: str, attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_ID", container)
    assert yarn_attempt() == attempt
    monkeypatch.delenv("CONTAINER_ID")
    assert yarn_attempt() == 1


def raises(error: Exception) -> Callable[[JobContext], JobResult]:
    def body(_: JobContext) -> JobResult:
        raise error

    return body


def run(monkeypatch: pytest.MonkeyPatch, body: Callable[[JobContext], JobResult], *words: str) -> int:
    monkeypatch.setattr(runner, "open_context", lambda *_, **__: None)
    return run_job("some_job", body, words, description="", records_itself=True)


def test_a_job_on_the_cluster_leaves_what_it_prints(
    on_cluster: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = JobResult("judged on 900 users", refusal=GateRefusedError("worse than the champion"))
    assert run(monkeypatch, lambda _: refused) == 0
    printed = capsys.readouterr()
    assert written() == {
        "exit_code": 4,
        "message": printed.out.strip(),
        "error": printed.err.strip(),
        "trace": "",
    }
    assert "refused: worse than the champion" in printed.err


def test_an_error_that_nobody_expected_leaves_its_trace(on_cluster: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, raises(ValueError("torn"))) == 1
    assert written()["error"].startswith("error: some_job failed: ValueError: torn.")
    assert "in body" in written()["trace"]


@pytest.mark.parametrize(("error", "code"), [(LockedError("held"), 5), (RegistryError("down"), 1)])
def test_an_error_of_ours_leaves_its_line_and_code(
    error: Exception, code: int, on_cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, raises(error))
    assert written() == {"exit_code": code, "message": "", "error": f"error: {error}", "trace": ""}


def test_check_reads_the_settings_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = raises(AssertionError("the job ran"))
    assert run(monkeypatch, body, "--env", "yarn", "--check") == 0
    assert run(monkeypatch, body, "--env", "yarn", "--check", "--set", "als.rank=none") == 2
    assert "'als.rank' is 'none'" in capsys.readouterr().err


class Held:
    """A lock that somebody dead holds for so many tries more."""

    tries = 0

    def __init__(self, *_: object, **__: object) -> None:
        self.released = False

    def acquire(self) -> None:
        Held.tries -= 1
        if Held.tries >= 0:
            raise LockedError("held by a dead driver")

    def __enter__(self) -> "Held":
        raise AssertionError("it is held already")

    def __exit__(self, *_: object) -> None:
        self.released = True


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(runner, "Lock", Held)
    monkeypatch.setattr(runner, "LOCK_PAUSE", 0.0)
    warehouse = SimpleNamespace(root="/w", lock_expiry_seconds=0.2)
    tables = SimpleNamespace(fence=lambda lock: None)
    return SimpleNamespace(files=None, tables=tables, settings=SimpleNamespace(warehouse=warehouse))


def test_case_81_a_second_attempt_waits_for_the_lock_that_the_first_one_died_with(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0001_02_000001")
    Held.tries = 3
    with hold_locks(context, ("tables",), holder="job"):
        pass
    assert Held.tries == -1


def test_a_second_attempt_does_not_wait_for_ever(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0001_02_000001")
    Held.tries = 10**9
    with pytest.raises(LockedError), hold_locks(context, ("tables",), holder="job"):
        pass


def test_a_first_attempt_refuses_at_once(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0001_01_000001")
    Held.tries = 1
    with pytest.raises(LockedError), hold_locks(context, ("tables",), holder="job"):
        pass
    assert Held.tries == 0
