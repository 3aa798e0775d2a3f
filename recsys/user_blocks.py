"""The user blocks brought up to date with the ratings: which buckets, merged, laid beside or packed anew.

What the blocks reflect, a batch and a version of the ratings, is the note of their latest commit. Whoever brings them
up to date or packs them anew holds the tables lock.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pyspark.sql import Column, DataFrame, Observation, Row
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.adoption import keeps_events
from recsys.batches import newest_batch, read_ledger
from recsys.blocks.codec import NEWCOMERS, RECENT, WHOLE
from recsys.blocks.recent import assemble, gather_recent, has_conflicts
from recsys.blocks.update import Packing, update_blocks
from recsys.events import log_event
from recsys.store.items import read_items
from recsys.store.pause import pause_at
from recsys.store.tables import Changes, Table, Tables

log = logging.getLogger(__name__)

_BESIDE: Final = "beside"  # in the note of a commit to user_blocks: whether recent ratings lie beside blocks
MOST_RECENT: Final = 10_000_000  # ratings beside blocks: every executor gets all of them, 11 bytes each

# By path and identity of the ratings table, and the version that blocks reflect: the one until which nothing was
# rewritten since.
_unchanged: dict[tuple[str, str, int], int] = {}


def bring_blocks_up_to_date(
    tables: Tables, *, through_batch: int, tell: Callable[[str], None] = lambda note: None
) -> int:
    """Pack the ratings of batches that the user blocks do not reflect yet, and return how many users are new.

    Only the buckets of those ratings are read and written. Without any blocks this packs all ratings. Beside large
    blocks a few new ratings are packed alone: `recsys.blocks.recent`. Buckets whose ratings somebody deleted, restored
    or changed are packed anew from what is there; all are where the log does not tell any more.

    Args:
        tables: of the warehouse.
        through_batch: the last batch with ratings.
        tell: told what the operator should know.
    """
    reflected = find_reflected(tables)
    version = tables.ratings.version()
    if reflected.batch > 0:
        changes = _find_changes(tables.ratings, reflected, version, is_behind=reflected.batch < through_batch)
        if changes is None or changes.rewritten:
            return _pack_anew(tables, changes, reflected, version, tell)
    else:  # nothing that was packed can be gone
        changes = None
    if reflected.batch >= through_batch:
        return 0
    events = tables.ratings.read_version(version).where(sf.col(c.BATCH) > reflected.batch)
    if changes is None:
        touched = {str(row[0]) for row in events.select(c.BUCKET).distinct().collect()}
    else:
        touched = set(changes.appended)
    if not touched:  # the ledger has a batch that somebody took out of the ratings
        return 0
    where = c.among(c.BUCKET, touched)
    old, files = tables.user_blocks.read().where(where), tables.ratings.read_files(events.where(where))
    with ThreadPoolExecutor(1, "items") as aside:  # some seconds in a new session, and nearly all of them no task runs
        reading = aside.submit(read_items, tables.items, tables.items.version())
        layers = _find_room(tables, events, reflected, through_batch, touched)
        items = reading.result()
    packing = _make_packing(
        tables, items.ids, after_batch=reflected.batch, through_batch=through_batch, version=version
    )
    new_users = None if layers is None else _put_beside(tables, old, files, layers, packing, touched, where)
    if new_users is None:
        new_users = _merge_into_blocks(tables, old, files, packing, touched, where)
    tables.user_blocks.read_ahead()
    pause_at("ingest:after_blocks")
    log_event(log, "blocks_updated", through_batch=through_batch, buckets=len(touched), new_users=new_users)
    return new_users


def _find_changes(ratings: Table, reflected: "Reflected", version: int, *, is_behind: bool) -> Changes | None:
    """What happened to the ratings since the version that the blocks reflect; None when the log does not tell.

    Every run that finds nothing to do leaves a commit in the log: a loop that runs every few minutes reads each once.
    """
    key = (ratings.path, ratings.identity(), reflected.ratings_version)
    looked_through = 0 if is_behind else _unchanged.get(key, 0)
    changes = ratings.changes(c.BUCKET, after=max(reflected.ratings_version, looked_through), through=version)
    if changes is not None and not changes.rewritten:
        _unchanged[key] = version
    return changes


def _pack_anew(
    tables: Tables,
    changes: Changes | None,
    reflected: "Reflected",
    version: int,
    tell: Callable[[str], None],
) -> int:
    """Pack the buckets that changes touched, or all, from the ratings as they are; returns by how many users they grew.

    Rows that are gone are in no new file: only a bucket packed as a whole forgets them.
    """
    if changes is None:
        buckets = set(map(str, range(tables.buckets)))
        why = f"the log of 'ratings' does not reach back to version {reflected.ratings_version}, which they reflect"
    else:
        buckets = set(changes.appended | changes.rewritten)
        why = (
            f"rows of 'ratings' were deleted or replaced by {', '.join(changes.operations)}. Run repair_tables "
            "--dry-run: it tells whether the ledger has batches that the ratings lost"
        )
    where = c.among(c.BUCKET, buckets)
    before: int = tables.user_blocks.read().where(where).agg(_count_users()).collect()[0][0]
    # Not what the ledger says: a batch that a RESTORE took back may come again, and has to be new to the blocks then.
    _pack_buckets(tables, where, through_batch=newest_batch(tables.ratings.read_version(version)), version=version)
    after: int = tables.user_blocks.read().where(where).agg(_count_users()).collect()[0][0]
    log_event(log, "blocks_packed_anew", level=logging.WARNING, buckets=len(buckets), why=why)
    tell(f"user blocks of {len(buckets):,} buckets were packed anew from all their ratings: {why}.")
    pause_at("ingest:after_blocks")
    return max(after - before, 0)


def _merge_into_blocks(
    tables: Tables, old: DataFrame, files: DataFrame, packing: Packing, touched: set[str], where: str
) -> int:
    """Pack the blocks of the touched buckets anew, recent ratings with them; returns how many users are new."""
    before, after = Observation(), Observation()
    is_first = packing.after_batch == 0
    updated = update_blocks(None if is_first else old.observe(before, _count_users()), files, packing)
    has_recent = not is_first and len(touched) < tables.buckets and _has_recent(tables, tables.user_blocks.version())
    note = {**_note(packing), _BESIDE: int(has_recent)}
    tables.user_blocks.replace(updated.observe(after, _count_users()), where, note=note)
    new_users: int = after.get[c.N_USERS] - (0 if is_first else before.get[c.N_USERS])
    return new_users


def _find_room(
    tables: Tables, events: DataFrame, reflected: "Reflected", through_batch: int, touched: set[str]
) -> list[Row] | None:
    """Ratings and users of every bucket and layer when few new ratings come to large blocks, which leaves room beside.

    None where they go into the blocks. Events that are summed do: which of them the blocks have only their ids tell.
    """
    if reflected.batch == 0 or tables.recent_share == 0 or keeps_events(tables.ratings):
        return None
    if _is_small(tables, through_batch):
        return None
    sums = (sf.sum(name).alias(name) for name in (c.N_RATINGS, c.N_USERS))
    layers = tables.user_blocks.read().groupBy(c.BUCKET, c.LAYER).agg(*sums).collect()
    whole = {str(row[c.BUCKET]): row[c.N_RATINGS] for row in layers if row[c.LAYER] == WHOLE}
    n_whole = sum(whole.values())
    if n_whole < tables.recent_from or not touched <= whole.keys():
        return None
    n_beside = sum(row[c.N_RATINGS] for row in layers if row[c.LAYER] != WHOLE)
    if n_beside + events.count() > min(tables.recent_share * n_whole, MOST_RECENT):
        return None
    return layers


def _put_beside(
    tables: Tables,
    old: DataFrame,
    files: DataFrame,
    layers: list[Row],
    packing: Packing,
    touched: set[str],
    where: str,
) -> int | None:
    """Pack new ratings beside the blocks, whose ``layers`` have room; how many users are new, None if it cannot be."""
    gathered, after = gather_recent(old, files, packing).persist(), Observation()
    try:
        if has_conflicts(old, gathered):
            return None
        where = f"{where} AND {c.LAYER} IN ({RECENT}, {NEWCOMERS})"
        counted = gathered.observe(after, _count_users())
        tables.user_blocks.replace(counted, where, note={**_note(packing), _BESIDE: 1})
    finally:
        gathered.unpersist()
    newcomers = (row for row in layers if row[c.LAYER] == NEWCOMERS and str(row[c.BUCKET]) in touched)
    new_users: int = after.get[c.N_USERS] - sum(row[c.N_USERS] for row in newcomers)
    return new_users


def _is_small(tables: Tables, through_batch: int) -> bool:
    """Whether the ledger says, without a Spark job, that blocks are too small for ratings beside them."""
    if tables.ledger.version() == 0:  # nobody wrote it
        return False
    return 0 < read_ledger(tables).count_accepted(through=through_batch) < tables.recent_from


def repack(tables: Tables, buckets: Sequence[int]) -> None:
    """Pack the blocks of some buckets anew from the ratings, all of which the blocks must reflect."""
    where = c.among(c.BUCKET, buckets)
    through = find_reflected(tables).batch
    _pack_buckets(tables, where, through_batch=through, version=tables.ratings.version())


def _pack_buckets(tables: Tables, where: str, *, through_batch: int, version: int) -> None:
    items = read_items(tables.items, tables.items.version())
    packing = _make_packing(tables, items.ids, after_batch=0, through_batch=through_batch, version=version)
    packed = update_blocks(None, tables.ratings.read_files(tables.ratings.read_version(version).where(where)), packing)
    # Of other buckets; where there are none any more, reading costs a join more, once.
    beside = int(_has_recent(tables, tables.user_blocks.version()))
    tables.user_blocks.replace(packed, where, note={**_note(packing), _BESIDE: beside})


def _make_packing(
    tables: Tables, item_ids: Sequence[str], *, after_batch: int, through_batch: int, version: int
) -> Packing:
    return Packing(
        item_ids,
        after_batch=after_batch,
        through_batch=through_batch,
        ratings_version=version,
        users_per_block=tables.users_per_block,
        keeps_events=keeps_events(tables.ratings),
    )


def _count_users() -> Column:
    """Users of a DataFrame of blocks; recent ratings are of users that blocks have."""
    return sf.coalesce(sf.sum(sf.when(sf.col(c.LAYER) != RECENT, sf.col(c.N_USERS))), sf.lit(0)).alias(c.N_USERS)


def _note(packing: Packing) -> dict[str, int]:
    return {c.THROUGH_BATCH: packing.through_batch, c.RATINGS_VERSION: packing.ratings_version}


def read_user_blocks(tables: Tables, version: int | None = None) -> DataFrame:
    """The user blocks of one version of their table, recent ratings beside them where there are any.

    What `split_blocks`, `count_events` and `find_times` take.

    Args:
        tables: of the warehouse.
        version: of the table; None: the latest.
    """
    version = tables.user_blocks.version() if version is None else version
    blocks = tables.user_blocks.read_version(version)
    return assemble(blocks) if _has_recent(tables, version) else blocks


def _has_recent(tables: Tables, version: int) -> bool:
    note = tables.user_blocks.note(version)
    if note is not None:
        return note[_BESIDE] > 0
    return bool(tables.user_blocks.read_version(version).where(sf.col(c.LAYER) == RECENT).head(1))


@dataclass(frozen=True)
class Reflected:
    """What the user blocks reflect: all ratings through a batch, and the version of the ratings table that has them."""

    batch: int
    ratings_version: int


def find_reflected(tables: Tables) -> Reflected:
    """Read it from the note of the blocks' latest commit; from the blocks when something else wrote last."""
    if tables.user_blocks.version() == 0:  # made, and nothing written yet
        return Reflected(0, 0)
    note = tables.user_blocks.last_note()
    if note is not None:
        return Reflected(note[c.THROUGH_BATCH], note[c.RATINGS_VERSION])
    newest = tables.user_blocks.read().agg(sf.max(c.THROUGH_BATCH), sf.max(c.RATINGS_VERSION)).collect()[0]
    return Reflected(newest[0] or 0, newest[1] or 0)
