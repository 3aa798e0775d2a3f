"""Generated ratings in the shape of the Netflix Prize, of any size: seeded, streaming, and known to be factorizable.

Every user's ratings are a function of the seed and his number alone, so chunks of any size, in any order and on any
machine, make the same data. No Spark here; ``benchmarks.frames`` turns the chunks into DataFrames and tables.

What is copied from the Netflix Prize data (100,480,507 ratings, 480,189 users, 17,770 items): a median user of 96
ratings against a mean of 209, a most active user with 99 % of all items, a most popular item in 48 % of users' lists, a
median item with a tenth of the mean's ratings, values 1 to 5 with mean 3.604 and standard deviation 1.085.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.als.kernels import compiled

MICROS_PER_DAY: Final = 86_400_000_000
# Times in microseconds since 1970 UTC: six years from 1 January 2000, of which the last days belong to the ratings that
# arrive after a first fit and, after those, to the held-out ones. A cut at HELD_START is therefore the random holdout.
FIRST_TIME: Final = 10_957 * MICROS_PER_DAY
LATE_START: Final = FIRST_TIME + 2_150 * MICROS_PER_DAY
HELD_START: Final = FIRST_TIME + 2_170 * MICROS_PER_DAY
LAST_TIME: Final = FIRST_TIME + 2_191 * MICROS_PER_DAY

BASE: Final = 0
LATE: Final = 1
HELD: Final = 2

_MEAN: Final = 3.604
_SD: Final = 1.085
_USER_SPREAD: Final = np.sqrt(2 * np.log(209 / 96))  # of a lognormal with Netflix's mean and median
_MOST_ACTIVE: Final = 0.99  # share of all items
_ITEM_MEAN_TO_MEDIAN: Final = 5654 / 561
_MOST_POPULAR: Final = 0.5  # share of users that no item exceeds
_TRUE_FACTORS: Final = 32
_USER_BIAS_SD: Final = 0.40
_ITEM_BIAS_SD: Final = 0.35
_INTERACTION_SD: Final = 0.50  # of x.q, over all pairs

# Size as people name it → users and items; between them both are interpolated on a logarithmic scale.
_ANCHORS: Final = (
    (3e3, 150, 100),
    (2e5, 2_000, 1_000),
    (1e6, 8_000, 3_500),
    (8.9e6, 70_000, 10_000),
    (3e7, 200_000, 14_000),
    (100_480_507, 480_189, 17_770),
)
_FACTORS_OF_UNITS: Final = {"k": 1e3, "M": 1e6}


@dataclass(frozen=True)
class Shape:
    """What decides generated ratings, all of them.

    Attributes:
        n_users: users, each with at least one rating.
        n_items: items.
        n_ratings: ratings, held-out and late ones among them.
        seed: of everything random.
        held_share: of each user's ratings, chosen at random, that are held out.
        late_share: of each user's ratings that arrive after a first fit.
    """

    n_users: int
    n_items: int
    n_ratings: int
    seed: int = 1
    held_share: float = 0.01
    late_share: float = 0.01

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON knows them."""
        return asdict(self)


@dataclass(frozen=True)
class World:
    """A shape and the arrays its ratings are drawn from (U users, I items, F true factors).

    Attributes:
        shape: what it was made from.
        counts: int32 (U,), ratings of each user.
        appeal: float64 (I,), how soon an item is chosen: the rate of an exponential clock.
        alias_share: float32 (I,), of Walker's alias table of ``appeal``.
        alias: int32 (I,), of the same.
        item_biases: float32 (I,).
        item_factors: float32 (I, F), scaled so that ``x.q`` has the spread wanted for standard normal ``x``.
        mean: added to every rating before rounding.
        noise: standard deviation of what no model can know.
    """

    shape: Shape
    counts: NDArray[np.int32]
    appeal: NDArray[np.float64]
    alias_share: NDArray[np.float32]
    alias: NDArray[np.int32]
    item_biases: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    mean: float
    noise: float


@dataclass(frozen=True)
class Chunk:
    """All ratings of some users (U users, N ratings), ascending by item within a user, no pair twice.

    Attributes:
        users: int64 (U,), their numbers.
        offsets: int64 (U + 1,); the n-th user has ratings ``offsets[n]`` to ``offsets[n + 1]``.
        items: int32 (N,), positions.
        values: float32 (N,), whole numbers 1 to 5.
        parts: uint8 (N,): BASE, LATE or HELD.
        times: int64 (N,), microseconds since 1970 UTC; every LATE time is after all of BASE, every HELD after those.
    """

    users: NDArray[np.int64]
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float32]
    parts: NDArray[np.uint8]
    times: NDArray[np.int64]

    def take(self, *parts: int) -> "Ratings":
        """The ratings of some parts."""
        wanted = np.isin(self.parts, parts)
        before = np.concatenate((np.zeros(1, np.int64), np.cumsum(wanted, dtype=np.int64)))
        return Ratings(before[self.offsets], self.items[wanted], self.values[wanted])


@dataclass(frozen=True)
class Ratings:
    """Compressed sparse rows (U users, N ratings), ascending by item within a user.

    Attributes:
        offsets: int64 (U + 1,).
        items: int32 (N,), positions.
        values: float32 (N,).
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float32]

    @property
    def n_users(self) -> int:
        """Number of users, those without ratings included."""
        return len(self.offsets) - 1

    def owners(self) -> NDArray[np.int32]:
        """int32 (N,): whose rating it is."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.offsets))


def parse_size(text: str) -> int:
    """Ratings in a size such as ``200k``, ``8.9M`` or ``netflix``.

    Raises:
        ValueError: it is none of these, or below 1,000.
    """
    if text == "netflix":
        return int(_ANCHORS[-1][0])
    number, unit = text[:-1], text[-1:]
    try:
        n_ratings = round(float(number) * _FACTORS_OF_UNITS[unit])
    except (KeyError, ValueError) as err:
        raise ValueError(f"size '{text}' is not a number with k or M. Write for example 200k, 10M or netflix.") from err
    if n_ratings < 1000:
        raise ValueError(f"size '{text}' is {n_ratings} ratings. Ask for at least 1k.")
    return n_ratings


def make_shape(size: str, *, seed: int = 1) -> Shape:
    """The users and items that go with a number of ratings.

    70,000 × 10,000 at 8.9 M and 480,189 × 17,770 at Netflix size; 66M has that many users and items too, as the
    prototypes had. Smaller worlds are denser, as real ones are.
    """
    n_ratings = parse_size(size)
    if n_ratings == 66_000_000:
        return Shape(480_000, 17_770, n_ratings, seed)
    known, users, items = (np.log(column) for column in zip(*_ANCHORS, strict=True))
    at = np.log(n_ratings)
    # Beyond Netflix both go on as between the last two anchors: users nearly with the ratings, items hardly.
    if at > known[-1]:
        beyond = at - known[-1]
        slope = np.array([users[-1] - users[-2], items[-1] - items[-2]]) / (known[-1] - known[-2])
        grown = np.exp(np.array([users[-1], items[-1]]) + slope * beyond)
        return Shape(round(grown[0]), round(grown[1]), n_ratings, seed)
    return Shape(
        round(float(np.exp(np.interp(at, known, users)))),
        round(float(np.exp(np.interp(at, known, items)))),
        n_ratings,
        seed,
    )


def count_buckets(shape: Shape) -> int:
    """Buckets of a warehouse, as conf/base.yaml advises: about 4,000 users in each."""
    return max(2, round(shape.n_users / 4000))


def make_world(shape: Shape) -> World:
    """Draw who is how active and what is how popular, and set mean and noise so that ratings come out as wanted.

    Raises:
        ValueError: more than half of all pairs would be rated.
    """
    if not shape.n_users <= shape.n_ratings <= shape.n_users * shape.n_items // 2:
        raise ValueError(
            f"{shape.n_ratings:,} ratings do not fit {shape.n_users:,} users and {shape.n_items:,} items. "
            "Ask for at least one a user and at most half of all pairs."
        )
    rng = np.random.default_rng(shape.seed)
    counts = _draw_counts(shape, rng)
    shares = _draw_shares(shape, rng)
    appeal = _find_appeal(counts, shares)
    alias_share, alias = _make_alias(appeal)
    biases = rng.standard_normal(shape.n_items) * _ITEM_BIAS_SD
    biases -= np.average(biases, weights=shares)
    # Fewer, stronger tastes and a long tail of weak ones, as in real data: variance falls with the factor's number.
    variance = 1 / np.arange(1, _TRUE_FACTORS + 1)
    scale = _INTERACTION_SD * np.sqrt(variance / variance.sum())
    factors = rng.standard_normal((shape.n_items, _TRUE_FACTORS)) * scale
    mean, noise = _find_mean_and_noise(shares, biases, factors, rng)
    return World(
        shape,
        counts,
        appeal,
        alias_share,
        alias,
        biases.astype(np.float32),
        factors.astype(np.float32),
        mean,
        noise,
    )


def with_favourite(world: World, item: int) -> World:
    """The same world, but for an item that nearly every user has rated: most take it first."""
    appeal = world.appeal.copy()
    appeal[item] = 5 * world.appeal.sum()
    alias_share, alias = _make_alias(appeal)
    return replace(world, appeal=appeal, alias_share=alias_share, alias=alias)


def generate(world: World, users: NDArray[np.int64]) -> Chunk:
    """Draw all ratings of some users; the same for a user whoever is asked for with him."""
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(world.counts[users], dtype=np.int64)))
    n = int(offsets[-1])
    items, values, parts, times = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.uint8), np.empty(n)
    _draw_users(
        np.uint64(world.shape.seed),
        users.astype(np.uint64),
        offsets,
        world.appeal,
        world.alias_share,
        world.alias,
        world.item_biases,
        world.item_factors,
        np.array([world.mean, world.noise, _USER_BIAS_SD, world.shape.held_share, world.shape.late_share]),
        items,
        values,
        parts,
        times,
    )
    starts = np.array([FIRST_TIME, LATE_START, HELD_START, LAST_TIME])
    micros = starts[parts] + (times * np.diff(starts)[parts]).astype(np.int64)
    return Chunk(users, offsets, items, values, parts, micros)


def stream(world: World, *, ratings_a_chunk: int = 2_000_000) -> Iterator[Chunk]:
    """All users in chunks of about so many ratings; memory is bounded by one chunk (about 40 bytes a rating)."""
    before = np.cumsum(world.counts, dtype=np.int64)
    n_chunks = max(1, -(-int(before[-1]) // ratings_a_chunk))
    ends = np.searchsorted(before, np.arange(1, n_chunks + 1) * ratings_a_chunk, side="right")
    ends[-1] = len(before)
    first = 0
    for end in ends:
        if end > first:
            yield generate(world, np.arange(first, end, dtype=np.int64))
            first = int(end)


def load(world: World, *parts: int) -> Ratings:
    """The ratings of some parts in memory, 8 bytes each: what in-memory peers are given."""
    n = int(world.counts.sum(dtype=np.int64))
    items, values, lengths = np.empty(n, np.int32), np.empty(n, np.float32), []
    filled = 0
    for chunk in stream(world):
        taken = chunk.take(*parts)
        end = filled + len(taken.items)
        items[filled:end], values[filled:end] = taken.items, taken.values
        lengths.append(np.diff(taken.offsets))
        filled = end
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))))
    return Ratings(offsets, items[:filled], values[:filled])


def _draw_counts(shape: Shape, rng: np.random.Generator) -> NDArray[np.int32]:
    """Ratings of each user: stratified quantiles of a lognormal, cut at both ends, with exactly the sum wanted."""
    most = max(1, int(_MOST_ACTIVE * shape.n_items))
    normal = np.exp(_USER_SPREAD * _quantiles(shape.n_users))
    low, high = 0.0, float(shape.n_items)
    for _ in range(60):
        middle = (low + high) / 2
        fits = np.clip(middle * normal, 1, most).sum() < shape.n_ratings
        low, high = (middle, high) if fits else (low, middle)
    exact = np.clip(high * normal, 1, most)
    counts = np.floor(exact)
    missing = int(shape.n_ratings - counts.sum())
    # Largest remainders first, round after round where everyone's is used up; nobody beyond the catalogue.
    while missing > 0:
        room = np.flatnonzero(counts < most)
        chosen = room[np.argsort(counts[room] - exact[room], kind="stable")[:missing]]
        counts[chosen] += 1
        missing -= len(chosen)
    return rng.permutation(counts).astype(np.int32)


def _draw_shares(shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    """Share of users that rate each item: a lognormal that saturates, with the mean that the counts need."""
    mean = shape.n_ratings / (shape.n_users * shape.n_items)
    most = min(1.0, max(_MOST_POPULAR, 2.5 * mean))
    odds = mean / _ITEM_MEAN_TO_MEDIAN / (most - mean / _ITEM_MEAN_TO_MEDIAN)
    normal = _quantiles(shape.n_items)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        y = odds * np.exp(middle * normal)
        low, high = (middle, high) if (most * y / (1 + y)).mean() < mean else (low, middle)
    y = odds * np.exp(high * normal)
    return rng.permutation(most * y / (1 + y))


def _quantiles(n: int) -> NDArray[np.float64]:
    """Standard normal quantiles of n strata, ascending."""
    at = np.linspace(-6, 6, 24_001)
    cumulated = np.array([NormalDist().cdf(z) for z in at])
    return np.interp((np.arange(n) + 0.5) / n, cumulated, at)


def _find_appeal(counts: NDArray[np.int32], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rates of the items' clocks with which each is rated by its share of users.

    A user takes the first ``n`` items whose exponential clocks ring, so an item is in his list with probability
    ``1 - exp(-appeal * until)``, where ``until`` solves ``sum of these = n``. Items that everyone knows saturate at
    heavy users, and this makes up for it: a fixed point over 64 groups of users.
    """
    alike = np.array_split(np.sort(counts), min(64, len(counts)))
    groups = np.array([group.mean() for group in alike])
    sizes = np.array([len(group) for group in alike]) / len(counts)
    appeal = -np.log1p(-np.minimum(shares, 0.999))
    until = groups / appeal.sum()
    for _ in range(30):
        for _ in range(3):  # Newton steps; concave in until, so they do not overshoot from below
            left = np.exp(-until[:, None] * appeal)
            excess = groups - (1 - left).sum(axis=1)
            until = np.maximum(until + excess / np.maximum(left @ appeal, 1e-12), 1e-12)
        found = sizes @ (1 - np.exp(-until[:, None] * appeal))
        appeal *= np.log1p(-np.minimum(shares, 0.999)) / np.log1p(-np.clip(found, 1e-12, 0.999))
    return appeal


def _make_alias(weights: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Walker's alias table (Vose 1991): item i is kept with its share, else replaced by its alias."""
    scaled = weights * (len(weights) / weights.sum())
    alias = np.arange(len(weights), dtype=np.int32)
    small = [i for i, weight in enumerate(scaled) if weight < 1]
    large = [i for i, weight in enumerate(scaled) if weight >= 1]
    while small and large:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        scaled[rich] -= 1 - scaled[poor]
        if scaled[rich] < 1:
            small.append(large.pop())
    scaled[small + large] = 1.0
    return scaled.astype(np.float32), alias


def _find_mean_and_noise(
    shares: NDArray[np.float64],
    biases: NDArray[np.float64],
    factors: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Mean and noise for which rounded and cut ratings have Netflix's mean and spread, on 200,000 simulated pairs."""
    n = 200_000
    item = rng.choice(len(shares), n, p=shares / shares.sum())
    known = rng.standard_normal(n) * _USER_BIAS_SD + biases[item]
    known += np.sum(rng.standard_normal((n, _TRUE_FACTORS)) * factors[item], axis=1)
    unknown = rng.standard_normal(n)
    mean, noise = _MEAN, 0.8
    for _ in range(40):
        rated = np.rint(np.clip(mean + known + noise * unknown, 1, 5))
        mean += _MEAN - rated.mean()
        noise = max(0.05, noise + _SD - rated.std())
    return float(mean), float(noise)


@compiled
def _uniform(key: np.uint64, draw: np.uint64) -> float:
    """The draw-th number of a key in (0, 1): SplitMix64 (Steele, Lea & Flood 2014), which needs no state."""
    z = key + draw * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (np.float64(z >> np.uint64(12)) + 0.5) * 2.0**-52


@compiled
def _normal(key: np.uint64, draw: np.uint64) -> float:
    """A standard normal number from the draws ``draw`` and ``draw + 1`` (Box & Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log(_uniform(key, draw)))
    angle = 2.0 * np.pi * _uniform(key, draw + np.uint64(1))
    return float(radius * np.cos(angle))


@compiled
def _choose_items(
    key: np.uint64,
    appeal: NDArray[np.float64],
    alias_share: NDArray[np.float32],
    alias: NDArray[np.int32],
    user: int,
    taken_by: NDArray[np.int64],
    ringing: NDArray[np.float64],
    items: NDArray[np.int32],
) -> np.uint64:
    """Fill a user's ``items``, ascending, and return his next draw.

    Items are drawn by alias until there are enough different ones, or for heavy users, where most draws would be
    repeats, as those whose exponential clocks ring first: the same distribution.

    Args:
        key: the user's.
        appeal: see World.
        alias_share: see World.
        alias: see World.
        user: what marks an item as his in ``taken_by``.
        taken_by: int64 (I,), who took the item last; overwritten.
        ringing: float64 (I,), overwritten.
        items: int32 (n,), the result.
    """
    one, two = np.uint64(1), np.uint64(2)
    draw = one
    n_items, n = len(appeal), len(items)
    at = 0
    if n > n_items // 8:
        for i in range(n_items):
            ringing[i] = -np.log(_uniform(key, draw)) / appeal[i]
            draw += one
        latest = np.partition(ringing, n - 1)[n - 1]
        for i in range(n_items):
            if ringing[i] <= latest and at < n:
                items[at] = i
                at += 1
        return draw
    while at < n:
        i = int(_uniform(key, draw) * n_items)
        if _uniform(key, draw + one) >= alias_share[i]:
            i = int(alias[i])
        draw += two
        if taken_by[i] != user:
            taken_by[i] = user
            items[at] = i
            at += 1
    items.sort()
    return draw


@compiled
def _draw_users(
    seed: np.uint64,
    users: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    appeal: NDArray[np.float64],
    alias_share: NDArray[np.float32],
    alias: NDArray[np.int32],
    item_biases: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    constants: NDArray[np.float64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    parts: NDArray[np.uint8],
    times: NDArray[np.float64],
) -> None:
    """Fill ``items``, ``values``, ``parts`` and ``times`` (share of the part's span) of U users.

    Args:
        seed: of the world.
        users: uint64 (U,).
        offsets: int64 (U + 1,).
        appeal: see World.
        alias_share: see World.
        alias: see World.
        item_biases: see World.
        item_factors: see World.
        constants: mean, noise, spread of users' biases, held share, late share.
        items: int32 (N,), the result.
        values: float32 (N,), the result.
        parts: uint8 (N,), the result.
        times: float64 (N,), the result.
    """
    one, two = np.uint64(1), np.uint64(2)
    n_items, n_factors = item_factors.shape
    mean, noise, bias_sd, held_share, late_share = constants
    taken_by = np.full(n_items, -1, np.int64)
    ringing = np.empty(n_items)
    x = np.empty(n_factors, np.float32)
    for u in range(len(users)):
        first, last = offsets[u], offsets[u + 1]
        # A key a user: far apart because SplitMix's own finalizer scatters them.
        key = np.uint64(_uniform(seed * np.uint64(0xD1342543DE82EF95), users[u] + one) * 2.0**52) << np.uint64(11)
        draw = _choose_items(key, appeal, alias_share, alias, u, taken_by, ringing, items[first:last])
        for f in range(n_factors):
            x[f] = _normal(key, draw)
            draw += two
        bias = mean + bias_sd * _normal(key, draw)
        draw += two
        n_base = 0
        for j in range(first, last):
            q = item_factors[items[j]]
            s = np.float32(0.0)
            for f in range(n_factors):
                s += x[f] * q[f]
            raw = bias + item_biases[items[j]] + s + noise * _normal(key, draw)
            values[j] = np.rint(min(max(raw, 1.0), 5.0))
            chance = _uniform(key, draw + two)
            times[j] = _uniform(key, draw + two + one)
            draw += two + two
            if chance < held_share:
                parts[j] = 2
            elif chance < held_share + late_share:
                parts[j] = 1
            else:
                parts[j] = 0
                n_base += 1
        if n_base == 0:  # a user without history teaches nothing
            parts[first] = 0
