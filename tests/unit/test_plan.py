from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.als.params import AlsParams
from recsys.als.plan import Plan, Resources, Speed, Statistics, measure_speed, plan_fit
from recsys.errors import ConfigError
from tests.oracles.blocks import csr, split_rows
from tests.unit.test_als_descent import descend, some_ratings

GIB = 1024**3
LAPTOP = Resources(1, 2, 2 * GIB, 2 * GIB, 14 * GIB, 14 * GIB, local=True)
CLUSTER = Resources(50, 4, 8 * GIB, 8 * GIB, 4 * GIB, 4 * GIB, local=False)


def ratings_of(n_ratings: int, n_items: int, n_users: int = 1000) -> Statistics:
    return Statistics(n_users, n_ratings, 8, np.full(n_items, n_ratings / n_items), longest_user=n_items)


def sizes(plan: Plan) -> dict[str, int]:
    """Bytes by place."""
    places = {need.where for need in plan.needs}
    return {place: sum(need.size for need in plan.needs if need.where == place) for place in places}


def test_the_exchange_is_one_broadcast_and_one_part_a_task_in_every_pass() -> None:
    params = AlsParams(objective="explicit", rank=2, biases=True, item_solver="one-pass")
    plan = plan_fit(ratings_of(1_000_000, n_items=10_000), LAPTOP, params)
    assert (plan.passes, plan.tasks) == (1, 2)
    assert plan.exchange == (2 + 1) * 10_000 * 3 * 4
    # Exact items: their matrices besides, upper triangles of 3 x 3 float32.
    exact = plan_fit(ratings_of(1_000_000, 10_000), LAPTOP, params.model_copy(update={"item_solver": "exact"}))
    assert exact.exchange == plan.exchange + 2 * 10_000 * 6 * 4


@pytest.mark.parametrize("ratings", [1_000_000, 5_000_000_000])
def test_the_exchange_does_not_know_how_many_users_and_ratings_there_are(ratings: int) -> None:
    params = AlsParams(rank=64, item_solver="one-pass")
    plan = plan_fit(ratings_of(ratings, 20_000, n_users=ratings // 100), CLUSTER, params)
    assert plan.tasks == 8
    assert plan.exchange == (8 + 1) * 20_000 * 64 * 4


@pytest.mark.parametrize("resources", [LAPTOP, CLUSTER], ids=["laptop", "cluster"])
def test_what_is_one_byte_too_large_is_refused_by_the_setting_to_raise(resources: Resources) -> None:
    statistics, params = ratings_of(10_000_000, 50_000), AlsParams(rank=64)
    needed = sizes(plan_fit(statistics, resources, params))
    if resources.local:
        places = {"JVM heap": ("driver_heap", "driver.memory"), "machine": ("driver_rest", "more memory")}
    else:
        places = {
            "driver heap": ("driver_heap", "driver.memory"),
            "driver": ("driver_rest", "driver.memoryOverhead"),
            "executor heap": ("executor_heap", "executor.memory"),
            "executor": ("executor_rest", "executor.memoryOverhead"),
        }
    just_enough = replace(resources, **{field: needed[place] for place, (field, _) in places.items()})
    plan_fit(statistics, just_enough, params).check()
    for place, (field, setting) in places.items():
        short: Any = replace(just_enough, **{field: needed[place] - 1})
        with pytest.raises(ConfigError, match=f"^this fit does not fit: {place} memory.*{setting}"):
            plan_fit(statistics, short, params).check()


@given(
    ratings=st.integers(1, 10**10), items=st.integers(1, 10**6), rank=st.integers(1, 256), more=st.integers(1, 10),
    objective=st.sampled_from(["explicit", "implicit"]),
)  # fmt: skip
def test_more_ratings_or_a_higher_rank_never_need_less(
    ratings: int, items: int, rank: int, more: int, objective: str
) -> None:
    params = AlsParams.model_validate({"objective": objective, "rank": rank, "item_solver": "cg"})
    one = sizes(plan_fit(ratings_of(ratings, items), CLUSTER, params))
    for other in (
        plan_fit(ratings_of(ratings * more, items), CLUSTER, params),
        plan_fit(ratings_of(ratings, items), CLUSTER, params.model_copy(update={"rank": rank + more})),
        plan_fit(ratings_of(ratings, items * more), CLUSTER, params),
    ):
        assert all(sizes(other)[place] >= size for place, size in one.items())


def test_the_blocks_are_as_large_as_the_plan_says() -> None:
    R = some_ratings(density=0.3, n_users=900)
    offsets, items, values, _ = csr(R)
    rows = split_rows(offsets, items, values, users_per_block=300).to_pylist()
    fitted = sum(len(row[column]) for row in rows for column in ("offsets", "items", "values"))
    statistics = Statistics(len(R), len(items), len(rows), np.bincount(items, minlength=R.shape[1]).astype(float))
    params = AlsParams(rank=4, rating_half_life_days=None)
    # An offset more than users in every block.
    assert plan_fit(statistics, LAPTOP, params).block_bytes == fitted - 8 * len(rows)


@pytest.mark.parametrize("item_solver", ["exact", "one-pass", "cg", "auto"])
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_passes_are_those_that_a_fit_then_makes(item_solver: str, density: float) -> None:
    R = some_ratings(density=density)
    params = AlsParams.model_validate({"objective": "explicit", "rank": 4, "item_solver": item_solver})
    _, _, passes = descend(R, params, 6)
    counts = (~np.isnan(R)).sum(axis=0).astype(float)
    plan = plan_fit(Statistics(len(R), int(counts.sum()), 8, counts), LAPTOP, params)
    if plan.items_by == "cg":
        assert passes.further_passes > 6
    else:
        assert plan.passes == 1
        # A fit by steps ends with an exact half, which has further passes.
        assert passes.further_passes <= (plan.items_by == "one-pass") * params.item_steps


def test_seconds_add_up() -> None:
    params = AlsParams(rank=16, item_solver="exact", sweeps=4)
    statistics = ratings_of(1_000_000, 1000)
    slow, fast = (plan_fit(statistics, LAPTOP, params, Speed(cost, 0.0)) for cost in (3e-6, 1e-6))
    assert slow.sweep_seconds is not None
    assert fast.sweep_seconds is not None
    # A million ratings on two cores, two microseconds apart.
    assert slow.sweep_seconds - fast.sweep_seconds == pytest.approx(1.0)
    assert slow.seconds(4) - slow.seconds(3) == pytest.approx(slow.sweep_seconds)
    with pytest.raises(ValueError, match="no times"):
        plan_fit(statistics, LAPTOP, params).seconds(1)


def test_the_page_says_what_will_be_slower_and_the_settings_that_would_do() -> None:
    small = replace(CLUSTER, executors=2, executor_heap=GIB)
    statistics = ratings_of(5_000_000_000, 100_000, n_users=50_000_000)
    plan = plan_fit(statistics, small, AlsParams(rank=64), measure_speed(ratings_of(10_000, 100), AlsParams(rank=64)))
    page = plan.render()
    assert "warning: blocks and users' factors are" in page
    assert "5,000,000,000 of 50,000,000 users and 100,000 items" in page
    # With what it asks for, it fits.
    asked = plan.settings()
    mib = {key: int(value[:-1]) * 1024**2 for key, value in asked.items() if value.endswith("m")}
    given = replace(
        small,
        driver_heap=mib["spark.driver.memory"],
        driver_rest=mib["spark.driver.memoryOverhead"],
        executor_heap=mib["spark.executor.memory"],
        executor_rest=mib["spark.executor.memoryOverhead"],
    )
    plan_fit(statistics, given, AlsParams(rank=64)).check()
