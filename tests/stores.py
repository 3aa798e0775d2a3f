"""Empty MLflow stores for tests: MLflow makes one by running all its migrations, for seconds; the others are copies."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys.store.params import MlflowParams
from recsys.store.registry import Registry


@cache
def _empty_store() -> bytes:
    with TemporaryDirectory() as folder:
        assert Registry(MlflowParams(), folder).champion is None
        return Path(folder, "mlflow", "mlflow.db").read_bytes()


def place_empty_store(warehouse_root: str | Path) -> None:
    """Put an empty store where a registry of this warehouse looks for its own."""
    folder = Path(warehouse_root) / "mlflow"
    folder.mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(_empty_store())
