"""What a plan must know of the tables and of Spark (recsys.als.plan does the arithmetic)."""

import os
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.als.plan import Resources, Statistics
from recsys.blocks.codec import read_array, read_items
from recsys.errors import NothingToTrainError
from recsys.session import is_one_process

_SAMPLE_BLOCKS = 4


def read_statistics(user_blocks: DataFrame, n_items: int) -> Statistics:
    """Count users, ratings and blocks, and estimate the items' counts from a few blocks (two small Spark jobs).

    Users are spread over blocks by a hash of their ids, so any few blocks are a fair sample.

    Raises:
        NothingToTrainError: there is no rating.
    """
    totals = user_blocks.agg(sf.sum(c.N_USERS), sf.sum(c.N_RATINGS), sf.count("*")).collect()[0]
    n_users, n_ratings, n_blocks = (int(total or 0) for total in totals)
    if n_ratings == 0:
        raise NothingToTrainError("user_blocks hold no rating. Ingest ratings first.")
    counts, longest, coded = np.zeros(n_items), 0, True
    for row in user_blocks.select(c.OFFSETS, c.ITEMS, c.DICTIONARY).limit(_SAMPLE_BLOCKS).collect():
        offsets = read_array(row[c.OFFSETS], np.int64)
        counts += np.bincount(read_items(row[c.ITEMS], int(offsets[-1])), minlength=n_items)
        longest = max(longest, int(np.diff(offsets).max(initial=0)))
        coded &= len(row[c.DICTIONARY]) > 0
    return Statistics(n_users, n_ratings, n_blocks, counts * (n_ratings / max(counts.sum(), 1.0)), longest, coded)


def find_resources(spark: SparkSession) -> Resources:
    """What this session was given; a cluster's executors as they are configured, whether or not they have come yet."""
    context: Any = spark.sparkContext
    jvm: Any = spark._jvm
    conf = context.getConf()

    def size_of(key: str, default: str) -> int:
        return int(jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(conf.get(key, default)))

    driver_heap = int(jvm.java.lang.Runtime.getRuntime().maxMemory())
    if is_one_process(spark):
        rest = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") - driver_heap
        return Resources(1, context.defaultParallelism, driver_heap, driver_heap, rest, rest, local=True)
    executor_heap = size_of("spark.executor.memory", "1g")
    cores = int(conf.get("spark.executor.cores", "1"))
    started = max(1, context.defaultParallelism // cores)
    executors = conf.get("spark.executor.instances", conf.get("spark.dynamicAllocation.maxExecutors", str(started)))
    driver_rest = size_of("spark.driver.memoryOverhead", _default_overhead(driver_heap))
    executor_rest = size_of("spark.executor.memoryOverhead", _default_overhead(executor_heap))
    executor_rest += size_of("spark.executor.pyspark.memory", "0b")
    return Resources(int(executors), cores, driver_heap, executor_heap, driver_rest, executor_rest, local=False)


def _default_overhead(heap: int) -> str:
    """Spark's: a tenth of the heap, and 384 MiB at least."""
    return f"{max(384 * 1024**2, heap // 10)}b"
