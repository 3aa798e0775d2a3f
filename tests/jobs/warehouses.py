"""Warehouses for tests of jobs: made once, then copied, because making eight tables costs seconds."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pyspark.sql import SparkSession

from jobs.runner import JobContext, make_context
from recsys.config import Settings

# What `make_settings` gives, as settings of a command line.
SMALL: Final = {"warehouse.buckets": 2, "warehouse.users_per_block": 2, "ingest.max_bad_share": 1.0}


def make_settings(root: Path, folder: Path, /, **sections: dict[str, Any]) -> Settings:
    """Settings of a small warehouse: two buckets, users in blocks of two, no limit on bad rows."""
    content: dict[str, Any] = {
        "warehouse": {"root": str(root), "buckets": 2, "users_per_block": 2},
        "landing": {"path": str(folder)},
        "ingest": {"max_bad_share": 1.0},
    }
    for name, section in sections.items():
        content[name] = content.get(name, {}) | section
    return Settings.model_validate(content)


def land_csv(folder: Path, name: str, *rows: str) -> None:
    """Put a file of ratings with its header into the landing folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["user_id,item_id,rating,timestamp", *rows, ""]))


def arguments(warehouse: Path, landing: Path, settings: Mapping[str, object]) -> list[str]:
    """A job's arguments, as on its command line."""
    given = {**settings, "landing.path": landing}
    return ["--warehouse", str(warehouse), *(f"--set={key}={value}" for key, value in given.items())]


def copy_warehouse(spark: SparkSession, origin: Path, settings: Settings) -> JobContext:
    """A copy of a warehouse, opened."""
    shutil.copytree(origin, settings.warehouse.root)
    return make_context(spark, settings)
