"""The Java that Spark will run on."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from recsys.errors import ConfigError

OLDEST: Final = 17  # Spark 4's


def java_home(root: Path, environ: Mapping[str, str]) -> str | None:
    """``JAVA_HOME`` for Spark: set-up's own Java where it brought one, else the submitter's."""
    brought = root / ".jars" / "java"
    return str(brought) if (brought / "bin" / "java").exists() else environ.get("JAVA_HOME") or None


def find_java(root: Path, environ: Mapping[str, str]) -> Path:
    """The ``java`` that Spark will run.

    Raises:
        ConfigError: there is none, or it is too old.
    """
    home = java_home(root, environ)
    found = shutil.which(f"{home}/bin/java") if home else shutil.which("java", path=environ.get("PATH"))
    where = f"JAVA_HOME is '{home}'" if home else "JAVA_HOME is not set"
    advice = f"Install a Java {OLDEST} and set JAVA_HOME, or run 'make setup', which brings one."
    if found is None:
        raise ConfigError(f"no Java: {where} and there is no 'java' {'in it' if home else 'on the path'}. {advice}")
    version = java_version(Path(found))
    if version < OLDEST:
        raise ConfigError(f"'{found}' is Java {version or 'of no known version'}, Spark needs {OLDEST}. {advice}")
    return Path(found)


def java_version(java: Path) -> int:
    """Its major version; 0 when it does not say.

    Every JDK and JRE has a file ``release`` (JEP 223); only where it is missing a JVM is started to ask.
    """
    try:
        text = (java.resolve().parent.parent / "release").read_text(encoding="utf-8")
    except OSError:
        text = _ask(java)
    match = re.search(r'version[= ]"(\d+)(?:\.(\d+))?', text, re.IGNORECASE)
    if match is None:
        return 0
    return int(match[2] or 1) if match[1] == "1" else int(match[1])  # 1.8 is Java 8


def _ask(java: Path) -> str:
    try:
        return subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    except (OSError, subprocess.SubprocessError):
        return ""
