"""Settings: every key with its type, range and default; read once, at the start of a job.

``conf/base.yaml`` holds every key and its sentence; an environment's file (``conf/local.yaml``,
``conf/yarn.yaml``) and the command line (``--set section.key=value``) change some of them.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recsys.alerts.params import AlertsParams
from recsys.als.params import AlsParams, PolicyParams
from recsys.errors import ConfigError
from recsys.evaluation.params import EvaluationParams, GateParams
from recsys.params import Section, require_private, without_password
from recsys.ranking.params import RankingParams
from recsys.ratings.params import IngestParams, LandingParams
from recsys.store.params import KafkaParams, MlflowParams, WarehouseParams
from recsys.telemetry.params import LineageParams, MetricsParams


class Settings(Section):
    """All settings of a run, one attribute a section of ``conf/base.yaml``."""

    warehouse: WarehouseParams = WarehouseParams()
    landing: LandingParams = LandingParams()
    kafka: KafkaParams = KafkaParams()
    ingest: IngestParams = IngestParams()
    contract: str = "conf/contracts/ratings.yaml"
    als: AlsParams = AlsParams()
    policy: PolicyParams = PolicyParams()
    ranking: RankingParams = RankingParams()
    evaluation: EvaluationParams = EvaluationParams()
    gate: GateParams = GateParams()
    mlflow: MlflowParams = MlflowParams()
    alerts: AlertsParams = AlertsParams()
    metrics: MetricsParams = MetricsParams()
    lineage: LineageParams = LineageParams()

    def digest(self) -> str:
        """Hash that tags a fit with its configuration: 12 hex digits of SHA-256 over all values that decide a fit.

        Where the tables and MLflow are is not among them: a warehouse may be moved.
        """
        decisive = {"als", "policy", "ranking", "evaluation", "gate"}
        return sha256(self.model_dump_json(include=decisive).encode()).hexdigest()[:12]


def load_settings(files: Sequence[Path], overrides: Mapping[str, str] | None = None) -> Settings:
    """Read YAML files, later ones over earlier ones, then ``section.key`` overrides.

    Raises:
        ConfigError: a file that cannot be read, or that holds a password and that others can read; or a key that is
            unknown, of the wrong type or out of range. The message is one line with key, value, allowed range and file.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file in files:
        _merge(merged, _read_yaml(file), origin, str(file))
    for key, text in (overrides or {}).items():
        value = _parse_scalar(key, text)
        nested: dict[str, Any] = {}
        target = nested
        *sections, leaf = key.split(".")
        for section in sections:
            target = target.setdefault(section, {})
        target[leaf] = value
        _merge(merged, nested, origin, "--set")
    return _validate(merged, origin)


def _parse_scalar(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {key}={text}: the value is not a YAML scalar. Quote it.") from err


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"configuration file '{file}' does not exist. Check the path, or --env and --conf.") from err
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        detail = " ".join(str(err).split())
        raise ConfigError(f"configuration file '{file}' cannot be read: {detail}. Correct the file.") from err
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file '{file}' must hold 'section:' keys, found {type(content).__name__}.")
    if _holds_password(content):
        require_private(file)
    return content


def _holds_password(content: Any) -> bool:
    """Whether an address in it has a user or password."""
    if isinstance(content, dict):
        return any(_holds_password(value) for value in content.values())
    if isinstance(content, list):
        return any(_holds_password(value) for value in content)
    return isinstance(content, str) and without_password(content) != content


def _merge(into: dict[str, Any], new: Mapping[str, Any], origin: dict[str, str], file: str, prefix: str = "") -> None:
    for key, value in new.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            below = into.setdefault(key, {})
            if not isinstance(below, dict):
                below = into[key] = {}
            origin[path] = file
            _merge(below, value, origin, file, f"{path}.")
        else:
            into[key] = value
            origin[path] = file


def _validate(merged: dict[str, Any], origin: Mapping[str, str]) -> Settings:
    try:
        return Settings.model_validate(merged)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        parts = [str(part) for part in first["loc"]]
        key = ".".join(parts)
        # What is wrong may lie below the key that a file gives, as an entry of its list does.
        longest_first = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        file = next((origin[path] for path in longest_first if path in origin), "the configuration")
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(key))
            raise ConfigError(f"{file}: unknown key '{key}'. Known keys there: {known}.") from err
        allowed = first["msg"][0].lower() + first["msg"][1:]
        found = without_password(repr(first["input"]))
        raise ConfigError(f"{file}: '{key}' is {found}, but {allowed}. Correct it there.") from err


def _known_keys(key: str) -> list[str]:
    model: type[Section] = Settings
    for part in key.split(".")[:-1]:
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            model = annotation
    return sorted(model.model_fields)
