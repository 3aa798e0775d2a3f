"""The rating baseline: every item's mean (popularity baselines are in recsys.ranking.model)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from pyspark.sql import DataFrame, Row

from recsys import columns as c
from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.blocks.codec import SplitBlock
from recsys.blocks.partials import Part, sum_parts
from recsys.ranking.model import ListModel, popularity_model

_READ = (c.BUCKET, c.BLOCK, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS)


def fit_item_means(split: DataFrame, item_ids: list[str], *, as_of_us: int) -> ListModel:
    """Fit the baseline that predicts an item's mean observed rating for everybody (one Spark job).

    Only its predictions mean anything; its lists are by popularity. Age weights do not count.

    Args:
        split: rows of ``SPLIT_BLOCKS``.
        item_ids: I ids by position.
        as_of_us: cut-off of the split, microseconds UTC.
    """
    n_items = len(item_ids)

    def add_up(rows: Iterable[Row]) -> Iterator[Part]:
        sums = np.zeros((2, n_items))
        for row in rows:
            block = SplitBlock.from_row(row.asDict())
            sums[0] += np.bincount(block.items, minlength=n_items)
            sums[1] += np.bincount(block.items, block.values, minlength=n_items)
        yield (sums,)

    [(counts, totals)] = sum_parts(split.select(*_READ).rdd.mapPartitions(add_up), shapes=[(2, n_items)])
    mean = float(totals.sum() / max(counts.sum(), 1))
    biases = np.where(counts > 0, totals / np.maximum(counts, 1) - mean, 0).astype(np.float32)
    params = AlsParams(objective="explicit", rank=1, biases=True)
    by_popularity = popularity_model(item_ids, counts.astype(np.int64), as_of_us=as_of_us)
    return replace(by_popularity, factors=FactorModel(params, by_popularity.factors.item_factors, biases, mean))
