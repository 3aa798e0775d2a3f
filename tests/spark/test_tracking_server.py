"""The registry with a tracking server on another machine, as far as its client can tell."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from recsys.ranking.model import trend_model
from recsys.store.params import MlflowParams
from recsys.store.registry import PASSED, VERDICT, Registry
from tests.stores import place_empty_store

START_SECONDS = 180  # a busy machine needs 40
FILES = trend_model(["a", "b"], np.array([2, 1]), np.array([2.0, 1.0], np.float32), as_of_us=0).to_files()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps artifacts."""
    return tmp_path_factory.mktemp("server") / "kept"


@pytest.fixture(scope="module")
def server(kept: Path) -> Iterator[str]:
    """The address of a real server with SQLite that serves artifacts."""
    place_empty_store(kept.parent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, said = f"http://127.0.0.1:{port}", kept.parent / "said"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{kept.parent}/mlflow/mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(kept)]
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=kept.parent, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_up(address):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def is_up(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


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
