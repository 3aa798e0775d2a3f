"""Generations: lists become visible, and invisible again, by one commit to the table `generations`.

The row with the highest sequence is the pointer. Lists are written before it, under their own generation number, where
no reader looks; numbers of published generations are never used again. Every function here runs Spark jobs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.errors import PublicationError
from recsys.events import log_event
from recsys.schemas import GENERATIONS
from recsys.store.locks import check_held
from recsys.store.pause import pause_at
from recsys.store.registry import Registry
from recsys.store.tables import Tables, Txn

log = logging.getLogger(__name__)

PUBLISHED: Final = "published"
ROLLED_BACK: Final = "rolled back"  # an earlier generation made visible again


@dataclass(frozen=True)
class Generation:
    """One row of the table: the field names are its columns."""

    sequence: int
    generation: int
    model_version: int
    table_versions: Mapping[str, int]
    n_users: int
    published_at: datetime
    state: str
    reason: str


def read_history(tables: Tables) -> list[Generation]:
    """All publications and rollbacks, oldest first."""
    history = [Generation(**row.asDict()) for row in tables.generations.read().collect()]
    history.sort(key=lambda entry: entry.sequence)
    return [replace(entry, published_at=entry.published_at.astimezone(UTC)) for entry in history]


def current(tables: Tables) -> Generation | None:
    """The generation that consumers read, None before the first publication."""
    history = read_history(tables)
    return history[-1] if history else None


def next_generation(tables: Tables) -> int:
    """The number for the lists that are written next."""
    return 1 + max((entry.generation for entry in read_history(tables)), default=0)


def write_lists(tables: Tables, generation: int, lists: DataFrame) -> int:
    """Write the lists of a generation that is not published yet, in one commit; nobody sees them before `publish`.

    What a killed run has left under this number is replaced.

    Args:
        tables: The warehouse.
        generation: From `next_generation`.
        lists: A row a user and the fallback row, schema RECOMMENDATIONS.

    Returns:
        The number of users with a list, the fallback row not counted.

    Raises:
        PublicationError: the generation was published before.
    """
    if generation in {entry.generation for entry in read_history(tables)}:
        raise PublicationError(f"generation {generation} is published and cannot change. Take the next number.")
    written = Observation()
    counted = lists.observe(written, sf.count_if(sf.col(c.USER_ID) != c.FALLBACK_USER_ID).alias(c.N_USERS))
    tables.recommendations.replace(counted, f"{c.GENERATION} = {generation}")
    n_users = int(written.get[c.N_USERS])
    log_event(log, "lists_written", generation=generation, users=n_users)
    return n_users


def publish(
    tables: Tables, generation: int, model_version: int, table_versions: Mapping[str, int], n_users: int, reason: str
) -> Generation:
    """Make written lists the ones that consumers read. Called under the lock on the lists.

    Args:
        tables: The warehouse.
        generation: The number that `write_lists` wrote.
        model_version: Registered version of the model that scored them.
        table_versions: Versions of the tables they were made from.
        n_users: Users that must have a list, the fallback row not counted.
        reason: Why, for the record.

    Raises:
        PublicationError: lists or the fallback row are missing or hold scores that are not finite, or another job
            published meanwhile; nothing changes.
    """
    history = read_history(tables)
    if generation in {entry.generation for entry in history}:
        raise PublicationError(f"generation {generation} is published already. Take the next number.")
    _check_lists(tables, generation, n_users, advice="Run score_users again.")
    pause_at("publish:after_lists")
    entry = Generation(
        _next_sequence(history),
        generation,
        model_version,
        dict(table_versions),
        n_users,
        datetime.now(UTC),
        PUBLISHED,
        reason,
    )
    _append(tables, entry)
    log_event(log, "generation_published", generation=generation, model_version=model_version, users=n_users)
    return entry


def read_generation(tables: Tables) -> tuple[Generation, DataFrame]:
    """The current generation and its lists, all of one generation whatever is published meanwhile.

    Items that are no longer available are left out, so that a rollback does not bring them back.

    Raises:
        PublicationError: nothing has been published yet.
    """
    pinned = current(tables)
    if pinned is None:
        raise PublicationError("no generation has been published yet. Run score_users first.")
    lists = _lists_of(tables, pinned.generation)
    gone = [row[0] for row in tables.items.read().where(~sf.col(c.AVAILABLE)).select(c.ITEM_ID).collect()]
    if gone:
        lists = lists.withColumn(c.ITEMS, sf.filter(c.ITEMS, lambda entry: ~entry[c.ITEM_ID].isin(gone)))
    return pinned, lists


def served_stack(history: Sequence[Generation]) -> list[int]:
    """The generations a rollback can step down through, the current one last.

    A publication goes on top; a rollback takes off what lay above its target.
    """
    stack: list[int] = []
    for entry in history:
        if entry.state == ROLLED_BACK and entry.generation in stack:
            del stack[stack.index(entry.generation) :]
        stack.append(entry.generation)
    return stack


def rollback(tables: Tables, registry: Registry, to: int | None = None, reason: str = "rollback") -> Generation:
    """Put lists and model back together. Called under the locks on models and lists.

    The pointer moves first, then the champion: after a crash in between, the same command finishes the rollback. A
    champion that was promoted but never published lists is put back alone, to the version of the current lists.

    Args:
        tables: The warehouse.
        registry: The models.
        to: The generation to go back to; None: the one before the current one.
        reason: Why, for the record.

    Returns:
        The generation that is current now.

    Raises:
        PublicationError: there is nothing to go back to, or its lists are gone.
        RegistryError: its model version was deleted; nothing changes.
        ModelArtifactError: its model does not load; nothing changes.
    """
    history = read_history(tables)
    if not history:
        raise PublicationError("no generation has been published yet: there is nothing to go back to.")
    now = history[-1]
    target = _find_target(history, to, champion=registry.champion)
    _check_lists(tables, target.generation, target.n_users, advice="Maintenance has dropped it; choose a later one.")
    registry.check_model(target.model_version)
    if target.generation != now.generation:
        target = replace(
            target,
            sequence=_next_sequence(history),
            published_at=datetime.now(UTC),
            state=ROLLED_BACK,
            reason=reason,
        )
        _append(tables, target)
        pause_at("rollback:after_lists")
    registry.restore(target.model_version, reason)
    log_event(log, "rolled_back", generation=target.generation, model_version=target.model_version, of=now.generation)
    return target


def _find_target(history: Sequence[Generation], to: int | None, *, champion: int | None) -> Generation:
    now = history[-1]
    stack = served_stack(history)
    if to is None and champion != now.model_version:
        return now
    if to is None and len(stack) < 2:
        raise PublicationError(f"generation {now.generation} is the first: there is nothing to go back to.")
    number = stack[-2] if to is None else to
    found = [entry for entry in history if entry.generation == number]
    if not found:
        raise PublicationError(f"generation {number} was never published. There are {sorted(set(stack))}.")
    return found[-1]


def _check_lists(tables: Tables, generation: int, n_users: int, *, advice: str) -> None:
    is_unservable = sf.exists(c.ITEMS, lambda entry: sf.isnan(entry[c.SCORE]) | entry[c.SCORE].isNull())
    [found] = (
        _lists_of(tables, generation)
        .agg(
            sf.count_if(sf.col(c.USER_ID) != c.FALLBACK_USER_ID).alias("users"),
            sf.count_if(sf.col(c.USER_ID) == c.FALLBACK_USER_ID).alias("fallbacks"),
            sf.count_if(is_unservable).alias("unservable"),
        )
        .collect()
    )
    if (found.users, found.fallbacks, found.unservable) != (n_users, 1, 0):
        raise PublicationError(
            f"generation {generation} has lists for {found.users} of {n_users} users, {found.fallbacks} of 1 fallback "
            f"list, and {found.unservable} lists with scores that are not numbers. Nothing was changed. {advice}"
        )


def _append(tables: Tables, entry: Generation) -> None:
    """Move the pointer in one commit, unless another job has moved it since the history was read."""
    check_held()
    row = tables.generations.read().sparkSession.createDataFrame([asdict(entry)], GENERATIONS)
    # The sequence as the transaction's version: of two rows with the same sequence, Delta takes one.
    tables.generations.append(row, Txn(f"{tables.generations.identity()}:pointer", entry.sequence))
    found = current(tables)
    if found is None or (found.sequence, found.generation) != (entry.sequence, entry.generation):
        raise PublicationError(
            f"another job published while generation {entry.generation} was being published: now {found}. Run it again."
        )


def _lists_of(tables: Tables, generation: int) -> DataFrame:
    return tables.recommendations.read().where(sf.col(c.GENERATION) == generation)


def _next_sequence(history: Sequence[Generation]) -> int:
    return history[-1].sequence + 1 if history else 1
