"""Fits that the registry did not take, kept under the warehouse until it does: a fit may be hours of a cluster.

``<root>/unlogged/<fit key>/`` has the model's data files and the figures, and ``fit.json``, which is written last and
holds the SHA-256 of every file: what is there and whole was kept completely. Nothing of it is code.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from recsys.events import log_event
from recsys.store.files import Files

log = logging.getLogger(__name__)

_FOLDER: Final = "unlogged"
_RECORD: Final = "fit.json"


@dataclass(frozen=True)
class Fit:
    """What :meth:`recsys.store.registry.Registry.log_fit` takes, under the same names."""

    files: Mapping[str, bytes]
    figures: Mapping[str, bytes]
    params: Mapping[str, Any]
    sweeps: Sequence[Mapping[str, float | None]]
    metrics: Mapping[str, float | None]
    tags: Mapping[str, str]


def keep_fit(files: Files, root: str, fit_key: str, fit: Fit) -> str:
    """Keep a fit; returns the folder."""
    folder = f"{root}/{_FOLDER}/{fit_key}"
    record: dict[str, Any] = asdict(fit)
    for kind in ("files", "figures"):
        for name, content in record[kind].items():
            files.write(f"{folder}/{kind}/{name}", content)
        record[kind] = {name: _sha256(content) for name, content in record[kind].items()}
    files.write(f"{folder}/{_RECORD}", json.dumps(record, default=str).encode())
    log_event(log, "fit_kept", fit_key=fit_key, folder=folder)
    return folder


def find_kept_fit(files: Files, root: str, fit_key: str) -> Fit | None:
    """The fit of this key, if it was kept and is whole."""
    folder = f"{root}/{_FOLDER}/{fit_key}"
    try:
        record = json.loads(files.read(f"{folder}/{_RECORD}"))
        for kind in ("files", "figures"):
            read = {name: files.read(f"{folder}/{kind}/{name}") for name in record[kind]}
            if {name: _sha256(content) for name, content in read.items()} != record[kind]:
                log_event(log, "kept_fit_is_damaged", level=logging.WARNING, folder=folder)
                return None
            record[kind] = read
    except FileNotFoundError:
        return None
    log_event(log, "kept_fit_found", fit_key=fit_key)
    return Fit(**record)


def drop_kept_fits(files: Files, root: str) -> None:
    """Delete all of them: one has been logged, and those of other keys were made from what is not current any more."""
    files.delete(f"{root}/{_FOLDER}", recursive=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
