"""``./spark-submit.sh --env yarn`` on a real cluster: what it ships, what it refuses, what it says, how it ends."""

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.ingest_ratings import main as ingest
from launch.environment import MINOR, archive_name, pins
from launch.staging import link_or_copy
from recsys.ranking.model import trend_model
from recsys.secrets import FILE
from recsys.session import ROOT, bundled_jars
from recsys.store.files import Files
from recsys.store.locks import LISTS, Lock
from recsys.store.params import MlflowParams
from recsys.store.registry import REFUSED, VERDICT, Registry
from tests.cluster.hadoop import ClusterError, Hadoop
from tests.cluster.jobs import SHARED, Ended, ended, submit, submitted
from tests.jobs.fingerprint import hash_tables
from tests.jobs.test_pipeline import SETTINGS, land
from tests.jobs.warehouses import land_csv
from tests.stores import place_empty_store
from tests.worlds import two_tastes

PROBE = str(Path(__file__).with_name("submitted") / "probe.py")
ONE_EXECUTOR = {**SHARED, "spark.executor.instances": "1"}
LAUNCHER = ROOT / "spark-submit.sh"
REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
_LOGS = "org.apache.hadoop.yarn.client.cli.LogsCLI"


@dataclass(frozen=True)
class World:
    """A warehouse on HDFS with ratings, and an MLflow store on this machine, where every node is."""

    root: str
    words: tuple[str, ...]  # of every job
    ingested: dict[str, Any]  # what its tables held after the ratings were taken in, undisturbed


@pytest.fixture(scope="module")
def world(hadoop: Hadoop, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Ratings, and a model version 1 that the gate has refused."""
    folder = tmp_path_factory.mktemp("launch")
    root = f"{hadoop.fs}/recsys/{folder.name}-{uuid.uuid4().hex[:6]}/warehouse"
    land(folder / "landing", "1.csv", two_tastes(n_users=60, n_items=30, n_rated=8))
    place_empty_store(folder)
    mlflow = {
        "mlflow.tracking_uri": f"sqlite:///{folder}/mlflow/mlflow.db",
        "mlflow.artifact_root": f"{folder}/artifacts",
    }
    settings = {**SETTINGS, **mlflow, "landing.path": f"file://{folder}/landing"}
    words = [f"--warehouse={root}", *(f"--set={key}={value}" for key, value in settings.items())]
    assert ingest(words) == 0
    registry = Registry(MlflowParams.model_validate({key.partition(".")[2]: mlflow[key] for key in mlflow}), root)
    model = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)
    registry.log_fit(model.to_files(), fit_key="refused", params={}, tags={VERDICT: REFUSED, "reasons": "worse"})
    return World(root, tuple(words), hash_tables(spark, root))


# --- the environment, and what is copied once


@dataclass(frozen=True)
class Shipped:
    """A submission with a packed environment and the staging folder after it."""

    ended: Ended
    staged: dict[str, str]  # name → the rest of its line in the listing: permissions, size, time


@pytest.fixture(scope="module")
def packed(hadoop: Hadoop, world: World) -> tuple[str, Shipped]:
    """The staging folder, and the first submission, which packs and copies; half of a gigabyte."""
    staging = f"{world.root.rpartition('/')[0]}/launch"
    return staging, ship(hadoop, world, staging, "packed", "--executors")


def ship(hadoop: Hadoop, world: World, staging: str, python: str, *words: str, mode: str = "cluster") -> Shipped:
    conf = {"spark.recsys.staging": staging, "spark.recsys.python": python, "spark.executor.instances": "1"}
    done = submit(hadoop, PROBE, *world.words, *words, mode=mode, conf=conf)
    lines = hadoop.shell("-ls", staging).splitlines()
    files = [line.split(maxsplit=7) for line in lines if line.startswith("-")]
    return Shipped(done, {Path(words[7]).name: " ".join(words[:7]) for words in files})


def test_driver_and_executors_run_on_the_packed_python_and_on_nothing_of_this_machine_s(
    packed: tuple[str, Shipped],
) -> None:
    done = packed[1].ended
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["driver"] == report["workers"] == []  # numba, pyarrow and the interpreter among them
    assert report["doubled"] == [0, 2, 4, 6]


@pytest.mark.long
def test_the_second_submission_copies_nothing_and_an_archive_by_path_is_copied_once(
    hadoop: Hadoop, world: World, packed: tuple[str, Shipped], tmp_path: Path
) -> None:
    staging, first = packed
    kinds = {re.sub(r"-[0-9a-f]{12}", "", name) for name in first.staged}
    jars = {jar.name for jar in bundled_jars()}
    assert jars <= kinds
    assert {re.split(r"[-.]", kind)[0] for kind in kinds - jars} == {"environment", "py4j", "pyspark", "spark"}
    assert len(first.staged) == len(kinds) == len(jars) + 4
    assert all(line.startswith("-rw-r--r--") for line in first.staged.values())  # everybody's, hence one copy on a node

    second = ship(hadoop, world, staging, "packed", mode="client")
    assert second.ended.code == 0, second.ended.err
    assert "(once)" in first.ended.err
    assert "(once)" not in second.ended.err
    assert second.staged == first.staged

    mine = tmp_path / "mine.tar.gz"
    link_or_copy(ROOT / "build" / "launch" / archive_name(REQUIREMENTS), mine)
    third = ship(hadoop, world, staging, str(mine), "--executors", mode="client")
    assert third.ended.code == 0, third.ended.err
    assert json.loads(third.ended.out)["workers"] == []
    assert {name: line for name, line in third.staged.items() if not name.startswith("mine-")} == first.staged
    assert len(third.staged) == len(first.staged) + 1


# --- what is refused before anything is submitted


def ids(hadoop: Hadoop) -> set[str]:
    """Of all applications; what else YARN says of one that has ended still changes."""
    return {application["id"] for application in hadoop.applications()}


def make_archive(file: Path, *, python: str | None = None, minor: str = MINOR, leave_out: str = "") -> Path:
    """An archive of the names that the check looks at; ``python``: where its interpreter is linked to."""
    members = [f"lib/python{minor}/site-packages/{name}-1.dist-info/METADATA" for name in pins(REQUIREMENTS)]
    with tarfile.open(file, "w:gz") as archive:
        head = tarfile.TarInfo("bin/python")
        if python is not None:
            head.type, head.linkname = tarfile.SYMTYPE, python
        archive.addfile(head, BytesIO())
        for name in members:
            if f"/{leave_out}-1." not in name:
                archive.addfile(tarfile.TarInfo(name), BytesIO())
    return file


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"python": "/opt/gone/bin/python3"}, "is a link to '/opt/gone/bin/python3', which does not exist"),
        ({"minor": "3.9"}, f"is for Python 3.9, the jobs run on {MINOR}"),
        ({"leave_out": "numba"}, "lacks numba. Install requirements/runtime.txt there"),
    ],
)
def test_case_89_an_archive_that_cannot_work_is_refused_before_submission(
    hadoop: Hadoop, tmp_path: Path, fault: dict[str, Any], said: str
) -> None:
    archive = make_archive(tmp_path / "env.tar.gz", **fault)
    before = ids(hadoop)
    done = submit(hadoop, "status", conf={**SHARED, "spark.recsys.python": str(archive)})
    assert done.code == 2
    [line] = done.err.splitlines()
    assert line.startswith("error: environment archive")
    assert said in line
    assert ids(hadoop) == before


@dataclass(frozen=True)
class Checkout:
    """A copy of the project whose configuration a test may spoil, and a Java that tells when it is started."""

    root: Path
    java: Path
    started: Path

    def launch(self, hadoop: Hadoop, *options: str, **environ: str | None) -> tuple[Ended, float, float]:
        """Submit from here; what it left, the seconds it took, and those of a processor."""
        given = {**os.environ, **hadoop.environment, "JAVA_HOME": str(self.java), **environ}
        words = [f"--conf={key}={value}" for key, value in SHARED.items()]
        words = [word for pair in words for word in pair.split("=", 1)]
        command = [self.root / "spark-submit.sh", "--env", "yarn", "--deploy-mode", "cluster", *words, *options]
        began, busy = time.monotonic(), _children_seconds()
        done = subprocess.run(
            [*command, "jobs/status.py"],
            capture_output=True, text=True, check=False, cwd=self.root,
            env={name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
        seconds = time.monotonic() - began
        return Ended(done.returncode, done.stdout, done.stderr), seconds, _children_seconds() - busy


def _children_seconds() -> float:
    """Processor time of ended processes that this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, java = tmp_path / "project", tmp_path / "java"
    for name in ("launch", "recsys", "jobs", "conf", "requirements"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(LAUNCHER, root)
    (root / ".venv").symlink_to(ROOT / ".venv")
    (root / ".jars").mkdir()
    for jar in (ROOT / ".jars").glob("delta-*.jar"):
        (root / ".jars" / jar.name).symlink_to(jar.resolve())
    real = shutil.which("java", path=f"{ROOT}/.jars/java/bin:{os.environ['PATH']}")
    (java / "bin").mkdir(parents=True)
    (java / "release").write_text('JAVA_VERSION="17.0.15"\n')
    (java / "bin" / "java").write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/started"\nexec "{real}" "$@"\n')
    (java / "bin" / "java").chmod(0o755)
    return Checkout(root, java, tmp_path / "started")


def spoil_site(hadoop: Hadoop, folder: Path, file: str, service: str) -> Path:
    """A configuration like the cluster's in which one service is at a port where nobody listens."""
    shutil.copytree(hadoop.conf, folder)
    text = (folder / file).read_text()
    port = str(hadoop.ports[service])
    assert port in text
    (folder / file).write_text(text.replace(f":{port}<", ":9<"))
    return folder


Fault = Callable[[Hadoop, Checkout, Path], Mapping[str, str | None]]


def no_conf(*_: object) -> Mapping[str, str | None]:
    return {"HADOOP_CONF_DIR": None}


def wrong_conf(_: Hadoop, __: Checkout, folder: Path) -> Mapping[str, str | None]:
    return {"HADOOP_CONF_DIR": str(folder)}


def bad_properties(_: Hadoop, checkout: Checkout, __: Path) -> Mapping[str, str | None]:
    with (checkout.root / "conf" / "spark-yarn.conf").open("a") as file:
        file.write("spark.executor.memory\n")
    return {}


def java_11(_: Hadoop, checkout: Checkout, __: Path) -> Mapping[str, str | None]:
    (checkout.java / "release").write_text('JAVA_VERSION="11.0.2"\n')
    return {}


def no_java(_: Hadoop, checkout: Checkout, folder: Path) -> Mapping[str, str | None]:
    for tool in ("bash", "dirname", "env"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    return {"JAVA_HOME": None, "PATH": str(folder)}


def no_resourcemanager(hadoop: Hadoop, _: Checkout, folder: Path) -> Mapping[str, str | None]:
    return {"HADOOP_CONF_DIR": str(spoil_site(hadoop, folder / "c", "yarn-site.xml", "resourcemanager"))}


def no_namenode(hadoop: Hadoop, _: Checkout, folder: Path) -> Mapping[str, str | None]:
    return {"HADOOP_CONF_DIR": str(spoil_site(hadoop, folder / "c", "core-site.xml", "namenode"))}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_conf, "HADOOP_CONF_DIR is not set"),
        (wrong_conf, "has no core-site.xml"),
        (bad_properties, "'spark.executor.memory' has no value"),
        (java_11, "is Java 11, Spark needs 17"),
        (no_java, "no Java: JAVA_HOME is not set and there is no 'java' on the path"),
        (no_resourcemanager, "the ResourceManager (localhost:9) does not answer: Connection refused"),
        (no_namenode, "the NameNode (localhost:9) does not answer: Connection refused"),
    ],
)
def test_case_90_a_submission_that_cannot_work_is_one_line_and_2_at_once_and_no_jvm(
    hadoop: Hadoop, checkout: Checkout, tmp_path: Path, fault: Fault, said: str
) -> None:
    (tmp_path / "spoilt").mkdir()
    environ = fault(hadoop, checkout, tmp_path / "spoilt")
    before = ids(hadoop)
    done, seconds, busy = checkout.launch(hadoop, **environ)
    assert done.code == 2, done.err
    [line] = done.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert busy < 5  # processor time, because others may keep this machine busy; and it waits for nobody
    assert seconds < 10 + 10 * busy
    assert not checkout.started.exists()
    assert ids(hadoop) == before


def test_case_90_a_queue_that_is_not_there_and_wrong_settings_are_one_line_and_2_before_submission(
    hadoop: Hadoop, checkout: Checkout
) -> None:
    before = ids(hadoop)
    done, *_ = checkout.launch(hadoop, "--queue", "nope")
    assert (done.code, done.err) == (
        2,
        "error: queue 'nope' does not exist. Name one with --queue, or set spark.yarn.queue.\n",
    )
    # The real Java was asked, so that it is seen that the tests above would see it.
    assert "org.apache.hadoop.yarn.client.cli.QueueCLI" in checkout.started.read_text()
    assert "SparkSubmit" not in checkout.started.read_text()
    for mode in ("cluster", "client"):
        done = submit(hadoop, "status", "--set=als.rank=many", mode=mode)
        assert done.code == 2, done.err
        assert "als.rank" in last_line(done, mode)
    assert ids(hadoop) == before


# --- how it ends


def last_line(done: Ended, mode: str) -> str:
    """What the job said last. In client mode Spark prints what a driver in Python writes, errors too, to its output."""
    return (done.out if mode == "client" else done.err).splitlines()[-1]


def application_of(done: Ended) -> str:
    """The application that a launcher in cluster mode has followed."""
    match = re.search(r"application_\d+_\d+", done.err)
    assert match, done.err
    return match[0]


@pytest.mark.parametrize("mode", ["cluster", pytest.param("client", marks=pytest.mark.long)])
def test_a_job_s_ending_is_the_launcher_s_and_a_refusal_is_tried_once(
    hadoop: Hadoop, spark: SparkSession, world: World, tmp_path: Path, mode: str
) -> None:
    land_csv(tmp_path / "bad", "bad.csv", "u1,i1,8,1700000000", "u1,,8,1700000000", "u2,i1,99,1700000000")

    def run(job: str, *words: str) -> Ended:
        return submit(hadoop, job, *world.words, *words, mode=mode, conf=ONE_EXECUTOR)

    held = Lock(Files(spark), world.root, LISTS, job="another", expiry_seconds=120.0)
    with held, ThreadPoolExecutor(2) as pool:
        rejected = pool.submit(run, "ingest_ratings", f"--set=landing.path=file://{tmp_path}/bad")
        refused = pool.submit(run, "promote_model", "--version=1")
        locked = pool.submit(run, "score_users")
        failed = pool.submit(run, PROBE, "--fail")
    said = {
        3: (rejected.result(), "error: 2 of 3 landed rows (67%) are bad, allowed are 20%", 1),
        4: (refused.result(), "error: version 1 has verdict 'refused' (worse)", 1),
        5: (locked.result(), "error: lock 'lists' is held by another (pid ", 1),
        1: (failed.result(), "error: probe failed: ZeroDivisionError: nobody foresaw this", 2),
    }
    for code, (done, line, attempts) in said.items():
        assert done.code == code, done.err
        assert last_line(done, mode).startswith(line)
        if mode == "cluster":
            assert hadoop.attempts(application_of(done)) == attempts
    texts = {done.code: done.out + done.err for done, *_ in said.values()}
    assert 'raise ZeroDivisionError("nobody foresaw this")' in texts.pop(1)
    assert "Traceback" not in "".join(texts.values())


# --- secrets, and following an application


@dataclass(frozen=True)
class Followed:
    """One application with a planted secret, whose launcher is stopped while its driver waits."""

    secret: str
    mark: str  # the part of the secret that no escaping changes
    dry_run: str
    launcher: Ended
    state_after: str  # YARN's, when the launcher had ended
    final: str
    outcome: dict[str, Any]
    commands: list[str]  # of all processes of this machine while the driver waited
    holders: set[str]  # files under the cluster's folder with the mark in them, meanwhile
    readable: set[str]  # those of them that another user could read
    logs: str  # aggregated
    events: str  # Spark's


@pytest.fixture(scope="module")
def followed(hadoop: Hadoop, world: World, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    mark = uuid.uuid4().hex
    secret, waits = f'p"a$b{mark}', tmp_path_factory.mktemp("followed") / "waits"
    events = f"{world.root.rpartition('/')[0]}/events"
    hadoop.shell("-mkdir", "-p", events)
    environment = {"MLFLOW_TRACKING_TOKEN": secret}
    conf = {
        **ONE_EXECUTOR,
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": events,
    }
    words = (*world.words, "--secret=MLFLOW_TRACKING_TOKEN")
    dry = submit(hadoop, PROBE, *words, conf=conf, environment=environment, options=["--dry-run"])
    with submitted(hadoop, PROBE, *words, f"--wait={waits}", conf=conf, environment=environment) as launcher:
        wait_for(lambda: waits.exists() or launcher.poll() is not None)
        assert waits.exists(), launcher.communicate()
        commands = list_commands()
        holders = {file for file in files_below(hadoop.folder) if mark.encode() in read_bytes(file)}
        readable = {str(file) for file in holders if is_readable_by_others(file, hadoop.folder)}
        launcher.send_signal(signal.SIGTERM)
        left = ended(launcher)
    application = application_of(left)
    state_after = hadoop.application(application)["state"]
    waits.unlink()
    wait_for(lambda: hadoop.application(application)["state"] == "FINISHED")
    found = re.search(r"will be in (\S+)\.json", left.err)
    assert found, left.err
    log = wait_for(lambda: aggregated(hadoop, application))
    return Followed(
        secret, mark, dry.out + dry.err, left, state_after, hadoop.application(application)["finalStatus"],
        json.loads(hadoop.shell("-cat", f"{found[1]}.json")), commands,
        {str(file) for file in holders}, readable, log,
        hadoop.shell("-cat", f"{events}/*{application}*/events_*"),
    )  # fmt: skip


def wait_for(find: Callable[[], Any], seconds: float = 300.0) -> Any:
    """What a function finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def aggregated(hadoop: Hadoop, application: str) -> str:
    """All logs of an application once its driver's are collected; empty before."""
    try:
        text = hadoop.tool(_LOGS, "-applicationId", application)
    except ClusterError:  # not yet
        return ""
    return text if "End of LogType:launch_container.sh" in text else ""


def list_commands() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_text(errors="replace"))
        except OSError:  # ended meanwhile
            continue
    return found


def files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.is_file() else b""
    except OSError:  # gone meanwhile
        return b""


def is_readable_by_others(file: Path, top: Path) -> bool:
    """Whether the modes of the file and of every folder from ``top`` on let another user read it who knows its name."""
    folders = [parent for parent in file.parents if parent.is_relative_to(top)]
    may_pass = all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)
    return may_pass and bool(file.stat().st_mode & stat.S_IROTH)


def test_case_96_a_secret_reaches_the_driver_as_it_is(followed: Followed) -> None:
    report = json.loads(followed.outcome["message"])
    assert report["secret"] == sha256(followed.secret.encode()).hexdigest()


def test_case_96_a_secret_is_on_no_command_line_in_no_log_and_not_in_what_the_launcher_prints(
    followed: Followed,
) -> None:
    assert any("RECSYS_VARIABLES" in command for command in followed.commands)  # it was there to be seen
    assert not [command for command in followed.commands if followed.mark in command]
    assert f'export RECSYS_VARIABLES="{FILE}"' in followed.logs  # YARN logs a container's environment
    assert followed.mark not in followed.logs
    assert "SparkListenerEnvironmentUpdate" in followed.events
    assert followed.mark not in followed.events
    assert f"{FILE} has MLFLOW_TRACKING_TOKEN=***" in followed.dry_run
    assert followed.mark not in followed.dry_run + followed.launcher.out + followed.launcher.err


def test_case_96_a_secret_lies_in_one_file_of_the_container_s_and_nobody_else_may_read_it(followed: Followed) -> None:
    """On HDFS it is in the application's staging folder, which is its owner's; here that is a block of the DataNode."""
    assert followed.holders
    kinds = {"block" if Path(file).name.startswith("blk_") else Path(file).name for file in followed.holders}
    assert kinds == {"block", FILE}
    assert followed.readable == set()


def test_a_launcher_that_is_told_to_end_leaves_the_application_which_goes_on_to_its_end(followed: Followed) -> None:
    assert followed.launcher.code == 128 + signal.SIGTERM
    *states, last = followed.launcher.err.splitlines()
    application = application_of(followed.launcher)
    assert f"{application}: accepted" in states
    assert f"{application}: running" in states
    assert last.startswith(f"no longer following {application}, which goes on: http://localhost:")
    assert last.endswith(f"End it with: yarn application -kill {application}")
    assert followed.state_after == "RUNNING"
    assert (followed.final, followed.outcome["exit_code"]) == ("SUCCEEDED", 0)


# --- the driver killed in client mode


def children(process: int) -> dict[int, str]:
    """The living children of a process with their commands."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == process and fields[0] != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:  # ended meanwhile
            continue
    return found


def test_case_82_a_driver_killed_in_client_mode_is_reported_and_a_rerun_ends_as_if_undisturbed(
    hadoop: Hadoop, spark: SparkSession, world: World, tmp_path: Path
) -> None:
    root, paused = f"{world.root.rpartition('/')[0]}/killed", tmp_path / "paused"
    words = (*world.words, f"--warehouse={root}")
    pause = {"RECSYS_PAUSE_AT": "ingest:after_ratings", "RECSYS_PAUSE_FILE": str(paused)}
    with submitted(hadoop, "ingest_ratings", *words, mode="client", conf=ONE_EXECUTOR, environment=pause) as launcher:
        wait_for(lambda: paused.exists() or launcher.poll() is not None)
        assert paused.exists(), launcher.communicate()
        [jvm] = [process for process, command in children(launcher.pid).items() if "SparkSubmit" in command]
        [python] = [process for process, command in children(jvm).items() if "ingest_ratings" in command]
        os.kill(jvm, signal.SIGKILL)
        left = ended_without(launcher, python, paused)
    assert left.code == 1
    assert left.err.splitlines()[-1].startswith("error: the driver was killed by SIGKILL. ")
    assert "Run it again" in left.err.splitlines()[-1]

    again = submit(hadoop, "ingest_ratings", *words, mode="client", conf=ONE_EXECUTOR)
    assert again.code == 0, again.err
    assert hash_tables(spark, root) == world.ingested


def ended_without(launcher: "subprocess.Popen[str]", python: int, paused: Path) -> Ended:
    """What the launcher leaves whose driver's JVM is gone; the driver's Python then finds that out and ends too."""
    launcher.wait()
    paused.unlink()
    wait_for(lambda: not Path(f"/proc/{python}").exists())
    return ended(launcher)


# --- compiled kernels


def test_containers_find_the_kernels_that_set_up_compiled(hadoop: Hadoop, world: World) -> None:
    """numba tells of every use of its cache; a kernel that a container had to compile would be saved there."""
    subprocess.run([sys.executable, ROOT / "tools" / "compile_kernels.py"], check=True, cwd=ROOT)  # as set-up does
    told = {f"{prefix}NUMBA_DEBUG_CACHE": "1" for prefix in ("spark.yarn.appMasterEnv.", "spark.executorEnv.")}
    done = submit(hadoop, "train_model", *world.words, conf={**ONE_EXECUTOR, **told})
    assert done.code == 0, done.err
    log = wait_for(lambda: aggregated(hadoop, application_of(done)))
    containers = re.split(r"^(?=Container: )", log, flags=re.MULTILINE)
    loaded = {text.split()[1] for text in containers if "[cache] data loaded from" in text}
    assert len(loaded) == 2, "the driver's container and the executor's"
    assert "[cache] data saved" not in log
