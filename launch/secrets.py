"""What nobody may read on the way to the cluster: which variables, how they travel, how they are shown.

A command line is readable by every user of a machine (``/proc/<pid>/cmdline``), so secrets travel in files of mode 0600
that live as long as the submission. What the driver alone needs is a file there too (`recsys.secrets`). What Java has
to find in its environment becomes properties, which Spark gives to YARN as variables of the containers.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from launch.properties import format_properties
from recsys.errors import ConfigError
from recsys.secrets import FILE

MASK: Final = "***"
DRIVER_ENV: Final = "spark.yarn.appMasterEnv."
EXECUTOR_ENV: Final = "spark.executorEnv."
REDACTION: Final = "spark.redaction.regex"
_SPARK_DEFAULT: Final = "(?i)secret|password|token|access[.]?key"

# YARN writes `export NAME="value"` into the script that starts a container and escapes nothing in the value
# (ContainerLaunch.UnixShellScriptBuilder.env); {{ and }} it replaces by itself. Python workers get an executor's
# variables from Spark's own configuration, without that script: no escaping is right for both.
_UNSAFE: Final = re.compile(r'[\\"$`\n\r]|\{\{|\}\}')


@dataclass(frozen=True)
class Secrets:
    """What a submission hides."""

    properties: Mapping[str, str] = field(default_factory=dict)  # Spark's
    variables: Mapping[str, str] = field(default_factory=dict)  # of the driver's Python alone

    def __bool__(self) -> bool:
        return bool(self.properties or self.variables)


def collect_secrets(conf: Mapping[str, str], environ: Mapping[str, str], *, in_cluster: bool) -> Secrets:
    """The secrets of the submitter's environment.

    Args:
        conf: Has the patterns: ``spark.recsys.secrets`` for the driver's Python, ``spark.recsys.environmentSecrets``
            for what driver and executors must have in their environment.
        environ: The submitter's environment.
        in_cluster: The driver runs on the cluster; elsewhere it has this environment already.

    Raises:
        ConfigError: Spark would show one of them, or a value cannot pass YARN unchanged.
    """
    everywhere = dict(_matching(conf.get("spark.recsys.environmentSecrets", ""), environ))
    for name, value in everywhere.items():
        if _UNSAFE.search(value):
            raise ConfigError(
                f"{name} holds a quote, $, `, \\, line break or double braces, which containers would get changed. "
                "Change the secret, or name it in spark.recsys.secrets only if the driver's Python alone needs it."
            )
    prefixes = (DRIVER_ENV, EXECUTOR_ENV) if in_cluster else (EXECUTOR_ENV,)
    properties = {prefix + name: value for prefix in prefixes for name, value in everywhere.items()}
    shown = [key for key in properties if not is_secret(key, conf)]
    if shown:
        raise ConfigError(f"{REDACTION} does not cover {shown[0]}: Spark's web page would show it. Add it there.")
    of_driver = dict(_matching(conf.get("spark.recsys.secrets", ""), environ)) if in_cluster else {}
    return Secrets(properties, {name: value for name, value in of_driver.items() if name not in everywhere})


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
def secret_files(base: Path, secrets: Secrets) -> Iterator[Path]:
    """A properties file with the base's content and the secrets, and beside it the driver's variables.

    Readable by their owner only, gone at the end. Without secrets it is the base itself.
    """
    if not secrets:
        yield base
        return
    folder = Path(tempfile.mkdtemp(prefix="recsys-"))  # mode 0700
    try:
        properties = folder / base.name
        _write_private(properties, f"{base.read_text(encoding='utf-8')}\n{format_properties(secrets.properties)}")
        if secrets.variables:
            _write_private(folder / FILE, json.dumps(dict(secrets.variables)))
        yield properties
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_private(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def _matching(patterns: str, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    wanted = patterns.replace(",", " ").split()
    for name, value in sorted(environ.items()):
        if value and any(fnmatchcase(name, pattern) for pattern in wanted):
            yield name, value
