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


@contextmanager
def tracking_server(kept: Path) -> Iterator[str]:
    """Start a server that keeps artifacts in ``kept`` and its store beside it; gives its address, and stops it."""
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
        while not _is_up(address):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _is_up(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
