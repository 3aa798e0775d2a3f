"""The import rules of docs/architecture.md: who may import whom, and what must stay free of Spark."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.session import ROOT

BASICS = {"schemas", "columns", "errors", "events", "params"}
FOR_THE_LAUNCHER = {"recsys.errors", "recsys.advice", "recsys.secrets"}

# Package (or top-level module) of recsys → packages of recsys it may import besides itself.
MAY_IMPORT = {
    "errors": set(),
    "advice": set(),
    "secrets": set(),
    "events": set(),
    "params": {"errors"},
    "columns": set(),
    "schemas": {"columns"},
    "session": {"errors"},
    "failures": {"errors", "params", "advice"},
    "losses": {"session"},
    "config": {
        "errors",
        "params",
        "als.params",
        "ranking.params",
        "evaluation.params",
        "ratings.params",
        "store.params",
        "alerts.params",
        "telemetry.params",
    },
    "suppression": {"columns"},
    "alerts": BASICS,
    "telemetry": BASICS | {"__version__"},
    "ratings": BASICS | {"blocks", "suppression"},
    "blocks": BASICS,
    "als": BASICS | {"blocks"},
    "ranking": BASICS | {"blocks", "als"},
    "evaluation": BASICS | {"blocks", "als", "ranking"},
    "ml": {"schemas", "columns", "errors", "blocks", "als", "ranking"},
    "store": BASICS | {"session", "als", "ranking", "suppression"},
    "adoption": BASICS | {"ratings", "store"},
    "landed_files": {"store"},
    "landing_writer": BASICS | {"ratings", "store"},
    "batches": BASICS | {"ratings", "store"},
    "user_blocks": BASICS | {"adoption", "batches", "blocks", "store"},
    "ingestion": BASICS | {"adoption", "batches", "landed_files", "ratings", "store", "config", "session"},
    "compaction": BASICS | {"adoption", "blocks", "store"},
    "reconciliation": BASICS | {"batches", "ratings", "store"},
    "erasure": BASICS
    | {"adoption", "batches", "config", "failures", "ingestion", "landed_files", "ratings", "replay", "session"}
    | {"store", "suppression", "user_blocks"},
    "replay": BASICS | {"batches", "config", "ingestion", "landed_files", "ratings", "session", "store"},
    "observation": BASICS
    | {"alerts", "telemetry", "batches", "config", "failures", "ingestion", "landed_files", "ratings", "session"}
    | {"store"},
    "streaming": BASICS | {"ratings", "store", "config", "ingestion"},
    "planning": BASICS | {"blocks", "als", "session"},
    "training": BASICS | {"blocks", "als", "ranking", "evaluation", "config"},
    "serving": {"als", "ranking", "config", "columns", "errors", "params"},
}

# Numeric cores: NumPy (and numba) and the errors only, so that they can be read, tested and reused alone.
CORES = ["als/kernels.py", "evaluation/metrics.py", "evaluation/gate.py"]
CORE_IMPORTS = {"numpy", "numba", "math", "dataclasses", "collections", "typing", "__future__", "os", "functools"}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the full name"
            module = node.module or ""
            yield from ([f"{module}.{name.name}" for name in node.names] if module == "recsys" else [module])


def modules() -> list[Path]:
    return sorted((ROOT / "recsys").rglob("*.py"))


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(file: Path) -> None:
    home = file.relative_to(ROOT / "recsys").with_suffix("").parts[0]
    if home == "__init__":
        home = "errors"
    allowed = MAY_IMPORT[home] | {home}
    for name in imported(file):
        if not name.startswith("recsys."):
            assert not name.startswith(("jobs", "tests", "benchmarks")), f"{file} imports {name}"
            continue
        below = name.removeprefix("recsys.")
        assert any(below == rule or below.startswith(f"{rule}.") for rule in allowed), f"{home} may not import {name}"


@pytest.mark.parametrize("core", CORES)
def test_the_numeric_cores_import_numpy_and_errors_only(core: str) -> None:
    for name in imported(ROOT / "recsys" / core):
        allowed = name in ("recsys.errors", "recsys.params", "recsys.evaluation.params")
        assert allowed or name.split(".")[0] in CORE_IMPORTS, f"{core} imports {name}"


@pytest.mark.parametrize("package", [p for p in modules() if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_package_init_files_import_nothing(package: Path) -> None:
    assert list(imported(package)) == []


def test_jobs_do_not_import_serving() -> None:
    for file in (ROOT / "jobs").glob("*.py"):
        assert [name for name in imported(file) if name.startswith("recsys.serving")] == []


def test_the_launcher_needs_the_standard_library_and_what_it_shares_with_the_jobs_only() -> None:
    for file in (ROOT / "launch").glob("*.py"):
        for name in imported(file):
            ours = name in FOR_THE_LAUNCHER or name.split(".")[0] == "launch"
            assert ours or name.split(".")[0] in sys.stdlib_module_names, f"{file} imports {name}"


def import_without(missing: list[str], script: str) -> None:
    blocked = f"import sys\nfor name in {missing}: sys.modules[name] = None\n{script}"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_serving_uses_runs_where_pyspark_cannot_be_imported() -> None:
    import_without(
        ["pyspark", "delta", "py4j"],
        """
import recsys.config, recsys.columns, recsys.errors
import recsys.als.kernels, recsys.als.model
import recsys.ranking.topn, recsys.ranking.model, recsys.ranking.explain
import recsys.serving.pyfunc_model
""",
    )


def test_the_estimator_alone_needs_no_delta_no_mlflow_and_none_of_our_settings() -> None:
    """Its users have a session of their own; README says what must be installed."""
    missing = ["delta", "mlflow", "yaml", "pandas", "matplotlib", "jobs"]
    ours = [
        "session",
        "config",
        "store",
        "ratings",
        "evaluation",
        "adoption",
        "batches",
        "ingestion",
        "user_blocks",
        "training",
        "planning",
    ]
    import_without([*missing, *(f"recsys.{name}" for name in ours)], "import recsys.ml")
