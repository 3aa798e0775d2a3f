"""recsys.ml without a JVM: parameters, packing, the merge of lists."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType

from recsys import columns as c
from recsys.blocks.codec import SplitBlock, iter_split_blocks
from recsys.errors import DataRejectedError
from recsys.ml import ALS, ItemSide, _merge_lists, _pack_part
from recsys.schemas import SPLIT_BLOCKS

# The table of Spark's documentation.
SPARKS_DEFAULTS = {
    "rank": 10,
    "maxIter": 10,
    "regParam": 0.1,
    "numUserBlocks": 10,
    "numItemBlocks": 10,
    "implicitPrefs": False,
    "alpha": 1.0,
    "userCol": "user",
    "itemCol": "item",
    "ratingCol": "rating",
    "predictionCol": "prediction",
    "nonnegative": False,
    "checkpointInterval": 10,
    "intermediateStorageLevel": "MEMORY_AND_DISK",
    "finalStorageLevel": "MEMORY_AND_DISK",
    "coldStartStrategy": "nan",
    "blockSize": 4096,
}


def test_parameters_and_defaults_are_sparks_and_three_more() -> None:
    als = ALS()
    ours = {param.name for param in als.params}
    assert ours == {*SPARKS_DEFAULTS, "seed", "initialModel", "regScaling", "biases"}
    for name, value in SPARKS_DEFAULTS.items():
        assert als.getOrDefault(name) == value
        assert getattr(als, f"get{name[0].upper()}{name[1:]}")() == value


@pytest.mark.parametrize(
    ("name", "value"), [*SPARKS_DEFAULTS.items(), ("seed", 7), ("regScaling", 0.5), ("biases", True)]
)
def test_every_parameter_has_a_setter_that_returns_the_estimator(name: str, value: Any) -> None:
    als = ALS()
    suffix = f"{name[0].upper()}{name[1:]}"
    assert getattr(als, f"set{suffix}")(value) is als
    assert als.isSet(name)
    assert getattr(als, f"get{suffix}")() == value
    assert f"{name}: " in als.explainParams()


def test_a_copy_has_its_own_parameters() -> None:
    als = ALS(rank=3, progress=print)
    copied = als.copy({als.regParam: 0.7})
    assert (als.getRegParam(), copied.getRegParam(), copied.getRank()) == (0.1, 0.7, 3)
    assert copied.uid == als.uid
    assert copied.getProgress() is print


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="no parameter lambda"):
        ALS(**{"lambda": 0.1})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonnegative": True}, "nonnegative=True is not supported.*pyspark.ml.recommendation.ALS"),
        ({"rank": 0}, "rank=0 must be from 1"),
        ({"maxIter": -1}, "maxIter=-1"),
        ({"maxIter": 0}, "maxIter=0 needs an initialModel"),
        ({"regParam": -0.1}, "regParam=-0.1"),
        ({"alpha": 0.0}, "alpha=0.0 must be above 0"),
        ({"regScaling": 1.5}, "regScaling=1.5"),
        ({"biases": True, "implicitPrefs": True}, "biases=True is for explicit"),
        ({"coldStartStrategy": "guess"}, "coldStartStrategy='guess' must be 'nan' or 'drop'"),
        ({"intermediateStorageLevel": "NONE"}, "'NONE' is not allowed"),
        ({"finalStorageLevel": "MEMORY"}, "finalStorageLevel='MEMORY' is no storage level"),
        ({"blockSize": 0}, "blockSize=0"),
    ],
)
def test_a_fit_refuses_before_it_reads_data(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ALS(**options).fit(None)


@pytest.mark.parametrize("value", ["lots", None, "0.5"])
def test_reg_scaling_is_a_word_or_a_number(value: Any) -> None:
    als = ALS()
    if value is None:
        assert als.getRegScaling() == "count"
    else:
        with pytest.raises(TypeError, match=f"'{value}' is neither 'count' nor 'flat'"):
            als.setRegScaling(value)


RATING = st.tuples(st.sampled_from("üab\U0001f600c"), st.sampled_from("xyz"), st.integers(-2, 2))


def pack(ratings: list[tuple[str, str, int]], users_per_block: int) -> list[SplitBlock]:
    schema = to_arrow_schema(SPLIT_BLOCKS)
    users, items, values = zip(*ratings, strict=True)
    columns = {c.USER_ID: pa.array(users), c.ITEM_ID: pa.array(items), c.VALUE: pa.array(values, pa.float32())}
    batches = pa.table(columns).to_batches(max_chunksize=3)
    shared: Any = SimpleNamespace(value=pa.array(["x", "y", "z"]))
    packed = _pack_part(iter(batches), shared=shared, users_per_block=users_per_block, schema=schema)
    return [block for batch in packed for block in iter_split_blocks(batch)]


@given(st.lists(RATING, min_size=1, max_size=40), st.integers(1, 3), st.randoms())
def test_packing_loses_nothing_and_does_not_depend_on_the_order(ratings: Any, users: int, random: Any) -> None:
    blocks = pack(ratings, users)
    rows = [
        (user, "xyz"[block.items[j]], int(block.values[j]))
        for block in blocks
        for user, (first, last) in zip(block.user_ids, pairwise(block.offsets), strict=True)
        for j in range(first, last)
    ]
    # Repeated pairs stay, each a term of its own.
    assert rows == sorted(ratings, key=lambda rating: (rating[0].encode(), *rating[1:]))
    assert all(len(block.user_ids) <= users for block in blocks)
    shuffled = list(ratings)
    random.shuffle(shuffled)
    for one, other in zip(blocks, pack(shuffled, users), strict=True):
        assert one.user_ids == other.user_ids
        assert one.items.tobytes() == other.items.tobytes()
        assert one.values.tobytes() == other.values.tobytes()


def test_an_item_that_appears_between_two_reads_of_the_data_is_told() -> None:
    with pytest.raises(DataRejectedError, match=r"1 ratings name an item.*Cache or checkpoint"):
        pack([("a", "x", 1), ("a", "new", 1)], 2)


def test_lists_of_two_partitions_are_merged_best_first() -> None:
    entry = StructType([StructField("user", StringType()), StructField("rating", FloatType())])
    schema = to_arrow_schema(StructType([StructField("i", StringType()), StructField("r", ArrayType(entry))]))
    items = ItemSide(pa.array(["x", "y"]), np.zeros((2, 1), np.float32), np.zeros(2, np.float32), 0.0, False)
    wanted = np.array([1, 0], np.int32).tobytes()
    second = {"range": 0, "part": 1, "position": wanted, "user_ids": ["c", None]}
    second["score"] = np.array([[2.0], [-np.inf]], np.float32).tobytes()
    first = {"range": 0, "part": 0, "position": wanted, "user_ids": ["a", "b", "a", None]}
    first["score"] = np.array([[3.0, 1.0], [2.5, -np.inf]], np.float32).tobytes()
    merged = _merge_lists(pa.Table.from_pylist([second, first]), items, 2, schema)
    assert merged.to_pylist() == [
        {"i": "y", "r": [{"user": "a", "rating": 3.0}, {"user": "c", "rating": 2.0}]},
        {"i": "x", "r": [{"user": "a", "rating": 2.5}]},
    ]
