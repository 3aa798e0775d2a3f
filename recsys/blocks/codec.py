"""How user blocks are packed into rows and read again; no Spark here.

Binary columns are little-endian NumPy arrays (recsys/schemas.py). About 3 bytes a rating travel in a pass over split
blocks: item positions in 2 or 4 bytes and values as 1-byte codes where a block has few distinct ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from recsys import columns as c

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES: Final = np.iinfo(np.int64)
CODES: Final = 256  # distinct values that one byte can name

# Layers of a bucket. Recent ratings are kept beside the blocks and laid over them when they are read
# (recsys.blocks.recent), so that a few new ratings do not rewrite all old ones.
WHOLE: Final = 0  # a block as it was last packed
RECENT: Final = 1  # newer ratings of users of the whole block of the same number
NEWCOMERS: Final = 2  # users of no whole block: blocks of their own, numbered after the whole ones


def to_micros(moment: datetime) -> int:
    """Microseconds from 1970-01-01 UTC to ``moment``, the unit of all times in blocks.

    Raises:
        ValueError: ``moment`` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone. Give one, for example timezone.utc.")
    return (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True)
class Events:
    """Rating events of one bucket, in any order and with repetitions (E events).

    Attributes:
        user_ids: arrow strings, among which are all users of the events.
        users: int64 (E,), each event's place in ``user_ids``.
        items: int64 (E,), positions.
        values: float32 (E,); NaN withdraws the rating.
        times: int64 (E,), microseconds since 1970 UTC.
        event_ids: arrow strings (E,).
    """

    user_ids: pa.StringArray
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float32]
    times: NDArray[np.int64]
    event_ids: pa.StringArray


@dataclass(frozen=True)
class UserBlock:
    """All current ratings of some users of one bucket, withdrawn ones among them (U users, N ratings).

    Where events are summed, an item is there once for each of them, ascending by event id.

    Attributes:
        bucket: of the users' ids.
        block: number within the bucket, from 0.
        user_ids: U ids, ascending by UTF-8 bytes.
        offsets: int64 (U + 1,); user u has ratings ``offsets[u]`` to ``offsets[u + 1]``.
        items: uint16 or uint32 (N,), positions; ascending within a user.
        values: float32 (N,); NaN where the rating was withdrawn.
        times: int64 (N,), microseconds since 1970 UTC.
        event_ids: arrow strings (N,); a list of str would cost more memory than all other columns together.
        layer: one of `WHOLE`, `RECENT` and `NEWCOMERS`.
    """

    bucket: int
    block: int
    user_ids: list[str]
    offsets: NDArray[np.int64]
    items: NDArray[np.uint16] | NDArray[np.uint32]
    values: NDArray[np.float32]
    times: NDArray[np.int64]
    event_ids: pa.StringArray
    layer: int = WHOLE

    def to_row(self) -> dict[str, Any]:
        """The row of ``user_blocks``, without its two version columns."""
        dictionary, values = pack_values(self.values)
        return {
            c.BUCKET: self.bucket,
            c.BLOCK: self.block,
            c.LAYER: self.layer,
            c.N_USERS: len(self.user_ids),
            c.N_RATINGS: len(self.values),
            c.USER_IDS: self.user_ids,
            c.OFFSETS: self.offsets.tobytes(),
            c.ITEMS: pack_items(self.items).tobytes(),
            c.VALUES: values.tobytes(),
            c.DICTIONARY: dictionary.tobytes(),
            c.TIMES: self.times.tobytes(),
            c.EVENT_IDS: pack_strings(self.event_ids),
            c.OLDEST: int(self.times.min(initial=_TIMES.max)),
            c.NEWEST: int(self.times.max(initial=_TIMES.min)),
        }

    def of_users(self, chosen: NDArray[np.bool_], *, block: int, layer: int) -> "UserBlock":
        """The block of some of these users.

        Args:
            chosen: (U,), which.
            block: its number.
            layer: its layer.
        """
        counts = np.diff(self.offsets)
        ratings = np.repeat(chosen, counts)
        return UserBlock(
            bucket=self.bucket,
            block=block,
            user_ids=[self.user_ids[u] for u in np.flatnonzero(chosen)],
            offsets=make_offsets(counts[chosen]),
            items=self.items[ratings],
            values=self.values[ratings],
            times=self.times[ratings],
            event_ids=self.event_ids.filter(pa.array(ratings)),
            layer=layer,
        )

    def events(self) -> Events:
        """The ratings as the events they came from."""
        return Events(
            user_ids=pa.array(self.user_ids, pa.string()),
            users=np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets)),
            items=self.items.astype(np.int64),
            values=self.values,
            times=self.times,
            event_ids=self.event_ids,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "UserBlock":
        """Read a row of ``user_blocks``; binary columns as ``bytes``, arrow buffers or memory views."""
        offsets = read_array(row[c.OFFSETS], np.int64)
        return cls(
            bucket=row[c.BUCKET],
            block=row[c.BLOCK],
            user_ids=_read_strings(row[c.USER_IDS]),
            offsets=offsets,
            items=read_items(row[c.ITEMS], int(offsets[-1])),
            values=unpack_values(row[c.DICTIONARY], row[c.VALUES]),
            times=read_array(row[c.TIMES], np.int64),
            event_ids=unpack_strings(row[c.EVENT_IDS], int(offsets[-1])),
            layer=row[c.LAYER],
        )


@dataclass(frozen=True)
class SplitBlock:
    """What a fit or a judgement sees of one block: observed ratings and, beside them, the held-out ones.

    Attributes:
        bucket: of the users' ids.
        block: number within the bucket.
        user_ids: U ids; empty when the column was not read.
        offsets: int64 (U + 1,) into the observed ratings.
        items: int32 (N,), positions; one type for all blocks, so that kernels are compiled once.
        values: float32 (N,).
        weights: float32 (N,), weight of each rating by its age; ones when there is none.
        held_offsets: int64 (U + 1,) into the held-out ratings; zeros when the column was not read.
        held_items: int32 (M,).
        held_values: float32 (M,).
    """

    bucket: int
    block: int
    user_ids: list[str]
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float32]
    weights: NDArray[np.float32]
    held_offsets: NDArray[np.int64]
    held_items: NDArray[np.int32]
    held_values: NDArray[np.float32]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "SplitBlock":
        """Read a row of split blocks; user ids and the held columns may be absent."""
        offsets = read_array(row[c.OFFSETS], np.int64)
        n = int(offsets[-1])
        weights = read_array(row[c.WEIGHTS], np.float32)
        held_offsets = read_array(row[c.HELD_OFFSETS], np.int64) if c.HELD_OFFSETS in row else np.zeros_like(offsets)
        m = int(held_offsets[-1])
        return cls(
            bucket=row[c.BUCKET],
            block=row[c.BLOCK],
            user_ids=_read_strings(row.get(c.USER_IDS, ())),
            offsets=offsets,
            items=read_items(row[c.ITEMS], n).astype(np.int32),
            values=unpack_values(row[c.DICTIONARY], row[c.VALUES]),
            weights=weights if len(weights) == n else np.ones(n, np.float32),
            held_offsets=held_offsets,
            held_items=read_items(row[c.HELD_ITEMS], m).astype(np.int32) if m else np.empty(0, np.int32),
            held_values=read_array(row[c.HELD_VALUES], np.float32) if m else np.empty(0, np.float32),
        )


@dataclass(frozen=True)
class CodedRatings:
    """The observed ratings of a split block as they are packed: what a pass over all of them reads.

    Attributes:
        offsets: int64 (U + 1,); user u has ratings ``offsets[u]`` to ``offsets[u + 1]``.
        items: uint16 or uint32 (N,), positions.
        codes: uint8 (N,), each rating's place in ``values``; None: ``values`` are those of the ratings one by one.
        values: float32, (D,) the distinct values, or (N,).
        weights: float32 (N,), weight of each rating by its age; None when all weigh 1.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.uint16] | NDArray[np.uint32]
    codes: NDArray[np.uint8] | None
    values: NDArray[np.float32]
    weights: NDArray[np.float32] | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "CodedRatings":
        """Read a row of split blocks; nothing is decoded, the packed bytes are copied once."""
        offsets = read_array(row[c.OFFSETS], np.int64)
        coded = len(row[c.DICTIONARY]) > 0
        return cls(
            offsets=offsets,
            items=read_items(row[c.ITEMS], int(offsets[-1])),
            codes=read_array(row[c.VALUES], np.uint8) if coded else None,
            values=read_array(row[c.DICTIONARY] if coded else row[c.VALUES], np.float32),
            weights=read_array(row[c.WEIGHTS], np.float32) if len(row[c.WEIGHTS]) else None,
        )

    def decoded(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Values and weights of the ratings one by one, float32 (N,) each."""
        values = self.values if self.codes is None else self.values[self.codes]
        return values, np.ones(len(values), np.float32) if self.weights is None else self.weights


def iter_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of an arrow batch without copying binary columns or lists of strings."""
    readers = [_column_reader(column) for column in batch.columns]
    for i in range(batch.num_rows):
        yield {name: read(i) for name, read in zip(batch.schema.names, readers, strict=True)}


def gather_batches(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches together until there are ``rows``: work on few rows is slow, and a session may ask for few at a time."""
    gathered: list[pa.RecordBatch] = []
    n = 0
    for batch in batches:
        gathered.append(batch)
        n += batch.num_rows
        if n >= rows:
            yield gathered
            gathered, n = [], 0
    if n:
        yield gathered


def iter_split_blocks(batch: pa.RecordBatch) -> Iterator[SplitBlock]:
    """Decode the split blocks of an arrow batch, only the columns that are there."""
    for row in iter_rows(batch):
        yield SplitBlock.from_row(row)


def encode_row(row: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """A batch of one row in the columns and types of ``schema``; lists of strings may be arrow arrays."""
    columns = []
    for field in schema:
        value = row[field.name]
        if isinstance(value, pa.Array):
            columns.append(pa.ListArray.from_arrays([0, len(value)], value).cast(field.type))
        else:
            columns.append(pa.array([value], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def make_offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of U users' ratings begin, and where the last user's end: int64 (U + 1,) from their counts."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


def pack_items(positions: NDArray[Any]) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Item positions in the smallest of the two types that holds them all."""
    if len(positions) == 0 or int(positions.max()) <= np.iinfo(np.uint16).max:
        return positions.astype(np.uint16)
    return positions.astype(np.uint32)


def pack_values(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8] | NDArray[np.float32]]:
    """``(dictionary, codes)`` when there are at most 256 distinct values, else an empty dictionary and the values.

    The dictionary is ascending, NaN last.
    """
    dictionary, codes = np.unique(values, return_inverse=True)
    if len(dictionary) <= CODES:
        return dictionary, codes.astype(np.uint8)
    return np.empty(0, np.float32), values


def unpack_values(dictionary: Any, values: Any) -> NDArray[np.float32]:
    """The float32 values that ``pack_values`` packed; both arguments as bytes or buffers."""
    known = read_array(dictionary, np.float32)
    return known[read_array(values, np.uint8)] if len(known) else read_array(values, np.float32)


def pack_strings(strings: pa.StringArray) -> bytes:
    """Where each string begins in what follows, int32, and where the last ends; then their UTF-8 bytes.

    Nothing where all of them are empty.
    """
    _, offsets, data = strings.buffers()
    if len(strings) == 0:
        return b""
    begins = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    if data is None or begins[0] == begins[-1]:
        return b""
    return b"".join(((begins - begins[0]).tobytes(), memoryview(data)[begins[0] : begins[-1]]))


def unpack_strings(data: Any, n: int) -> pa.StringArray:
    """The n strings that ``pack_strings`` packed; ``data`` as bytes or a buffer."""
    packed = pa.py_buffer(data)
    size = 4 * (n + 1)
    if packed.size == 0:
        return pa.repeat("", n)
    return pa.StringArray.from_buffers(n, packed.slice(0, size), packed.slice(size))


def read_array(data: Any, dtype: DTypeLike) -> NDArray[Any]:
    """The array of a binary column, given as bytes or a buffer.

    A copy: within an arrow buffer a row may start at any byte, and compiled kernels want aligned arrays.
    """
    return np.frombuffer(data, dtype).copy() if len(data) else np.empty(0, dtype)


def read_items(data: Any, n: int) -> NDArray[Any]:
    """The n item positions that ``pack_items`` packed, in the type they were packed in."""
    return read_array(data, np.uint16 if len(data) == 2 * n else np.uint32)


def _column_reader(column: pa.Array) -> Any:
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return lambda i: column[i].as_buffer()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return lambda i: column[i].values
    return lambda i: column[i].as_py()


def _read_strings(data: Any) -> list[str]:
    return data.to_pylist() if isinstance(data, pa.Array) else list(data)
