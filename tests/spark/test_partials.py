"""Sums over partitions, collected or reduced by range: the same, bit for bit."""

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys.blocks import partials


def test_a_sum_reduced_by_range_is_the_collected_sum_bit_for_bit(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=2)) for _ in range(3)]
    rdd = spark.sparkContext.parallelize(parts, 3)
    collected = partials.sum_parts(rdd, [(7, 3), (2,)])
    np.testing.assert_allclose(collected[0], np.sum([part[0] for part in parts], axis=0), rtol=1e-5)
    np.testing.assert_allclose(collected[1], np.sum([part[1] for part in parts], axis=0))

    monkeypatch.setattr(partials, "_COLLECT_BYTES", 0)
    monkeypatch.setattr(partials, "_REDUCE_BYTES", 128)
    reduced = partials.sum_parts(rdd, [(7, 3), (2,)])
    for one, other in zip(collected, reduced, strict=True):
        np.testing.assert_array_equal(one, other)
