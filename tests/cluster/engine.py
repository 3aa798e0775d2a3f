"""The engine on four executors of the test cluster: one application, whose driver writes down what it found.

``python -m tests.cluster.engine ASKED``: a JSON file as `Asked` says; ``test_engine.py`` starts it and judges. Nodes
are this machine, so tasks write into a folder of it what they did.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession

from benchmarks import data
from benchmarks.frames import FIRST_BATCH, fill_tables, make_split_blocks
from benchmarks.observe import EventLog, stored_bytes, sum_exchange
from benchmarks.process import MemoryWatch, resident_bytes
from recsys import columns as c
from recsys.als import sweep
from recsys.als.fit import FitResult, SweepReport, fit
from recsys.als.params import AlsParams
from recsys.als.plan import Plan, measure_speed, plan_fit
from recsys.als.sweep import BLOCKS_OF_A_FIT
from recsys.blocks.codec import read_array, read_items
from recsys.blocks.split import split_blocks
from recsys.planning import find_resources, read_statistics
from recsys.session import ROOT, start_session
from recsys.store.checkpoints import keep_checkpoints
from recsys.store.params import WarehouseParams
from recsys.store.tables import Tables
from recsys.user_blocks import bring_blocks_up_to_date
from tests.cluster.jobs import SHARED, SIZES

EXECUTORS: Final = 4
PARAMS: Final = AlsParams(objective="implicit", rank=64, sweeps=9, rating_half_life_days=None)
SIZE: Final = "2M"
FAVOURITE: Final = 17
# Users are kept on HDFS in the sixth pass; after it two more are lost with the executor that dies in the ninth.
KILLED_IN: Final = 9
_CONF: Final = {
    **SIZES,
    **{key: value for key, value in SHARED.items() if not key.startswith("spark.recsys.")},
    "spark.executor.instances": str(EXECUTORS),
    "spark.executorEnv.PYTHONPATH": str(ROOT),
    "spark.executorEnv.SPARK_LOCAL_IP": "127.0.0.1",
    "spark.sql.shuffle.partitions": str(EXECUTORS),
    # Blocks are spread over all executors, or there is nothing to see.
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.broadcast.compress": "false",
}


@dataclass(frozen=True)
class Asked:
    """What the driver is told.

    Attributes:
        warehouse: folder for tables and checkpoints, on HDFS.
        folder: an empty one of this machine.
        nodemanager: id of the process that all executors descend from.
        answer: the file to write.
    """

    warehouse: str
    folder: str
    nodemanager: int
    answer: str


def main(asked: Asked) -> None:
    """Measure everything and write it down."""
    folder = Path(asked.folder)
    answer: dict[str, Any] = {}
    plain = data.make_world(data.make_shape(SIZE))
    world = data.with_favourite(plain, FAVOURITE)
    data.generate(world, np.arange(2))  # compiles here, once, and not in four executors at a time
    spark = start_session("engine", env="yarn", conf=_CONF)
    spark.sparkContext.setLogLevel("ERROR")
    for name, each in (("without", plain), ("with", world)):
        split = make_split_blocks(spark, each, data.BASE, tasks=EXECUTORS)
        with recorded(folder / name) as done:
            fit(split, each.shape.n_items, PARAMS.model_copy(update={"sweeps": 3}))
        answer[name] = done
    tables = make_tables(spark, asked.warehouse, world)
    split = split_blocks(tables.user_blocks.read(), cutoff_us=data.HELD_START)
    n_items = world.shape.n_items
    plan = make_plan(spark, tables, n_items)
    answer |= measure(spark, split, n_items, plan, asked)
    undisturbed = answer.pop("result")
    with recorded(folder / "killed", killed_in=KILLED_IN) as done, keep_checkpoints(spark, asked.warehouse):
        killed = fit(split, n_items, PARAMS)
    answer["killed"] = {
        "done": done,
        "died": (folder / "killed" / "died").exists(),
        "same": killed.model.item_factors.tobytes() == undisturbed.model.item_factors.tobytes(),
        "same losses": [s.loss for s in killed.sweeps] == [s.loss for s in undisturbed.sweeps],
        "seconds": [s.seconds for s in killed.sweeps],
    }
    Path(asked.answer).write_text(json.dumps(answer))
    spark.stop()


def make_tables(spark: SparkSession, root: str, world: data.World) -> Tables:
    """Ratings, items and user blocks on HDFS."""
    tables = Tables(spark, WarehouseParams(root=root, buckets=8, users_per_block=1024)).open_or_create()
    fill_tables(spark, tables, world)
    bring_blocks_up_to_date(tables, through_batch=FIRST_BATCH)
    return tables


def make_plan(spark: SparkSession, tables: Tables, n_items: int) -> Plan:
    """What ``train_model --plan`` says of one of its fits."""
    statistics = read_statistics(tables.user_blocks.read(), n_items)
    return plan_fit(statistics, find_resources(spark), PARAMS, measure_speed(statistics, PARAMS))


def measure(spark: SparkSession, split: DataFrame, n_items: int, plan: Plan, asked: Asked) -> dict[str, Any]:
    """An undisturbed fit beside its plan."""
    ends: list[float] = []
    kept: list[int] = []

    def on_sweep(report: SweepReport) -> None:
        ends.append(time.time() * 1000)
        kept.append(sum(size for name, size in stored_bytes(spark) if name == BLOCKS_OF_A_FIT))
        time.sleep(0.3)  # the listener is told a little later than the driver; keeps the sweeps' events apart

    folder = Path(asked.folder)
    with (
        recorded(folder / "undisturbed") as done,
        MemoryWatch("java", root=asked.nodemanager) as memory,
        EventLog(spark, folder / "events") as log,
    ):
        began = time.monotonic()
        result: FitResult = fit(split, n_items, PARAMS, on_sweep=on_sweep)
        seconds = time.monotonic() - began - 0.3 * len(ends)
    # Users start elsewhere in the first sweep, and workers start at all.
    sweeps = sum_exchange(log.events, ends)[1:]
    need = {each.where: each.size for each in plan.needs}
    return {
        "result": result,
        "undisturbed": done,
        "page": plan.render(),
        "sweeps": sweeps,
        "planned": {
            "tasks": plan.tasks,
            "exchange": plan.exchange,
            "blocks": plan.block_bytes,
            "workers": EXECUTORS * need["executor"],
            "driver": need["driver"],
            "fit, s": plan.seconds(PARAMS.sweeps),
            "sweep, s": plan.sweep_seconds,
        },
        "found": {
            "tasks": len({each["partition"] for each in done}),
            "exchange": median(each["results"] + each["shuffled"] + each["broadcast"] for each in sweeps),
            "blocks": kept[-1],
            "workers": memory.peak,
            "driver": resident_bytes(os.getpid(), "java"),
            "fit, s": seconds,
            "sweep, s": median(each.seconds for each in result.sweeps[1:]),
        },
        "factors": n_items * PARAMS.rank * 4,
    }


@contextmanager
def recorded(folder: Path, killed_in: int = 0) -> Iterator[list[dict[str, Any]]]:
    """Let every task of a user pass leave a file when it has done a partition; they are read at the end.

    Args:
        folder: a new one.
        killed_in: the pass in which the executor of partition 1 dies, once, when it has done some blocks.
    """
    folder.mkdir()
    user_pass, passes = sweep._user_pass, 0
    done: list[dict[str, Any]] = []

    def watched(shared: Any, **ways: bool) -> Callable[[Iterable[Any]], Iterator[Any]]:
        nonlocal passes
        passes += 1
        return _watch(user_pass(shared, **ways), folder, passes, dies=passes == killed_in)

    sweep._user_pass = watched
    try:
        yield done
    finally:
        sweep._user_pass = user_pass
        done += [json.loads(file.read_text()) for file in folder.glob("*.json")]


def _watch(
    task: Callable[[Iterable[Any]], Iterator[Any]], folder: Path, number: int, *, dies: bool
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def run(pairs: Iterable[Any]) -> Iterator[Any]:
        context = TaskContext.get()
        assert context is not None
        partition, began = context.partitionId(), time.monotonic()
        ratings = favourites = 0

        def count(pairs: Iterable[Any]) -> Iterator[Any]:
            nonlocal ratings, favourites
            for packed, start in pairs:
                if packed is not None:
                    n = int(read_array(packed[c.OFFSETS], np.int64)[-1])
                    ratings += n
                    favourites += int(np.count_nonzero(read_items(packed[c.ITEMS], n) == FAVOURITE))
                yield packed, start

        for at, element in enumerate(task(count(pairs))):
            if dies and partition == 1 and at == 1 and not (folder / "died").exists():
                (folder / "died").touch()
                # A worker's parent is a daemon, and the daemon's the executor.
                daemon = Path(f"/proc/{os.getppid()}/stat").read_text()
                os.kill(int(daemon.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
                os._exit(1)  # what has no executor any more goes on until it has something to say
            yield element
        row = {"pass": number, "partition": partition, "ratings": ratings, "favourites": favourites,
               "seconds": time.monotonic() - began}  # fmt: skip
        (folder / f"{number}-{partition}-{time.time_ns()}.json").write_text(json.dumps(row))

    return run


def ask(asked: Asked) -> str:
    """The JSON that `main` is started with."""
    return json.dumps(asdict(asked))


if __name__ == "__main__":
    main(Asked(**json.loads(Path(sys.argv[1]).read_text())))
