"""Packing rows of blocks and cutting them at a point in time; no JVM."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyspark.sql.pandas.types import to_arrow_schema

from recsys import columns as c
from recsys.blocks.codec import (
    SplitBlock,
    UserBlock,
    encode_row,
    iter_rows,
    iter_split_blocks,
    pack_items,
    pack_strings,
    pack_values,
    to_micros,
    unpack_strings,
    unpack_values,
)
from recsys.blocks.split import MICROS_PER_DAY, age_weights, split_row
from recsys.schemas import SPLIT_BLOCKS, USER_BLOCKS

NAN = np.nan


def user_block(histories: dict[str, list[tuple[int, float, int]]]) -> UserBlock:
    """A block of users with (item, value, time) each."""
    ratings = [rating for history in histories.values() for rating in history]
    return UserBlock(
        bucket=3,
        block=1,
        user_ids=list(histories),
        offsets=np.cumsum([0, *(len(history) for history in histories.values())]).astype(np.int64),
        items=pack_items(np.array([item for item, _, _ in ratings], np.int64)),
        values=np.array([value for _, value, _ in ratings], np.float32),
        times=np.array([time for _, _, time in ratings], np.int64),
        event_ids=pa.array([f"e{number}" for number in range(len(ratings))], pa.string()),
    )


def stored(block: UserBlock) -> pa.RecordBatch:
    """The block as a row of the table."""
    return encode_row(block.to_row() | {c.THROUGH_BATCH: 1, c.RATINGS_VERSION: 2}, to_arrow_schema(USER_BLOCKS))


@settings(deadline=None)  # the first example also pays for imports
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(0, 100_000), st.floats(width=32), st.integers(-(2**60), 2**60)), max_size=4),
        max_size=4,
    )
)
def test_packing_then_unpacking_is_the_identity(histories: dict[str, list[tuple[int, float, int]]]) -> None:
    block = user_block(histories)
    [row] = iter_rows(stored(block))
    read = UserBlock.from_row(row)
    assert (read.bucket, read.block, read.user_ids) == (block.bucket, block.block, block.user_ids)
    for name in ("offsets", "items", "values", "times"):
        np.testing.assert_array_equal(getattr(read, name), getattr(block, name))
    assert read.event_ids == block.event_ids


def test_values_take_a_byte_until_there_are_257_of_them() -> None:
    few = np.array([3.0, NAN, 0.5, 3.0], np.float32)
    dictionary, codes = pack_values(few)
    np.testing.assert_array_equal(dictionary, [0.5, 3.0, NAN])
    np.testing.assert_array_equal(codes, np.array([1, 2, 0, 1], np.uint8))
    many = np.arange(257, dtype=np.float32)
    dictionary, codes = pack_values(many)
    assert (len(dictionary), codes.dtype) == (0, np.float32)
    np.testing.assert_array_equal(unpack_values(dictionary.tobytes(), codes.tobytes()), many)


def test_positions_take_two_bytes_until_one_is_above_65535() -> None:
    assert pack_items(np.array([0, 65_535])).dtype == np.uint16
    assert pack_items(np.array([0, 65_536])).dtype == np.uint32


def test_micros_are_counted_from_1970_in_utc_whatever_the_zone() -> None:
    assert to_micros(datetime(1970, 1, 2, microsecond=5, tzinfo=UTC)) == 86_400_000_005
    assert to_micros(datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == -3_600_000_000
    with pytest.raises(ValueError, match="has no time zone"):
        to_micros(datetime(1970, 1, 1))


def split(block: UserBlock, **cut: Any) -> SplitBlock | None:
    """The split block, after a trip through arrow."""
    [row] = iter_rows(stored(block))
    out = split_row(row, **({"cutoff": None, "until": None, "as_of": None, "half_life_days": None} | cut))
    if out is None:
        return None
    [read] = iter_split_blocks(encode_row(out, to_arrow_schema(SPLIT_BLOCKS)))
    return read


def test_ratings_before_the_cutoff_are_observed_and_from_it_on_held_out() -> None:
    block = user_block(
        {
            "before": [(0, 5.0, 10), (7, 2.0, 19)],
            "both": [(1, 4.0, 10), (2, 3.0, 20)],
            "later": [(3, 1.0, 29)],
            "too late": [(4, 2.0, 30)],
            "withdrawn": [(5, NAN, 10), (6, NAN, 20)],
        }
    )
    cut = split(block, cutoff=20, until=30)
    assert cut is not None
    assert cut.user_ids == ["before", "both", "later"]
    np.testing.assert_array_equal(cut.offsets, [0, 2, 3, 3])
    np.testing.assert_array_equal(cut.items, [0, 7, 1])
    np.testing.assert_array_equal(cut.values, [5.0, 2.0, 4.0])
    np.testing.assert_array_equal(cut.weights, [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(cut.held_offsets, [0, 0, 1, 2])
    np.testing.assert_array_equal(cut.held_items, [2, 3])
    np.testing.assert_array_equal(cut.held_values, [3.0, 1.0])


def test_without_a_cutoff_every_current_rating_is_observed() -> None:
    cut = split(user_block({"a": [(0, 5.0, 10), (1, NAN, 11)], "b": [(2, NAN, 12)]}))
    assert cut is not None
    assert (cut.user_ids, cut.items.tolist(), cut.held_items.tolist()) == (["a"], [0], [])


def test_a_block_without_a_user_left_is_dropped() -> None:
    assert split(user_block({"a": [(0, NAN, 10)]})) is None
    assert split(user_block({"a": [(0, 3.0, 30)]}), cutoff=20, until=30) is None


def test_the_weight_of_a_rating_halves_with_every_half_life() -> None:
    block = user_block({"a": [(0, 1.0, 0), (1, 1.0, 2 * MICROS_PER_DAY), (2, 1.0, 4 * MICROS_PER_DAY)]})
    cut = split(block, as_of=4 * MICROS_PER_DAY, half_life_days=2.0)
    assert cut is not None
    np.testing.assert_allclose(cut.weights, [0.25, 0.5, 1.0])


def test_a_rating_younger_than_the_moment_weighs_one() -> None:
    np.testing.assert_array_equal(age_weights(np.array([MICROS_PER_DAY]), 0, 1.0), [1.0])


def test_columns_that_were_not_read_are_empty() -> None:
    [row] = iter_rows(stored(user_block({"a": [(0, 5.0, 10)], "b": [(1, 3.0, 30)]})))
    out: dict[str, Any] | None = split_row(row, cutoff=20, until=None, as_of=None, half_life_days=None)
    assert out is not None
    names = (c.BUCKET, c.BLOCK, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS)
    read = SplitBlock.from_row({name: out[name] for name in names})
    held: NDArray[Any] = read.held_items
    assert (read.user_ids, read.held_offsets.tolist(), held.tolist()) == ([], [0, 0, 0], [])
    assert read.items.tolist() == [0]


@pytest.mark.parametrize(("strings", "size"), [([], 0), (["", ""], 0), (["", "é"], 12 + 2)])
def test_strings_that_are_all_empty_take_no_bytes(strings: list[str], size: int) -> None:
    packed = pack_strings(pa.array(["x", *strings], pa.string())[1:])
    assert len(packed) == size
    assert unpack_strings(packed, len(strings)).to_pylist() == strings
