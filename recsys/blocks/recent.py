"""Recent ratings beside the blocks: kept in small rows, laid over the whole blocks when these are read.

A block has 11 bytes a rating, and 4 and its length for each event id where ratings come with ids, and hardly any block
has no user with something new: to merge 1 % of new ratings into all blocks costs more than a warm fit (four times as
much with ids of 16 characters). So the new ones are packed alone, under the number of the block their users are in; a
fit reads 11 bytes a rating and lays them over as it cuts. What it sees is what it would see of blocks packed anew.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import to_arrow_schema

from recsys import columns as c
from recsys.blocks.codec import (
    CODES,
    NEWCOMERS,
    RECENT,
    WHOLE,
    UserBlock,
    encode_row,
    iter_rows,
    make_offsets,
    read_array,
    read_items,
)
from recsys.blocks.pack import merge
from recsys.blocks.update import Packing, read_events
from recsys.schemas import USER_BLOCKS

RATING_COLUMNS: Final = (c.USER_IDS, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.TIMES)
_PLACE: Final = [c.BUCKET, c.BLOCK]
_ALL_USERS: Final = 2**31 - 1


@dataclass(frozen=True)
class Ratings:
    """The ratings of one block as they are packed, withdrawn ones among them (U users, N ratings).

    Attributes:
        user_ids: arrow strings (U,); none when the column was not read.
        offsets: int64 (U + 1,); empty when the column was not read.
        items: uint16 or uint32 (N,), positions; empty when the column was not read.
        dictionary: float32, the distinct values ascending, NaN (withdrawn) last; empty where values are not coded.
        values: uint8 (N,), places in the dictionary; or float32 (N,), the values.
        times: int64 (N,), microseconds since 1970 UTC.
    """

    user_ids: pa.StringArray
    offsets: NDArray[np.int64]
    items: NDArray[Any]
    dictionary: NDArray[np.float32]
    values: NDArray[Any]
    times: NDArray[np.int64]

    @property
    def is_current(self) -> NDArray[np.bool_]:
        """Which are not withdrawn."""
        is_value = ~np.isnan(self.dictionary if len(self.dictionary) else self.values)
        current: NDArray[np.bool_] = is_value[self.values] if len(self.dictionary) else is_value
        return current

    def plain_values(self) -> NDArray[np.float32]:
        """The values one by one, NaN where withdrawn."""
        return self.dictionary[self.values] if len(self.dictionary) else self.values


def assemble(user_blocks: DataFrame) -> DataFrame:
    """Put the recent ratings of each whole block beside it, in one column; for tables that have any.

    Args:
        user_blocks: rows of ``user_blocks`` of all layers.

    Returns:
        The rows of the other layers, with the column ``recent``: a struct of `RATING_COLUMNS`, or null. Recent ratings
        go to every executor whole: nothing of the blocks moves.
    """
    recent = user_blocks.where(sf.col(c.LAYER) == RECENT).select(*_PLACE, sf.struct(*RATING_COLUMNS).alias(c.RECENT))
    return user_blocks.where(sf.col(c.LAYER) != RECENT).join(sf.broadcast(recent), _PLACE, "left")


def select_ratings(user_blocks: DataFrame, *columns: str) -> DataFrame:
    """These columns, and where recent ratings are to be laid over the blocks all that takes.

    Args:
        user_blocks: rows of ``user_blocks`` without recent ones, or assembled.
        columns: what is wanted of each row, for `read_ratings`.
    """
    if c.RECENT not in user_blocks.columns:
        return user_blocks.select(*columns)
    return user_blocks.select(*dict.fromkeys((*columns, *RATING_COLUMNS, c.RECENT)))


def read_ratings(row: Mapping[str, Any]) -> Ratings:
    """The ratings of a row from `select_ratings`, recent ones laid over it."""
    whole = _decode(row)
    return whole if row.get(c.RECENT) is None else _lay_over(whole, _decode(row[c.RECENT]))


def gather_recent(blocks: DataFrame, files: DataFrame, packing: Packing) -> DataFrame:
    """Pack new ratings, and what is beside the blocks already, without touching the whole blocks.

    Args:
        blocks: rows of ``user_blocks``, of all layers of the buckets that ``files`` are of; each has a whole block.
        files: bucket and content of Parquet files of the ratings table, in any order.
        packing: how; events to be summed cannot be packed so.

    Returns:
        Rows of ``recsys.schemas.USER_BLOCKS``, layers `RECENT` and `NEWCOMERS`, of the buckets of ``files``.
    """
    schema = to_arrow_schema(USER_BLOCKS)
    positions = pa.array(packing.item_ids, pa.string())
    stamp = {c.THROUGH_BATCH: packing.through_batch, c.RATINGS_VERSION: packing.ratings_version}

    def pack_bucket(old: pa.Table, new: pa.Table) -> pa.Table:
        rows = [row for batch in old.to_batches() for row in iter_rows(batch)]
        sources = [UserBlock.from_row(row).events() for row in rows if row[c.LAYER] != WHOLE]
        sources += [
            read_events(content.as_buffer(), positions, packing.after_batch) for content in new.column(c.CONTENT)
        ]
        bucket = int(old.column(c.BUCKET)[0].as_py())
        packed = merge(bucket, sources, users_per_block=_ALL_USERS)
        whole = {row[c.BLOCK]: row[c.USER_IDS] for row in rows if row[c.LAYER] == WHOLE}
        kept = [
            found for block in packed for found in place_users(block, whole, users_per_block=packing.users_per_block)
        ]
        return pa.Table.from_batches([encode_row(block.to_row() | stamp, schema) for block in kept], schema)

    is_whole = sf.col(c.LAYER) == WHOLE
    ids = blocks.where(is_whole).select(
        *(name if name in (*_PLACE, c.LAYER, c.USER_IDS) else _nothing(name) for name in USER_BLOCKS.names)
    )
    old = ids.unionByName(blocks.where(~is_whole).select(*USER_BLOCKS.names))
    new_files = files.select(c.BUCKET, c.CONTENT).groupBy(c.BUCKET)
    return old.groupBy(c.BUCKET).cogroup(new_files).applyInArrow(pack_bucket, USER_BLOCKS)


def place_users(recent: UserBlock, whole: Mapping[int, pa.StringArray], *, users_per_block: int) -> Iterator[UserBlock]:
    """Cut the recent ratings of a bucket by the whole block that has the user; the other users get blocks of their own.

    Args:
        recent: of all users of the bucket.
        whole: the ids of each whole block.
        users_per_block: users that a block of others has at most.
    """
    ids = pa.array(recent.user_ids, pa.string())
    is_other = np.ones(len(ids), np.bool_)
    for number in sorted(whole):
        here = pc.is_in(ids, value_set=whole[number]).to_numpy(zero_copy_only=False)
        if here.any():
            is_other &= ~here
            yield recent.of_users(here, block=number, layer=RECENT)
    others = np.flatnonzero(is_other)
    for count, first in enumerate(range(0, len(others), users_per_block)):
        chosen = np.zeros(len(ids), np.bool_)
        chosen[others[first : first + users_per_block]] = True
        yield recent.of_users(chosen, block=max(whole) + 1 + count, layer=NEWCOMERS)


def has_conflicts(blocks: DataFrame, gathered: DataFrame) -> bool:
    """Whether a recent rating has the user, item and time of one in a whole block, but another value.

    Event ids decide between the two, and the passes over blocks do not read them: such blocks have to be packed anew.
    Blocks whose newest rating is older than all recent ones are not read for it (one small Spark job, or two).

    Args:
        blocks: rows of ``user_blocks``, of the buckets that ``gathered`` is of.
        gathered: from `gather_recent`.
    """
    whole = blocks.where(sf.col(c.LAYER) == WHOLE)
    recent = gathered.where(sf.col(c.LAYER) == RECENT)
    late = recent.select(*_PLACE, c.OLDEST).join(whole.select(*_PLACE, c.NEWEST), _PLACE)
    if not late.where(sf.col(c.OLDEST) <= sf.col(c.NEWEST)).head(1):
        return False

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            found = [row[c.BLOCK] for row in iter_rows(batch) if row[c.RECENT] is not None and is_contested(row)]
            yield pa.RecordBatch.from_arrays([pa.array(found, pa.int32())], [c.BLOCK])

    assembled = select_ratings(assemble(whole.unionByName(recent)), c.BLOCK)
    return bool(assembled.mapInArrow(find, f"{c.BLOCK} INT").head(1))


def _nothing(name: str) -> Any:
    kind = USER_BLOCKS[name].dataType
    return (sf.lit(b"") if kind.typeName() == "binary" else sf.lit(0).cast(kind)).alias(name)


def _decode(row: Any) -> Ratings:
    fields = row if isinstance(row, Mapping) else row.asDict()
    dictionary = read_array(row[c.DICTIONARY], np.float32)
    values = read_array(row[c.VALUES], np.uint8 if len(dictionary) else np.float32)
    return Ratings(
        user_ids=_as_strings(row[c.USER_IDS] if c.USER_IDS in fields else ()),
        offsets=read_array(row[c.OFFSETS] if c.OFFSETS in fields else b"", np.int64),
        items=read_items(row[c.ITEMS], len(values)) if c.ITEMS in fields else np.empty(0, np.uint16),
        dictionary=dictionary,
        values=values,
        times=read_array(row[c.TIMES], np.int64),
    )


def _as_strings(data: Any) -> pa.StringArray:
    return data.cast(pa.string()) if isinstance(data, pa.Array) else pa.array(data, pa.string())


@dataclass(frozen=True)
class _Match:
    """Where R recent ratings belong in a whole block."""

    users: NDArray[np.int64]  # (R,), each one's user's place in the block
    places: NDArray[np.int64]  # (R,), of the same pair, or before which the rating belongs
    is_there: NDArray[np.bool_]  # (R,), whether the block has the pair


def _match(whole: Ratings, recent: Ratings) -> _Match:
    users = pc.index_in(recent.user_ids, value_set=whole.user_ids).to_numpy()
    users = np.repeat(users, np.diff(recent.offsets)).astype(np.int64)
    ends = whole.offsets[users + 1]
    places = _find_places(whole.items, whole.offsets[users], ends, recent.items)
    is_there = places < ends
    is_there[is_there] = whole.items[places[is_there]] == recent.items[is_there]
    return _Match(users, places, is_there)


def _find_places(
    items: NDArray[Any], starts: NDArray[np.int64], ends: NDArray[np.int64], wanted: NDArray[Any]
) -> NDArray[np.int64]:
    """The first place in ``items[start:end]``, ascending, that is not below the wanted one; R searches at once.

    One `np.searchsorted` would want a key of 8 bytes for each of a block's ratings, of which recent ones are 1 %.
    """
    low, high = starts.copy(), ends.copy()
    while (is_open := low < high).any():
        middle = (low + high) // 2
        is_below = np.zeros_like(is_open)
        is_below[is_open] = items[middle[is_open]] < wanted[is_open]
        low = np.where(is_below, middle + 1, low)
        high = np.where(is_open & ~is_below, middle, high)
    return low


def _lay_over(whole: Ratings, recent: Ratings) -> Ratings:
    """The ratings of both: of a pair that both have, the newer; the recent one of two with one time."""
    match = _match(whole, recent)
    both, whole_values, recent_values = _share_dictionary(whole, recent)
    there = np.flatnonzero(match.is_there)
    wins = there[recent.times[there] >= whole.times[match.places[there]]]
    times = whole.times.copy()
    whole_values[match.places[wins]] = recent_values[wins]
    times[match.places[wins]] = recent.times[wins]
    new = ~match.is_there
    before = match.places[new]
    added = np.bincount(match.users[new], minlength=len(whole.offsets) - 1)
    kind = np.result_type(whole.items, recent.items)
    return Ratings(
        user_ids=whole.user_ids,
        offsets=whole.offsets + make_offsets(added),
        items=np.insert(whole.items.astype(kind), before, recent.items[new]),
        dictionary=both,
        values=np.insert(whole_values, before, recent_values[new]),
        times=np.insert(times, before, recent.times[new]),
    )


def _share_dictionary(whole: Ratings, recent: Ratings) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    """One dictionary for both and their codes in it, or none and the values; none of the arrays is an argument's."""
    if len(whole.dictionary) and len(recent.dictionary):
        both = np.unique(np.concatenate((whole.dictionary, recent.dictionary)))  # NaN last, and once
        if len(both) <= CODES:
            coded = [np.searchsorted(both, part.dictionary).astype(np.uint8)[part.values] for part in (whole, recent)]
            return both, coded[0], coded[1]
    return np.empty(0, np.float32), whole.plain_values().copy(), recent.plain_values()


def is_contested(row: Mapping[str, Any]) -> bool:
    """Whether a row of a whole block with recent ratings has a pair at one time with two values."""
    whole, recent = _decode(row), _decode(row[c.RECENT])
    match = _match(whole, recent)
    there = np.flatnonzero(match.is_there)
    old = match.places[there]
    same_time = recent.times[there] == whole.times[old]
    same_value = recent.plain_values()[there].view(np.int32) == whole.plain_values()[old].view(np.int32)
    return bool((same_time & ~same_value).any())
