"""The platform's faults under a job: it goes on, or ends clean in one line, and run again all is as if undisturbed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pyspark.sql import Row, SparkSession

from jobs import ingest_ratings, pipeline, repair_tables, score_users, train_model
from recsys import columns as c
from recsys.errors import StorageError
from recsys.store.files import Files
from recsys.store.params import MlflowParams
from recsys.store.registry import Registry
from tests.cluster.applications import started, wait_for
from tests.cluster.disturbances import as_user, disturbed, hdfs_client, kill_amid_a_request, refused_in_safe_mode
from tests.cluster.hadoop import Hadoop
from tests.cluster.undisturbed import Warehouse, World, read_once, watch
from tests.jobs.fingerprint import INGESTED, PUBLISHED, fingerprint, hash_models, hash_tables
from tests.tracking_server import TrackingServer

# What an open batch has not written yet; its quarantine may be there.
AFTER_QUARANTINE: Final = tuple(name for name in INGESTED if name != "quarantine")

# Where HDFS is away, a lock cannot be given back: it has to expire.
SHORT_LOCKS: Final = {"warehouse.lock_expiry_seconds": 2.0}

_SPEC: Final = "dfs.client.retry.policy.spec"
IMPATIENT: Final = {_SPEC: "100,2", "ipc.client.connect.max.retries": "1"}
PATIENT: Final = {_SPEC: "1000,60"}


@pytest.fixture(autouse=True)
def quick_client(spark: SparkSession, hadoop: Hadoop) -> Iterator[None]:
    """A client of HDFS that waits milliseconds where others wait seconds, and gives up sooner."""
    quick = {
        "dfs.client.retry.window.base": "20",
        "dfs.client.block.write.locateFollowingBlock.retries": "5",
        "dfs.replication": "1",
    }
    with hdfs_client(spark, hadoop, quick):
        yield


class Jobs:
    """Jobs of this process, and what they say at their end."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def fail(self, job: Callable[[list[str]], int], words: list[str]) -> tuple[int, str]:
        """Run a job that fails: its exit code and its one line; no trace was shown before that."""
        self._capsys.readouterr()
        code = job(words)
        said = self._capsys.readouterr().err
        assert code != 0
        assert "Traceback" not in said, said
        assert "\tat " not in said, said
        [line] = [line for line in said.splitlines() if line.startswith("error: ")]
        return code, line.removeprefix("error: ")


@pytest.fixture
def jobs(capsys: pytest.CaptureFixture[str]) -> Jobs:
    return Jobs(capsys)


def last_run(spark: SparkSession, warehouse: Warehouse, job: str) -> Row:
    rows = spark.read.format("delta").load(f"{warehouse.root}/job_runs").where(f"{c.JOB} = '{job}'")
    return rows.orderBy(c.STARTED_AT).collect()[-1]


def held(world: World, names: tuple[str, ...] = INGESTED) -> dict[str, Any]:
    """What an undisturbed turn made of some tables."""
    return {name: world.holds[name] for name in names}


def test_case_24_a_landing_folder_that_is_missing_or_closed_ends_the_job_with_2_and_commits_nothing(
    spark: SparkSession, hadoop: Hadoop, world: World, jobs: Jobs
) -> None:
    warehouse = world.copy()
    before = versions(spark, warehouse)
    missing = f"{warehouse.root}/no-landing"
    code, line = jobs.fail(pipeline.main, warehouse.words(**{"landing.path": missing}))
    assert (code, line) == (2, f"landing folder '{missing}' does not exist. Create it or correct landing.path.")

    closed = path_of(hadoop, warehouse) + "/closed"
    hadoop.shell("-mkdir", closed)
    hadoop.shell("-cp", f"{warehouse.landing}/2.csv", closed)
    hadoop.shell("-chmod", "-R", "777", path_of(hadoop, warehouse))
    hadoop.shell("-chmod", "700", closed)
    with as_user(spark, "ann"):
        code, line = jobs.fail(pipeline.main, warehouse.words(**{"landing.path": f"{hadoop.fs}{closed}"}))
    assert code == 2
    assert line.startswith(f"user 'ann' has no EXECUTE access to '{closed}', which is root's with mode drwx------.")
    assert "Grant it" in line
    assert versions(spark, warehouse) == before


def versions(spark: SparkSession, warehouse: Warehouse) -> dict[str, int]:
    """Of all tables but that of runs: one more for every commit."""
    found = {}
    for name in (*INGESTED, *PUBLISHED):
        history = spark.sql(f"DESCRIBE HISTORY delta.`{warehouse.root}/{name}` LIMIT 1").collect()
        found[name] = history[0]["version"]
    return found


def path_of(hadoop: Hadoop, warehouse: Warehouse) -> str:
    return warehouse.root.removeprefix(hadoop.fs)


def test_case_25_a_quota_that_is_exceeded_ends_the_job_with_the_folder_and_what_to_do(
    spark: SparkSession, hadoop: Hadoop, world: World, jobs: Jobs
) -> None:
    warehouse = world.copy()
    folder = path_of(hadoop, warehouse) + "/ratings"
    hadoop.admin("-setSpaceQuota", "1m", folder)
    code, line = jobs.fail(ingest_ratings.main, warehouse.words())
    assert code == 1
    assert line.startswith(f"the HDFS DiskSpace quota of folder '{folder}' is exceeded: quota = 1048576 B = 1 MB but ")
    assert "Raise it (hdfs dfsadmin -setSpaceQuota" in line
    row = last_run(spark, warehouse, "ingest_ratings")
    assert (row[c.EXIT_CODE], row[c.OUTCOME], row[c.MESSAGE]) == (1, "StorageError", line)
    assert hash_tables(spark, warehouse.root, AFTER_QUARANTINE) == hash_tables(
        spark, world.begun.root, AFTER_QUARANTINE
    )
    assert read_once(warehouse.root) == world.generations[0]

    hadoop.admin("-setSpaceQuota", "1g", folder)
    assert ingest_ratings.main(warehouse.words()) == 0
    assert hash_tables(spark, warehouse.root) == held(world)


def test_case_87_a_datanode_killed_while_files_are_read_and_written_damages_nothing_and_condemns_no_file(
    spark: SparkSession,
    hadoop: Hadoop,
    world: World,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    warehouse = world.copy()
    before, words = hash_tables(spark, warehouse.root), warehouse.words(**SHORT_LOCKS)

    def fails_at(point: str) -> None:
        try:
            with disturbed(monkeypatch, tmp_path, point, lambda: hadoop.kill("datanode")):
                code, line = jobs.fail(ingest_ratings.main, words)
            assert code == 1
            assert "no DataNode of HDFS gives a block of '" in line
            with pytest.raises(StorageError, match="no DataNode of HDFS gives a block of"):  # not OSError: a bad file
                Files(spark).sha256(f"{warehouse.landing}/2.csv")
        finally:
            hadoop.restart("datanode")

    fails_at("ingest:after_listing")
    assert hash_tables(spark, warehouse.root) == before
    fails_at("ingest:after_quarantine")
    assert hash_tables(spark, warehouse.root, AFTER_QUARANTINE) == {name: before[name] for name in AFTER_QUARANTINE}
    assert read_once(warehouse.root) == world.generations[0]

    assert ingest_ratings.main(words) == 0
    assert hash_tables(spark, warehouse.root) == held(world)


def test_case_87_safe_mode_at_a_commit_is_waited_for_and_when_it_lasts_ends_the_job_clean(
    spark: SparkSession,
    hadoop: Hadoop,
    world: World,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    warehouse = world.copy()
    before = hash_tables(spark, warehouse.root, AFTER_QUARANTINE)
    point = "ingest:after_quarantine"

    def enter() -> None:
        hadoop.admin("-safemode", "enter")

    def leave() -> None:
        hadoop.admin("-safemode", "leave")

    try:
        with hdfs_client(spark, hadoop, IMPATIENT), disturbed(monkeypatch, tmp_path, point, enter):
            code, line = jobs.fail(ingest_ratings.main, warehouse.words(**SHORT_LOCKS))
        assert code == 1
        assert line.startswith("HDFS is in safe mode and takes no writes (Cannot create ")
        assert "Wait until its NameNode has left it (hdfs dfsadmin -safemode get" in line
        assert read_once(warehouse.root) == world.generations[0]
    finally:
        leave()
    assert hash_tables(spark, warehouse.root, AFTER_QUARANTINE) == before

    refused = refused_in_safe_mode(hadoop)

    def leave_when_asked() -> None:
        try:
            wait_for("refused request", lambda: refused_in_safe_mode(hadoop) > refused)
        finally:
            leave()

    with (
        hdfs_client(spark, hadoop, PATIENT),
        disturbed(monkeypatch, tmp_path, point, enter, leave_when_asked),
    ):
        assert ingest_ratings.main(warehouse.words(**SHORT_LOCKS)) == 0
    assert hash_tables(spark, warehouse.root) == held(world)


def test_case_87_a_namenode_killed_amid_the_commits_leaves_the_old_or_the_new_version(
    spark: SparkSession,
    hadoop: Hadoop,
    world: World,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    warehouse = world.copy()
    before = hash_tables(spark, warehouse.root, AFTER_QUARANTINE)
    try:
        with (
            hdfs_client(spark, hadoop, IMPATIENT),
            disturbed(monkeypatch, tmp_path, "ingest:after_ratings", lambda: hadoop.kill("namenode")),
        ):
            code, line = jobs.fail(ingest_ratings.main, warehouse.words(**SHORT_LOCKS))
    finally:
        hadoop.restart("namenode")
    assert code == 1
    assert line.startswith(f"the server at localhost:{hadoop.ports['namenode']} does not answer.")
    assert hash_tables(spark, warehouse.root, AFTER_QUARANTINE) == {**before, "ratings": world.holds["ratings"]}
    assert read_once(warehouse.root) == world.generations[0]

    with (
        hdfs_client(spark, hadoop, PATIENT),
        disturbed(monkeypatch, tmp_path, "ingest:after_items", *kill_amid_a_request(spark, hadoop)),
    ):
        assert ingest_ratings.main(warehouse.words(**SHORT_LOCKS)) == 0
    hadoop.wait()
    assert hash_tables(spark, warehouse.root) == held(world)


def test_case_40_a_data_file_deleted_by_hand_fails_scoring_before_it_publishes(
    spark: SparkSession, world: World, jobs: Jobs
) -> None:
    warehouse, files = world.copy(), Files(spark)
    [file, *_] = spark.read.format("delta").load(f"{warehouse.root}/user_blocks").inputFiles()
    assert files.rename(file, f"{warehouse.root}/taken-away")
    code, line = jobs.fail(score_users.main, [*warehouse.words(), "--force"])
    assert code == 1
    assert line.startswith(f"'{file}' is gone, and a table needs it")
    assert last_run(spark, warehouse, "score_users")[c.OUTCOME] == "TableDamagedError"
    assert read_once(warehouse.root) == world.generations[0]

    assert files.rename(f"{warehouse.root}/taken-away", file)
    assert score_users.main([*warehouse.words(), "--force"]) == 0
    assert read_once(warehouse.root) == (2, *world.generations[0][1:])


def test_case_41_a_damaged_checkpoint_of_a_table_is_made_good_or_refused_and_never_gives_other_rows(
    spark: SparkSession, world: World, jobs: Jobs
) -> None:
    warehouse, files = world.copy(), Files(spark)
    table = f"{warehouse.root}/user_blocks"
    deltas: Any = spark._jvm.org.apache.spark.sql.delta.DeltaLog  # type: ignore[union-attr]
    words = [*warehouse.words(), "--force"]

    def damage(name: str, size: int) -> str:
        """Cut the file of the log with such a name."""
        [path] = [file.path for file in files.list_files(f"{table}/_delta_log") if name in file.path]
        files.write(path, files.read(path)[:size])
        deltas.clearCache()
        return path

    deltas.forTable(spark._jsparkSession, table).checkpoint()
    damage("_last_checkpoint", 20)
    assert score_users.main(words) == 0  # Delta lists the folder
    assert read_once(warehouse.root) == (2, *world.generations[0][1:])

    checkpoint = damage(".checkpoint.", -100)
    code, line = jobs.fail(score_users.main, words)
    assert code == 1
    assert line.startswith(f"'{checkpoint}' is damaged or gone: it is part of a table's log.")
    assert "Run repair_tables --dry-run" in line
    assert read_once(warehouse.root) == (2, *world.generations[0][1:])
    assert repair_tables.main(warehouse.words()) == 0
    deltas.clearCache()
    assert score_users.main(words) == 0
    assert read_once(warehouse.root) == (3, *world.generations[0][1:])

    # Old commits are cleaned up in time, and then only the checkpoint knows.
    deltas.forTable(spark._jsparkSession, table).checkpoint()
    for file in list(files.list_files(f"{table}/_delta_log")):
        if file.path.endswith(".json"):
            files.delete(file.path)
    damage(".checkpoint.", -100)
    code, line = jobs.fail(score_users.main, words)
    assert code == 1
    assert f"{table}/_delta_log" in line
    assert repair_tables.main(warehouse.words()) == 1
    row = last_run(spark, warehouse, "repair_tables")
    assert row[c.OUTCOME] == "TableDamagedError"
    assert "user_blocks: cannot be repaired" in row[c.MESSAGE]
    assert read_once(warehouse.root) == (3, *world.generations[0][1:])


def test_case_20_checkpoints_of_a_fit_that_are_lost_cost_time_and_change_no_model(
    spark: SparkSession, world: World, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("recsys.store.checkpoints.is_one_process", lambda spark: False)
    settings = {"als.user_solver": "cg", "als.item_solver": "cg", "als.warm_sweeps": 8, "als.tolerance": 0.0}
    ingested = world.copy()
    assert ingest_ratings.main(ingested.words()) == 0
    undisturbed, warehouse = world.copy(ingested), world.copy(ingested)
    assert train_model.main(undisturbed.words(**settings)) == 0
    expected = hash_models(undisturbed.root, undisturbed.mlflow)
    files = Files(spark)

    def lose_checkpoints() -> bool:
        """And what executors hold in memory, once there are some to lose."""
        folder = f"{warehouse.root}/checkpoints"
        if not files.exists(folder) or not any(True for _ in files.list_files(folder, recursive=True)):
            return False
        files.delete(folder, recursive=True)
        context: Any = spark.sparkContext
        for rdd in context._jsc.getPersistentRDDs().values():
            rdd.unpersist(True)
        return True

    with disturbed(monkeypatch, tmp_path, "train:after_sweep", lose_checkpoints):
        code, line = jobs.fail(train_model.main, warehouse.words(**settings))
    assert code == 1
    assert "checkpoint of a fit is gone" in line
    assert train_model.main(warehouse.words(**settings)) == 0
    assert hash_models(warehouse.root, warehouse.mlflow) == expected
    assert not files.exists(f"{warehouse.root}/checkpoints") or not list(
        files.list_files(f"{warehouse.root}/checkpoints")
    )


def test_case_49_a_tracking_server_that_stops_while_a_fit_is_logged_and_promoted_costs_no_fit_and_no_version(
    spark: SparkSession, world: World, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    warehouse, files = world.copy(), Files(spark)
    server = TrackingServer(warehouse.local / "kept")  # on the store of the first turn
    address = server.address.replace("//", "//user:s3cr3t@")
    words = warehouse.words(**{"mlflow.tracking_uri": address, "mlflow.retries": 2})
    try:
        server.start()
        with disturbed(monkeypatch, tmp_path, "log_fit:after_run", server.stop):
            code, line = jobs.fail(pipeline.main, words)
        assert code == 1
        assert f"in the model registry at {server.address.replace('//', '//***@')}: it did not answer" in line
        assert "asked 3 times (Connection refused)" in line.replace("[Errno 111] ", "")
        assert "Start it or correct mlflow.tracking_uri, then run the job again" in line
        assert "s3cr3t" not in line
        row = last_run(spark, warehouse, "train_model")
        assert (row[c.EXIT_CODE], row[c.OUTCOME], row[c.MESSAGE]) == (1, "RegistryError", line)
        kept = [file.path for file in files.list_files(f"{warehouse.root}/unlogged", recursive=True)]
        assert {Path(path).suffix for path in kept} <= {".json", ".npy", ".png"}
        assert len(kept) > 3
        assert read_once(warehouse.root) == world.generations[0]

        server.start()
        monkeypatch.setattr(train_model, "train", no_fit)
        with disturbed(monkeypatch, tmp_path, "promote:before_champion", server.stop):
            code, line = jobs.fail(pipeline.main, words)
        assert code == 1
        assert line.startswith("could not promote version 2 in the model registry at ")
        assert not files.exists(f"{warehouse.root}/unlogged")
        assert read_once(warehouse.root) == world.generations[0]

        server.start()
        params = MlflowParams(tracking_uri=server.address, artifact_root=warehouse.mlflow.artifact_root)
        registry = Registry(params, warehouse.root)
        assert (registry.champion, registry.versions()) == (1, [1, 2])
        assert pipeline.main(words) == 0
        assert fingerprint(spark, warehouse.root, params) == world.holds
    finally:
        server.stop()


def no_fit(*_: object, **__: object) -> None:
    raise AssertionError("a fit that was kept is made again")


def test_cases_85_and_86_an_application_outlives_its_nodemanager_and_its_resourcemanager(
    hadoop: Hadoop, world: World, tmp_path: Path
) -> None:
    """Each is killed and back: the one while ratings are written, the other from the fit to the lists."""
    warehouse = world.copy()
    points = ("ingest:after_quarantine", "log_fit:after_run", "publish:after_lists")
    with (
        watch(warehouse.root) as seen,
        started(hadoop, "pipeline", warehouse.words(), tmp_path, points=points) as application,
    ):
        assert application.stands_at(points[0]), application.result().err
        hadoop.kill("nodemanager")
        hadoop.restart("nodemanager")
        application.pauses.go_on()
        assert application.stands_at(points[1]), application.result().err
        hadoop.kill("resourcemanager")
        application.pauses.go_on()
        try:
            assert application.pauses.wait(application.ended.done) == points[2], application.result().err
        finally:
            hadoop.restart("resourcemanager")
        ended = application.result()
        assert ended.code == 0, ended.err
        assert len(application.attempts()) == 1
    assert world.fingerprint(warehouse) == world.holds
    assert set(seen) <= set(world.generations)
    logs = f"/app-logs/root/*/*/{application.id}/*"
    wait_for("log", lambda: int(hadoop.shell("-stat", "%b", logs)) > 0)
