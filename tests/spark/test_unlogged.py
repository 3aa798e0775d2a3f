"""Fits that wait under the warehouse until the registry answers."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from pyspark.sql import SparkSession

from recsys.store.files import Files
from recsys.store.unlogged import Fit, drop_kept_fits, find_kept_fit, keep_fit

FIT: Final = Fit(
    files={"factors.npy": bytes(range(256)), "model.json": b"{}"},
    figures={"curve.png": b"\x89PNG\r\n"},
    params={"als.rank": "16"},
    sweeps=[{"loss": 0.5, "metric": None}],
    metrics={"ndcg": 0.25},
    tags={"verdict": "passed"},
)


@pytest.fixture
def files(spark: SparkSession) -> Files:
    return Files(spark)


def test_case_49_a_kept_fit_is_found_by_its_key_as_it_was_until_it_is_dropped(files: Files, tmp_path: Path) -> None:
    folder = keep_fit(files, str(tmp_path), "k", FIT)
    assert folder == f"{tmp_path}/unlogged/k"
    assert find_kept_fit(files, str(tmp_path), "k") == FIT
    assert find_kept_fit(files, str(tmp_path), "other") is None
    drop_kept_fits(files, str(tmp_path))
    assert find_kept_fit(files, str(tmp_path), "k") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fit.json", "files/factors.npy", "figures/curve.png"])
def test_case_49_a_fit_that_was_not_kept_whole_is_made_again(files: Files, tmp_path: Path, name: str) -> None:
    keep_fit(files, str(tmp_path), "k", FIT)
    (tmp_path / "unlogged" / "k" / name).unlink()
    assert find_kept_fit(files, str(tmp_path), "k") is None


def test_case_55_a_kept_fit_with_a_flipped_byte_is_made_again(files: Files, tmp_path: Path) -> None:
    keep_fit(files, str(tmp_path), "k", FIT)
    other = replace(FIT, files={**FIT.files, "factors.npy": bytes(256)})
    (tmp_path / "unlogged" / "k" / "files" / "factors.npy").write_bytes(other.files["factors.npy"])
    assert find_kept_fit(files, str(tmp_path), "k") is None
