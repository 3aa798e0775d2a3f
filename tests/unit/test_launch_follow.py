"""What spark-submit logs is understood, and the job's own exit code comes out of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.follow import Ending, Outcome, Reader, conclude, wait_for
from launch.hadoop import last_driver_output
from tests.launches import APPLICATION, SUBMITTED, SUCCEEDED, report

KILLED = f"Application {APPLICATION} was killed by user someone at 10.0.0.1"
DIED = (
    f"Application {APPLICATION} failed 2 times due to AM Container for appattempt_1 exited with  exitCode: 143\n"
    "Failing this attempt.Diagnostics: [2026-01-01]Container killed on request. Exit code is 143\n"
    ". Failing the application."
)
THROWN = (
    'Exception in thread "main" org.apache.spark.SparkException: Application {} finished with failed status\n'
    "\tat org.apache.spark.deploy.yarn.Client.run(Client.scala:1347)\n"
)


def read(text: str) -> tuple[Reader, list[str]]:
    reader = Reader()
    shown = [line for line in map(reader.read, text.splitlines(keepends=True)) if line is not None]
    return reader, shown


def failed(diagnostics: str) -> str:
    log = (
        SUBMITTED + report("ACCEPTED") + report("RUNNING") + report("FAILED", status="FAILED", diagnostics=diagnostics)
    )
    return f"{log}ERROR Client: Application diagnostics message: {diagnostics}\n{THROWN.format(APPLICATION)}"


def test_the_user_sees_the_states_and_where_to_look_and_nothing_twice() -> None:
    again = f"INFO Client: Application report for {APPLICATION} (state: RUNNING)\n"
    reader, shown = read(
        SUBMITTED + report("ACCEPTED") + report("RUNNING") + again + report("FINISHED", status="SUCCEEDED")
    )
    assert shown == [
        f"{APPLICATION}: accepted",
        f"{APPLICATION}: http://rm:8088/proxy/{APPLICATION}/",
        f"{APPLICATION}: running",
        f"{APPLICATION}: finished",
    ]
    assert (reader.application, reader.final_status, reader.diagnostics) == (APPLICATION, "SUCCEEDED", "")


def test_diagnostics_of_several_lines_are_kept_and_the_client_s_own_trace_is_not_shown() -> None:
    reader, shown = read(failed(DIED))
    assert reader.diagnostics == DIED
    assert shown[-1] == f"{APPLICATION}: failed"
    assert reader.thrown == f"Application {APPLICATION} finished with failed status"


def test_warnings_of_others_are_passed_on() -> None:
    text = "WARN Utils: Your hostname resolves to a loopback address\nINFO Other: not this\na line of a shell\n"
    _, shown = read(text + SUCCEEDED)
    assert shown[:2] == ["WARN Utils: Your hostname resolves to a loopback address", "a line of a shell"]


def outcome(code: int, message: str = "", error: str = "", trace: str = "") -> Outcome:
    return Outcome(code, message, error, trace)


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_a_deliberate_end_has_its_own_code_although_yarn_says_succeeded(code: int) -> None:
    reader, _ = read(SUCCEEDED)
    assert conclude(0, reader, outcome(code, "judged", "refused: too bad")) == Ending(
        code, "judged", ("refused: too bad",)
    )


def test_success_is_the_driver_s_message_and_zero() -> None:
    reader, _ = read(SUCCEEDED)
    assert conclude(0, reader, outcome(0, "ingested 3 files")) == Ending(0, "ingested 3 files")


def test_an_unexpected_error_is_shown_with_its_trace() -> None:
    reader, _ = read(failed(DIED))
    ending = conclude(1, reader, outcome(1, error="error: status failed", trace="Traceback ..."))
    assert ending == Ending(1, "", ("Traceback ...", "error: status failed"))


def test_a_driver_that_left_nothing_is_yarn_s_to_explain() -> None:
    reader, _ = read(failed(DIED))
    ending = conclude(1, reader, None)
    assert ending.exit_code == 1
    assert "state FAILED, final status FAILED" in ending.errors[0]
    assert "Exit code is 143" in ending.errors[0]
    assert "left no outcome" in ending.errors[1]


@pytest.mark.parametrize("code", [0, 4])
def test_a_driver_killed_after_it_left_its_outcome_has_failed(code: int) -> None:
    reader, _ = read(failed(DIED))
    ending = conclude(1, reader, outcome(code, "done"))
    assert (ending.exit_code, ending.message) == (1, "")
    assert f"said {code}" in ending.errors[1]


def test_success_without_an_outcome_is_not_believed() -> None:
    reader, _ = read(SUCCEEDED)
    assert conclude(0, reader, None).exit_code == 1


def test_an_application_that_somebody_killed_has_failed_with_who_did_it() -> None:
    log = SUBMITTED + report("ACCEPTED") + report("KILLED", status="KILLED", diagnostics=KILLED)
    reader, _ = read(log)
    assert KILLED in conclude(1, reader, None).errors[0]


def test_what_yarn_did_not_take_is_a_matter_of_configuration() -> None:
    why = "Required executor memory (6144 MB) is above the max threshold (4096 MB) of this cluster!"
    reader, shown = read(f'Exception in thread "main" java.lang.IllegalArgumentException: {why}\n\tat x.y(Z.scala:1)\n')
    assert conclude(1, reader, None) == Ending(2, errors=(f"error: YARN did not take the application: {why}",))
    assert shown == []


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"exit_code": 0}', '{"exit_code": "x"}'])
def test_a_torn_outcome_is_none(text: str | None) -> None:
    assert Outcome.parse(text) is None


def test_an_outcome_reads_as_it_was_written() -> None:
    text = json.dumps({"exit_code": 4, "message": "m", "error": "e", "trace": ""})
    assert Outcome.parse(text) == outcome(4, "m", "e")


@pytest.mark.parametrize("code", [0, 2, 4, 5])
def test_in_client_mode_the_exit_code_is_spark_submit_s(code: int) -> None:
    assert wait_for([sys.executable, "-c", f"exit({code})"], os.environ) == Ending(code)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "exit(137)"])
def test_in_client_mode_a_killed_driver_is_said_to_be_one(end: str) -> None:
    ending = wait_for([sys.executable, "-c", f"import os; {end}"], os.environ)
    assert ending.exit_code == 1
    assert "the driver was killed by SIGKILL" in ending.errors[0]


def test_in_client_mode_a_signal_goes_on_to_the_driver(tmp_path: Path) -> None:
    driver = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(30)\n"
    )
    launcher = (
        "import os, sys\nfrom launch.follow import wait_for\n"
        f"sys.exit(wait_for([sys.executable, '-c', {driver!r}], os.environ).exit_code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", launcher]) as process:
        until = time.monotonic() + 20
        while not (tmp_path / "ready").exists() and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 4


@pytest.mark.parametrize(("ignored", "code"), [("signal.SIGHUP", 0), ("signal.SIGWINCH", 129)])
def test_a_launcher_under_nohup_outlives_its_terminal(ignored: str, code: int) -> None:
    launcher = (
        "import os, signal, sys\nfrom launch.follow import Stopped, raised_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests themselves may run under nohup
        f"signal.signal({ignored}, signal.SIG_IGN)\n"
        "try:\n    with raised_signals(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "except Stopped as stopped: sys.exit(stopped.exit_code)\n"
    )
    assert subprocess.run([sys.executable, "-c", launcher], check=False).returncode == code


LOGS = """
Container: container_e02_1700000000000_0001_01_000001 on node_1
LogAggregationType: AGGREGATED
==============================
LogType:stdout
LogLastModifiedTime:Thu Jan 01 00:00:00 +0000 2026
LogLength:14
LogContents:
first attempt
End of LogType:stdout
*********************

Container: container_e02_1700000000000_0001_02_000001 on node_2
LogType:stdout
LogContents:
second attempt
error: it failedEnd of LogType:stdout

Container: container_e02_1700000000000_0001_02_000002 on node_1
LogType:stdout
LogContents:
an executor
End of LogType:stdout
"""


def test_the_driver_s_lines_are_those_of_the_last_application_master() -> None:
    assert last_driver_output(LOGS) == "second attempt\nerror: it failed"
    assert last_driver_output("Can not find the logs") == ""
