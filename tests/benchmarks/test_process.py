"""What a contestant's process measures of itself, and how Spark's events are summed; no JVM here."""

import os
import subprocess
import sys

import pytest

from benchmarks.data import make_shape
from benchmarks.observe import sum_exchange
from benchmarks.process import Clock, MemoryWatch, Task, resident_bytes

MIB = 1024**2


def test_a_task_survives_its_file() -> None:
    task = Task("ours.fit", make_shape("3k"), {"als": {"rank": 2}}, 2, "somewhere")
    assert Task.from_json(task.to_json()) == task


def test_memory_of_children_counts() -> None:
    # 64 MiB that are written to, so that they are resident.
    code = f"x = bytearray(b'1') * (64 * {MIB}); print('ready', flush=True); input()"
    before = resident_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after = resident_bytes(os.getpid())
        child.communicate(b"\n")
    assert after - before > 60 * MIB


def test_the_peak_is_kept() -> None:
    with MemoryWatch() as memory:
        memory._stop.wait(0.6)
    assert memory.peak > 10 * MIB


def test_a_paused_clock_stands() -> None:
    clock = Clock()
    with clock.paused():
        assert clock._paused == 0.0
    assert clock._paused > 0.0


def job(at: float) -> dict[str, object]:
    return {"Event": "SparkListenerJobStart", "Submission Time": at}


def task_end(at: float, result: int, shuffled: int, executor: str = "driver") -> dict[str, object]:
    metrics = {"Result Size": result, "Shuffle Write Metrics": {"Shuffle Bytes Written": shuffled}}
    return {
        "Event": "SparkListenerTaskEnd",
        "Task Info": {"Finish Time": at, "Executor ID": executor},
        "Task Metrics": metrics,
    }


def block(name: str, size: int, executor: str = "driver", *, kept: bool = True) -> dict[str, object]:
    info = {
        "Block Manager ID": {"Executor ID": executor},
        "Block ID": name,
        "Storage Level": {"Use Disk": kept, "Use Memory": kept},
        "Memory Size": size,
        "Disk Size": 0,
    }
    return {"Event": "SparkListenerBlockUpdated", "Block Updated Info": info}


def test_events_are_summed_by_sweep_and_a_broadcast_goes_with_the_job_after_it() -> None:
    events = [
        job(1.0),
        task_end(5.0, 100, 7),
        block("broadcast_1_piece0", 40),  # sent after the first sweep's last task, for the second's first
        block("broadcast_1", 999),  # the value itself, not what is sent
        block("rdd_3_0", 999),
        job(12.0),
        block("broadcast_0_piece0", 999, kept=False),  # destroyed, when its pass had ended
        task_end(15.0, 200, 0),
        job(99.0),  # after the last sweep
    ]
    first, second = sum_exchange(events, [10.0, 20.0])
    assert first == {"jobs": 1, "results": 100, "shuffled": 7, "broadcast": 0}
    assert second == {"jobs": 1, "results": 200, "shuffled": 0, "broadcast": 40}


def test_on_a_cluster_a_broadcast_counts_for_every_executor_that_received_it_and_not_for_the_driver() -> None:
    piece = "broadcast_1_piece0"
    events = [block(piece, 40), job(1.0), block(piece, 40, "1"), block(piece, 40, "2"), block(piece, 40, "1")]
    events += [task_end(5.0, 100, 0, executor) for executor in ("1", "2")]
    [sweep] = sum_exchange(events, [10.0])
    assert sweep == {"jobs": 1, "results": 200, "shuffled": 0, "broadcast": 80}


@pytest.mark.parametrize("ends", [[], [0.5]])
def test_events_outside_all_sweeps_count_nowhere(ends: list[float]) -> None:
    assert all(sweep["jobs"] == 0 for sweep in sum_exchange([job(1.0)], ends))
