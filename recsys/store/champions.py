"""Moves of the alias `champion`, on record under the fencing tokens of those who made them.

MLflow takes the last write of an alias, however late, so a holder of the lock that slept until another had taken over
cannot be kept from writing. It is kept from having the last word: each holder says what it will do under its token
before it writes and looks at its lock after; one that comes too late gives the alias back. One that is killed in that
moment leaves its record unfinished, and the next holder gives the alias back.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from recsys.errors import LockedError
from recsys.events import log_event
from recsys.store.locks import Lock
from recsys.store.pause import pause_at

log = logging.getLogger(__name__)

_TAG: Final = "champion."  # + token; a tag of the registered model
_BEGUN: Final = "begun"
_DONE: Final = "done"
_ALIAS: Final = "champion"


@dataclass(frozen=True)
class Move:
    """One holder's move of the alias."""

    token: int
    version: int
    is_done: bool


class ChampionMoves:
    """The moves of one registered model's champion; made under the lock on the models."""

    def __init__(self, client: Any, model: str, lock: Lock) -> None:
        """Nothing is read yet.

        Args:
            client: of MLflow.
            model: name of the registered model.
            lock: on the models, held.
        """
        self._client = client
        self._model = model
        self._lock = lock

    def move(self, version: int, before: int | None) -> None:
        """Make a version champion.

        Args:
            version: The champion to be.
            before: The champion now.

        Raises:
            LockedError: the lock was lost; the champion is what the present holder made or left it.
        """
        self._note(version, _BEGUN)
        self._lock.check()
        pause_at("champion:before_alias")
        self._set(version)
        try:
            self._lock.check()
        except LockedError:
            self._give_back(before)
            raise
        if self._champion() != version:  # somebody who came too late wrote in between, and may not live to see it
            self._set(version)
        self.finish(version)

    def finish(self, version: int) -> None:
        """Record that a version is champion and nothing is left to do for it; older finished moves are forgotten."""
        self._note(version, _DONE)
        for move in self._read():
            if move.token < self._lock.token and move.is_done:
                self._client.delete_registered_model_tag(self._model, _key(move.token))

    def repair(self) -> None:
        """Give back an alias that a holder wrote too late and did not live to give back."""
        moves = self._read()
        last = max((move for move in moves if move.is_done), key=lambda move: move.token, default=None)
        if last is None:
            return
        late = {move.version for move in moves if not move.is_done and move.token < last.token} - {last.version}
        if self._champion() in late:
            self._set(last.version)
            log_event(log, "late_promotion_repaired", level=logging.WARNING, champion=last.version)

    def _give_back(self, before: int | None) -> None:
        """Let the alias be what it would be without us, also when the present holder moves it at this moment."""
        while True:
            later = [move for move in self._read() if move.token > self._lock.token]
            rightful = max(later, key=lambda move: move.token).version if later else before
            if self._champion() == rightful:
                break
            self._set(rightful)
        self._client.delete_registered_model_tag(self._model, _key(self._lock.token))
        log_event(log, "late_promotion_given_back", level=logging.WARNING, champion=rightful)

    def _read(self) -> list[Move]:
        tags: Mapping[str, str] = self._client.get_registered_model(self._model).tags
        found = [(key.removeprefix(_TAG), tag.split()) for key, tag in tags.items() if key.startswith(_TAG)]
        return [Move(int(token), int(version), state == _DONE) for token, (version, state) in found]

    def _note(self, version: int, state: str) -> None:
        self._client.set_registered_model_tag(self._model, _key(self._lock.token), f"{version} {state}")

    def _champion(self) -> int | None:
        found = self._client.get_registered_model(self._model).aliases.get(_ALIAS)
        return None if found is None else int(found)

    def _set(self, version: int | None) -> None:
        if version is None:
            self._client.delete_registered_model_alias(self._model, _ALIAS)
        else:
            self._client.set_registered_model_alias(self._model, _ALIAS, str(version))


def _key(token: int) -> str:
    return f"{_TAG}{token:012d}"
