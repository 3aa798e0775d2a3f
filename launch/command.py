"""The exact call of ``spark-submit``, for one machine and for YARN."""

import importlib.util
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launch import environment, package
from launch.java import java_home
from launch.options import Options
from launch.properties import read_properties
from launch.secrets import DRIVER_ENV, EXECUTOR_ENV, MASK, Secrets, collect_secrets, is_secret
from launch.staging import Artifact, copy_of, link_or_copy, spark_jars
from recsys.errors import ConfigError
from recsys.secrets import FILE, VARIABLES

ENVIRONMENT_ALIAS: Final = "environment"  # folder in a container's working directory
OUTCOME: Final = "RECSYS_OUTCOME"  # variable that tells `jobs.runner` where to leave how the job ended
# As recsys.session.ONE_THREAD, which cannot be imported without pyspark.
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Machine:
    """Where things are on the submitting machine."""

    root: Path
    python: str  # of the project's environment; the launcher runs in it
    environ: Mapping[str, str]

    @property
    def spark_home(self) -> Path:
        """``SPARK_HOME``, or the Spark of the environment's pyspark.

        Raises:
            ConfigError: there is neither.
        """
        home = self.environ.get("SPARK_HOME")
        if home:
            return Path(home)
        found = importlib.util.find_spec("pyspark")
        if found is None or found.origin is None:
            raise ConfigError(f"'{self.python}' has no pyspark. Run 'make setup', or set SPARK_HOME.")
        return Path(found.origin).parent

    @property
    def bundled_jars(self) -> list[Path]:
        """The jars that set-up resolved.

        Raises:
            ConfigError: it has not.
        """
        jars = sorted((self.root / ".jars").glob("*.jar"))
        if not any(jar.name.startswith("delta-") for jar in jars):
            raise ConfigError("no Delta jars in .jars/. Run 'make setup' once.")
        return jars

    @property
    def build(self) -> Path:
        """Folder for what the launcher makes."""
        return self.root / "build" / "launch"

    def child_environ(self, log4j: str, *, with_code: bool = True) -> dict[str, str]:
        """Environment of a process that runs Spark or a job of ours."""
        environ = dict(self.environ)
        others = [path for path in environ.pop("PYTHONPATH", "").split(":") if path and path != str(self.root)]
        paths = [str(self.root), *others] if with_code else others
        if paths:
            environ["PYTHONPATH"] = ":".join(paths)
        home = java_home(self.root, environ)
        if home:
            environ["JAVA_HOME"] = home
        log = f"-Dlog4j2.configurationFile=file:{self.root}/conf/{log4j}"
        environ["SPARK_SUBMIT_OPTS"] = f"{environ.get('SPARK_SUBMIT_OPTS', '')} {log}"
        environ["SPARK_HOME"] = str(self.spark_home)
        return environ | dict.fromkeys(_ONE_THREAD, "1")


@dataclass(frozen=True)
class Submission:
    """One call of ``spark-submit``; its secrets are not part of the command."""

    spark_submit: str
    properties: Path
    arguments: tuple[str, ...]
    environ: Mapping[str, str]
    secrets: Secrets
    files: tuple[str, ...] = ()  # that Spark puts into the containers' working directories

    def command(self, properties: Path) -> list[str]:
        """What is run, with a properties file that has the secrets and the driver's variables beside it."""
        secret = [f"{properties.with_name(FILE)}#{FILE}"] if self.secrets.variables else []
        return [self.spark_submit, "--properties-file", str(properties), *self._words(secret)]

    def shown(self) -> list[str]:
        """What ``--dry-run`` prints: secrets, which travel in files, are named and masked."""
        masked = [word for key in self.secrets.properties for word in ("--conf", f"{key}={MASK}")]
        secret = [f"{MASK}/{FILE}#{FILE}"] if self.secrets.variables else []
        return [self.spark_submit, "--properties-file", str(self.properties), *masked, *self._words(secret)]

    def _words(self, secret: Sequence[str]) -> list[str]:
        files = [*self.files, *secret]
        return [*(["--files", ",".join(files)] if files else []), *self.arguments]


@dataclass(frozen=True)
class YarnPlan:
    """Everything a submission to YARN consists of; made without touching the cluster."""

    submission: Submission
    in_cluster: bool  # the driver runs there
    queue: str
    staging: str  # folder on HDFS
    artifacts: tuple[Artifact, ...]  # what has to be in it
    package: Path  # local file that Spark uploads with every application
    package_data: bytes
    archive: Path | None  # the user's own environment archive, to be checked
    outcome: str  # where the driver leaves how the job ended


def local_submission(options: Options, machine: Machine) -> Submission:
    """The call for one machine.

    Raises:
        ConfigError: set-up has not run, or the properties file is wrong.
    """
    properties = machine.root / "conf" / "spark-local.conf"
    conf = {**read_properties(properties), **options.conf}
    environ = machine.child_environ("log4j2.properties")
    environ.setdefault("PYSPARK_PYTHON", machine.python)
    environ["PYSPARK_DRIVER_PYTHON"] = machine.python
    environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    shown, secrets = _split_secrets(options.conf, conf)
    arguments = ["--jars", ",".join(map(str, machine.bundled_jars)), *_as_words(shown)]
    arguments += [str(options.job), "--env", "local", *options.job_options]
    spark_submit = str(machine.spark_home / "bin" / "spark-submit")
    return Submission(spark_submit, properties, tuple(arguments), environ, Secrets(secrets))


def plan_yarn(options: Options, machine: Machine) -> YarnPlan:
    """The call for YARN and all that it needs there.

    Raises:
        ConfigError: the properties file is wrong, or something that has to be shipped is missing.
    """
    properties = machine.root / "conf" / "spark-yarn.conf"
    conf = {**read_properties(properties), **options.conf}
    mode = options.deploy_mode or conf.get("spark.submit.deployMode", "client")
    queue = options.queue or conf.get("spark.yarn.queue", "default")
    staging = conf.get("spark.recsys.staging", "").rstrip("/")
    if ":/" not in staging:
        raise ConfigError(f"{properties}: spark.recsys.staging must be a folder like hdfs:///recsys/launch.")
    in_cluster = mode == "cluster"
    outcome = f"{staging}/outcomes/{options.job.stem}-{uuid.uuid4().hex}.json"

    python = _Python.of(conf.get("spark.recsys.python", "packed"), machine)
    jars = [copy_of(jar) for jar in machine.bundled_jars]
    libraries = [copy_of(file) for file in sorted((machine.spark_home / "python" / "lib").glob("*.zip"))]
    spark = [] if "spark.yarn.archive" in conf or "spark.yarn.jars" in conf else [spark_jars(machine.spark_home)]
    name, data = package.pack_package(machine.root)
    code = machine.build / name

    of_environ = collect_secrets(conf, machine.environ, in_cluster=in_cluster)
    added = {
        **options.conf,
        **({"spark.yarn.archive": f"{staging}/{spark[0].name}"} if spark else {}),
        "spark.pyspark.python": python.interpreter,
        **_container_environ(machine.environ, outcome, in_cluster=in_cluster),
        **({DRIVER_ENV + VARIABLES: FILE} if of_environ.variables else {}),
    }
    if in_cluster:
        added["spark.yarn.submit.waitAppCompletion"] = "true"  # the launcher follows, whatever the file says
    else:
        added["spark.pyspark.driver.python"] = machine.python
    shown, given = _split_secrets(added, conf)
    job_options, files = ship_settings(options.job_options) if in_cluster else (options.job_options, [])
    archives = [f"{staging}/{artifact.name}#{ENVIRONMENT_ALIAS}" for artifact in python.artifacts]
    arguments = ["--deploy-mode", mode, "--queue", queue]
    arguments += ["--jars", ",".join(f"{staging}/{artifact.name}" for artifact in jars)]
    arguments += ["--archives", ",".join([*archives, f"{code}#{package.ALIAS}"])]
    arguments += [*_as_words(shown), str(options.job), "--env", "yarn", *job_options]

    environ = machine.child_environ(
        "log4j2-submit.properties" if in_cluster else "log4j2.properties", with_code=not in_cluster
    )
    for variable in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):  # Spark would send this machine's paths to the driver
        environ.pop(variable, None)
    # Client.findPySparkArchives: else Spark uploads its own Python code with every application.
    environ["PYSPARK_ARCHIVES_PATH"] = ",".join(f"{staging}/{artifact.name}" for artifact in libraries)
    return YarnPlan(
        submission=Submission(
            spark_submit=str(machine.spark_home / "bin" / "spark-submit"),
            properties=properties,
            arguments=tuple(arguments),
            environ=environ,
            secrets=Secrets({**given, **of_environ.properties}, of_environ.variables),
            files=tuple(files),
        ),
        in_cluster=in_cluster,
        queue=queue,
        staging=staging,
        artifacts=(*spark, *python.artifacts, *jars, *libraries),
        package=code,
        package_data=data,
        archive=python.archive,
        outcome=outcome,
    )


def ship_settings(job_options: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Name the job's ``--conf FILE`` as the driver will find them on the cluster.

    Returns:
        The job's options, and what ``--files`` takes: each file under a name of its own.

    Raises:
        ConfigError: a file does not exist.
    """
    words: list[str] = []
    files: list[str] = []
    rest = list(job_options)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag != "--conf" or not (equals or rest):
            words.append(word)
            continue
        file = Path(value if equals else rest.pop(0))
        if not file.is_file():
            raise ConfigError(f"configuration file '{file}' does not exist. Check the path after --conf.")
        name = f"settings-{len(files) + 1}.yaml"
        files.append(f"{file.resolve()}#{name}")
        words += [flag, name]
    return tuple(words), files


@dataclass(frozen=True)
class _Python:
    """The interpreter of driver and executors, and what has to be there for it."""

    interpreter: str
    artifacts: tuple[Artifact, ...] = ()
    archive: Path | None = None

    @classmethod
    def of(cls, setting: str, machine: Machine) -> "_Python":
        """What ``spark.recsys.python`` says.

        Raises:
            ConfigError: it says something else, or its archive does not exist.
        """
        unpacked = f"./{ENVIRONMENT_ALIAS}/{environment.PYTHON}"
        if setting == "packed":
            return cls(unpacked, (_packed(machine),))
        if setting == "shared":
            return cls(machine.python)
        if setting.endswith((".tar.gz", ".tgz")):
            return cls(unpacked, (copy_of(Path(setting)),), Path(setting))
        if setting.startswith("/"):
            return cls(setting)
        raise ConfigError(
            f"spark.recsys.python '{setting}' is not known: packed, shared, an interpreter's path on every node, or an "
            "archive that ends in .tar.gz."
        )


def _packed(machine: Machine) -> Artifact:
    requirements = machine.root / "requirements" / "runtime.txt"
    archive = machine.build / environment.archive_name(requirements)

    def make(target: Path) -> None:
        if not archive.exists():
            environment.pack_environment(archive, requirements)
        link_or_copy(archive, target)

    return Artifact(archive.name, make)


def _container_environ(environ: Mapping[str, str], outcome: str, *, in_cluster: bool) -> dict[str, str]:
    """Variables of the containers, as Spark properties."""
    everywhere = {"PYTHONPATH": f"./{package.ALIAS}"}
    if environ.get("SPARK_LOCAL_IP"):  # of one machine: containers elsewhere must find their own
        everywhere["SPARK_LOCAL_IP"] = environ["SPARK_LOCAL_IP"]
    properties = {EXECUTOR_ENV + name: value for name, value in everywhere.items()}
    if in_cluster:
        properties |= {DRIVER_ENV + name: value for name, value in {**everywhere, OUTCOME: outcome}.items()}
    return properties


def _split_secrets(given: Mapping[str, str], conf: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    secrets = {key: value for key, value in given.items() if is_secret(key, conf)}
    return {key: value for key, value in given.items() if key not in secrets}, secrets


def _as_words(conf: Mapping[str, str]) -> list[str]:
    return [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
