"""Checkpoints of Spark's streams under the warehouse.

Spark keeps two logs in one: ``offsets/<n>`` is written before batch n, ``commits/<n>`` after it. Where a topic's first
batch began is in ``sources/0/0``.
"""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from recsys.store.files import Files

_FIRST = -1  # in the place of a batch: where the first one began


@dataclass(frozen=True)
class Progress:
    """How far a checkpoint is, by partition: its next batch begins somewhere from ``committed`` to ``logged``."""

    committed: dict[int, int]
    logged: dict[int, int]

    def holds(self, partition: int, offset: int) -> bool:
        """Whether a stream with this checkpoint goes on at an offset, or repeats a batch that ends there."""
        return self.committed.get(partition, 0) <= offset <= self.logged.get(partition, 0)


class Checkpoints:
    """The checkpoints of one topic. Where the last is of no use, a new one is begun; it stays, to be looked at."""

    def __init__(self, files: Files, root: str, topic: str, topic_id: str) -> None:
        self._files = files
        self._topic = topic
        self._folder = f"{root}/streams/{topic}/{topic_id}"

    def newest(self) -> str | None:
        """The last that was begun."""
        names = self._names(self._folder)
        return f"{self._folder}/{names[-1]}" if names else None

    def begin(self) -> str:
        """A new one; of the old ones the last stays."""
        for name in self._names(self._folder)[:-1]:
            self._files.delete(f"{self._folder}/{name}", recursive=True)
        checkpoint = f"{self._folder}/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}"
        self._files.make_folders(checkpoint)
        return checkpoint

    def progress(self, checkpoint: str) -> Progress:
        """How far one is.

        Raises:
            ValueError: a file of it is torn, empty or missing; the message says which.
        """
        logged, committed = self._last(f"{checkpoint}/offsets"), self._last(f"{checkpoint}/commits")
        if committed not in (logged, logged - 1):
            raise ValueError(f"{checkpoint}: the last of offsets/ is {logged}, of commits/ {committed}")
        if committed > _FIRST:
            self._read_json(f"{checkpoint}/commits/{committed}")
        if self._files.exists(f"{checkpoint}/metadata"):
            self._read_json(f"{checkpoint}/metadata")
        elif logged > _FIRST:
            raise ValueError(f"{checkpoint}/metadata is missing")
        return Progress(self.end_of(checkpoint, committed), self.end_of(checkpoint, logged))

    def end_of(self, checkpoint: str, batch: int) -> dict[int, int]:
        """Where a batch ends, by partition; -1 is before the first.

        Raises:
            ValueError: its file is torn, empty or missing.
        """
        file = f"{checkpoint}/offsets/{batch}" if batch > _FIRST else f"{checkpoint}/sources/0/0"
        if batch == _FIRST and not self._files.exists(file):
            return {}
        offsets = self._read_json(file).get(self._topic, {})
        return {int(partition): int(offset) for partition, offset in offsets.items()}

    def _last(self, folder: str) -> int:
        return max((int(name) for name in self._names(folder) if name.isdecimal()), default=_FIRST)

    def _names(self, folder: str) -> list[str]:
        """Names in a folder that hold a file or are one, in order."""
        if not self._files.is_folder(folder):
            return []
        paths = (status.path.removeprefix(f"{folder}/") for status in self._files.list_files(folder, recursive=True))
        return sorted({path.split("/", 1)[0] for path in paths})

    def _read_json(self, file: str) -> dict[str, dict[str, int]]:
        """The last line of one of Spark's logs: a version and perhaps other things come before it."""
        try:
            found = json.loads(self._files.read_text(file).splitlines()[-1])
        except (FileNotFoundError, IndexError, ValueError) as err:
            raise ValueError(f"{file} is torn or missing") from err
        if not isinstance(found, dict):
            raise ValueError(f"{file} is torn")
        return found
