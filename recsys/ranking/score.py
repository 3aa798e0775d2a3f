"""Lists for all users: one pass over the split blocks, each user's list computed where his ratings are."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema

from recsys import columns as c
from recsys.blocks.codec import SplitBlock, iter_split_blocks
from recsys.ranking.explain import explain_lists
from recsys.ranking.model import ListModel
from recsys.ranking.topn import Scorer, TopN, list_users
from recsys.schemas import RECOMMENDATIONS

TRENDING: Final = "trending"

_READ: Final = (c.BUCKET, c.BLOCK, c.USER_IDS, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS)


def score_blocks(split: DataFrame, model: ListModel, available: NDArray[np.bool_] | None, generation: int) -> DataFrame:
    """List every user's best items that he has not rated, with the ratings that explain each.

    A reason is ``rated A and B``, the ratings that add most to the factors' part of the item's score, or ``trending``
    where none adds anything. Lists are shorter than ``list_length`` only where the available catalogue is.

    Args:
        split: rows of ``SPLIT_BLOCKS``, all ratings observed, weighted by age if the model was fitted so.
        model: knows every item in ``split``.
        available: bool (I,), items that may be listed; None: all.
        generation: written into each row.

    Returns:
        Rows of ``RECOMMENDATIONS``, one a user.
    """
    shipped = split.sparkSession.sparkContext.broadcast((model, model.scorer(available)))
    task = partial(_score_batches, shipped=shipped, generation=generation)
    return split.select(*_READ).mapInArrow(task, RECOMMENDATIONS)


def fallback_row(
    model: ListModel, available: NDArray[np.bool_] | None, generation: int
) -> tuple[int, str, list[tuple[str, float, str]]]:
    """The row of ``RECOMMENDATIONS`` that serves users nobody knows: what trends."""
    listed = model.list_fallback(available)
    return generation, c.FALLBACK_USER_ID, [(item_id, score, TRENDING) for item_id, score in listed]


def _score_batches(
    batches: Iterator[pa.RecordBatch], *, shipped: "Broadcast[tuple[ListModel, Scorer]]", generation: int
) -> Iterator[pa.RecordBatch]:
    model, scorer = shipped.value
    item_ids = pa.array(model.item_ids, pa.string())
    schema = to_arrow_schema(RECOMMENDATIONS)
    for batch in batches:
        for block in iter_split_blocks(batch):
            positions, scores, because = _list_block(block, model, scorer)
            is_listed = positions >= 0
            columns = [
                item_ids.take(pa.array(positions[is_listed])),
                pa.array(scores[is_listed]),
                _word_reasons(because[is_listed], item_ids),
            ]
            offsets = np.concatenate((np.zeros(1, np.int32), np.cumsum(is_listed.sum(axis=1), dtype=np.int32)))
            entries = pa.StructArray.from_arrays(columns, fields=list(schema.field(c.ITEMS).type.value_type))
            lists = pa.ListArray.from_arrays(pa.array(offsets), entries, type=schema.field(c.ITEMS).type)
            generations = pa.array(np.full(len(positions), generation, np.int64))
            users = pa.array(block.user_ids, pa.string())
            yield pa.RecordBatch.from_arrays([generations, users, lists], schema=schema)


def _list_block(
    block: SplitBlock, model: ListModel, scorer: Scorer
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Positions and scores (U, n), and the positions of the ratings that explain each entry (U, n, explained_by)."""
    ranking, ratings = model.ranking, (block.offsets, block.items, block.values, block.weights)
    x = model.solve(*ratings).x
    listed: TopN
    (listed,) = list_users(model.factors.item_factors, x, block.offsets, block.items, [scorer], ranking.list_length)
    positions, scores = listed
    if not model.is_personal:
        return positions, scores, np.full((*positions.shape, 0), -1, np.int32)
    because, contributions = explain_lists(model.factors, *ratings, positions, ranking.explained_by)
    return positions, scores, np.where(contributions > 0, because, -1)


def _word_reasons(because: NDArray[np.int32], item_ids: pa.StringArray) -> pa.StringArray:
    """A reason for each of L entries from the positions (L, n) of its ratings, -1 for none."""
    is_named = because >= 0
    offsets = np.concatenate((np.zeros(1, np.int32), np.cumsum(is_named.sum(axis=1), dtype=np.int32)))
    rated: Any = pa.ListArray.from_arrays(pa.array(offsets), item_ids.take(pa.array(because[is_named])))
    words = pc.binary_join_element_wise("rated", pc.binary_join(rated, " and "), " ")
    return pc.if_else(pa.array(is_named.any(axis=1)), words, TRENDING)
