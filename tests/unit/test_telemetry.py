"""Figures as Prometheus reads them, run events as OpenLineage defines them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from recsys.alerts.book import MemoryStore
from recsys.telemetry.lineage import KEY, Places, RunState, emit, make_event
from recsys.telemetry.metrics import Family, render, write_alerts, write_run
from recsys.telemetry.params import LineageParams
from tests.receivers import webhook

# https://prometheus.io/docs/instrumenting/exposition_formats/
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
VALUE = r'"(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({NAME}={VALUE}(?:,{NAME}={VALUE})*)\}})? (\S+)")


def parse(text: str) -> dict[str, dict[str, float]]:
    """The series of every metric, by the format's own grammar; whatever is not of it fails."""
    assert text.endswith("\n")
    found: dict[str, dict[str, float]] = {}
    helped: list[str] = []
    current = ""
    for line in text.splitlines():
        if comment := re.fullmatch(rf"# HELP ({NAME}) (\S.*)", line):
            helped.append(comment[1])
        elif comment := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            current = comment[1]
            assert helped[-1] == current
            assert current not in found, "a metric is one block"
            assert (comment[2] == "counter") == current.endswith("_total")
            found[current] = {}
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample[1] == current
            assert (sample[2] or "") not in found[current], "a series stands there once"
            found[current][sample[2] or ""] = float(sample[3])
    return found


def run(store: MemoryStore, exit_code: int, started: float, **counts: int) -> dict[str, dict[str, float]]:
    job = "ingest_ratings"
    write_run(store, "/prom", job=job, exit_code=exit_code, started=started, seconds=2.5, counts=counts)
    return parse(store.read("/prom/recsys_ingest_ratings.prom").decode())


def test_counters_add_up_over_runs_and_the_last_success_outlives_failures() -> None:
    store, own = MemoryStore(), 'job="ingest_ratings"'
    first = run(store, 0, 1000.0, landed=10, accepted=9, quarantined=1, batches=1)
    assert first["recsys_job_last_success_timestamp_seconds"] == {own: 1002.5}
    run(store, 5, 2000.0)
    last = run(store, 0, 3000.0, landed=5, accepted=5)
    failed = run(store, 1, 4000.0)
    assert last["recsys_job_rows_total"] == {
        f'{own},result="accepted"': 14.0,
        f'{own},result="landed"': 15.0,
        f'{own},result="quarantined"': 1.0,
    }
    assert failed["recsys_job_runs_total"] == {
        f'{own},exit_code="0"': 2.0,
        f'{own},exit_code="1"': 1.0,
        f'{own},exit_code="5"': 1.0,
    }
    assert failed["recsys_job_rows_total"] == last["recsys_job_rows_total"]
    assert failed["recsys_job_last_success_timestamp_seconds"] == {own: 3002.5}
    assert failed["recsys_job_last_end_timestamp_seconds"] == {own: 4002.5}
    assert failed["recsys_job_last_exit_code"] == {own: 1.0}


def test_a_file_that_is_not_ours_is_replaced_and_labels_are_escaped() -> None:
    store = MemoryStore()
    store.write("/prom/recsys_ingest_ratings.prom", b'\xff torn{job="')
    assert run(store, 0, 1.0)["recsys_job_runs_total"] == {'job="ingest_ratings",exit_code="0"': 1.0}
    labels = (("file", 'a"b\\c\nd'),)
    assert parse(render([Family("x", "gauge", "A\nhelp.", {labels: 1.0})])) == {"x": {r'file="a\"b\\c\nd"': 1.0}}


def test_open_alerts_are_figures_of_their_own() -> None:
    store = MemoryStore()
    write_alerts(store, "/prom", open_by_kind={"lag": 0, "quarantine": 2}, waiting=3)
    assert parse(store.read("/prom/recsys_alerts.prom").decode()) == {
        "recsys_alerts_open": {'kind="lag"': 0.0, 'kind="quarantine"': 2.0},
        "recsys_alert_messages_waiting": {"": 3.0},
    }


RUN_ID, PARENT_ID = "0123456789abcdef0123456789abcdef", "f" * 32
PLACES = Places("hdfs://nn:8020/w", "file:/landing", "recsys")
STARTED = RunState("ingest_ratings", RUN_ID, "START", 1e9, ("pipeline", PARENT_ID))
ENDED = replace(
    STARTED, state="COMPLETE", counts={"accepted": 7}, versions_out={"ratings": 3, "items": 2, "user_blocks": 9}
)


def require_valid(event: dict[str, Any]) -> None:
    """What https://openlineage.io/spec/2-0-2/OpenLineage.json and the facets' own files require."""
    assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()
    assert event["eventType"] in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", event["eventTime"])
    assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    assert re.match(r"[a-z]+:\S+$", event["producer"])
    assert str(UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert event["job"]["namespace"]
    assert event["job"]["name"]
    datasets = [*event["inputs"], *event["outputs"]]
    assert all(dataset["namespace"] and dataset["name"] for dataset in datasets)
    facets = [event["run"]["facets"], event["job"]["facets"], *(dataset["facets"] for dataset in datasets)]
    facets += [dataset.get("outputFacets", {}) for dataset in event["outputs"]]
    required = {
        "parent": {"run", "job"},
        "errorMessage": {"message", "programmingLanguage"},
        "version": {"datasetVersion"},
        "outputStatistics": {"rowCount"},
    }
    for found in facets:
        for name, facet in found.items():
            assert {"_producer", "_schemaURL", *required[name]} <= facet.keys()


def test_a_run_is_two_events_that_say_what_it_reads_and_writes() -> None:
    start, end = make_event(STARTED, PLACES, "ours"), make_event(ENDED, PLACES, "ours")
    require_valid(start)
    require_valid(end)
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"] == end["run"]
    assert start["run"]["facets"]["parent"]["run"]["runId"] == str(UUID(PARENT_ID))
    assert [(own["namespace"], own["name"]) for own in end["inputs"]] == [("file", "/landing")]
    ratings = end["outputs"][0]
    assert (ratings["namespace"], ratings["name"]) == ("hdfs://nn:8020", "/w/ratings")
    assert ratings["facets"]["version"]["datasetVersion"] == "3"
    assert ratings["outputFacets"]["outputStatistics"]["rowCount"] == 7


@pytest.mark.parametrize("job", ["train_model", "promote_model", "score_users", "rollback", "pipeline", "another"])
def test_events_of_every_job_are_valid_and_a_failed_run_says_why(job: str) -> None:
    event = make_event(replace(ENDED, job=job, state="FAIL", message="disk full"), PLACES, "ours")
    require_valid(event)
    assert event["run"]["facets"]["errorMessage"]["message"] == "disk full"
    assert event["outputs"]


def test_events_are_appended_to_a_file_kept_by_run_in_a_folder_and_posted_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    store, file = MemoryStore(), tmp_path / "events.jsonl"
    start, end = make_event(STARTED, PLACES, "ours"), make_event(ENDED, PLACES, "ours")
    with webhook() as hook:
        for event in (start, end):
            emit(event, LineageParams(path=str(file), url=f"{hook.url}/api/v1/lineage"), store, {KEY: "k3y"})
            emit(event, LineageParams(path="/folder"), store, {})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [start, end]
    kept = store.read(f"/folder/{UUID(RUN_ID)}.jsonl").decode()
    assert [json.loads(line) for line in kept.splitlines()] == [start, end]
    assert hook.bodies == [start, end]
    assert [headers["Authorization"] for headers in hook.headers] == ["Bearer k3y"] * 2


def test_a_collector_or_file_that_cannot_be_written_does_not_keep_the_other_from_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = tmp_path / "events.jsonl"
    event = make_event(STARTED, PLACES, "ours")
    with webhook(status=500) as hook, pytest.raises(OSError, match="500"):
        emit(event, LineageParams(path=str(file), url=hook.url), None, {})
    assert json.loads(file.read_text()) == event
    with webhook() as hook, pytest.raises(FileNotFoundError):
        emit(event, LineageParams(path=str(tmp_path / "none" / "events.jsonl"), url=hook.url), None, {})
    assert hook.bodies == [event]
