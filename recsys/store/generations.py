"""Generations: lists become visible, and invisible again, by one commit to the table `generations`.

The row with the highest sequence is the pointer. Lists are written before it, under their own generation number, where
no reader looks; numbers of published generations are never used again. Every function here runs Spark jobs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.errors import PublicationError
from recsys.events import log_event
from recsys.schemas import GENERATIONS
from recsys.store.locks import check_held
from recsys.store.pause import pause_at
from recsys.store.registry import Registry
from recsys.store.suppressed import count_forgotten_lists, without_suppressed
from recsys.store.tables import Memo, Tables, Txn

log = logging.getLogger(__name__)

PUBLISHED: Final = "published"
ROLLED_BACK: Final = "rolled back"  # an earlier generation made visible again

_histories: "Memo[list[Generation]]" = Memo()


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
    """All publications and rollbacks, oldest first. One process reads a version of the table once."""
    table = tables.generations
    state = table.state()
    known = _histories.get(table, state)
    if known is not None:
        return list(known)
    history = [Generation(**row.asDict()) for row in table.read_version(state[1]).collect()]
    history.sort(key=lambda entry: entry.sequence)
    history = [replace(entry, published_at=entry.published_at.astimezone(UTC)) for entry in history]
    _histories.put(table, state, history)
    return list(history)


def current(tables: Tables) -> Generation | None:
    """The generation that consumers read, None before the first publication."""
    history = read_history(tables)
    return history[-1] if history else None


def next_generation(tables: Tables) -> int:
    """The number for the lists that are written next."""
    return 1 + max((entry.generation for entry in read_history(tables)), default=0)


@dataclass(frozen=True)
class WrittenLists:
    """Complete lists that nobody sees yet: what `publish` takes."""

    generation: int
    n_users: int


def write_lists(tables: Tables, generation: int, lists: DataFrame) -> WrittenLists:
    """Write the lists of a generation that is not published yet, in one commit; nobody sees them before `publish`.

    What a killed run has left under this number is replaced. Where the table's last commit is that of published lists
    nothing can be left, and the lists are added, which is quicker than to look for what they would replace.

    Args:
        tables: The warehouse.
        generation: From `next_generation`.
        lists: A row a user and the fallback row, schema RECOMMENDATIONS.

    Raises:
        PublicationError: the generation was published before; or the fallback row is missing, or scores are not finite
            numbers, or fewer rows were written than scored: then they cannot be published.
    """
    published = {entry.generation for entry in read_history(tables)}
    if generation in published:
        raise PublicationError(f"generation {generation} is published and cannot change. Take the next number.")
    scored, table, note = Observation(), tables.recommendations, {c.GENERATION: generation}
    counted, last = without_suppressed(tables, lists).observe(scored, *_counts()), table.last_note()
    if last is not None and last.get(c.GENERATION) in published:
        rows = table.append(counted, note=note)
    else:
        rows = table.replace(counted, f"{c.GENERATION} = {generation}", note=note)
    n_users = rows - scored.get["fallbacks"]
    _require_complete(generation, scored.get, n_users, advice="Run score_users again.")
    log_event(log, "lists_written", generation=generation, users=n_users)
    return WrittenLists(generation, n_users)


def publish(
    tables: Tables, lists: WrittenLists, model_version: int, table_versions: Mapping[str, int], reason: str
) -> Generation:
    """Make written lists the ones that consumers read. Called under the lock on the lists.

    Args:
        tables: The warehouse.
        lists: From `write_lists`.
        model_version: Registered version of the model that scored them.
        table_versions: Versions of the tables they were made from.
        reason: Why, for the record.

    Raises:
        PublicationError: the generation is published already, or another job published meanwhile; nothing changes.
    """
    history = read_history(tables)
    if lists.generation in {entry.generation for entry in history}:
        raise PublicationError(f"generation {lists.generation} is published already. Take the next number.")
    pause_at("publish:after_lists")
    entry = Generation(
        _next_sequence(history),
        lists.generation,
        model_version,
        dict(table_versions),
        lists.n_users,
        datetime.now(UTC),
        PUBLISHED,
        reason,
    )
    _append(tables, history, entry)
    log_event(log, "generation_published", generation=lists.generation, model_version=model_version)
    return entry


def read_generation(tables: Tables) -> tuple[Generation, DataFrame]:
    """The current generation and its lists, all of one generation whatever is published meanwhile.

    Items that are no longer available and users who were forgotten are left out, so that a rollback does not bring them
    back.

    Raises:
        PublicationError: nothing has been published yet.
    """
    pinned = current(tables)
    if pinned is None:
        raise PublicationError("no generation has been published yet. Run score_users first.")
    lists = without_suppressed(tables, _lists_of(tables, pinned.generation))
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
    _check_lists(tables, target)
    registry.check_model(target.model_version)
    if target.generation != now.generation:
        target = replace(
            target,
            sequence=_next_sequence(history),
            published_at=datetime.now(UTC),
            state=ROLLED_BACK,
            reason=reason,
        )
        _append(tables, history, target)
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


def _check_lists(tables: Tables, target: Generation) -> None:
    """Make sure that a generation's lists are still there.

    Raises:
        PublicationError: they are not, or not all.
    """
    # As consumers see it: of lists of users who were forgotten some may still be there, where that was interrupted.
    [found] = without_suppressed(tables, _lists_of(tables, target.generation)).agg(*_counts()).collect()
    advice = "Maintenance has dropped it; choose a later one."
    n_users = target.n_users - count_forgotten_lists(tables, target.generation)
    _require_complete(target.generation, found.asDict(), n_users, advice=advice)


def _counts() -> list[Column]:
    is_unservable = sf.exists(c.ITEMS, lambda entry: sf.isnan(entry[c.SCORE]) | entry[c.SCORE].isNull())
    return [
        sf.count_if(sf.col(c.USER_ID) != c.FALLBACK_USER_ID).alias("users"),
        sf.count_if(sf.col(c.USER_ID) == c.FALLBACK_USER_ID).alias("fallbacks"),
        sf.count_if(is_unservable).alias("unservable"),
    ]


def _require_complete(generation: int, found: Mapping[str, int], n_users: int, *, advice: str) -> None:
    """Hold what `_counts` found against what must be there."""
    if (found["users"], found["fallbacks"], found["unservable"]) != (n_users, 1, 0):
        raise PublicationError(
            f"generation {generation} has lists for {found['users']} of {n_users} users, {found['fallbacks']} of 1 "
            f"fallback list, and {found['unservable']} lists with scores that are not numbers. "
            f"Nothing was changed. {advice}"
        )


def _append(tables: Tables, history: list[Generation], entry: Generation) -> None:
    """Move the pointer in one commit, unless another job has moved it since the history was read."""
    check_held()
    table = tables.generations
    identity, version = table.state()
    row = table.read().sparkSession.createDataFrame([asdict(entry)], GENERATIONS)
    # The sequence as the transaction's version: of two rows with the same sequence, Delta takes one.
    if table.append(row, Txn(f"{identity}:pointer", entry.sequence)) == 0:
        raise PublicationError(
            f"another job published while generation {entry.generation} was being published: now {current(tables)}. "
            "Run it again."
        )
    _histories.put(table, (identity, version + 1), [*history, entry])


def _lists_of(tables: Tables, generation: int) -> DataFrame:
    return tables.recommendations.read().where(sf.col(c.GENERATION) == generation)


def _next_sequence(history: Sequence[Generation]) -> int:
    return history[-1].sequence + 1 if history else 1
