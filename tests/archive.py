"""Classes of Spark, read and verified once for all JVMs of the tests (JEP 350, as in `launch.classes`).

A session starts in half of the time, and a submission to the test cluster takes two thirds of it. `tests.make_archive`
makes the archive; without it tests run as well.
"""

import os
from pathlib import Path
from typing import Final

import pyspark

from launch.classes import key_of
from launch.java import find_java
from recsys.errors import ConfigError
from recsys.session import ROOT

_JARS: Final = Path(pyspark.__file__).parent / "jars"
# First in the class path of every JVM that uses it: an archive holds for a beginning of that.
CLASSPATH: Final = f"{_JARS}/*"


def archive_file() -> Path | None:
    """Where it is, or would be; None where there is no Java, which a session will say better."""
    try:
        return ROOT / "build" / "tests" / f"classes-{key_of(find_java(ROOT, os.environ), _JARS)}.jsa"
    except ConfigError:
        return None


def with_archive(java_options: str) -> str:
    """Options of a JVM that takes classes from the archive, if there is one."""
    file = archive_file()
    if file is None or not file.exists():
        return java_options
    return f"{java_options} -XX:SharedArchiveFile={file} -Xlog:cds=off -Xlog:cds+dynamic=off"
