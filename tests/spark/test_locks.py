import json
import os
import socket
import subprocess
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys.errors import LockedError
from recsys.store import locks
from recsys.store.files import Files
from recsys.store.locks import Holder, Lock, check_held, read_holders


@pytest.fixture
def files(spark: SparkSession) -> Files:
    return Files(spark)


def a_lock(files: Files, root: Path, job: str = "this job", expiry_seconds: float = 60.0) -> Lock:
    return Lock(files, str(root), "tables", job=job, expiry_seconds=expiry_seconds)


def leave_behind(root: Path, **changes: object) -> Holder:
    """A lock file as another holder would have left it; by default he lives, on another host."""
    holder = Holder("tables", 7, "other job", "elsewhere", 1, "1", "2024-01-01 00:00:00 UTC", time.time())
    holder = replace(holder, **changes)
    folder = root / "locks" / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{holder.token:012d}.json").write_text(json.dumps(asdict(holder)))
    return holder


def test_case_22_a_second_job_is_told_who_holds_the_lock(files: Files, tmp_path: Path) -> None:
    with a_lock(files, tmp_path, job="ingest_ratings"), pytest.raises(LockedError) as refusal:
        a_lock(files, tmp_path).acquire()
    assert f"held by ingest_ratings (pid {os.getpid()} on {socket.gethostname()}) since 2" in str(refusal.value)
    assert refusal.value.exit_code == 5


def test_a_lock_given_back_is_free_and_its_token_rises(files: Files, tmp_path: Path) -> None:
    tokens = []
    for _ in range(3):
        with a_lock(files, tmp_path) as lock:
            tokens.append(lock.token)
            assert [holder.job for holder in read_holders(files, str(tmp_path))] == ["this job"]
    assert tokens == [tokens[0], tokens[0] + 1, tokens[0] + 2]
    assert read_holders(files, str(tmp_path)) == []
    assert len(list((tmp_path / "locks" / "tables").iterdir())) == 1


def test_case_23_a_process_of_this_host_that_was_killed_holds_nothing(files: Files, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = locks._process_started(process.pid)
        leave_behind(tmp_path, host=socket.gethostname(), pid=process.pid, process_started=started)
        with pytest.raises(LockedError):
            a_lock(files, tmp_path).acquire()
        process.kill()
    with a_lock(files, tmp_path) as lock:
        assert lock.token == 8


def test_case_23_a_later_process_with_the_same_pid_is_not_the_holder(files: Files, tmp_path: Path) -> None:
    leave_behind(tmp_path, host=socket.gethostname(), pid=os.getpid(), process_started="long ago")
    with a_lock(files, tmp_path) as lock:
        assert lock.token == 8


@pytest.mark.parametrize(("silent", "is_free"), [(59, False), (61, True)])
def test_case_23_a_holder_elsewhere_is_believed_until_it_has_been_silent_for_the_expiry(
    files: Files, tmp_path: Path, silent: float, is_free: bool
) -> None:
    leave_behind(tmp_path, heartbeat=time.time() - silent)
    lock = a_lock(files, tmp_path)
    if is_free:
        assert lock.acquire() == 8
        lock.release()
    else:
        with pytest.raises(LockedError, match="other job"):
            lock.acquire()


def test_case_23_a_holder_that_wakes_up_too_late_cannot_commit(files: Files, tmp_path: Path) -> None:
    sleeper = a_lock(files, tmp_path, job="sleeper")
    token = sleeper.acquire()
    check_held()
    leave_behind(tmp_path, token=token + 1, job="successor")
    with pytest.raises(LockedError, match="now successor"):
        sleeper.check()
    with pytest.raises(LockedError, match="now successor"):
        check_held()
    sleeper.release()
    check_held()
    assert [holder.job for holder in read_holders(files, str(tmp_path))] == ["successor"]


def test_a_living_holder_keeps_its_lock_beyond_the_expiry(files: Files, tmp_path: Path) -> None:
    with a_lock(files, tmp_path, expiry_seconds=0.8) as lock:
        time.sleep(1.2)
        lock.check()
        with pytest.raises(LockedError):
            a_lock(files, tmp_path, expiry_seconds=0.8).acquire()


def test_of_many_contenders_exactly_one_takes_an_abandoned_lock(files: Files, tmp_path: Path) -> None:
    leave_behind(tmp_path, heartbeat=0.0)
    contenders = [a_lock(files, tmp_path, job=f"job {number}") for number in range(6)]
    won: list[int] = []
    together = threading.Barrier(len(contenders))

    def contend(lock: Lock) -> None:
        together.wait()
        try:
            won.append(lock.acquire())
        except LockedError:
            return

    threads = [threading.Thread(target=contend, args=(lock,)) for lock in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [8]
    for lock in contenders:
        lock.release()


def test_a_contender_that_looked_long_ago_does_not_take_a_number_that_others_have_passed(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(tmp_path, token=9)  # the present holder
    looks = iter([replace(leave_behind(tmp_path, token=9), token=7, held=False)])  # what the slow contender saw
    read = locks._read_latest
    monkeypatch.setattr(locks, "_read_latest", lambda *where: next(looks, None) or read(*where))
    with pytest.raises(LockedError, match="other job"):
        a_lock(files, tmp_path).acquire()
    assert [file.name for file in (tmp_path / "locks" / "tables").iterdir()] == ["000000000009.json"]
