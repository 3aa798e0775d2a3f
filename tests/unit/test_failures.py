"""What a person reads of a failure that nobody in this system raised on purpose."""

from types import SimpleNamespace
from typing import Any

import pytest

from recsys.advice import advise
from recsys.errors import UsageError
from recsys.failures import describe_failure
from recsys.losses import Losses

LOST = (
    "Job aborted due to stage failure: Task 0 in stage 7.0 failed 4 times, most recent failure: Lost task 0.3 in stage "
    "7.0 (TID 21) (localhost executor 4): ExecutorLostFailure (executor 4 exited caused by one of the running tasks) "
    "Reason: "
)
TOO_BIG = (
    "Container killed by YARN for exceeding physical memory limits. 661.9 MB of 640 MB physical memory used. Consider "
    "boosting spark.executor.memoryOverhead."
)


class Py4JJavaError(Exception):
    """Speaks as Py4J's does, which asks a JVM for it."""


def from_java(message: str) -> Py4JJavaError:
    trace = "\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:1)\n"
    return Py4JJavaError(
        f"An error occurred while calling o55.save.\n: org.apache.spark.SparkException: {message}\n{trace}"
    )


def test_an_error_of_java_is_told_in_java_s_words_and_not_in_py4j_s() -> None:
    assert describe_failure(from_java("no space left")) == "SparkException: no space left."


def test_case_88_memory_exceeded_names_the_setting_to_raise() -> None:
    said = describe_failure(from_java(LOST + TOO_BIG + "\n\nDriver stacktrace:"))
    assert said.startswith("SparkException: Job aborted due to stage failure")
    assert "raise spark.executor.memoryOverhead (of a driver: spark.driver.memoryOverhead)" in said
    assert "\n" not in said


def test_the_reason_counts_where_it_is_a_cause_further_down() -> None:
    wrapped = Py4JJavaError(
        "An error occurred while calling o1.save.\n: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Failed.\n"
        f"\tat x.y(Z.scala:1)\nCaused by: org.apache.spark.SparkException: {LOST}{TOO_BIG}\n\tat x.y(Z.scala:2)\n"
    )
    assert "raise spark.executor.memoryOverhead" in describe_failure(wrapped)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Max number of executor failures (4) reached", "'Lost executor' in the driver's log"),
        (
            "Lost executor 2 on node: " + TOO_BIG + " Max number of executor failures (4) reached",
            "raise spark.executor.memoryOverhead",
        ),
        ("java.lang.OutOfMemoryError: Java heap space", "spark.executor.memory,"),
        ("is running 21.9MB beyond the 'PHYSICAL' memory limit. Current usage: 661.9 MB of 640 MB", "memoryOverhead"),
    ],
)
def test_what_to_do_is_read_from_the_words_of_spark_and_yarn(text: str, word: str) -> None:
    assert word in (advise(text) or "")


def test_nothing_is_advised_where_the_words_are_not_known() -> None:
    assert advise("KeyError: 'x'") is None
    assert describe_failure(KeyError("x")) == "KeyError: 'x'."
    assert describe_failure(ValueError()) == "ValueError."


def test_a_deliberate_error_speaks_for_itself_without_passwords() -> None:
    assert describe_failure(UsageError("no http://u:p@host. Do this.\nmore")) == "no http://***@host. Do this."


class Listed(list[Any]):
    """A sequence of Scala's."""

    def size(self) -> int:
        return len(self)

    def apply(self, n: int) -> Any:
        return self[n]


def executor(*, active: bool, failed: int, why: str | None) -> SimpleNamespace:
    reason = SimpleNamespace(isDefined=lambda: why is not None, get=lambda: why)
    return SimpleNamespace(isActive=lambda: active, failedTasks=lambda: failed, removeReason=lambda: reason)


def session(master: str, *executors: SimpleNamespace) -> Any:
    status = SimpleNamespace(executorList=lambda active_only: Listed(executors))
    context = SimpleNamespace(statusStore=lambda: status)
    return SimpleNamespace(sparkContext=SimpleNamespace(master=master, _jsc=SimpleNamespace(sc=lambda: context)))


def test_case_80_dead_executors_and_failed_tasks_are_counted_and_idle_ones_given_back_are_not() -> None:
    found = Losses.of(
        session(
            "yarn",
            executor(active=True, failed=1, why=None),
            executor(active=False, failed=2, why="Container exited with 137"),
            executor(active=False, failed=0, why="Executor killed by driver."),
        )
    )
    assert found == Losses(executors=1, tasks=3)
    assert found.since(Losses(executors=0, tasks=1)) == {"executors_lost": 1, "tasks_failed": 2}


def test_one_machine_has_no_executors_to_lose() -> None:
    assert Losses.of(session("local[2]")) is None
