"""What is read of Spark's settings and guessed of the ratings, before anything runs; no JVM."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jobs.runner
from jobs import train_model
from jobs.runner import JobContext
from recsys.als.params import AlsParams
from recsys.als.plan import Around, Resources, Statistics, plan_training
from recsys.config import Settings
from recsys.errors import ConfigError
from recsys.planning import guess_statistics, read_resources, read_size

MIB, GIB = 1024**2, 1024**3
AROUND = Around(slices=2, rules=18, users=20_000, held_share=0.05)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096 * MIB),  # as spark.executor.memory is read: MiB
        ("4096m", 4096 * MIB),
        ("4096MB", 4096 * MIB),
        ("4g", 4 * GIB),
        (" 1t ", 1024 * GIB),
        ("100k", 100 * 1024),
        ("7b", 7),
        ("0", 0),
    ],
)
def test_a_memory_setting_is_read_as_spark_reads_it(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "g", "1.5g", "4 g", "4x", "-1g"])
def test_what_spark_refuses_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        read_size(text)


def resources(local: bool = False, **conf: str) -> Resources:
    """Of a driver with a heap of 2 GiB on a machine of 16 GiB; settings with _ for their dots."""
    settings = {f"spark.{key.replace('_', '.')}": value for key, value in conf.items()}
    return read_resources(settings, driver_heap=2 * GIB, parallelism=6, host=16 * GIB, local=local)


def test_in_one_process_everything_beyond_the_heap_is_shared() -> None:
    assert resources(local=True) == Resources(1, 6, 2 * GIB, 2 * GIB, 14 * GIB, 14 * GIB, local=True)


def test_a_cluster_has_what_it_was_configured_with() -> None:
    found = resources(
        executor_memory="4096", executor_cores="2", executor_instances="5", executor_memoryOverhead="2048"
    )
    assert (found.executors, found.cores) == (5, 2)
    assert (found.executor_heap, found.executor_rest) == (4 * GIB, 2 * GIB)
    assert not found.local


def test_without_settings_a_cluster_has_sparks_defaults() -> None:
    found = resources()
    assert (found.executors, found.cores) == (6, 1)
    assert (found.executor_heap, found.executor_rest) == (GIB, 384 * MIB)
    large = resources(executor_memory="10g", executor_pyspark_memory="512")
    assert large.executor_rest == GIB + 512 * MIB
    assert resources(executor_memory="10g", executor_memoryOverheadFactor="0.4").executor_rest == 4 * GIB


def test_a_driver_outside_the_cluster_has_its_hosts_memory_whatever_its_overhead_setting_says() -> None:
    for mode in ({}, {"submit_deployMode": "client"}):
        client = resources(driver_memoryOverhead="1g", **mode)
        assert (client.client, client.driver_rest) == (True, 14 * GIB)
    inside = resources(driver_memoryOverhead="1024", submit_deployMode="cluster")
    assert (inside.client, inside.driver_rest) == (False, GIB)
    assert resources(submit_deployMode="cluster").driver_rest == 384 * MIB


@given(
    users_by_bucket=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    ratings_a_user=st.integers(1, 50),
    users_per_block=st.integers(1, 6000),
    n_items=st.integers(1, 10_000),
    rank=st.integers(1, 64),
)
def test_the_guard_never_asks_for_more_than_the_plan(
    users_by_bucket: list[int], ratings_a_user: int, users_per_block: int, n_items: int, rank: int
) -> None:
    """Also where a bucket has more users than a block may, and so more blocks than one."""
    n_users, buckets = sum(users_by_bucket), len(users_by_bucket)
    n_ratings = n_users * ratings_a_user
    n_blocks = sum(-(-users // users_per_block) for users in users_by_bucket)
    longest = ratings_a_user * min(users_per_block, max(users_by_bucket))
    known = Statistics(
        n_users, n_ratings, n_blocks, np.full(n_items, n_ratings / n_items), ratings_a_user, True, longest
    )
    guessed = guess_statistics(n_ratings, n_items, buckets=buckets, users_per_block=users_per_block)
    cluster = Resources(10, 4, GIB, GIB, GIB, GIB, local=False)
    plans = [plan_training(statistics, cluster, AlsParams(rank=rank), AROUND) for statistics in (guessed, known)]
    for guess, need in zip(plans[0].needs, plans[1].needs, strict=True):
        assert (guess.where, guess.size <= need.size) == (need.where, True)


def test_the_guard_knows_what_the_ratings_alone_need() -> None:
    guessed = guess_statistics(1_000_000_000, 50_000, buckets=1000, users_per_block=1_000_000)
    # Blocks of a million users, in 1,000 buckets of a million ratings: half of them at least in the largest.
    assert guessed.block_ratings == 1_000_000_000 // 2000
    assert guessed.item_counts.sum() == pytest.approx(1e9)


class Tables:
    """A table of items, and of blocks that are not read."""

    items = user_blocks = property(lambda self: self)

    def version(self) -> int:
        return 0

    def read(self) -> None:
        return None


@pytest.mark.parametrize(("memory", "code"), [(10 * GIB, 0), (10 * MIB, 2)])
def test_a_plan_is_printed_whole_also_when_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings, memory: int, code: int
) -> None:
    statistics = Statistics(1000, 100_000, 4, np.full(200_000, 0.5))
    context = JobContext(cast(Any, None), settings, cast(Any, Tables()), cast(Any, None))
    given = Resources(4, 2, memory, memory, memory, memory, local=False)

    def open_context(name: str, args: Any, **_: Any) -> JobContext:
        return JobContext(context.spark, settings, context.tables, context.files, args)

    monkeypatch.setattr(jobs.runner, "open_context", open_context)
    monkeypatch.setattr(train_model, "read_items", lambda table, version: SimpleNamespace(ids=["m1"]))
    monkeypatch.setattr(train_model, "read_statistics", lambda blocks, n_items: statistics)
    monkeypatch.setattr(train_model, "find_resources", lambda spark: given)
    assert train_model.main(["--plan"]) == code
    said = capsys.readouterr()
    assert "100,000 of 1,000 users and 200,000 items" in said.out
    assert "--conf spark.executor.memoryOverhead=" in said.out
    places = ("driver heap", "driver", "executor heap", "executor")
    reasons = [line for line in said.out.splitlines() if line.startswith("does not fit: ")]
    if code == 0:
        assert (reasons, said.err) == ([], "")
    else:
        assert [line.split(" memory:")[0] for line in reasons] == [f"does not fit: {place}" for place in places]
        assert said.err.startswith("refused: this fit does not fit: driver heap memory:")
        assert all(f"{place} memory: " in said.err for place in places)
