"""Run events for whoever depends on our tables, in the OpenLineage format (https://openlineage.io/spec/2-0-2).

Every run of a job is one START and one COMPLETE, FAIL or ABORT, with the tables it reads and writes. Nobody's work
hangs on them: an event that cannot be written is a line in the log.
"""

import json
import os
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.error import HTTPError
from uuid import UUID

from recsys import __version__
from recsys.telemetry.params import LineageParams

State = Literal["START", "COMPLETE", "FAIL", "ABORT"]

KEY: Final = "OPENLINEAGE_API_KEY"
_SPEC: Final = "https://openlineage.io/spec"
_SCHEMA: Final = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_PRODUCER: Final = f"urn:recsys:{__version__}"
_TIMEOUT: Final = 5.0  # seconds

LANDING: Final = "landing"
MODEL: Final = "model"
# What jobs read and write; of others, what their runs say.
_READS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest_ratings": (LANDING,),
    "train_model": ("ratings", "items", "user_blocks"),
    "promote_model": (MODEL,),
    "score_users": ("items", "user_blocks", MODEL),
    "rollback": ("generations",),
    "quarantine": ("quarantine", LANDING),
    "pipeline": (LANDING,),
}
_WRITES: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest_ratings": ("ratings", "quarantine", "ingest_ledger", "items", "user_blocks"),
    "train_model": (MODEL,),
    "promote_model": (MODEL,),
    "score_users": ("recommendations", "generations"),
    "rollback": ("generations", MODEL),
    "quarantine": ("ratings", "quarantine", "ingest_ledger", "items", "user_blocks"),
    "pipeline": (
        "ratings",
        "quarantine",
        "ingest_ledger",
        "items",
        "user_blocks",
        MODEL,
        "recommendations",
        "generations",
    ),
}


class FileStore(Protocol):
    """The part of `recsys.store.files.Files` that is needed here."""

    def read(self, path: str) -> bytes: ...  # noqa: D102
    def write(self, path: str, data: bytes) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Places:
    """Where datasets are: paths of warehouse and landing folder, or kafka://servers/topic; the model's name."""

    warehouse: str
    landing: str
    model: str


@dataclass(frozen=True)
class RunState:
    """One run of a job at its beginning or its end; the time is in seconds since 1970 UTC."""

    job: str
    run_id: str
    state: State
    at: float
    parent: tuple[str, str] | None = None  # job and run id
    message: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    versions_in: Mapping[str, int] = field(default_factory=dict)
    versions_out: Mapping[str, int] = field(default_factory=dict)


def make_event(run: RunState, places: Places, namespace: str) -> dict[str, Any]:
    """The event as JSON knows it."""
    facets: dict[str, Any] = {}
    if run.parent is not None:
        job, run_id = run.parent
        parent = {"run": {"runId": str(UUID(run_id))}, "job": {"namespace": namespace, "name": job}}
        facets["parent"] = _facet("1-0-1/ParentRunFacet.json", "ParentRunFacet", parent)
    if run.state == "FAIL":
        error = {"message": run.message, "programmingLanguage": "PYTHON"}
        facets["errorMessage"] = _facet("1-0-0/ErrorMessageRunFacet.json", "ErrorMessageRunFacet", error)
    reads, writes = _READS.get(run.job, run.versions_in), _WRITES.get(run.job, run.versions_out)
    return {
        "eventType": run.state,
        "eventTime": datetime.fromtimestamp(run.at, UTC).isoformat(timespec="milliseconds"),
        "producer": _PRODUCER,
        "schemaURL": _SCHEMA,
        "run": {"runId": str(UUID(run.run_id)), "facets": facets},
        "job": {"namespace": namespace, "name": run.job, "facets": {}},
        "inputs": [
            _dataset(name, places, run.versions_in.get(name)) for name in reads if name != LANDING or places.landing
        ],
        "outputs": [
            {**_dataset(name, places, run.versions_out.get(name)), **_statistics(name, run.counts)} for name in writes
        ],
    }


def emit(event: Mapping[str, Any], params: LineageParams, files: FileStore | None, environ: Mapping[str, str]) -> None:
    """Write an event wherever the settings want it.

    Raises:
        OSError: that was not possible; what could be written is.
    """
    errors = []
    for write in (_to_path, _to_url):
        try:
            write(event, params, files, environ)
        except OSError as err:
            errors.append(err)
    if errors:
        raise errors[0]


def _to_path(event: Mapping[str, Any], params: LineageParams, files: FileStore | None, _: Mapping[str, str]) -> None:
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    if params.path is None:
        return
    if params.path.endswith(".jsonl"):
        # One write to a file opened for appending: lines of several processes do not mix.
        handle = os.open(Path(re.sub("^file:(//)?", "", params.path)), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
    elif files is not None:
        path = f"{params.path}/{event['run']['runId']}.jsonl"
        try:
            before = files.read(path)
        except FileNotFoundError:
            before = b""
        files.write(path, before + line)


def _to_url(event: Mapping[str, Any], params: LineageParams, _: FileStore | None, environ: Mapping[str, str]) -> None:
    if params.url is None:
        return
    headers = {"Content-Type": "application/json"}
    if key := environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    # The settings allow http and https only.
    request = urllib.request.Request(params.url, json.dumps(event).encode(), headers, method="POST")  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310
    except HTTPError as err:  # it is a response, too
        err.close()
        raise


def _dataset(name: str, places: Places, version: int | None) -> dict[str, Any]:
    """A dataset by OpenLineage's naming: scheme and authority as namespace, path as name."""
    if name == MODEL:
        namespace, full = "mlflow", places.model
    else:
        path = places.landing if name == LANDING else f"{places.warehouse}/{name}"
        found = re.fullmatch(r"(?:([a-z0-9]+):)?(?://([^/]*))?(/.*)", path)
        scheme, authority, full = found.groups() if found else (None, None, path)
        namespace = f"{scheme}://{authority}" if authority else scheme or "file"
        full = full.removeprefix("/") if scheme == "kafka" else full
    facets = {}
    if version is not None:
        said = {"datasetVersion": str(version)}
        facets["version"] = _facet("1-0-0/DatasetVersionDatasetFacet.json", "DatasetVersionDatasetFacet", said)
    return {"namespace": namespace, "name": full, "facets": facets}


def _statistics(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    count = {"ratings": "accepted", "quarantine": "quarantined", "recommendations": "users"}.get(name, "")
    if count not in counts:
        return {}
    said = {"rowCount": counts[count]}
    name = "OutputStatisticsOutputDatasetFacet"
    return {"outputFacets": {"outputStatistics": _facet(f"1-0-1/{name}.json", name, said)}}


def _facet(file: str, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"_producer": _PRODUCER, "_schemaURL": f"{_SPEC}/facets/{file}#/$defs/{name}", **content}
