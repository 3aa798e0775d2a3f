"""The registry with a tracking server on another machine, as far as its client can tell."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recsys.ranking.model import trend_model
from recsys.store.params import MlflowParams
from recsys.store.registry import PASSED, VERDICT, Registry
from tests.tracking_server import tracking_server

FILES = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0).to_files()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps artifacts."""
    return tmp_path_factory.mktemp("server") / "kept"


@pytest.fixture(scope="module")
def server(kept: Path) -> Iterator[str]:
    """The server's address."""
    with tracking_server(kept) as address:
        yield address


def log_and_promote(registry: Registry) -> None:
    figures = {"learning_curve.png": b"\x89PNG\r\n\x1a\n"}
    version = registry.log_fit(FILES, fit_key="k", params={"als.rank": 16}, figures=figures, tags={VERDICT: PASSED})
    registry.promote(version, None)


def test_models_lie_on_the_server_nothing_under_the_warehouse_and_the_password_nowhere(
    server: str, kept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = server.replace("//", "//user:s3cr3t@")
    registry = Registry(MlflowParams(tracking_uri=address), str(tmp_path))
    log_and_promote(registry)
    assert registry.champion == 1
    assert registry.load("champion") == FILES
    assert list(tmp_path.iterdir()) == []
    assert {file.name for file in kept.rglob("lists/*")} == set(FILES)
    assert [file.name for file in kept.rglob("figures/*")] == ["learning_curve.png"]
    assert capfd.readouterr() == ("", "")
    assert [file for file in kept.parent.rglob("*") if file.is_file() and b"s3cr3t" in file.read_bytes()] == []


def test_models_lie_where_the_settings_say_when_they_say_it(server: str, kept: Path, tmp_path: Path) -> None:
    shared, before = tmp_path / "shared", len(list(kept.rglob("*")))
    params = MlflowParams(tracking_uri=server, artifact_root=str(shared), experiment="other", model="other")
    registry = Registry(params, str(tmp_path / "warehouse"))
    log_and_promote(registry)
    assert registry.load("champion") == FILES
    assert {file.name for file in shared.rglob("lists/*")} == set(FILES)
    assert len(list(kept.rglob("*"))) == before
