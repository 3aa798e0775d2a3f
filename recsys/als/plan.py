"""What a fit will need, before it runs: memory, exchange, tasks and time, from the statistics of the blocks.

Arithmetic only: nothing here reads a table or asks Spark. Sizes are bytes, times seconds.

A pass sends I x K float32 to every process that works on blocks and brings as many back from every task; a sweep is one
pass, and one more for every step of conjugate gradient (recsys.als.descent). Everything else follows from the sizes of
the arrays that recsys.als.sums and recsys.als.items allocate, and for a training from the steps of recsys.training.
"""

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.als.descent import is_exact, takes_one_pass
from recsys.als.model import initial_model
from recsys.als.params import AlsParams
from recsys.als.sums import RatingSums, UserSums, add_image
from recsys.blocks.codec import CodedRatings, pack_items
from recsys.errors import ConfigError

_FLOAT32: Final = 4
_FLOAT64: Final = 8
_GIB: Final = 1024**3
_MIB: Final = 1024**2

# Arrays of I x K float64 that the driver holds at once in an item half: factors, residuals, gradient, direction,
# preconditioned gradient, image, and two on their way from the tasks.
_DRIVER_ARRAYS: Final = 8
# Parts of the sums that go straight to the driver, at most (recsys.blocks.partials), and how often its JVM has them.
_COLLECTED: Final = 512 * _MIB
_COPIES: Final = 2
# Python, NumPy, Arrow and numba in a process.
_PROCESS: Final = 350 * _MIB
# Share of the JVM's heap that Spark keeps blocks in (spark.memory.fraction).
_STORAGE_SHARE: Final = 0.6

# Further passes of conjugate gradient in a sweep, the mean over 12 sweeps of MovieTweetings and ML-100K, ranks 16, 64.
_STEPS: Final = {"explicit": 5.0, "implicit": 1.3}
# Of an exact half that ends a one-pass fit.
_LAST_STEPS: Final = 2
# Spark's own time of a pass of few tasks on one machine: scheduling, streaming, collecting (measured at 1 M ratings).
_PASS_SECONDS: Final = 0.12
# The first sweep: workers start, import and load kernels.
_START_SECONDS: Final = 3.0
# Driver arithmetic: preconditioner and solve, a feature pair of an item; gradient and step, a feature of an item.
_PAIR_SECONDS: Final = 0.8e-9
_FEATURE_SECONDS: Final = 6e-8
# Bytes a second that a part needs from its task to the driver's sum, pickling and adding included.
_EXCHANGE_RATE: Final = 250e6
# Reading, cutting and keeping a rating before the first sweep, seconds on one core.
_READ_SECONDS: Final = 0.35e-6

# A judging pass, seconds on one core: a rating that is passed by, from Spark's memory through Arrow (assumed); a
# multiplication of an exact solve, n K^2 / 2 + K^3 / 6 for n ratings; an item that is scored, and each rule that it is
# scored by. The last three as measured with ranks 16 to 128 and 10,000 to 100,000 items.
_STREAM_SECONDS: Final = 2e-8
_SOLVE_SECONDS: Final = 0.2e-9
_SCORE_SECONDS: Final = 3e-9
_RULE_SECONDS: Final = 1e-9
# Scores of all items for some users, laid out at once (recsys.ranking.topn); a decoded rating of a split block.
_SCORES: Final = 32 * _MIB
_DECODED: Final = 12
# In a split block a user has an id, of 16 bytes here and 8 that say where, and two offsets of 8 bytes, not one.
_SPLIT_USER: Final = 16 + 8 + 8

_SAMPLE_RATINGS: Final = 200_000
_SAMPLE_USERS: Final = 1000


@dataclass(frozen=True)
class Statistics:
    """What is known of the ratings that are to be fitted.

    Attributes:
        n_users: users with ratings.
        n_ratings: current ratings.
        n_blocks: user blocks.
        item_counts: float64 (I,), ratings of each item; an estimate from some blocks is good enough.
        longest_user: most ratings of one user, as far as known.
        coded: values have one byte each, not four.
        longest_block: most ratings of one block, as far as known; None: blocks are alike.
        mean: of the ratings' values.
        mean_square: of the same.
    """

    n_users: int
    n_ratings: int
    n_blocks: int
    item_counts: NDArray[np.float64]
    longest_user: int = 0
    coded: bool = True
    longest_block: int | None = None
    mean: float = 0.0
    mean_square: float = 1.0

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.item_counts)

    @property
    def block_ratings(self) -> int:
        """Ratings of the largest block."""
        return self.n_ratings // max(1, self.n_blocks) if self.longest_block is None else self.longest_block


@dataclass(frozen=True)
class Resources:
    """What Spark was given.

    Attributes:
        executors: processes that hold blocks and run tasks; 1 in local mode.
        cores: tasks that each of them runs at once.
        driver_heap: of the driver's JVM, bytes.
        executor_heap: of an executor's JVM; in local mode the driver's.
        driver_rest: memory for the driver beyond its heap, bytes.
        executor_rest: memory for an executor's Python workers, bytes; in local mode shared with the driver.
        local: one machine and one JVM for everything.
        client: the driver runs outside the cluster: what it has beyond its heap is its host's.
    """

    executors: int
    cores: int
    driver_heap: int
    executor_heap: int
    driver_rest: int
    executor_rest: int
    local: bool
    client: bool = False


@dataclass(frozen=True)
class Around:
    """What a training does around its fits, as it is configured.

    Attributes:
        slices: of events before the holdout, on which a cold training tunes how lists are scored.
        rules: that are tried on each of them.
        users: who are judged in a pass, about, at most.
        held_share: of the ratings, in the holdout.
    """

    slices: int
    rules: int
    users: int
    held_share: float


@dataclass(frozen=True)
class Speed:
    """Seconds of one core for one rating, in a pass that solves users and in a further pass of the items' steps."""

    user_pass: float
    further_pass: float


@dataclass(frozen=True)
class Need:
    """One array or group of arrays.

    Attributes:
        what: in words.
        where: ``driver heap``, ``driver``, ``executor heap`` or ``executor`` (beyond the heap); on one machine ``JVM
            heap`` or ``machine``.
        size: bytes.
        setting: what to raise, or how to need less, when it does not fit.
    """

    what: str
    where: str
    size: int
    setting: str


@dataclass(frozen=True)
class Plan:
    """What a fit will need.

    Attributes:
        statistics: what it was computed from.
        resources: what there is.
        params: the problem.
        users_by: ``exact`` or ``cg``.
        items_by: ``exact``, ``cg`` or ``one-pass``.
        tasks: of every pass.
        passes: of a sweep, on average.
        block_bytes: of the blocks while they are fitted, all executors together.
        user_bytes: of the users' factors beside them; in a pass those of the one before are there, too.
        exchange: bytes of a sweep: ``passes * (tasks + executors) * I * K * 4``, of executors that have a task, and the
            items' matrices where they are used.
        sweep_seconds: of a sweep after the first; None when no speed was given.
        read_seconds: until the first sweep begins.
        needs: memory, place by place.
    """

    statistics: Statistics
    resources: Resources
    params: AlsParams
    users_by: str
    items_by: str
    tasks: int
    passes: float
    block_bytes: int
    user_bytes: int
    exchange: float
    sweep_seconds: float | None
    read_seconds: float
    needs: tuple[Need, ...]

    @property
    def kept_bytes(self) -> int:
        """Of all that Spark keeps at once: the blocks, and the users of two passes."""
        return self.block_bytes + 2 * self.user_bytes

    def seconds(self, sweeps: int) -> float:
        """Of a fit of so many sweeps, without judging them.

        Raises:
            ValueError: the plan was made without a speed.
        """
        if self.sweep_seconds is None:
            raise ValueError("this plan has no times: measure_speed() was not asked.")
        last = _LAST_STEPS * self.sweep_seconds if self.items_by == "one-pass" else 0.0
        return self.read_seconds + sweeps * self.sweep_seconds + last

    @property
    def problems(self) -> tuple[str, ...]:
        """What cannot fit, each with what to do."""
        found = []
        for where, limit, setting in self._limits():
            own = [need for need in self.needs if need.where == where]
            total = sum(need.size for need in own)
            if total > limit:
                largest = max(own, key=lambda need: need.size)
                found.append(
                    f"{where} memory: {_size(total)} needed, {_size(limit)} there; most of it is {largest.what} "
                    f"({_size(largest.size)}). {setting}, or {largest.setting}."
                )
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will be slower than it could be."""
        storage = _STORAGE_SHARE * self.resources.executors * self.resources.executor_heap
        if self.kept_bytes <= storage:
            return ()
        more = "spark.driver.memory" if self.resources.local else "executors or spark.executor.memory"
        return (
            f"blocks and users' factors are {_size(self.kept_bytes)}, Spark keeps {_size(storage)} in memory: "
            f"the rest is read from local disks in every pass. More {more} would keep all.",
        )

    @property
    def refusal(self) -> ConfigError | None:
        """Everything that cannot fit; None when all can."""
        return ConfigError(f"this fit does not fit: {' '.join(self.problems)}") if self.problems else None

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            ConfigError: with every reason.
        """
        if self.refusal is not None:
            raise self.refusal

    def _limits(self) -> list[tuple[str, int, str]]:
        r = self.resources
        host = "Use a machine with more memory, or lower spark.driver.memory"
        if r.local:
            return [("JVM heap", r.driver_heap, "Raise spark.driver.memory"), ("machine", r.driver_rest, host)]
        return [
            ("driver heap", r.driver_heap, "Raise spark.driver.memory"),
            ("driver", r.driver_rest, host if r.client else "Raise spark.driver.memoryOverhead"),
            ("executor heap", r.executor_heap, "Raise spark.executor.memory"),
            ("executor", r.executor_rest, "Raise spark.executor.memoryOverhead"),
        ]

    def settings(self) -> dict[str, str]:
        """The Spark settings that the fit would use: what is there, and more where it is not enough."""
        r = self.resources
        needed = {where: sum(need.size for need in self.needs if need.where == where) for where, *_ in self._limits()}
        parallelism = {"spark.default.parallelism": str(self.tasks)}
        if r.local:
            return {**parallelism, "spark.driver.memory": _setting(max(r.driver_heap, needed["JVM heap"]))}
        overhead = {} if r.client else {"spark.driver.memoryOverhead": _setting(max(r.driver_rest, needed["driver"]))}
        return {
            **parallelism,
            "spark.driver.memory": _setting(max(r.driver_heap, needed["driver heap"])),
            **overhead,
            "spark.executor.instances": str(r.executors),
            "spark.executor.cores": str(r.cores),
            "spark.executor.memory": _setting(max(r.executor_heap, needed["executor heap"])),
            "spark.executor.memoryOverhead": _setting(max(r.executor_rest, needed["executor"])),
        }

    def render(self) -> str:
        """The plan as a page, with what will be slow and what cannot fit."""
        rows = [*self._describe_work(), *self._describe_memory(), *self._describe_times()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {text}" for name, text in rows]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"does not fit: {text}" for text in self.problems]
        lines += ["", "Spark settings for it:", *(f"  --conf {key}={value}" for key, value in self.settings().items())]
        if self.sweep_seconds is not None:
            lines += ["", "Seconds a rating were measured on this machine just now; Spark's own share is assumed."]
        return "\n".join(lines)

    def _describe_work(self) -> list[tuple[str, str]]:
        s, p = self.statistics, self.params
        return [
            ("ratings", f"{s.n_ratings:,} of {s.n_users:,} users and {s.n_items:,} items, in {s.n_blocks:,} blocks"),
            ("fit", f"{p.objective}, rank {p.rank}{' and biases' if p.biases else ''}; users by {self.users_by}, "
                    f"items by {self.items_by}: {self.passes:.1f} passes a sweep"),
            ("tasks", f"{self.tasks} in every pass, on {self.resources.executors} x {self.resources.cores} cores"),
            ("exchange", f"{_size(self.exchange)} a sweep, whatever the number of users and ratings"),
        ]  # fmt: skip

    def _describe_memory(self) -> list[tuple[str, str]]:
        blocks, users = _size(self.block_bytes), _size(self.user_bytes)
        kept = ("blocks", f"{blocks}, and users' factors {users}, in all executors")
        return [kept, *((need.where, f"{_size(need.size)}: {need.what}") for need in self.needs)]

    def _describe_times(self) -> list[tuple[str, str]]:
        if self.sweep_seconds is None:
            return []
        cold, warm = self.params.sweeps, self.params.warm_sweeps
        return [
            ("before", f"{_duration(self.read_seconds)} to read and cut the blocks"),
            ("sweep", _duration(self.sweep_seconds)),
            ("fit, cold", f"{_duration(self.seconds(cold))} for {cold} sweeps"),
            ("fit, warm", f"{_duration(self.seconds(warm))} for {warm} sweeps"),
        ]


@dataclass(frozen=True)
class TrainingPlan(Plan):
    """What a training will need (recsys.training): its fits, and what it does around them.

    Attributes:
        around: how it is configured.
    """

    around: Around

    @property
    def split_bytes(self) -> int:
        """Of split blocks, which a training keeps while a fit has its own packed copy of them."""
        return self.block_bytes + _SPLIT_USER * self.statistics.n_users

    @property
    def kept_bytes(self) -> int:
        """Of all that Spark keeps at once: of a fit and the split blocks it came from, or of all slices."""
        return max(super().kept_bytes + self.split_bytes, self.around.slices * self.split_bytes)

    def fits(self, *, cold: bool) -> tuple[int, ...]:
        """Sweeps of each fit: the candidate's and the refit's, which go on; if cold, one before them."""
        return (self.params.sweeps,) * cold + (self.params.warm_sweeps,) * 2

    def readings(self, *, cold: bool) -> int:
        """How often all blocks are read: for dates; to count and to cut for holdout and refit, and for each slice."""
        return 1 + 2 * (2 + cold * self.around.slices)

    def judgements(self, *, cold: bool) -> int:
        """How many models are judged: the candidate after every sweep, then with the champion; if cold, one more."""
        return self.params.warm_sweeps + 2 + cold

    def judging_seconds(self, rules: int = 1) -> float:
        """Of a pass that lists the judged users' items, by each of some rules."""
        s, K = self.statistics, self.params.rank + self.params.biases
        n_users = min(self.around.users, s.n_users, s.n_ratings * self.around.held_share)
        solving = (s.n_ratings / max(1, s.n_users) * K**2 / 2 + K**3 / 6) * _SOLVE_SECONDS
        listing = s.n_items * (_SCORE_SECONDS + rules * _RULE_SECONDS)
        return _PASS_SECONDS + (s.n_ratings * _STREAM_SECONDS + n_users * (solving + listing)) / self.tasks

    def training_seconds(self, *, cold: bool) -> float:
        """Of everything but the tables and MLflow.

        Raises:
            ValueError: the plan was made without a speed.
        """
        reading = self.readings(cold=cold) * (self.read_seconds - _START_SECONDS + _PASS_SECONDS)
        fitting = sum(self.seconds(sweeps) - self.read_seconds for sweeps in self.fits(cold=cold))
        judging = self.judgements(cold=cold) * self.judging_seconds()
        tuning = cold * self.around.slices * self.judging_seconds(self.around.rules)
        return _START_SECONDS + reading + fitting + judging + tuning

    def _describe_memory(self) -> list[tuple[str, str]]:
        split, slices = _size(self.split_bytes), self.around.slices
        kept = (
            f"{_size(self.kept_bytes)} at most at once, of split blocks ({split}) and what a fit makes of them "
            f"({_size(super().kept_bytes)} with users of two passes), or of the split blocks of {slices} slices"
        )
        blocks, *needs = super()._describe_memory()
        return [blocks, ("kept", kept), *needs]

    def _describe_times(self) -> list[tuple[str, str]]:
        if self.sweep_seconds is None:
            return []
        judging, tuning = _duration(self.judging_seconds()), _duration(self.judging_seconds(self.around.rules))
        rows = [("judging", f"{judging} a model, {tuning} for {self.around.rules} rules at once")]
        for cold in (True, False):
            steps = [
                f"{self.readings(cold=cold)} readings of all blocks",
                f"fits of {', '.join(map(str, self.fits(cold=cold)))} sweeps",
                f"{self.judgements(cold=cold)} models judged",
                *[f"rules tried on {self.around.slices} slices"] * cold,
            ]
            total = _duration(self.training_seconds(cold=cold))
            rows.append(("run, cold" if cold else "run, warm", f"{total}: {'; '.join(steps)}"))
        return [*super()._describe_times(), *rows, ("besides", "a few seconds for the tables and MLflow")]


def plan_fit(statistics: Statistics, resources: Resources, params: AlsParams, speed: Speed | None = None) -> Plan:
    """Predict a fit.

    Args:
        statistics: of the ratings.
        resources: of Spark.
        params: the problem and how it is solved.
        speed: of the kernels, from `measure_speed`; None: no times are predicted.
    """
    I, K, N = statistics.n_items, params.rank + params.biases, statistics.n_ratings  # noqa: E741
    centre = statistics.mean if params.biases else 0.0
    constant = N * (statistics.mean_square - centre**2)
    sums = RatingSums(statistics.n_users, N, statistics.item_counts, statistics.item_counts, centre, constant)
    exact_users, exact_items = is_exact(params, sums)
    one_pass = not exact_items and takes_one_pass(params, sums)
    items_by = "exact" if exact_items else "one-pass" if one_pass else "cg"
    steps = min(_STEPS[params.objective], params.item_steps) if items_by == "cg" else 0.0
    tasks = max(1, min(resources.executors * resources.cores, statistics.n_blocks))
    factors = I * K * _FLOAT32
    matrices = I * (K * (K + 1) // 2) * _FLOAT32 if exact_items else 0
    position = 2 if np.iinfo(np.uint16).max + 1 >= I else 4
    age = _FLOAT32 if params.rating_half_life_days is not None else 0
    block_bytes = N * (position + (1 if statistics.coded else _FLOAT32) + age) + 8 * statistics.n_users
    user_bytes = 0 if exact_users and exact_items else statistics.n_users * K * _FLOAT32
    largest_block = block_bytes * statistics.block_ratings // max(1, N)
    gathered = statistics.longest_user * K * _FLOAT32
    worker = _PROCESS + 2 * factors + matrices + 3 * largest_block + gathered
    parts = min(tasks * (factors + matrices), _COLLECTED)
    rank = "lower als.rank"
    arrays = _DRIVER_ARRAYS * I * K * _FLOAT64 + 2 * matrices
    places = ("JVM heap", "machine") * 2 if resources.local else ("driver heap", "driver", "executor heap", "executor")
    driver_heap, driver, executor_heap, executor = places
    needs = (
        Need("parts of the sums on their way, and the factors that are sent", driver_heap,
             _COPIES * (parts + factors), rank),
        Need("item factors and the arrays of an item half", driver, _PROCESS + arrays, rank),
        Need("item factors that arrive, and blocks on their way to Python", executor_heap,
             _COPIES * (factors + resources.cores * largest_block), f"{rank} or make smaller blocks"),
        Need(f"{resources.cores} workers, each with its part of the sums, the factors and a block", executor,
             resources.cores * worker, f"{rank} or spark.executor.cores"),
    )  # fmt: skip
    sweep = None
    if speed is not None:
        busy = (speed.user_pass + steps * speed.further_pass) * N / tasks
        arithmetic = I * K * (K * _PAIR_SECONDS + (1 + steps) * _FEATURE_SECONDS)
        moved = (1 + steps) * tasks * factors + tasks * matrices
        sweep = busy + (1 + steps) * _PASS_SECONDS + arithmetic + moved / _EXCHANGE_RATE
    return Plan(
        statistics=statistics,
        resources=resources,
        params=params,
        users_by="exact" if exact_users else "cg",
        items_by=items_by,
        tasks=tasks,
        passes=1 + steps,
        block_bytes=block_bytes,
        user_bytes=user_bytes,
        exchange=(1 + steps) * (tasks + min(tasks, resources.executors)) * factors + tasks * matrices,
        sweep_seconds=sweep,
        read_seconds=_START_SECONDS + N * _READ_SECONDS / tasks,
        needs=needs,
    )


def plan_training(
    statistics: Statistics, resources: Resources, params: AlsParams, around: Around, speed: Speed | None = None
) -> TrainingPlan:
    """Predict a training; arguments as in `plan_fit`, and what is done around its fits."""
    fit = plan_fit(statistics, resources, params, speed)
    factors = statistics.n_items * (params.rank + params.biases) * _FLOAT32
    rules = around.rules * 2 * statistics.n_items * _FLOAT32
    rating = 2 * fit.block_bytes // max(1, statistics.n_ratings) + _DECODED
    worker = _PROCESS + 2 * factors + rules + _SCORES + rating * statistics.block_ratings
    *others, fitting = fit.needs
    judging = replace(
        fitting,
        what=f"{resources.cores} workers that judge, each with two models, {around.rules} rules, scores and a block",
        size=resources.cores * worker,
    )
    needs = (*others, max(fitting, judging, key=lambda need: need.size))
    return TrainingPlan(**{**vars(fit), "needs": needs}, around=around)


def measure_speed(statistics: Statistics, params: AlsParams) -> Speed:
    """Time the kernels on 200,000 made-up ratings of these items, which takes about a second of one core."""
    rng = np.random.default_rng(1)
    counts = np.maximum(statistics.item_counts, 1e-9)
    items = rng.choice(statistics.n_items, _SAMPLE_RATINGS, p=counts / counts.sum())
    offsets = np.linspace(0, _SAMPLE_RATINGS, _SAMPLE_USERS + 1).astype(np.int64)
    values = np.arange(1, 6, dtype=np.float32)
    codes = rng.integers(0, len(values), _SAMPLE_RATINGS).astype(np.uint8)
    ages = None if params.rating_half_life_days is None else np.ones(_SAMPLE_RATINGS, np.float32)
    block = CodedRatings(offsets, pack_items(items), codes, values, ages)
    sums = RatingSums(statistics.n_users, statistics.n_ratings, counts, counts, 3.0, 0.0)
    exact_users, exact_items = is_exact(params, sums)
    model = initial_model(params, statistics.n_items, 3.0 if params.biases else 0.0)
    solves, applies = [], []
    for _ in range(3):
        adder = UserSums(model, exact_users=exact_users, with_matrices=exact_items)
        began = time.perf_counter()
        users = adder.add(block, None)
        solved = time.perf_counter()
        add_image(params, block, users, model.item_parameters, np.zeros_like(model.item_parameters))
        solves.append(solved - began)
        applies.append(time.perf_counter() - solved)
    # The first of each also loads compiled code.
    return Speed(min(solves[1:]) / _SAMPLE_RATINGS, min(applies[1:]) / _SAMPLE_RATINGS)


def _size(n_bytes: float) -> str:
    return f"{n_bytes / _GIB:.1f} GiB" if n_bytes >= _GIB else f"{n_bytes / _MIB:,.0f} MiB"


def _setting(n_bytes: float) -> str:
    return f"{-(-int(n_bytes) // _MIB)}m"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
