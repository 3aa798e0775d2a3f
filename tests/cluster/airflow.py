"""Airflow in an environment of its own under ``build/``: what it pins would not go with ours."""

import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

from recsys.session import ROOT

_REQUIREMENTS: Final = ROOT / "requirements" / "airflow.txt"
# What pip says where it cannot reach its index; anything else that goes wrong is a failure.
_NO_NETWORK: Final = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError|Network is unreachable"
)


class NoNetworkError(RuntimeError):
    """The environment is not there, and cannot be fetched."""


def make_environment() -> Path:
    """Its interpreter; the environment is made once for these requirements (a minute or two, 126 packages).

    Raises:
        NoNetworkError: pip did not reach its index.
        RuntimeError: it failed otherwise.
    """
    folder = ROOT / "build" / f"airflow-{sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # Of what is installed a test runs a tenth: compiled when it is imported.
    install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--retries", "1"]
    install += ["--require-hashes", "-r", str(_REQUIREMENTS)]
    done = subprocess.run([str(python), *install], capture_output=True, text=True, check=False)
    if done.returncode and _NO_NETWORK.search(done.stdout + done.stderr):
        raise NoNetworkError(f"Airflow is not installed in '{folder}', and pip does not reach its index")
    if done.returncode:
        raise RuntimeError(f"pip could not install {_REQUIREMENTS}: {done.stderr.strip()[-1000:]}")
    ready.touch()
    return python
