"""The demo on HDFS and YARN, shortened: two turns in cluster mode give the lists of two local ones."""

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from demo.cluster import Place, check_server, land, run_steps
from demo.landing_files import LandingFile, plan_steps, read_sample
from demo.read_lists import fetch_published, find_difference
from demo.run import SAMPLE, demo_settings, place_catalogue
from demo.run import run_steps as run_local_steps
from jobs.runner import make_context
from recsys.errors import ConfigError
from tests.cluster.hadoop import Hadoop
from tests.cluster.jobs import SHARED, SIZES
from tests.stores import place_empty_store
from tests.tracking_server import tracking_server

SMALL: dict[str, object] = {"als.rank": 4, "als.sweeps": 2, "als.warm_sweeps": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server."""
    with tracking_server(tmp_path_factory.mktemp("server") / "kept") as address:
        yield address


def test_the_demo_in_cluster_mode_publishes_the_lists_of_a_local_demo(
    hadoop: Hadoop, server: str, spark: SparkSession, tmp_path: Path
) -> None:
    """From landing files on HDFS, by a tracking server, to lists that are read without a JVM."""
    steps = plan_steps(read_sample(SAMPLE)[::20], refreshes=2)[:2]
    root = f"{hadoop.fs}/recsys/{tmp_path.name}-{uuid.uuid4().hex[:8]}"  # a cluster may have files of earlier runs
    place = Place(root, server, {**SIZES, **SHARED}, SMALL)
    with ThreadPoolExecutor(1) as background:
        code = background.submit(run_steps, place, steps, os.environ | hadoop.environment)
        place_empty_store(tmp_path)
        place_catalogue(tmp_path)
        settings = demo_settings(tmp_path)
        small = settings.als.model_copy(update={key.removeprefix("als."): value for key, value in SMALL.items()})
        context = make_context(spark, settings.model_copy(update={"als": small}))
        run_local_steps(context, steps)
        assert code.result() == 0
    published, local = fetch_published(place.warehouse), fetch_published(str(tmp_path))
    assert published.generation == local.generation == 2
    found = find_difference(published, local)
    assert found.is_rounding, found
    assert len(published.lists) > 1000
    assert published.titles == local.titles


def test_a_file_that_has_landed_on_hdfs_is_not_copied_again(tmp_path: Path) -> None:
    class Folder:
        """Stands for HDFS: what was asked of it."""

        uploaded: list[str] = []  # noqa: RUF012

        def list_names(self, folder: str) -> frozenset[str]:
            return frozenset({"1.csv"})

        def upload(self, files: list[Path], folder: str) -> None:
            self.uploaded += [file.name for file in files if file.read_bytes() == b"new"]

    hdfs = Folder()
    land(hdfs, "hdfs:///landing", [LandingFile("1.csv", lambda: b"old"), LandingFile("2.csv", lambda: b"new")])  # type: ignore[arg-type]
    assert hdfs.uploaded == ["2.csv"]


def test_a_server_that_does_not_answer_is_named_with_the_command_that_starts_one() -> None:
    with pytest.raises(ConfigError, match=r"no MLflow server at 'http://127.0.0.1:1' .*mlflow server --host"):
        check_server("http://127.0.0.1:1")
