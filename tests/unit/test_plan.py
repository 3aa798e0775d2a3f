from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.als.params import AlsParams
from recsys.als.plan import Around, Plan, Resources, Speed, Statistics, measure_speed, plan_fit, plan_training
from recsys.errors import ConfigError
from tests.oracles.blocks import csr, split_rows
from tests.passes import LocalPasses
from tests.unit.test_als_descent import descend, some_ratings
from tests.unit.test_als_real_ratings import blocks_of

GIB = 1024**3
LAPTOP = Resources(1, 2, 2 * GIB, 2 * GIB, 14 * GIB, 14 * GIB, local=True)
CLUSTER = Resources(50, 4, 8 * GIB, 8 * GIB, 4 * GIB, 4 * GIB, local=False)
CLIENT = replace(CLUSTER, client=True)
AROUND = Around(slices=2, rules=18, users=1000, held_share=0.1)


def ratings_of(n_ratings: int, n_items: int, n_users: int = 1000) -> Statistics:
    return Statistics(n_users, n_ratings, 8, np.full(n_items, n_ratings / n_items), longest_user=n_items)


def sizes(plan: Plan) -> dict[str, int]:
    """Bytes by place."""
    places = {need.where for need in plan.needs}
    return {place: sum(need.size for need in plan.needs if need.where == place) for place in places}


def test_the_exchange_is_a_broadcast_an_executor_and_a_part_a_task_in_every_pass() -> None:
    params = AlsParams(objective="explicit", rank=2, biases=True, item_solver="one-pass")
    plan = plan_fit(ratings_of(1_000_000, n_items=10_000), LAPTOP, params)
    assert (plan.passes, plan.tasks) == (1, 2)
    assert plan.exchange == (2 + 1) * 10_000 * 3 * 4
    # Exact items: their matrices besides, upper triangles of 3 x 3 float32.
    exact = plan_fit(ratings_of(1_000_000, 10_000), LAPTOP, params.model_copy(update={"item_solver": "exact"}))
    assert exact.exchange == plan.exchange + 2 * 10_000 * 6 * 4
    four = replace(CLUSTER, executors=4, cores=2)
    assert plan_fit(ratings_of(1_000_000, 10_000), four, params).exchange == (8 + 4) * 10_000 * 3 * 4


@pytest.mark.parametrize("ratings", [1_000_000, 5_000_000_000])
def test_the_exchange_does_not_know_how_many_users_and_ratings_there_are(ratings: int) -> None:
    params = AlsParams(rank=64, item_solver="one-pass")
    plan = plan_fit(ratings_of(ratings, 20_000, n_users=ratings // 100), CLUSTER, params)
    assert plan.tasks == 8  # one a block, on as many executors
    assert plan.exchange == (8 + 8) * 20_000 * 64 * 4


@pytest.mark.parametrize("resources", [LAPTOP, CLUSTER, CLIENT], ids=["laptop", "cluster", "client"])
def test_what_is_one_byte_too_large_is_refused_by_the_setting_to_raise(resources: Resources) -> None:
    statistics, params = ratings_of(10_000_000, 50_000), AlsParams(rank=64)
    needed = sizes(plan_fit(statistics, resources, params))
    if resources.local:
        places = {"JVM heap": ("driver_heap", "driver.memory"), "machine": ("driver_rest", "more memory")}
    else:
        places = {
            "driver heap": ("driver_heap", "driver.memory"),
            "driver": ("driver_rest", "a machine with more memory" if resources.client else "driver.memoryOverhead"),
            "executor heap": ("executor_heap", "executor.memory"),
            "executor": ("executor_rest", "executor.memoryOverhead"),
        }
    just_enough = replace(resources, **{field: needed[place] for place, (field, _) in places.items()})
    plan = plan_fit(statistics, just_enough, params)
    plan.check()
    # Outside the cluster Spark ignores the driver's overhead.
    assert ("spark.driver.memoryOverhead" in plan.settings()) == (resources == CLUSTER)
    for place, (field, setting) in places.items():
        short: Any = replace(just_enough, **{field: needed[place] - 1})
        with pytest.raises(ConfigError, match=f"^this fit does not fit: {place} memory.*{setting}"):
            plan_fit(statistics, short, params).check()


@given(
    ratings=st.integers(1, 10**10), items=st.integers(1, 10**6), rank=st.integers(1, 256), more=st.integers(1, 10),
    objective=st.sampled_from(["explicit", "implicit"]),
)  # fmt: skip
@settings(deadline=None)  # counts of ten million items
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


@pytest.mark.parametrize("item_solver", ["exact", "one-pass", "auto"])
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_passes_are_those_that_a_fit_then_makes(item_solver: str, density: float) -> None:
    R = some_ratings(density=density)
    params = AlsParams.model_validate({"objective": "explicit", "rank": 4, "item_solver": item_solver})
    _, _, passes = descend(R, params, 6)
    counts = (~np.isnan(R)).sum(axis=0).astype(float)
    plan = plan_fit(Statistics(len(R), int(counts.sum()), 8, counts), LAPTOP, params)
    assert plan.passes == passes.user_passes / 6 == 1
    # A fit by steps ends with an exact half, which has further passes.
    assert passes.further_passes <= (plan.items_by == "one-pass") * params.item_steps


@pytest.mark.parametrize("problem", [{"objective": "implicit"}, {"objective": "explicit", "biases": True}])
def test_passes_of_cg_are_about_those_that_a_fit_of_real_ratings_then_makes(problem: dict[str, Any]) -> None:
    rows, n_items = blocks_of("MovieTweetings")
    params = AlsParams.model_validate(problem | {"item_solver": "cg", "rating_half_life_days": None})
    passes = LocalPasses(rows, params)
    passes.fit(n_items, params.sweeps)
    ratings = passes.ratings(n_items)
    statistics = Statistics(ratings.n_users, ratings.n_ratings, len(rows), ratings.counts)
    made = (passes.user_passes + passes.further_passes) / params.sweeps
    assert plan_fit(statistics, LAPTOP, params).passes == pytest.approx(made, rel=0.2)


@pytest.mark.parametrize(("reg", "taken"), [(0.05, "cg"), (0.5, "one-pass")])
def test_regularisation_has_a_say_in_how_items_move(reg: float, taken: str) -> None:
    """One-pass steps are short where items have few ratings a feature, unless regularisation decides anyway."""
    R = some_ratings(density=0.2, n_users=600)
    params = AlsParams(objective="explicit", rank=16, reg=reg, item_steps=1, rating_half_life_days=None)
    rows, n_items = split_rows(*csr(R)[:3], users_per_block=300).to_pylist(), R.shape[1]
    passes = LocalPasses(rows, params)
    with mock.patch("recsys.als.descent._EXACT_WORK", 0.0):  # as where data are large
        passes.fit(n_items, 4)
        ratings = passes.ratings(n_items)
        values = R[~np.isnan(R)]
        statistics = Statistics(
            ratings.n_users,
            ratings.n_ratings,
            len(rows),
            ratings.counts,
            mean=float(values.mean()),
            mean_square=float(np.mean(values**2)),
        )
        assert plan_fit(statistics, LAPTOP, params).items_by == taken
    # By cg every sweep has a further pass, by one-pass only the half that ends the fit.
    assert passes.further_passes == (4 if taken == "cg" else 1)


def test_a_training_keeps_split_blocks_beside_what_a_fit_makes_of_them_or_those_of_all_slices() -> None:
    """1,000 users, 100,000 ratings of 2 bytes for the position, 1 for the code and 4 for the weight by age."""
    params, statistics = AlsParams(rank=10, user_solver="cg"), ratings_of(100_000, 1000)
    ratings, offsets, ids, factors = 7 * 100_000, 8 * 1000, 24 * 1000, 10 * 4 * 1000
    split = ratings + 2 * offsets + ids
    alone = plan_fit(statistics, LAPTOP, params)
    assert alone.kept_bytes == ratings + offsets + 2 * factors  # of this pass and the one before
    assert plan_training(statistics, LAPTOP, params, AROUND).kept_bytes == alone.kept_bytes + split
    many = plan_training(statistics, LAPTOP, params, replace(AROUND, slices=5))
    assert many.kept_bytes == 5 * split
    # What does not stay in memory is said.
    small = replace(LAPTOP, driver_heap=4 * split, executor_heap=4 * split)
    [warning] = plan_training(statistics, small, params, replace(AROUND, slices=5)).warnings
    assert "More spark.driver.memory would keep all" in warning


def test_a_training_needs_no_less_than_its_fit_and_more_where_workers_judge() -> None:
    params, statistics = AlsParams(rank=4), ratings_of(100_000, 1000)
    fit, training = plan_fit(statistics, LAPTOP, params), plan_training(statistics, LAPTOP, params, AROUND)
    assert training.needs[:-1] == fit.needs[:-1]
    # Two workers: the process, two models, two float32 an item and rule, scores, and of the largest block 7 bytes a
    # rating twice and 12 decoded.
    models, rules, block = 2 * 4 * 4 * 1000, 18 * 2 * 4 * 1000, 100_000 // 8 * (14 + 12)
    assert training.needs[-1].size == 2 * ((350 + 32) * 1024**2 + models + rules + block)
    assert "18 rules" in training.needs[-1].what
    large = replace(statistics, longest_user=100_000_000)
    assert plan_training(large, LAPTOP, params, AROUND).needs == plan_fit(large, LAPTOP, params).needs


def test_a_training_is_as_long_as_its_steps() -> None:
    params, statistics = AlsParams(rank=8, sweeps=10, warm_sweeps=3), ratings_of(10_000_000, 1000)
    plan = plan_training(statistics, LAPTOP, params, AROUND, Speed(1e-6, 0.0))
    assert plan.sweep_seconds is not None
    # What a cold training does more: the first fit, two slices to count, cut and tune on, and one model judged.
    more = plan.training_seconds(cold=True) - plan.training_seconds(cold=False)
    reading = 10_000_000 * 0.35e-6 / 2 + 0.12
    tuning = 4 * reading + 2 * plan.judging_seconds(18) + plan.judging_seconds()
    assert more == pytest.approx(10 * plan.sweep_seconds + tuning)
    page = plan.render()
    assert "run, cold" in page
    assert "9 readings of all blocks; fits of 10, 3, 3 sweeps; 6 models judged; rules tried on 2 slices" in page
    assert "5 readings of all blocks; fits of 3, 3 sweeps; 5 models judged" in page
    with pytest.raises(ValueError, match="no times"):
        plan_training(statistics, LAPTOP, params, AROUND).training_seconds(cold=True)


def test_judging_takes_longer_for_more_users_and_rules_but_not_for_more_than_are_held_out() -> None:
    def seconds(rules: int = 1, n_ratings: int = 1_000_000, **around: Any) -> float:
        plan = plan_training(ratings_of(n_ratings, 1000), LAPTOP, AlsParams(rank=8), replace(AROUND, **around))
        return plan.judging_seconds(rules)

    # 1,000 users and 1,000 items, each item scored by 17 rules more in a nanosecond, on two cores.
    assert seconds(18) - seconds(1) == pytest.approx(17 * 1e-9 * 1000 * 1000 / 2)
    assert seconds(users=500) < seconds() == seconds(users=5000)
    # A thousandth of 100,000 ratings is of 100 users at most.
    assert seconds(n_ratings=100_000, held_share=0.001) == seconds(n_ratings=100_000, users=100)


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
