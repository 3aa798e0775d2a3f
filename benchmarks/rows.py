"""The targets: who runs what, at which size, and what is made of the numbers.

All contestants of a row run in one command on the same generated data, one after the other, in an order that turns with
every repetition. Goals and sizes are those of the table in docs/benchmarks.md.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from benchmarks.data import Shape, count_buckets, make_shape, parse_size
from benchmarks.measure import Measured, Row, describe_machine, explain, extrapolate, median, seconds_to, today, warn
from benchmarks.process import CORES, WORK, PeerMissingError, Result, Task, run
from recsys.errors import UsageError

_LARGE: Final = 20_000_000  # ratings from which Spark contestants get more memory
_HELD_OFF: Final = 1.002  # target 6: within 0.2 % of a cold fit's RMSE
_GIB: Final = 1024**3


@dataclass(frozen=True)
class Plan:
    """How a target is measured.

    Attributes:
        size: instead of the target's sizes; None: those.
        repeat: runs of everyone in each row.
        rival_repeat: runs of every rival; None: as many as ours. A rival that takes an hour is measured once.
        iterations: of MLlib's fits, instead of each row's own.
        als: settings of our engine over each row's own.
        rank: instead of each row's own.
        work: folder for warehouses and logs.
        users: of the sample that the rivals of target 7 list for.
        blocks: of MLlib's fits; None: its default, 10.
    """

    size: str | None = None
    repeat: int = 3
    rival_repeat: int | None = None
    iterations: int | None = None
    als: Mapping[str, Any] = field(default_factory=dict)
    rank: int | None = None
    work: Path = WORK
    users: int = 5000
    blocks: int | None = None

    def sizes(self, *official: str) -> tuple[str, ...]:
        """The sizes of a target, or the one that was asked for."""
        return official if self.size is None else (self.size,)

    def explicit(self, rank: int = 64, **more: Any) -> dict[str, Any]:
        """The explicit problem: Spark's regularisation, 0.05, no biases, no ages, nobody stops early."""
        return {**_COMMON, "objective": "explicit", "rank": self.rank or rank, "reg": 0.05, **more}

    def implicit(self, rank: int = 64, **more: Any) -> dict[str, Any]:
        """The implicit problem: confidence 1 + r, Spark's regularisation, 0.05."""
        return {**_COMMON, "objective": "implicit", "rank": self.rank or rank, "reg": 0.05, **more}

    def warehouse(self, size: str) -> str:
        """Folder of the warehouse with generated ratings of a size."""
        return str(self.work / f"warehouse-{size}")

    def task(self, contestant: str, shape: Shape, **options: Any) -> Task:
        """A contestant with what all tasks share."""
        is_peer = contestant in ("peers.implicit_fit", "peers.implicit_recommend", "peers.cmfrec_fit")
        if contestant.startswith("ours") and "als" in options:
            options["als"] = {**options["als"], **self.als}
        if contestant == "peers.mllib_fit" and self.blocks is not None:
            options["blocks"] = self.blocks
        memory = ("12g" if "mllib" in contestant else "6g") if shape.n_ratings >= _LARGE else "4g"
        threads = CORES if is_peer else 1
        return Task(contestant, shape, {"driver_memory": memory, **options}, threads, str(self.work))


_INGEST_MEMORY: Final = {"driver_memory": "2g"}
_COMMON: Final = {"rating_half_life_days": None, "tolerance": 0.0, "sweeps": 12}


@dataclass(frozen=True)
class Target:
    """A row of the table of targets."""

    what: str
    measure: Callable[[Plan], list[Row]]


def measure_target(number: int, plan: Plan) -> Measured:
    """Run a target's contestants and return what came of it.

    Raises:
        ContestantError: our own side failed. A rival that is not installed leaves a row without a value.
    """
    target = TARGETS[number]
    warn(f"target {number}: {target.what}")
    rows = tuple(target.measure(plan))
    official = (plan.size, plan.rank, plan.iterations, plan.blocks) == (None,) * 4 and not plan.als
    runs = (plan.repeat, plan.rival_repeat or plan.repeat)
    return Measured(number, target.what, rows, official, *runs, describe_machine(CORES), today())


def _repeat(plan: Plan, *tasks: Task) -> list[list[Result]]:
    """Every task's results; the order turns with every repetition."""
    results: list[list[Result]] = [[] for _ in tasks]
    runs = [plan.rival_repeat or plan.repeat if task.contestant.startswith("peers.") else plan.repeat for task in tasks]
    for repetition in range(max(runs)):
        for turn in range(len(tasks)):
            at = (turn + repetition) % len(tasks)
            if repetition < runs[at]:
                task = tasks[at]
                warn(f" {task.contestant}, {task.shape.n_ratings:,} ratings, run {repetition + 1} of {runs[at]}")
                results[at].append(run(task))
    return results


def _fit_against(
    plan: Plan, label: str, size: str, ours: Task, rival: Task, *, goal: float, inverted: bool = False
) -> Row:
    """A fit of ours against a rival's at equal quality: rival over ours, or with ``inverted`` ours over rival."""
    try:
        mine, theirs = _repeat(plan, ours, rival)
    except PeerMissingError as err:
        return Row(label, size, None, "x", goal, "lower" if inverted else "higher", note=str(err))
    fits = [result["fits"][-1] for result in theirs]
    return _ratio_row(label, size, mine, fits, goal=goal, inverted=inverted)


def _ratio_row(
    label: str,
    size: str,
    mine: Sequence[Result],
    fits: Sequence[Result],
    *,
    goal: float,
    inverted: bool = False,
    note: str = "",
) -> Row:
    """The row of runs that were measured.

    A whole job's time is that of its fit and what comes after it. A rival's fit ends with factors of users and items;
    ours, which ends with the items', is charged the users' too.
    """
    reached = [
        # The rival may have run less often: its quality hardly differs from run to run.
        _seconds_to_model(result, fit["quality"])
        for result, fit in zip(mine, cycle(fits))
    ]
    rival = tuple(fit["seconds"] for fit in fits)
    quality = fits[-1]["quality"]
    last = mine[-1]["curve"][-1]
    said = ", ".join(f"{name} {value:.4f}, ours at its end {last[name]:.4f}" for name, value in quality.items())
    iterations = f"rival's {fits[-1]['iterations']} iterations, quality there: {said}"
    detail = {"ours": list(mine), "rival": list(fits)}
    ours = tuple(seconds for seconds in reached if seconds is not None)
    better: Any = "lower" if inverted else "higher"
    remarks = "; ".join(filter(None, (iterations, note)))
    bound, is_equal = explain(mine[-1]), len(ours) == len(reached)
    if not is_equal:
        ours = tuple(result["seconds"] for result in mine)
        bound = f"the rival's quality was not reached in {len(mine[-1]['curve'])} sweeps; {bound}"
    ratio = statistics.median(rival) / statistics.median(ours)
    value = 1 / ratio if inverted else ratio
    return Row(label, size, value, "x", goal, better, ours, rival, "s", remarks, bound, detail, is_equal)


def _seconds_to_model(result: Result, goal: dict[str, float]) -> float | None:
    """Seconds until a run has a model of the quality asked for; None when it never has."""
    curve = result["curve"]
    seconds = seconds_to(curve, goal)
    if seconds is None:
        return None
    if "stages" in result:  # a job: it writes its model, the item factors
        return seconds + float(result["stages"]["write"])
    # A sweep begins with the user half: one more sweep is an upper bound of what the users of these items cost.
    following = [point["sweep_seconds"] for point in curve if point["seconds"] > seconds]
    return seconds + float(following[0] if following else curve[-1]["sweep_seconds"])


def _fit_from_blocks(plan: Plan) -> list[Row]:
    [size] = plan.sizes("8.9M")
    als, shape = plan.explicit(), make_shape(size)
    return [
        _fit_against(
            plan,
            f"explicit, rank {als['rank']}, against MLlib",
            size,
            plan.task("ours.fit", shape, als=als),
            plan.task("peers.mllib_fit", shape, als=als, iterations=[plan.iterations or 6]),
            goal=30,
        )
    ]


def _fit_harder(plan: Plan) -> list[Row]:
    [usual] = plan.sizes("8.9M")
    problems = [
        ("rank 128", usual, plan.explicit(128), 2),
        ("implicit", usual, plan.implicit(), 3),
    ]
    if plan.size is None:
        problems.append(("explicit", "30M", plan.explicit(), 2))
    rows = []
    for label, size, als, iterations in problems:
        shape = make_shape(size)
        theirs = plan.task("peers.mllib_fit", shape, als=als, iterations=[plan.iterations or iterations])
        mine = plan.task("ours.fit", shape, als=als)
        rows.append(_fit_against(plan, f"{label}, against MLlib", size, mine, theirs, goal=40))
    return rows


def _whole_job(plan: Plan) -> list[Row]:
    [size] = plan.sizes("8.9M")
    als, shape, folder = plan.explicit(), make_shape(size), plan.warehouse(size)
    _fill(plan, size)
    first, second, theirs = _repeat(
        plan,
        plan.task("ours.job", shape, als=als, warehouse=folder, keep_blocks=False),
        plan.task("ours.job", shape, als=als, warehouse=folder, keep_blocks=True),
        plan.task("peers.mllib_fit", shape, als=als, warehouse=folder, iterations=[plan.iterations or 6]),
    )
    fits = [result["fits"][-1] for result in theirs]
    return [
        _ratio_row("whole job from Delta, against MLlib", size, first, fits, goal=10),
        _ratio_row("second fit, blocks already there, against MLlib", size, second, fits, goal=20),
    ]


def _fit_against_in_memory(plan: Plan) -> list[Row]:
    rows = []
    for size, goal in ((plan.size, 1.2),) if plan.size else (("8.9M", 1.2), ("66M", 1.0)):
        shape, iterations = make_shape(size), 6
        for peer, als in (
            ("implicit", plan.implicit(reg=1.0, reg_exponent=0.0)),
            ("cmfrec", plan.explicit()),
        ):
            mine = plan.task("ours.fit", shape, als=als)
            theirs = plan.task(f"peers.{peer}_fit", shape, als=als, iterations=iterations)
            label = f"{als['objective']}, against {peer} in memory"
            rows.append(_fit_against(plan, label, size, mine, theirs, goal=goal, inverted=True))
    return rows


def _netflix_job(plan: Plan) -> list[Row]:
    [size] = plan.sizes("netflix")
    als, shape, folder = plan.explicit(), make_shape(size), plan.warehouse(size)
    _fill(plan, size)
    goal = _exact_quality(plan, size)
    [runs] = _repeat(plan, plan.task("ours.job", shape, als=als, warehouse=folder, keep_blocks=False, goal=goal))
    seconds = tuple(result["seconds"] for result in runs)
    peaks = tuple(result["peak_bytes"] / _GIB for result in runs)
    is_reached = all(seconds_to(result["curve"], goal) is not None for result in runs)
    note = f"quality of 10 exact sweeps: {_word(goal)}, reached: {_word(runs[-1]['quality'])}"
    bound = explain(runs[-1]) if is_reached else f"that quality was not reached; {explain(runs[-1])}"
    value = median(seconds)
    detail = {"runs": runs}
    return [
        Row("whole job from Delta", size, value, " s", 240, "lower", seconds, (), "s", note, bound, detail, is_reached),
        Row("its peak memory", size, median(peaks), " GiB", 16, "lower", peaks, (), "GiB", "resident sets added up"),
    ]


def _refresh(plan: Plan) -> list[Row]:
    [size] = plan.sizes("netflix")
    als, shape, folder = plan.explicit(), make_shape(size), plan.warehouse(size)
    _fill(plan, size)
    prepared = run(plan.task("ours.prepare_refresh", shape, als=als, warehouse=folder))
    goal = {"rmse": prepared["cold_quality"]["rmse"] * _HELD_OFF}
    runs, theirs = _repeat(
        plan,
        plan.task("ours.refresh", shape, als=als, warehouse=folder, goal=goal),
        plan.task("peers.mllib_fit", shape, als=als, iterations=[1, 2]),
    )
    label = "refresh after 1 % new ratings, against a cold MLlib fit"
    seconds = tuple(result["seconds"] for result in runs)
    detail = {"ours": runs, "rival": theirs, "prepared": prepared}
    try:
        rival = tuple(extrapolate(result["fits"], 10) for result in theirs)
    except UsageError as err:  # ours is worth keeping all the same
        return [Row(label, size, None, "x", 100, "higher", seconds, note=str(err), detail=detail)]
    is_reached = all(seconds_to(result["curve"], goal) is not None for result in runs)
    note = (
        f"{prepared['late']:,} new ratings; MLlib's 10 iterations extrapolated from 1 and 2, from a cached DataFrame; "
        f"quality to reach: {_word(goal)}, reached: {_word(runs[-1]['quality'])}"
    )
    bound = explain(runs[-1]) if is_reached else f"that quality was not reached; {explain(runs[-1])}"
    value = statistics.median(rival) / statistics.median(seconds)
    return [Row(label, size, value, "x", 100, "higher", seconds, rival, "s", note, bound, detail, is_reached)]


def _recommend(plan: Plan) -> list[Row]:
    [size] = plan.sizes("netflix")
    shape, rank = make_shape(size), plan.rank or 64
    what = {"rank": rank, "n": 100, "users": plan.users}
    mine, theirs = _repeat(
        plan, plan.task("ours.recommend", shape, **what), plan.task("peers.mllib_recommend", shape, **what)
    )
    ours = tuple(result["seconds_a_user"] * 1e6 for result in mine)
    last = mine[-1]
    note = (
        f"{last['users']:,} users folded in and listed, rivals {theirs[-1]['users']:,} whose factors they have, MLlib "
        f"with seen items; {last['equal_lists']} of {last['checked_users']} lists equal to brute force entry by entry, "
        f"scores within {last['worst_score_difference']:.1g}"
    )
    rows = []
    for name, goal, tasks in (
        ("MLlib", 50.0, theirs),
        ("implicit", None, _try(plan, plan.task("peers.implicit_recommend", shape, **what))),
    ):
        label = f"top {what['n']} without seen items, against {name}"
        if isinstance(tasks, str):
            rows.append(Row(label, size, None, "x", goal, "higher", note=tasks))
            continue
        rival = tuple(result["seconds_a_user"] * 1e6 for result in tasks)
        value = statistics.median(rival) / statistics.median(ours)
        detail = {"ours": mine, "rival": tasks}
        bound = "folding users in and scoring them"
        rows.append(Row(label, size, value, "x", goal, "higher", ours, rival, "µs a user", note, bound, detail))
    return rows


def _exchange(plan: Plan) -> list[Row]:
    sizes = (_growing(plan.size)[0], plan.size) if plan.size else ("10M", "netflix")
    rows, moved = [], []
    for size in sizes:
        shape = _same_items(size)
        als = plan.explicit(sweeps=4)
        [results] = _repeat(Plan(**{**vars(plan), "repeat": 1}), plan.task("ours.exchange", shape, als=als))
        sweep, expected = results[0]["sweeps"][-1], results[0]["expected"][-1]
        total = sweep["results"] + sweep["shuffled"] + sweep["broadcast"]
        moved.append(total / max(1, sweep["jobs"]))
        off = max(total / expected, expected / max(1, total))
        note = f"passes {sweep['jobs']}, {total / 1e6:.1f} MB, expected {expected / 1e6:.1f} MB; {_word(sweep)}"
        label = "bytes of a sweep, off the formula by"
        bound = "broadcasts or parts that are not I x k float32 (see the note)"
        rows.append(Row(label, size, off, "x", 1.2, "lower", (total / 1e6,), (expected / 1e6,), "MB", note, bound))
    same = max(moved) / max(1, min(moved))
    both = " and ".join(sizes)
    return [
        *rows,
        Row("bytes of a pass, size against size", both, same, "x", 1.2, "lower", bound="see the rows above"),
    ]


def _block_memory(plan: Plan) -> list[Row]:
    [size] = plan.sizes("netflix")
    _fill(plan, size)
    found = run(plan.task("ours.block_bytes", make_shape(size), als=plan.explicit(), warehouse=plan.warehouse(size)))
    note = f"in the table, bytes a rating: {_word(found['table'])}; with users' factors {found['kept_in_all']:.2f}"
    value = found["kept_a_rating"]
    bound = "offsets, items, values and weights as the fit keeps them"
    return [Row("blocks in memory during a fit", size, value, " B", 4, "lower", (), (), "B", note, bound, found)]


def _growth(plan: Plan) -> list[Row]:
    sizes = _growing(plan.size) if plan.size else ("1M", "10M", "netflix")
    nanoseconds, notes, detail = [], [], {}
    for size in sizes:
        shape = make_shape(size)
        [results] = _repeat(plan, plan.task("ours.fit", shape, als=plan.explicit(sweeps=5), judged=False))
        sweeps = [point["sweep_seconds"] for result in results for point in result["curve"][1:]]
        nanoseconds.append(statistics.median(sweeps) / shape.n_ratings * 1e9)
        notes.append(f"{size} {nanoseconds[-1]:.1f} ns a rating, {explain(results[-1])}")
        detail[size] = results
    value = max(nanoseconds) / min(nanoseconds)
    label = "seconds a rating and sweep, most over least"
    note = "; ".join(notes)
    bound = "the cost of a pass that does not depend on ratings, at the smallest size"
    samples = tuple(nanoseconds)
    return [
        Row(label, " to ".join((sizes[0], sizes[-1])), value, "x", 1.2, "lower", samples, (), "ns", note, bound, detail)
    ]


def _planned(plan: Plan) -> list[Row]:
    rows = []
    for size in plan.sizes("1M", "10M", "netflix"):
        _fill(plan, size)
        als = plan.explicit(sweeps=5)
        [runs] = _repeat(plan, plan.task("ours.planned", make_shape(size), als=als, warehouse=plan.warehouse(size)))
        off, said = {}, []
        for what in runs[0]["planned"]:
            planned, found = (statistics.median(result[side][what] for result in runs) for side in ("planned", "found"))
            off[what] = max(planned, found) / max(min(planned, found), 1e-9)
            said.append(f"{what}: {planned:.3g} planned, {found:.3g} found")
        worst = max(off, key=lambda what: off[what])
        note = "; ".join(said)
        label, bound = "planned and found apart by, at most", f"{worst}: constants of the plan"
        detail = {"runs": runs}
        rows.append(Row(label, size, off[worst], "x", 2, "lower", note=note, bound=bound, detail=detail))
    return rows


def _ingest(plan: Plan) -> list[Row]:
    [size] = plan.sizes("10M")
    part, _, _ = _growing(size)
    runs: dict[str, list[Result]] = {}
    for of in (size, part):
        landing, shape = _land(plan, of), make_shape(of)
        mine, plain = _repeat(
            plan,
            plan.task("ingest.ours", shape, landing=landing, buckets=16, **_INGEST_MEMORY),
            plan.task("ingest.plain", shape, landing=landing, **_INGEST_MEMORY),
        )
        runs |= {f"ours {of}": mine, f"plain {of}": plain}
    seconds = {name: tuple(result["seconds"] for result in results) for name, results in runs.items()}
    peaks = {name: tuple(result["peak_bytes"] / _GIB for result in results) for name, results in runs.items()}
    mine, theirs = seconds[f"ours {size}"], seconds[f"plain {size}"]
    rate = make_shape(size).n_ratings / median(mine)
    label = "rows a second, of those of a plain append of the same files"
    bound = "rules, hashes and the exchange of rows by bucket: docs/benchmarks.md"
    flat = median(peaks[f"ours {size}"]) / median(peaks[f"ours {part}"])
    note = f"{median(peaks[f'ours {size}']):.2f} and {median(peaks[f'ours {part}']):.2f} GiB, heap of 2 GiB"
    both = f"{size} and {part}"
    return [
        Row(label, size, median(theirs) / median(mine), "x", 0.6, "higher", mine, theirs, "s", f"{rate:,.0f} a second",
            bound, {"runs": runs}),
        Row("its peak memory, size against size", both, flat, "x", 1.2, "lower", note=note, bound="the heap fills"),
        _batch_by_table(plan),
        _backlog(plan),
    ]  # fmt: skip


def _batch_by_table(plan: Plan) -> Row:
    """A batch into tables of two sizes."""
    sizes = (_growing(plan.size)[0], plan.size) if plan.size else ("10M", "netflix")
    batch = _growing(plan.size)[0] if plan.size else "1M"
    landing = _land(plan, batch)
    for size in sizes:
        _fill(plan, size)
        filled = {"warehouse": plan.warehouse(size), "landing": landing}
        run(plan.task("ingest.adopt", make_shape(size), **filled, **_INGEST_MEMORY))
    tasks = [
        plan.task(
            "ingest.ours",
            make_shape(batch),
            landing=landing,
            warehouse=plan.warehouse(size),
            buckets=count_buckets(make_shape(size)),
            **_INGEST_MEMORY,
        )
        for size in sizes
    ]
    small, large = (tuple(result["seconds"] for result in results) for results in _repeat(plan, *tasks))
    label = f"a batch of {batch} into a large table, against a small one"
    value = median(large) / median(small)
    bound = "buckets, of which a larger table has more: a file each"
    return Row(label, " and ".join(sizes), value, "x", 1.2, "lower", large, small, "s", bound=bound)


def _backlog(plan: Plan) -> Row:
    """Ten batches of small files; four where it has to be quick."""
    shape = make_shape(_growing(plan.size)[0] if plan.size else "200k")
    files, batches = (max(20, min(1000, shape.n_ratings // 1000)), 4) if plan.size else (10_000, 10)
    once = replace(plan, repeat=1)  # memory says the same every time
    [results] = _repeat(
        once, plan.task("ingest.backlog", shape, files=files, files_a_batch=-(-files // batches), **_INGEST_MEMORY)
    )
    first = tuple(max(result["peaks"][:2]) / _GIB for result in results)
    last = tuple(max(result["peaks"][-2:]) / _GIB for result in results)
    label = "peak memory of the last two batches of a backlog, against the first two"
    note = f"{results[0]['files']:,} files in {results[0]['batches']} batches, {results[0]['seconds']:,.0f} s"
    value = median(last) / median(first)
    return Row(label, f"{files:,} files", value, "x", 1.2, "lower", last, first, "GiB", note, "the heap fills")


def _land(plan: Plan, size: str) -> str:
    shape, landing = make_shape(size), str(plan.work / f"landing-{size}")
    run(plan.task("ingest.land", shape, landing=landing, files=max(2, shape.n_ratings // 500_000)))
    return landing


def _growing(size: str) -> tuple[str, ...]:
    """A tenth, a third and all of a size."""
    n_ratings = parse_size(size)
    return (*(f"{max(1.0, n_ratings / part / 1e3):g}k" for part in (10, 3)), size)


def _same_items(size: str) -> Shape:
    """A shape with Netflix's items at any size, or with so many that a third of all pairs is not exceeded."""
    shape = make_shape(size)
    items = make_shape("netflix").n_items if shape.n_ratings >= 1_000_000 else shape.n_items
    return Shape(shape.n_users, items, shape.n_ratings, shape.seed)


def _fill(plan: Plan, size: str) -> None:
    run(plan.task("ours.fill", make_shape(size), warehouse=plan.warehouse(size)))


def _exact_quality(plan: Plan, size: str) -> dict[str, float]:
    """What 10 exact sweeps reach; kept in the work folder, because it takes long and does not change."""
    als = {**plan.explicit(sweeps=10), "user_solver": "exact", "item_solver": "exact"}
    file = plan.work / f"exact-{size}-rank-{als['rank']}.json"
    made_for = {"als": als, "shape": make_shape(size).to_dict()}
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["made_for"] == made_for:
            return dict(known["quality"])
    warn(" 10 exact sweeps, once, for their quality")
    # Not through plan.task: settings of a trial must not change what is to be reached.
    memory = plan.task("ours.fit", make_shape(size)).options["driver_memory"]
    result = run(Task("ours.fit", make_shape(size), {"driver_memory": memory, "als": als}, 1, str(plan.work)))
    quality = {"rmse": result["curve"][-1]["rmse"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"made_for": made_for, "quality": quality}), encoding="utf-8")
    return quality


def _try(plan: Plan, task: Task) -> list[Result] | str:
    """Results of a rival that may be missing, or why there are none."""
    try:
        return _repeat(plan, task)[0]
    except PeerMissingError as err:
        return str(err)


def _word(numbers: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value:,}" for name, value in numbers.items()
    )


TARGETS: Final = {
    1: Target("fit from cached blocks against MLlib, rank 64", _fit_from_blocks),
    2: Target("the same at rank 128, implicit, and at 30 M ratings", _fit_harder),
    3: Target("whole job from the Delta table against MLlib", _whole_job),
    4: Target("fit against implicit and cmfrec in memory", _fit_against_in_memory),
    5: Target("whole job at Netflix size", _netflix_job),
    6: Target("refresh after 1 % new ratings against a cold MLlib fit", _refresh),
    7: Target("exact top 100 of all users against MLlib", _recommend),
    8: Target("bytes exchanged a sweep", _exchange),
    9: Target("memory of the blocks", _block_memory),
    10: Target("growth with the ratings", _growth),
    11: Target("what a fit needs and takes against its plan", _planned),
    12: Target("ingestion of files against a plain append", _ingest),
}
