"""The generator's laws: no JVM here."""

import numpy as np
import pytest

from benchmarks import data
from benchmarks.data import (
    BASE,
    HELD,
    LATE,
    Shape,
    World,
    generate,
    load,
    make_shape,
    make_world,
    parse_size,
    stream,
    with_favourite,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(make_shape("200k"))


def test_there_are_exactly_so_many_ratings_and_everyone_has_some(world: World) -> None:
    ratings = load(world, BASE, LATE, HELD)
    assert len(ratings.items) == len(ratings.values) == 200_000
    assert ratings.n_users == world.shape.n_users
    assert np.diff(ratings.offsets).min() >= 1


def test_no_pair_is_rated_twice_and_items_ascend_within_a_user(world: World) -> None:
    ratings = load(world, BASE, LATE, HELD)
    pairs = ratings.owners().astype(np.int64) * world.shape.n_items + ratings.items
    assert (np.diff(pairs) > 0).all()
    assert 0 <= ratings.items.min() <= ratings.items.max() < world.shape.n_items


@pytest.mark.parametrize("ratings_a_chunk", [1, 777, 10_000_000])
def test_the_chunks_play_no_part(ratings_a_chunk: int) -> None:
    world = make_world(Shape(60, 50, 900, seed=5, held_share=0.2, late_share=0.2))
    whole = generate(world, np.arange(60))
    chunks = list(stream(world, ratings_a_chunk=ratings_a_chunk))
    for name in ("users", "items", "values", "parts", "times"):
        assert np.array_equal(np.concatenate([getattr(chunk, name) for chunk in chunks]), getattr(whole, name)), name


def test_a_user_asked_for_alone_has_the_same_ratings(world: World) -> None:
    crowd, alone = generate(world, np.arange(40)), generate(world, np.array([17]))
    own = slice(crowd.offsets[17], crowd.offsets[18])
    assert np.array_equal(crowd.items[own], alone.items)
    assert np.array_equal(crowd.values[own], alone.values)
    assert np.array_equal(crowd.times[own], alone.times)


def test_another_seed_makes_other_ratings() -> None:
    one, other = (load(make_world(Shape(60, 50, 900, seed)), BASE) for seed in (1, 2))
    assert not np.array_equal(one.items[:500], other.items[:500])


def test_values_have_the_mean_and_spread_of_netflix(world: World) -> None:
    values = load(world, BASE, LATE, HELD).values
    assert set(np.unique(values)) == {1, 2, 3, 4, 5}
    # 2,000 users' biases of 0.4, weighted by activity, leave the mean uncertain by about 0.02.
    assert values.mean() == pytest.approx(3.604, abs=0.05)
    assert values.std() == pytest.approx(1.085, abs=0.03)


def test_activity_is_skewed_as_in_netflix() -> None:
    world = make_world(Shape(20_000, 2_000, 1_200_000))
    counts = world.counts
    assert np.median(counts) / counts.mean() == pytest.approx(96 / 209, abs=0.05)
    assert counts.max() == pytest.approx(0.99 * 2_000, abs=1)
    rated = np.bincount(load(world, BASE, LATE, HELD).items, minlength=2_000)
    assert rated.max() / 20_000 == pytest.approx(0.48, abs=0.04)
    assert np.median(rated) / rated.mean() == pytest.approx(561 / 5654, abs=0.03)


def test_parts_are_random_shares_in_time_order(world: World) -> None:
    chunk = generate(world, np.arange(world.shape.n_users))
    shares = np.bincount(chunk.parts, minlength=3) / len(chunk.parts)
    assert shares[LATE] == pytest.approx(0.01, abs=0.002)
    assert shares[HELD] == pytest.approx(0.01, abs=0.002)
    assert chunk.times[chunk.parts == BASE].max() < data.LATE_START
    assert chunk.times[chunk.parts == LATE].min() >= data.LATE_START
    assert chunk.times[chunk.parts == LATE].max() < data.HELD_START <= chunk.times[chunk.parts == HELD].min()


def test_the_same_data_is_what_low_rank_models_can_learn() -> None:
    # Without its true factors the ratings must have more left to explain than with them.
    world = make_world(make_shape("200k"))
    ratings = load(world, BASE)
    means = np.bincount(ratings.items, ratings.values) / np.maximum(np.bincount(ratings.items), 1)
    unexplained = (ratings.values - means[ratings.items]).std()
    assert world.noise < unexplained < 1.085


def test_nearly_everyone_has_rated_a_favourite_and_nobody_has_more_ratings(world: World) -> None:
    plain, other = (load(each, BASE, LATE, HELD) for each in (world, with_favourite(world, 7)))
    assert np.array_equal(plain.offsets, other.offsets)
    assert np.count_nonzero(plain.items == 7) < 0.6 * world.shape.n_users
    assert np.count_nonzero(other.items == 7) > 0.9 * world.shape.n_users


@pytest.mark.parametrize(("text", "n_ratings"), [("200k", 200_000), ("8.9M", 8_900_000), ("netflix", 100_480_507)])
def test_sizes_are_read_as_people_write_them(text: str, n_ratings: int) -> None:
    assert parse_size(text) == n_ratings


@pytest.mark.parametrize("text", ["", "10", "tenM", "0.1k"])
def test_a_size_that_is_none_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"Write for example|Ask for at least"):
        parse_size(text)


def test_named_sizes_have_their_users_and_items() -> None:
    assert make_shape("8.9M") == Shape(70_000, 10_000, 8_900_000)
    assert make_shape("netflix") == Shape(480_189, 17_770, 100_480_507)
    assert make_shape("66M") == Shape(480_000, 17_770, 66_000_000)
    assert make_shape("200M").n_users > make_shape("netflix").n_users


def test_more_ratings_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        make_world(Shape(10, 10, 60))
