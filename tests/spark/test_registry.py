import json
import pickle
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.als.model import FactorModel
from recsys.als.params import AlsParams
from recsys.errors import (
    ConcurrentPromotionError,
    ConfigError,
    GateRefusedError,
    LockedError,
    ModelArtifactError,
    RegistryError,
)
from recsys.ranking.model import ListModel, trend_model
from recsys.session import ROOT
from recsys.store import registry as registry_module
from recsys.store.params import MlflowParams
from recsys.store.registry import ORPHAN, PASSED, PENDING, REFUSED, ROLLED_BACK, VERDICT, Registry
from tests.stores import place_empty_store

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place_empty_store(tmp_path)
    return tmp_path


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(MlflowParams(), str(root))


def model() -> ListModel:
    return trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0)


def log_fit(registry: Registry, key: str, verdict: str = PASSED, files: dict[str, bytes] | None = None) -> int:
    return registry.log_fit(files or model().to_files(), fit_key=key, params={}, tags={VERDICT: verdict})


def attempts(registry: Registry, version: int) -> list[str]:
    tags = registry.describe(version).tags
    return [json.loads(value)["outcome"] for key, value in sorted(tags.items()) if key.startswith("attempt.")]


def data_folder(root: Path) -> Path:
    [folder] = root.glob("mlflow/artifacts/models/*/artifacts/artifacts/lists")
    return folder


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def pause_at(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr(registry_module, "pause_at", pause_at)


def test_a_fit_is_one_run_with_its_numbers_and_figures_and_one_version_with_its_files(registry: Registry) -> None:
    version = registry.log_fit(
        {"a.npy": b"1", "model.json": b"{}"},
        fit_key="k",
        params={"als.rank": 16},
        sweeps=[{"loss": 2.0, "metric": None}, {"loss": 1.0, "metric": 0.5}],
        metrics={"ndcg candidate": 0.25},
        figures={"learning_curve.png": PNG},
        tags={"git_commit": "abc"},
    )
    assert registry.versions() == [version] == [1]
    assert registry.load(1) == {"a.npy": b"1", "model.json": b"{}"}
    described = registry.describe(1)
    assert described.tags == {"fit_key": "k", "git_commit": "abc", "verdict": "pending"}
    assert described.metrics == {"loss": 1.0, "metric": 0.5, "ndcg candidate": 0.25}
    run = registry._client.get_run(described.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"als.rank": "16"})
    assert [m.value for m in registry._client.get_metric_history(described.run_id, "loss")] == [2.0, 1.0]
    assert [file.path for file in registry._client.list_artifacts(described.run_id, "figures")] == [
        "figures/learning_curve.png"
    ]


def test_case_47_a_fit_that_runs_again_finds_the_version_it_logged(registry: Registry) -> None:
    assert log_fit(registry, "k") == 1
    assert log_fit(registry, "k") == 1
    assert registry.versions() == [1]
    assert registry.find_fit("other") is None


@pytest.mark.parametrize("point", ["log_fit:after_run", "log_fit:after_model"])
def test_case_47_a_fit_killed_while_logging_is_logged_once_when_run_again(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    kill_at(monkeypatch, point)
    with pytest.raises(Killed):
        log_fit(registry, "k")
    assert Registry(MlflowParams(), str(root)).versions() == []
    monkeypatch.undo()
    assert log_fit(registry, "k") == 1
    assert registry.versions() == [1]
    runs = registry._client.search_runs([registry._experiment_id])
    assert sorted((run.info.status, ORPHAN in run.data.tags) for run in runs) == [("FINISHED", False), ("KILLED", True)]


def test_case_81_a_driver_that_was_taken_for_dead_does_not_register_a_fit_that_another_may_have_logged(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a driver whose JVM was killed Python may live on, and reaches a tracking server without the JVM."""

    def lost() -> None:
        raise LockedError("lost")

    monkeypatch.setattr(registry_module, "check_held", lost)
    with pytest.raises(LockedError):
        log_fit(registry, "k")
    assert registry.versions() == []


def test_case_48_a_version_whose_job_died_is_never_served_and_the_next_fit_tags_it(registry: Registry) -> None:
    log_fit(registry, "first")
    registry.promote(1, None)
    log_fit(registry, "no-verdict", verdict=PENDING)
    log_fit(registry, "no-alias")
    log_fit(registry, "refused", verdict=REFUSED)
    assert (registry.champion, registry.challenger) == (1, None)
    log_fit(registry, "next")
    assert [ORPHAN in registry.describe(version).tags for version in registry.versions()] == [0, 1, 1, 0, 0]
    with pytest.raises(GateRefusedError, match="verdict 'pending'"):
        registry.promote(2, 1)
    assert registry.champion == 1


@pytest.mark.parametrize("take_up", ["set_challenger", "promote"])
def test_case_48_a_fit_that_runs_again_takes_its_orphan_up(registry: Registry, take_up: str) -> None:
    log_fit(registry, "killed")
    assert registry.tag_orphans() == [1]
    assert registry.tag_orphans() == []
    version = log_fit(registry, "killed")
    if take_up == "promote":
        registry.promote(version, None)
    else:
        registry.set_challenger(version)
    assert registry.versions() == [1]
    assert ORPHAN not in registry.describe(1).tags


def test_promotion_moves_the_aliases_and_leaves_a_record(registry: Registry) -> None:
    log_fit(registry, "one")
    log_fit(registry, "two")
    assert registry.promote(1, None) is None
    registry.set_challenger(2)
    assert registry.promote(2, 1) == 1
    assert (registry.champion, registry.previous, registry.challenger) == (2, 1, None)
    assert attempts(registry, 2) == ["promoted"]


def test_a_promotion_killed_before_the_champion_moved_is_finished_by_the_next(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("one", "two", "three"):
        log_fit(registry, key)
    registry.promote(1, None)
    registry.promote(2, 1)
    kill_at(monkeypatch, "promote:before_champion")
    with pytest.raises(Killed):
        registry.promote(3, 2)
    assert registry.champion == 2
    monkeypatch.undo()
    assert registry.promote(3, 2) == 2
    assert registry.promote(3, 2) == 2  # again: nothing changes
    assert (registry.champion, registry.previous) == (3, 2)


def test_case_52_of_two_promotions_against_one_champion_the_second_loses_and_both_are_recorded(
    registry: Registry,
) -> None:
    for key in ("one", "two", "three"):
        log_fit(registry, key)
    registry.promote(1, None)
    registry.promote(2, 1)
    with pytest.raises(ConcurrentPromotionError, match="judged against champion 1, but the champion is 2"):
        registry.promote(3, 1)
    assert (registry.champion, registry.previous) == (2, 1)
    assert attempts(registry, 2) == ["promoted"]
    assert [outcome.split(":")[0] for outcome in attempts(registry, 3)] == ["ConcurrentPromotionError"]


def test_case_53_a_refused_version_is_not_promoted(registry: Registry) -> None:
    log_fit(registry, "one")
    registry.promote(1, None)
    log_fit(registry, "worse", verdict=REFUSED)
    with pytest.raises(GateRefusedError, match="verdict 'refused'") as refusal:
        registry.promote(2, 1)
    assert refusal.value.exit_code == 4
    assert registry.champion == 1


NAN_FACTORS = replace(model().factors, item_factors=np.full((2, 1), np.nan, np.float32))
WRONG_RANK = FactorModel(AlsParams(rank=3), np.zeros((2, 1), np.float32), np.zeros(2, np.float32), 0.0)
NOTHING = trend_model([], np.zeros(0, np.int64), np.zeros(0, np.float32), as_of_us=0)


@pytest.mark.parametrize(
    "broken",
    [replace(model(), factors=NAN_FACTORS), replace(model(), factors=WRONG_RANK), NOTHING],
    ids=["NaN factors", "wrong rank", "no items"],
)
def test_case_54_a_model_that_cannot_list_is_not_promoted(registry: Registry, broken: ListModel) -> None:
    log_fit(registry, "one")
    registry.promote(1, None)
    log_fit(registry, "broken", files=broken.to_files())
    with pytest.raises(ModelArtifactError):
        registry.promote(2, 1)
    assert registry.champion == 1
    assert attempts(registry, 2)[0].startswith("ModelArtifactError")


def test_case_55_a_model_with_a_flipped_byte_is_not_promoted(registry: Registry, root: Path) -> None:
    log_fit(registry, "one")
    file = data_folder(root) / "trend.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelArtifactError, match="tampered"):
        registry.promote(1, None)
    assert registry.champion is None


def test_case_56_nothing_in_an_artifact_is_imported_or_unpickled(registry: Registry, root: Path) -> None:
    log_fit(registry, "one")
    canary = root / "canary"
    lists = data_folder(root)
    artifact = lists.parent.parent
    harm = f"open({str(canary)!r}, 'w').close()\n"
    (artifact / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: evil\n    code: code\n")
    (artifact / "pyfunc_model.py").write_text(harm)
    (artifact / "code").mkdir()
    (artifact / "code" / "evil.py").write_text(harm)
    (artifact / "code" / "numpy.py").write_text(harm)
    pickled = b"cbuiltins\nexec\n(S" + repr(harm).encode() + b"\ntR."
    (lists / "python_model.pkl").write_bytes(pickled)
    registry.promote(1, None)
    [[(first, _)]] = ListModel.from_files(registry.load("champion")).recommend([[]], 1)
    assert first == "a"
    assert not canary.exists()
    pickle.loads(pickled)
    assert canary.exists()  # the harm was real


@pytest.mark.parametrize("source", ["../../etc", "file:///etc", "/etc", "models:/m-../../etc", "runs:/abc/model"])
def test_case_57_a_version_with_a_foreign_source_is_not_loaded(registry: Registry, source: str) -> None:
    log_fit(registry, "one")
    entry = registry._client.create_model_version("recsys", "models:/" + registry._get_version(1).source[8:])
    assert entry.version == 2
    sql(registry, "UPDATE model_versions SET source = ? WHERE version = 2", source)
    with pytest.raises(ModelArtifactError, match="not a model this system logged"):
        registry.load(2)


def test_case_57_a_model_outside_the_artifact_root_is_not_loaded(registry: Registry, tmp_path: Path) -> None:
    log_fit(registry, "one")
    for location in ("/etc", f"{tmp_path}/mlflow/artifacts/../../outside", f"file://{tmp_path}/outside"):
        sql(registry, "UPDATE logged_models SET artifact_location = ?", location)
        with pytest.raises(ModelArtifactError, match="outside the artifact root"):
            registry.load(1)


def test_case_57_a_link_in_an_artifact_is_not_followed(registry: Registry, root: Path, tmp_path: Path) -> None:
    log_fit(registry, "one")
    secret = tmp_path / "secret"
    secret.write_text("x")
    (data_folder(root) / "model.txt").symlink_to(secret)
    with pytest.raises(ModelArtifactError, match="no plain data file"):
        registry.load(1)


def test_case_51_a_locked_database_gives_one_clear_error_and_leaves_the_champion(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.db import utils

    log_fit(registry, "one")
    log_fit(registry, "two")
    registry.promote(1, None)
    patience = utils.sql.text  # MLflow waits 20 s for a locked database
    monkeypatch.setattr(utils.sql, "text", lambda text: patience(text.replace("20000", "20")))
    with sqlite3.connect(root / "mlflow" / "mlflow.db") as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryError, match=r"could not promote version 2 .*database is locked.*try again"):
            registry.promote(2, 1)
        other.rollback()
    assert registry.champion == 1


def test_case_49_a_tracking_server_that_is_down_gives_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")  # the setting counts
    down = Registry(MlflowParams(tracking_uri="http://user:s3cr3t@127.0.0.1:9", retries=1), str(tmp_path))
    with pytest.raises(RegistryError) as caught:
        log_fit(down, "k")
    assert str(caught.value) == (
        "could not look for fit k in the model registry at http://***@127.0.0.1:9: it did not answer, asked 2 times "
        "([Errno 111] Connection refused). Start it or correct mlflow.tracking_uri, then run the job again: "
        "it goes on where it stopped."
    )


def test_case_49_a_registration_whose_answer_was_lost_and_that_was_made_again_leaves_one_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = registry._client.create_model_version

    def create_twice(*args: Any, **kwargs: Any) -> Any:
        create(*args, **kwargs)
        return create(*args, **kwargs)

    monkeypatch.setattr(registry._client, "create_model_version", create_twice)
    assert log_fit(registry, "k") == 1
    assert registry.versions() == [1]


def test_case_59_going_back_to_a_deleted_version_changes_nothing(registry: Registry) -> None:
    for key in ("one", "two"):
        log_fit(registry, key)
    registry.promote(1, None)
    registry.promote(2, 1)
    registry._client.delete_model_version("recsys", "1")
    with pytest.raises(RegistryError, match="no version 1: it was deleted or never logged"):
        registry.restore(1, "bad lists")
    assert registry.champion == 2


def test_a_version_that_was_rolled_back_cannot_be_promoted_again(registry: Registry) -> None:
    for key in ("one", "two", "three"):
        log_fit(registry, key)
    registry.promote(1, None)
    registry.promote(2, 1)
    registry.promote(3, 2)
    assert registry.restore(2, "bad lists") == 3
    assert (registry.champion, registry.previous) == (2, 1)
    assert registry.restore(2, "again") is None
    assert registry.describe(3).verdict == ROLLED_BACK
    with pytest.raises(GateRefusedError):
        registry.promote(3, 2)


def test_a_warehouse_that_is_not_local_needs_a_tracking_server() -> None:
    with pytest.raises(ConfigError, match=r"mlflow.tracking_uri is null.*hdfs://name/recsys"):
        Registry(MlflowParams(), "hdfs://name/recsys")


def test_a_database_without_a_folder_for_models_is_no_place_to_log_to(root: Path) -> None:
    database = MlflowParams(tracking_uri=f"sqlite:///{root}/mlflow/mlflow.db")
    with pytest.raises(ConfigError, match=r"mlflow.artifact_root is null.*'hdfs://name/recsys' is not a local folder"):
        log_fit(Registry(database, "hdfs://name/recsys"), "k")
    assert log_fit(Registry(database, str(root)), "k") == 1
    assert data_folder(root).is_dir()


def test_a_process_that_ends_waits_for_the_store_it_is_making(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from recsys.store.params import MlflowParams
from recsys.store.registry import Registry

def make_slowly(registry):
    time.sleep(0.5)
    Path(sys.argv[1], "made").touch()

Registry._open = make_slowly
Registry(MlflowParams(), sys.argv[1]).open_in_background()
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True)
    assert (tmp_path / "made").exists()


def test_names_that_could_leave_their_folder_are_refused(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="cannot be a fit key or a file name"):
        registry.log_fit({"../x": b""}, fit_key="k", params={})
    assert registry.versions() == []


def sql(registry: Registry, statement: str, *values: Any) -> None:
    with sqlite3.connect(registry.tracking_uri.removeprefix("sqlite:///")) as database:
        database.execute(statement, values)
