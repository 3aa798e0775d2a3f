"""Fits and models in MLflow: one run and one registered version a fit, aliases that say which version lives.

MLflow is imported on first use, because that costs seconds. What is read back is read as data files: nothing in this
module imports, unpickles or executes anything that an artifact holds.
"""

import json
import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version as installed
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import numpy as np

from recsys.errors import ConcurrentPromotionError, ConfigError, GateRefusedError, ModelArtifactError, RegistryError
from recsys.events import log_event
from recsys.params import without_password
from recsys.ranking.model import ListModel
from recsys.store.locks import check_held
from recsys.store.params import MlflowParams
from recsys.store.pause import pause_at

log = logging.getLogger(__name__)

Alias = Literal["champion", "challenger", "previous"]

# Tags of a version.
FIT_KEY: Final = "fit_key"  # what the fit was made from; one version for each
VERDICT: Final = "verdict"
PARENT: Final = "parent_model"  # the champion it was fitted from and judged against, or "none"
REPLACES: Final = "replaces"  # the champion it took the place of
ATTEMPT: Final = "attempt."  # + time: one promotion attempt and its outcome
TABLE_VERSION: Final = "version."  # + table: the version of it that the fit read
ORPHAN: Final = "orphan"  # + when it was found: its job died before anything was done with it; see tag_orphans
WAREHOUSE: Final = "warehouse"

# Values of the verdict tag.
PENDING: Final = "pending"
PASSED: Final = "passed"
REFUSED: Final = "refused"
NOT_JUDGED: Final = "not judged"  # by too few users for a verdict
ROLLED_BACK: Final = "rolled back"

DATA_FOLDER: Final = "lists"  # name of the data files' folder in the artifact and of its entry in `context.artifacts`
MODEL_CODE: Final = Path(__file__).resolve().parent.parent / "serving" / "pyfunc_model.py"
LOGGED_MODEL: Final = re.compile(r"models:/(m-[0-9a-f]{32})")
SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
UNANSWERED: Final = re.compile(r"Max retries exceeded.*\(Caused by .*?(?P<why>[^:>()\"']+)[\"')]*$")
BATCH_METRICS: Final = 1000  # MLflow's limit of one log_batch call, with parameters 100
BATCH_PARAMS: Final = 100

_openings: dict[str, threading.Thread] = {}  # by tracking URI; see Registry.open_in_background


@dataclass(frozen=True)
class ModelVersion:
    """One registered version and what its run measured."""

    version: int
    run_id: str
    created_at: datetime
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """The judge's word, or why there is none."""
        return self.tags.get(VERDICT, PENDING)

    @property
    def table_versions(self) -> dict[str, int]:
        """Versions of the tables that it was fitted on, by name."""
        tags = self.tags.items()
        return {key.removeprefix(TABLE_VERSION): int(tag) for key, tag in tags if key.startswith(TABLE_VERSION)}


class Registry:
    """The model registry of one warehouse; every method raises :class:`RegistryError` when it cannot be reached."""

    def __init__(self, params: MlflowParams, warehouse_root: str) -> None:
        """Nothing is opened yet.

        Raises:
            ConfigError: the warehouse is not a local folder and no tracking URI is configured.
        """
        self.model = params.model
        self._experiment = params.experiment
        local = _local_path(warehouse_root)
        self._root = str(local or warehouse_root)
        if params.tracking_uri is None and local is None:
            raise ConfigError(
                f"mlflow.tracking_uri is null, which means SQLite under warehouse.root, but '{warehouse_root}' is not "
                "a local folder. Set mlflow.tracking_uri to your tracking server."
            )
        self.tracking_uri = params.tracking_uri or f"sqlite:///{local}/mlflow/mlflow.db"
        self._has_server = urlsplit(self.tracking_uri).scheme in ("http", "https")
        self._retries = params.retries
        # A server says where its artifacts lie: a folder of this machine would be none of its own.
        is_ours = local is not None and not self._has_server
        self._artifact_root = params.artifact_root or (f"{local}/mlflow/artifacts" if is_ours else None)

    # Fits

    def log_fit(
        self,
        files: Mapping[str, bytes],
        *,
        fit_key: str,
        params: Mapping[str, Any],
        sweeps: Sequence[Mapping[str, float | None]] = (),
        metrics: Mapping[str, float | None] | None = None,
        figures: Mapping[str, bytes] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """Log one fit as a run and register its model; a fit logged before is found, not logged again.

        The version is created last and in one step, so a version that exists is complete. What a killed job left
        unfinished is tagged (:meth:`tag_orphans`). Call it under the lock that fits hold.

        Args:
            files: The model's data files, as :meth:`ListModel.to_files` gives them.
            fit_key: Identifies what the fit was made from (tables, parameters, parent model).
            params: Parameters of the run.
            sweeps: Metrics of each sweep, in order; None is skipped.
            metrics: Metrics of the fit as a whole.
            figures: PNG files by name.
            tags: Tags of the run and of the version; ``verdict`` among them, or it is ``pending``.

        Returns:
            The registered version.
        """
        with self._calls(f"log fit {fit_key}"):
            self._check_names({fit_key, *files, *(figures or {})})
            found = self.find_fit(fit_key)
            self._tag_orphans(keep=found)
            if found is not None:
                self._delete_twins(fit_key)
                log_event(log, "fit_found", version=found, fit_key=fit_key)
                return found
            labels = {VERDICT: PENDING, **(tags or {}), FIT_KEY: fit_key}
            run_id = self._client.create_run(
                self._experiment_id, run_name=f"fit-{fit_key[:12]}", tags={**labels, WAREHOUSE: self._root}
            ).info.run_id
            self._log_values(run_id, params, sweeps, metrics or {})
            pause_at("log_fit:after_run")
            model_id = self._upload(run_id, files, figures or {}, labels)
            pause_at("log_fit:after_model")
            check_held()  # a driver that was taken for dead must not register the fit a second time
            self._client.set_terminated(run_id)
            import_mlflow().set_tracking_uri(self.tracking_uri)  # MLflow looks the source up in its global store
            created = self._client.create_model_version(
                self.model, f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=labels
            )
            log_event(log, "fit_logged", version=created.version, run=run_id, fit_key=fit_key)
            return self._delete_twins(fit_key)

    def find_fit(self, fit_key: str) -> int | None:
        """The version registered for a fit, if there is one."""
        with self._calls(f"look for fit {fit_key}"):
            self._check_names({fit_key})
            return min(self._versions_of(fit_key), default=None)

    def tag_orphans(self) -> list[int]:
        """Tag what killed jobs left: versions that were neither refused nor ever given an alias, runs that never ended.

        The tag is for people: what has no alias is not served, and a fit that runs again takes its version up and the
        tag off. Call it under the lock that fits hold, or a fit in progress is taken for an orphan.

        Returns:
            The versions tagged now.
        """
        with self._calls("tag orphans"):
            return self._tag_orphans(keep=None)

    # Reading

    def alias(self, name: Alias) -> int | None:
        """The version an alias names, if any."""
        with self._calls(f"read alias {name}"):
            found = self._aliases().get(name)
        return None if found is None else int(found)

    @property
    def champion(self) -> int | None:
        """The version that is served."""
        return self.alias("champion")

    @property
    def previous(self) -> int | None:
        """The version that was served before it."""
        return self.alias("previous")

    @property
    def challenger(self) -> int | None:
        """The version that is a candidate for promotion."""
        return self.alias("challenger")

    def describe(self, version: int) -> ModelVersion:
        """One version with its tags and its run's metrics.

        Raises:
            RegistryError: there is no such version.
        """
        with self._calls(f"read version {version}"):
            entry = self._get_version(version)
            run = self._client.get_run(entry.run_id)
            created = datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC)
            return ModelVersion(version, entry.run_id, created, dict(entry.tags), dict(run.data.metrics))

    def versions(self) -> list[int]:
        """All registered versions, oldest first."""
        with self._calls("list versions"):
            return sorted(int(entry.version) for entry in self._client.search_model_versions(f"name = '{self.model}'"))

    def load(self, version: int | Alias) -> dict[str, bytes]:
        """A model's data files, for :meth:`ListModel.from_files`. Executes nothing of the artifact.

        Raises:
            RegistryError: no such version or alias.
            ModelArtifactError: the version's source is not one that :meth:`log_fit` writes, or its folder holds a
                link, a folder or a file with an odd name.
        """
        with self._calls(f"load {version}"):
            number = version if isinstance(version, int) else self._aliases().get(version)
            if number is None:
                raise RegistryError(f"model '{self.model}' has no {version}. Promote a version first.")
            entry = self._get_version(int(number))
            source = LOGGED_MODEL.fullmatch(entry.source)
            if source is None:
                raise ModelArtifactError(
                    f"version {number} of '{self.model}' has source '{entry.source}', which is not a model this "
                    "system logged. It is not loaded; delete the version."
                )
            location = self._client.get_logged_model(source[1]).artifact_location
            return self._read_files(location, f"version {number} of '{self.model}'")

    # Changing what is served. Each of these is called under the lock on the models.

    def set_challenger(self, version: int) -> None:
        """Name a version as the candidate."""
        with self._calls(f"make version {version} challenger"):
            entry = self._get_version(version)
            self._client.set_registered_model_alias(self.model, "challenger", str(version))
            self._adopt(entry)

    def promote(self, version: int, expected_champion: int | None) -> int | None:
        """Make a version champion, if the champion still is the one expected.

        MLflow has no compare-and-set: the caller's lock and the check of the old version stand for it. Promoting the
        champion again only finishes what a killed promotion left. Every attempt is recorded in the version's tags.

        Args:
            version: The version to promote; its verdict must be ``passed``.
            expected_champion: The champion it was judged against; None: there was none.

        Returns:
            The champion it replaced, None when there was none.

        Raises:
            GateRefusedError: its verdict is not ``passed``.
            ModelArtifactError: the model does not load or gives no lists.
            ConcurrentPromotionError: the champion is another version.
            RegistryError: there is no such version, or the registry cannot be written; the champion stays.
        """
        with self._calls(f"promote version {version}"):
            entry = self._get_version(version)
            champion = self.champion
            if champion == version:
                self._finish_promotion(entry)
                return _int_or_none(entry.tags.get(REPLACES, ""))
            try:
                self._check_promotion(version, entry.tags, champion, expected_champion)
            except (GateRefusedError, ConcurrentPromotionError, ModelArtifactError) as err:
                self._record_attempt(version, expected_champion, champion, f"{type(err).__name__}: {err}")
                raise
            self._client.set_model_version_tag(self.model, str(version), REPLACES, str(champion or ""))
            if champion is not None:
                self._client.set_registered_model_alias(self.model, "previous", str(champion))
            pause_at("promote:before_champion")
            check_held()
            self._client.set_registered_model_alias(self.model, "champion", str(version))
            pause_at("promote:after_champion")
            self._finish_promotion(entry)
            self._record_attempt(version, expected_champion, champion, "promoted")
            log_event(log, "model_promoted", version=version, replaced=champion)
            return champion

    def restore(self, version: int, reason: str) -> int | None:
        """Make an earlier version champion again; the version it replaces can never be promoted any more.

        Args:
            version: A version that was champion before.
            reason: Why, for the record.

        Returns:
            The champion it replaced.

        Raises:
            RegistryError: the version was deleted; the champion stays.
            ModelArtifactError: its model does not load; the champion stays.
        """
        with self._calls(f"roll back to version {version}"):
            entry = self._get_version(version)
            champion = self.champion
            if champion == version:
                return None
            self.check_model(version)
            self._client.set_model_version_tag(self.model, str(version), VERDICT, PASSED)
            if champion is not None:
                self._client.set_model_version_tag(self.model, str(champion), VERDICT, ROLLED_BACK)
            check_held()
            self._client.set_registered_model_alias(self.model, "champion", str(version))
            before = _int_or_none(entry.tags.get(REPLACES, ""))
            if before in self.versions():
                self._client.set_registered_model_alias(self.model, "previous", str(before))
            else:
                self._client.delete_registered_model_alias(self.model, "previous")
            self._record_attempt(version, champion, champion, f"restored: {reason}")
            log_event(log, "model_restored", version=version, replaced=champion, reason=reason)
            return champion

    def check_model(self, version: int) -> None:
        """The canary: the model loads, and gives finite, non-empty lists.

        Raises:
            ModelArtifactError: it does not.
        """
        model = ListModel.from_files(self.load(version))
        for history in ([], [(model.item_ids[0], 1.0)]):
            [entries] = model.recommend([history], 2)
            scores = np.array([score for _, score in entries], dtype=np.float64)
            if (not entries and len(model.item_ids) > len(history)) or not np.isfinite(scores).all():
                raise ModelArtifactError(f"version {version} gives {entries} for history {history}; it is not served.")

    def open_in_background(self) -> None:
        """Begin to import MLflow and to open its store, which takes seconds, while the caller does something else.

        What goes wrong is raised by the first call that needs the registry, which tries again. A process that ends
        first waits for a database, which may be in the making and must not be left half made, but not for a server.
        """
        if self.tracking_uri not in _openings:
            opening = threading.Thread(target=self._open, name="open-registry", daemon=self._has_server)
            _openings[self.tracking_uri] = opening
            opening.start()

    # What the above is made of

    def _open(self) -> None:
        with suppress(RegistryError), self._calls("open", retries=0):
            self._client.search_registered_models(max_results=1)

    @cached_property
    def _client(self) -> Any:
        mlflow = import_mlflow()
        return mlflow.MlflowClient(self.tracking_uri, self.tracking_uri)

    @cached_property
    def _experiment_id(self) -> str:
        """Of the experiment, which is created with its model when this is the first fit."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            identifier = found.experiment_id
        elif self._artifact_root is None and not self._has_server:
            raise ConfigError(
                f"mlflow.artifact_root is null, which means a folder under warehouse.root, but '{self._root}' is not a "
                "local folder, and no tracking server says where models lie. Set mlflow.artifact_root."
            )
        else:
            identifier = self._client.create_experiment(self._experiment, artifact_location=self._artifact_root)
        try:
            self._client.create_registered_model(self.model)
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(identifier)

    def _versions_of(self, fit_key: str) -> list[int]:
        found = self._client.search_model_versions(f"name = '{self.model}' and tags.{FIT_KEY} = '{fit_key}'")
        return sorted(int(entry.version) for entry in found)

    def _delete_twins(self, fit_key: str) -> int:
        """Leave one version of a fit and return it: a call whose answer was lost is made again, and made two."""
        kept, *twins = self._versions_of(fit_key)
        for twin in twins:
            self._client.delete_model_version(self.model, str(twin))
            log_event(log, "twin_deleted", level=logging.WARNING, version=twin, of=kept)
        return kept

    @contextmanager
    def _calls(self, doing: str, *, retries: int | None = None) -> Iterator[None]:
        """Turn what MLflow and its database raise into one clear error; MLflow makes unanswered calls again."""
        opening = _openings.get(self.tracking_uri)
        if opening is not None and opening is not threading.current_thread():
            opening.join()  # two threads must not make the same database
        import_mlflow()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        tries = self._retries if retries is None else retries
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(tries)  # MLflow reads it with every call
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's own, about the versions of its parts
                yield
        except (MlflowException, SQLAlchemyError, OSError) as err:
            detail = without_password(str(err).strip().splitlines()[0])
            advice = "Check mlflow.tracking_uri and that it can be reached and written."
            if "database is locked" in detail:
                advice = "Another process holds the database; try again when it has ended."
            unanswered = UNANSWERED.search(detail)
            if self._has_server and unanswered:
                detail = f"it did not answer, asked {1 + tries} times ({unanswered['why'].strip()})"
                advice = "Start it or correct mlflow.tracking_uri, then run the job again: it goes on where it stopped."
            raise RegistryError(
                f"could not {doing} in the model registry at {without_password(self.tracking_uri)}: {detail}. {advice}"
            ) from err

    def _get_version(self, version: int) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(self.model, str(version))
        except MlflowException as err:
            if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RegistryError(
                f"model '{self.model}' has no version {version}: it was deleted or never logged. "
                f"There are {self.versions() or 'none'}."
            ) from err

    def _aliases(self) -> Mapping[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client.get_registered_model(self.model).aliases)
        except MlflowException as err:
            if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}  # nothing was ever logged

    def _log_values(
        self,
        run_id: str,
        params: Mapping[str, Any],
        sweeps: Sequence[Mapping[str, float | None]],
        metrics: Mapping[str, float | None],
    ) -> None:
        from mlflow.entities import Metric, Param

        now = int(datetime.now(UTC).timestamp() * 1000)
        steps = [(step, sweep) for step, sweep in enumerate(sweeps, 1)]
        values = [
            Metric(key, float(value), now, step)
            for step, group in [*steps, (0, metrics)]
            for key, value in group.items()
            if value is not None
        ]
        for start in range(0, len(values), BATCH_METRICS):
            self._client.log_batch(run_id, metrics=values[start : start + BATCH_METRICS])
        texts = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(texts), BATCH_PARAMS):
            self._client.log_batch(run_id, params=texts[start : start + BATCH_PARAMS])

    def _upload(
        self, run_id: str, files: Mapping[str, bytes], figures: Mapping[str, bytes], labels: Mapping[str, str]
    ) -> str:
        """Write figures and model once each; returns the logged model's id."""
        with tempfile.TemporaryDirectory(prefix="recsys-fit-") as folder:
            data, pictures, saved = Path(folder, DATA_FOLDER), Path(folder, "figures"), Path(folder, "model")
            _write_files(data, files)
            if figures:
                _write_files(pictures, figures)
                self._client.log_artifacts(run_id, str(pictures), "figures")
            logged = self._client.create_logged_model(
                self._experiment_id, name=self.model, source_run_id=run_id, tags=dict(labels), model_type="pyfunc"
            )
            _save_pyfunc(saved, data, run_id=run_id, model_id=logged.model_id)
            self._client.log_model_artifacts(logged.model_id, str(saved))
            self._client.finalize_logged_model(logged.model_id, "READY")
        return str(logged.model_id)

    def _tag_orphans(self, *, keep: int | None) -> list[int]:
        aliased = {int(version) for version in self._aliases().values()}
        versions = sorted(
            int(entry.version)
            for entry in self._client.search_model_versions(f"name = '{self.model}'")
            if entry.tags.get(VERDICT) in (PENDING, PASSED)
            and not {REPLACES, ORPHAN} & entry.tags.keys()
            and int(entry.version) not in aliased | {keep}
        )
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        for version in versions:
            self._client.set_model_version_tag(self.model, str(version), ORPHAN, now)
        unended = self._client.search_runs(
            [self._experiment_id], f"attributes.status = 'RUNNING' and tags.{WAREHOUSE} = '{_quoted(self._root)}'"
        )
        for run in unended:
            self._client.set_tag(run.info.run_id, ORPHAN, now)
            self._client.set_terminated(run.info.run_id, "KILLED")
        if versions or unended:
            log_event(log, "orphans_tagged", level=logging.WARNING, versions=versions, runs=len(unended))
        return versions

    def _read_files(self, location: str, name: str) -> dict[str, bytes]:
        """Files of the artifact's data folder; ``location`` must lie below the artifact root, links resolved."""
        local = _local_path(location)
        if local is None:
            return self._download_files(location, name)
        folder = local / "artifacts" / DATA_FOLDER
        root = None if self._artifact_root is None else _local_path(self._artifact_root)
        if root is None or not folder.resolve().is_relative_to(root.resolve()) or ".." in folder.parts:
            raise ModelArtifactError(
                f"{name} points to '{location}', outside the artifact root '{self._artifact_root}'. It is not loaded; "
                "delete the version, or correct mlflow.artifact_root if you moved the warehouse."
            )
        return _read_folder(folder, name)

    def _download_files(self, location: str, name: str) -> dict[str, bytes]:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if ".." in PurePosixPath(unquote(urlsplit(location).path)).parts:
            raise ModelArtifactError(f"{name} points to '{location}', which leaves its folder. It is not loaded.")
        with tempfile.TemporaryDirectory(prefix="recsys-load-") as folder:
            repository = get_artifact_repository(location, tracking_uri=self.tracking_uri)
            repository.download_artifacts(f"artifacts/{DATA_FOLDER}", folder)
            return _read_folder(Path(folder, "artifacts", DATA_FOLDER), name)

    def _check_promotion(
        self, version: int, tags: Mapping[str, str], champion: int | None, expected: int | None
    ) -> None:
        if champion != expected:
            raise ConcurrentPromotionError(
                f"version {version} was judged against champion {expected}, but the champion is {champion}. "
                "Nothing was changed; judge it against the new champion."
            )
        if tags.get(VERDICT) != PASSED:
            raise GateRefusedError(
                f"version {version} has verdict '{tags.get(VERDICT, 'none')}' "
                f"({tags.get('reasons') or 'no reasons given'}). Champion {champion} stays."
            )
        self.check_model(version)

    def _finish_promotion(self, entry: Any) -> None:
        if self.challenger == int(entry.version):
            self._client.delete_registered_model_alias(self.model, "challenger")
        self._adopt(entry)

    def _adopt(self, entry: Any) -> None:
        """Take the orphan tag off a version that something is done with."""
        if ORPHAN in entry.tags:
            self._client.delete_model_version_tag(self.model, str(entry.version), ORPHAN)

    def _record_attempt(self, version: int, expected: int | None, found: int | None, outcome: str) -> None:
        record = {"expected_champion": expected, "found_champion": found, "outcome": outcome}
        key = f"{ATTEMPT}{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        self._client.set_model_version_tag(self.model, str(version), key, json.dumps(record))

    @staticmethod
    def _check_names(names: set[str]) -> None:
        for name in names:
            if not SAFE_NAME.fullmatch(name):
                raise RegistryError(f"'{name}' cannot be a fit key or a file name: use letters, digits, '_', '.', '-'.")


def import_mlflow() -> Any:
    """MLflow, silent: no telemetry, no log lines (errors are raised, and logged once at the top of the job)."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password, where there is one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.pyfunc

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return mlflow


def _save_pyfunc(path: Path, data: Path, *, run_id: str, model_id: str) -> None:
    """Write the model folder: this project's code, the data files, pinned requirements, an explicit signature."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    entry = Object([Property("item_id", DataType.string), Property("score", DataType.double)])
    signature = ModelSignature(
        # MLflow checks nested columns one Python object at a time, 10 ms for 50 ratings, and takes no whole numbers for
        # `value`: the model checks the histories itself.
        inputs=Schema([ColSpec(AnyType(), "history")]),
        outputs=Schema([ColSpec(Array(entry), "items")]),
        params=ParamSchema([ParamSpec("n", DataType.long, 0)]),
    )
    packages = ("mlflow", "numba", "numpy", "pandas", "pyarrow", "pydantic")
    mlflow.pyfunc.save_model(
        str(path),
        python_model=str(MODEL_CODE),
        artifacts={DATA_FOLDER: str(data)},
        signature=signature,
        pip_requirements=[f"{name}=={installed(name)}" for name in packages],  # or MLflow would infer them, for seconds
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _read_folder(folder: Path, name: str) -> dict[str, bytes]:
    if not folder.is_dir() or folder.is_symlink():
        raise ModelArtifactError(f"{name} has no data folder '{folder}'. Its artifact is incomplete; fit again.")
    files: dict[str, bytes] = {}
    for file in sorted(folder.iterdir()):
        if file.is_symlink() or not file.is_file() or not SAFE_NAME.fullmatch(file.name):
            raise ModelArtifactError(f"{name} holds '{file.name}', which is no plain data file. It is not loaded.")
        files[file.name] = file.read_bytes()
    return files


def _local_path(location: str) -> Path | None:
    """The local path of a path or file: URI, absolute; None for other schemes."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else location).absolute()


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _int_or_none(text: str) -> int | None:
    return int(text) if text else None
