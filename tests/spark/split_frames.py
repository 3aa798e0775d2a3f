"""Split blocks written out by hand: one user a line."""

from collections.abc import Mapping, Sequence

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from recsys import columns as c
from recsys.schemas import SPLIT_BLOCKS

Ratings = Mapping[int, float]  # item position → value


def split_frame(
    spark: SparkSession,
    users: Mapping[str, tuple[Ratings, Ratings]],
    *,
    users_per_block: int = 2,
    weights: Sequence[float] = (),
) -> DataFrame:
    """Rows of SPLIT_BLOCKS; users: id → (observed, held out); weights: of all observed ratings, one block only."""
    ids = list(users)
    blocks = [ids[first : first + users_per_block] for first in range(0, len(ids), users_per_block)]
    rows = [_row(number, {u: users[u] for u in block}, weights) for number, block in enumerate(blocks)]
    return spark.createDataFrame(rows, SPLIT_BLOCKS)


def _row(number: int, users: Mapping[str, tuple[Ratings, Ratings]], weights: Sequence[float]) -> dict[str, object]:
    observed, held = ([ratings[kind] for ratings in users.values()] for kind in (0, 1))
    return {
        c.BUCKET: 0,
        c.BLOCK: number,
        c.USER_IDS: list(users),
        c.OFFSETS: np.cumsum([0, *map(len, observed)], dtype=np.int64).tobytes(),
        c.ITEMS: np.array([i for ratings in observed for i in ratings], np.uint16).tobytes(),
        c.VALUES: np.array([v for ratings in observed for v in ratings.values()], np.float32).tobytes(),
        c.DICTIONARY: b"",
        c.WEIGHTS: np.array(weights, np.float32).tobytes(),
        c.HELD_OFFSETS: np.cumsum([0, *map(len, held)], dtype=np.int64).tobytes(),
        c.HELD_ITEMS: np.array([i for ratings in held for i in ratings], np.uint16).tobytes(),
        c.HELD_VALUES: np.array([v for ratings in held for v in ratings.values()], np.float32).tobytes(),
    }
