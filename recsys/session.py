"""One way to start Spark: by ``spark-submit`` the launcher has set everything, from Python this module does."""

import atexit
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from recsys.errors import ConfigError

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent

# Two BLAS threads per Spark task make small systems 50 times slower (docs/architecture.md, ALS).
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

# For a few thousand rows a query: to compile its code takes longer than to interpret it. A small ingestion in a warm
# session takes 8 s of CPU time in place of 13, a vacuum 2.2 s in place of 3.9.
INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}


def read_spark_conf(file: Path) -> dict[str, str]:
    """Read a Spark properties file (``key value`` lines, ``#`` comments).

    Raises:
        ConfigError: the file is missing or a line has no value.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as err:
        raise ConfigError(f"Spark properties file '{file}' cannot be read ({err.strerror}). Check --env.") from err
    conf: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, _, value = text.partition(" ")
        if not value.strip():
            raise ConfigError(f"{file}, line {number}: '{key}' has no value. Write 'key value'.")
        conf[key] = value.strip()
    return conf


def bundled_jars() -> list[Path]:
    """The jars that set-up resolved into ``.jars/``: Delta's, and Spark's Kafka connector where it could be had.

    Raises:
        ConfigError: set-up has not run.
    """
    jars = sorted((ROOT / ".jars").glob("*.jar"))
    if not any(jar.name.startswith("delta-") for jar in jars):
        raise ConfigError(f"no Delta jars in '{ROOT / '.jars'}'. Run 'make setup' once; it needs the network.")
    return jars


def use_chosen_java() -> None:
    """Let Spark start on the Java in ``.jars/java``, where set-up put one because the machine's own does not fit."""
    home = ROOT / ".jars" / "java"
    if (home / "bin" / "java").is_file():
        os.environ["JAVA_HOME"] = str(home)


def is_one_process(spark: SparkSession) -> bool:
    """Whether driver and executors are one process on this machine."""
    return re.fullmatch(r"local(\[.*\])?", spark.sparkContext.master or "") is not None


def start_session(app: str, *, env: str = "local", conf: Mapping[str, str] | None = None) -> SparkSession:
    """The running session, or a new one with ``conf/spark-<env>.conf`` and then ``conf`` applied.

    Needs no network: jars are files that set-up resolved once.
    """
    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    os.environ.update(ONE_THREAD)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    use_chosen_java()
    builder = SparkSession.builder.appName(app).config("spark.sql.warehouse.dir", _scratch_folder().as_uri())
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not started by spark-submit, which has read them
        settings = read_spark_conf(ROOT / "conf" / f"spark-{env}.conf")
        settings.setdefault("spark.jars", ",".join(str(jar) for jar in bundled_jars()))
        for key, value in settings.items():
            builder = builder.config(key, value)
    for key, value in (conf or {}).items():
        builder = builder.config(key, value)
    for name, value in ONE_THREAD.items():
        builder = builder.config(f"spark.executorEnv.{name}", value)
    return _create(builder)


def _create(builder: SparkSession.Builder) -> SparkSession:
    """A new session; once more where Spark came into its own way.

    In YARN's client mode the application master's request to filter the web pages may arrive while SparkContext starts
    them (SparkUI.attachAllHandlers), on a busy machine now and then. Nothing has been done by then.
    """
    try:
        return builder.getOrCreate()
    except Py4JJavaError as err:
        if not all(name in str(err) for name in ("ConcurrentModificationException", "attachAllHandlers")):
            raise
        log.warning("session_started_again reason=web_pages_in_the_way")
        return builder.getOrCreate()


def _scratch_folder() -> Path:
    """A folder for Spark's catalog until this process ends; without one it makes `spark-warehouse` where it is started.

    Our tables are known by their paths and never in it.
    """
    folder = Path(tempfile.mkdtemp(prefix="recsys-catalog-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
