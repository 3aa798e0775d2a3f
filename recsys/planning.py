"""What a plan must know of the tables and of Spark (recsys.als.plan does the arithmetic)."""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.als.plan import Resources, Statistics
from recsys.blocks.codec import RECENT, read_array, read_items, unpack_values
from recsys.errors import ConfigError, NothingToTrainError
from recsys.session import is_one_process

_SAMPLE_BLOCKS = 4

_MIB: Final = 1024**2
# Bytes of a unit as Spark writes it (JavaUtils.byteStringAs); memory settings without one are MiB.
_UNITS: Final[dict[str, int]] = {"": _MIB, "b": 1} | {
    unit: 1024**power for power, letter in enumerate("kmgtp", 1) for unit in (letter, f"{letter}b")
}
# Spark's own defaults of the room beyond an executor's or a cluster's driver's heap.
_OVERHEAD_SHARE: Final = 0.1
_LEAST_OVERHEAD: Final = "384m"


def read_statistics(user_blocks: DataFrame, n_items: int) -> Statistics:
    """Count users, ratings and blocks, and estimate the items' counts from a few blocks (two small Spark jobs).

    Recent ratings beside the blocks, at most a few in a hundred, are left out.
    Users are spread over blocks by a hash of their ids, so any few blocks are a fair sample.

    Raises:
        NothingToTrainError: there is no rating.
    """
    sums = (sf.sum(c.N_USERS), sf.sum(c.N_RATINGS), sf.count("*"), sf.max(c.N_RATINGS))
    user_blocks = user_blocks.where(sf.col(c.LAYER) != RECENT)
    totals = user_blocks.agg(*sums).collect()[0]
    n_users, n_ratings, n_blocks, longest_block = (int(total or 0) for total in totals)
    if n_ratings == 0:
        raise NothingToTrainError("user_blocks hold no rating. Ingest ratings first.")
    counts, longest, coded = np.zeros(n_items), 0, True
    sample = []
    for row in user_blocks.select(c.OFFSETS, c.ITEMS, c.DICTIONARY, c.VALUES).limit(_SAMPLE_BLOCKS).collect():
        offsets = read_array(row[c.OFFSETS], np.int64)
        counts += np.bincount(read_items(row[c.ITEMS], int(offsets[-1])), minlength=n_items)
        longest = max(longest, int(np.diff(offsets).max(initial=0)))
        coded &= len(row[c.DICTIONARY]) > 0
        sample.append(unpack_values(row[c.DICTIONARY], row[c.VALUES]))
    values = np.concatenate(sample).astype(np.float64)
    values = values[~np.isnan(values)]  # withdrawn
    moments = (float(values.mean()), float(np.mean(values**2))) if len(values) else (0.0, 1.0)
    by_item = counts * (n_ratings / max(counts.sum(), 1.0))
    return Statistics(n_users, n_ratings, n_blocks, by_item, longest, coded, longest_block, *moments)


def guess_statistics(n_ratings: int, n_items: int, *, buckets: int, users_per_block: int) -> Statistics:
    """What can be said without a Spark job: as many ratings, and blocks as small as they then can be.

    Nothing is known of users. Where each has one rating, a bucket has the most blocks and they are the smallest, so
    these statistics never ask for more memory than `read_statistics` does of the same ratings in as many buckets.
    """
    most_blocks = buckets + n_ratings // users_per_block
    return Statistics(
        n_users=0,
        n_ratings=n_ratings,
        n_blocks=min(buckets, n_ratings),
        item_counts=np.full(n_items, n_ratings / n_items),
        longest_block=n_ratings // most_blocks,
    )


def find_resources(spark: SparkSession) -> Resources:
    """What this session was given; a cluster's executors as they are configured, whether or not they have come yet."""
    context: Any = spark.sparkContext
    jvm: Any = spark._jvm
    return read_resources(
        dict(context.getConf().getAll()),
        driver_heap=int(jvm.java.lang.Runtime.getRuntime().maxMemory()),
        parallelism=context.defaultParallelism,
        host=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        local=is_one_process(spark),
    )


def read_resources(conf: Mapping[str, str], *, driver_heap: int, parallelism: int, host: int, local: bool) -> Resources:
    """What a session was given.

    Args:
        conf: its Spark settings.
        driver_heap: of the driver's JVM, bytes.
        parallelism: Spark's default: the cores that have come.
        host: memory of the machine that the driver runs on, bytes.
        local: driver and executors are one process.
    """
    rest = host - driver_heap
    if local:
        return Resources(1, parallelism, driver_heap, driver_heap, rest, rest, local=True)
    executor_heap = read_size(conf.get("spark.executor.memory", "1g"))
    cores = int(conf.get("spark.executor.cores", "1"))
    started = max(1, parallelism // cores)
    executors = conf.get("spark.executor.instances", conf.get("spark.dynamicAllocation.maxExecutors", str(started)))
    # A driver outside the cluster has no container: nothing holds its overhead, and Spark ignores the setting.
    client = conf.get("spark.submit.deployMode", "client") == "client"
    driver_rest = rest if client else _overhead(conf, "driver", driver_heap)
    executor_rest = _overhead(conf, "executor", executor_heap)
    executor_rest += read_size(conf.get("spark.executor.pyspark.memory", "0"))
    return Resources(
        int(executors), cores, driver_heap, executor_heap, driver_rest, executor_rest, local=False, client=client
    )


def read_size(text: str) -> int:
    """Bytes of a Spark memory setting such as ``4g``, ``512mb`` or ``4096``, which is MiB.

    Raises:
        ConfigError: anything else; Spark does not start with it.
    """
    match = re.fullmatch(r"(\d+)([a-z]*)", text.strip().lower())
    if match is None or match.group(2) not in _UNITS:
        raise ConfigError(f"'{text}' is no size. Write a whole number and a unit, for example 512m or 4g.")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _overhead(conf: Mapping[str, str], role: str, heap: int) -> int:
    """Memory beyond a heap in a container."""
    given = conf.get(f"spark.{role}.memoryOverhead")
    if given is not None:
        return read_size(given)
    share = float(conf.get(f"spark.{role}.memoryOverheadFactor", _OVERHEAD_SHARE))
    return max(read_size(conf.get(f"spark.{role}.minMemoryOverhead", _LEAST_OVERHEAD)), int(share * heap))
