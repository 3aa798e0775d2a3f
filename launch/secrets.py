"""What nobody may read on the way to the cluster: which variables, how they travel, how they are shown.

A command line is readable by every user of a machine (``/proc/<pid>/cmdline``), so secrets go by a properties file of
mode 0600 that lives as long as the submission, and from there into the environment of the containers.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from launch.properties import format_properties
from recsys.errors import ConfigError

MASK: Final = "***"
DRIVER_ENV: Final = "spark.yarn.appMasterEnv."
EXECUTOR_ENV: Final = "spark.executorEnv."
REDACTION: Final = "spark.redaction.regex"
_SPARK_DEFAULT: Final = "(?i)secret|password|token|access[.]?key"

# YARN writes `export NAME="value"` into the script that starts a container and escapes nothing in the value
# (ContainerLaunch.UnixShellScriptBuilder.env); {{ and }} it replaces by itself.
_SHELL: Final = re.compile(r'([\\"$`])')
_UNSAFE: Final = re.compile(r'[\\"$`\n\r]|\{\{|\}\}')


def collect_secrets(conf: Mapping[str, str], environ: Mapping[str, str], *, in_cluster: bool) -> dict[str, str]:
    """Spark properties that hold the secrets of the submitter's environment.

    Args:
        conf: Has the patterns: ``spark.recsys.secrets`` for the driver, ``spark.recsys.executorSecrets`` for executors.
        environ: The submitter's environment.
        in_cluster: The driver runs on the cluster; elsewhere it has this environment already.

    Raises:
        ConfigError: Spark would show one of them, or a value cannot pass YARN unchanged.
    """
    secrets: dict[str, str] = {}
    if in_cluster:
        for name, value in _matching(conf.get("spark.recsys.secrets", ""), environ):
            if "\n" in value or "\r" in value or "{{" in value or "}}" in value:
                raise ConfigError(f"{name} holds a line break or double braces, which YARN cannot pass on. Change it.")
            secrets[DRIVER_ENV + name] = _SHELL.sub(r"\\\1", value)
    for name, value in _matching(conf.get("spark.recsys.executorSecrets", ""), environ):
        # The JVM of an executor gets the value through YARN's script and its Python workers from Spark's own
        # configuration: no escaping is right for both.
        if _UNSAFE.search(value):
            raise ConfigError(
                f"{name} holds a quote, $, ` or \\, which executors would get changed. Change the secret."
            )
        secrets[EXECUTOR_ENV + name] = value
    shown = [key for key in secrets if not is_secret(key, conf)]
    if shown:
        raise ConfigError(f"{REDACTION} does not cover {shown[0]}: Spark's web page would show it. Add it there.")
    return secrets


def is_secret(key: str, conf: Mapping[str, str]) -> bool:
    """Whether Spark itself would hide the property's value.

    Raises:
        ConfigError: the regular expression is none.
    """
    pattern = conf.get(REDACTION, _SPARK_DEFAULT)
    try:
        return re.search(pattern, key) is not None
    except re.error as err:
        raise ConfigError(f"{REDACTION} '{pattern}' is no regular expression ({err}). Correct it.") from err


@contextmanager
def secret_properties(base: Path, secrets: Mapping[str, str]) -> Iterator[Path]:
    """A properties file with the base's content and the secrets, readable by its owner only, gone at the end.

    Without secrets it is the base itself.
    """
    if not secrets:
        yield base
        return
    folder = tempfile.mkdtemp(prefix="recsys-")  # mode 0700
    try:
        file = Path(folder, base.name)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(f"{base.read_text(encoding='utf-8')}\n{format_properties(secrets)}")
        yield file
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _matching(patterns: str, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    wanted = patterns.replace(",", " ").split()
    for name, value in sorted(environ.items()):
        if value and any(fnmatchcase(name, pattern) for pattern in wanted):
            yield name, value
