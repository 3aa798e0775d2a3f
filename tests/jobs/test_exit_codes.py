"""What a scheduler sees of jobs that cannot do their work: an exit code, and one line that says what to do."""

import shutil
from importlib import import_module
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.runner import make_context
from recsys import columns as c
from recsys.store.files import Files
from recsys.store.locks import LISTS, MODELS, TABLES, Lock
from tests.jobs.warehouses import arguments, land_csv, make_settings
from tests.stores import place_empty_store

SETTINGS = {"warehouse.buckets": 2, "warehouse.users_per_block": 2}


@pytest.fixture(scope="module")
def empty_warehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exit codes")
    (root / "landing").mkdir()
    place_empty_store(root / "empty")
    make_context(spark, make_settings(root / "empty", root / "landing"))
    return root / "empty"


def run(job: str, warehouse: Path, landing: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and the one line on standard error."""
    name, *options = job.split()
    code = import_module(f"jobs.{name}").main([*arguments(warehouse, landing, SETTINGS), *options])
    [line] = capsys.readouterr().err.splitlines()
    return code, line


@pytest.mark.parametrize(
    ("job", "lock"),
    [
        ("ingest_ratings", TABLES),
        ("train_model", MODELS),
        ("promote_model", MODELS),
        ("score_users", LISTS),
        ("rollback", MODELS),
        ("rollback", LISTS),
        ("maintain_tables", TABLES),
        ("maintain_tables", MODELS),
        ("maintain_tables", LISTS),
        ("repair_tables", LISTS),
        ("quarantine --replay --all", TABLES),
        ("pipeline", "pipeline"),
        ("pipeline", TABLES),
    ],
)
def test_case_22_a_job_whose_lock_another_holds_ends_with_5_and_says_who(
    spark: SparkSession, empty_warehouse: Path, capsys: pytest.CaptureFixture[str], job: str, lock: str
) -> None:
    held = Lock(Files(spark), str(empty_warehouse), lock, job="another", expiry_seconds=600.0)
    with held:
        code, line = run(job, empty_warehouse, empty_warehouse.with_name("landing"), capsys)
    assert code == 5
    assert line.startswith(f"error: lock '{lock}' is held by another (pid ")
    assert "Wait for it to end" in line


def test_case_26_too_many_bad_rows_end_the_job_with_3(
    spark: SparkSession, empty_warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, landing = tmp_path / "warehouse", tmp_path / "landing"
    shutil.copytree(empty_warehouse, warehouse)
    land_csv(landing, "bad.csv", "u1,i1,8,1700000000", "u1,,8,1700000000", "u2,i1,99,1700000000")
    code, line = run("ingest_ratings", warehouse, landing, capsys)
    assert code == 3
    assert line.startswith("error: 2 of 3 landed rows (67%) are bad, allowed are 20%")
    row = spark.read.format("delta").load(f"{warehouse}/job_runs").orderBy(c.STARTED_AT).collect()[-1]
    assert (row[c.JOB], row[c.OUTCOME], row[c.EXIT_CODE]) == ("ingest_ratings", "DataRejectedError", 3)


@pytest.mark.parametrize("job", ["ingest_ratings", "pipeline"])
def test_case_24_a_missing_landing_folder_ends_the_job_with_2_before_any_table_is_made(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    code, line = run(job, tmp_path / "warehouse", tmp_path / "mistyped", capsys)
    assert code == 2
    assert line.startswith("error: landing folder 'file:")
    assert line.endswith("/mistyped' does not exist. Create it or correct landing.path.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "job", ["train_model", "promote_model", "score_users", "rollback", "maintain_tables", "status"]
)
def test_a_mistyped_warehouse_ends_a_job_that_makes_none_with_2(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    code, line = run(job, tmp_path / "mistyped", tmp_path, capsys)
    assert code == 2
    assert line.startswith(f"error: there is no warehouse at '{tmp_path}/mistyped'.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("job", "code", "line"),
    [
        ("train_model", 3, "no rating has been accepted yet. Land rating files and run ingest_ratings first."),
        ("score_users", 2, "there is no champion to score with. Run train_model and promote_model first."),
    ],
)
def test_a_job_that_comes_before_its_turn_says_in_one_line_what_to_run_first(
    spark: SparkSession, empty_warehouse: Path, capsys: pytest.CaptureFixture[str], job: str, code: int, line: str
) -> None:
    assert run(job, empty_warehouse, empty_warehouse.with_name("landing"), capsys) == (code, f"error: {line}")
