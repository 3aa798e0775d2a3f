"""A real MLflow tracking server on loopback, with SQLite, that serves artifacts."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.stores import place_empty_store

START_SECONDS = 180  # a busy machine needs 40
# Runners of jobs that nobody here gives it: eight processes, and most of what a server's start costs.
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class TrackingServer:
    """A server that can be stopped and started again at the same address."""

    def __init__(self, kept: Path) -> None:
        """It does not run yet; it keeps artifacts in ``kept``, and beside it is its store, ``mlflow/mlflow.db``."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._kept = kept
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder, said = self._kept.parent, self._kept.parent / "said"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow/mlflow.db"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self._kept)]
        with said.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=folder, start_new_session=True, env=os.environ | WITHOUT_JOBS
            )
        self._process, deadline = process, time.monotonic() + START_SECONDS
        while not _is_up(self.address):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it, if it runs; nobody answers at the address then."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()


@contextmanager
def tracking_server(kept: Path) -> Iterator[str]:
    """Start a server that keeps artifacts in ``kept`` and its store beside it; gives its address, and stops it."""
    place_empty_store(kept.parent)
    server = TrackingServer(kept)
    try:
        server.start()
        yield server.address
    finally:
        server.stop()


def _is_up(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
