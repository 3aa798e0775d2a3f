"""Where a fit keeps the users of some of its sweeps, so that a lost executor does not cost all sweeps before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from recsys.session import is_one_process
from recsys.store.files import Files
from recsys.store.locks import check_held

_FOLDER = "checkpoints"


@contextmanager
def keep_checkpoints(spark: SparkSession, warehouse_root: str) -> Iterator[None]:
    """Let fits checkpoint into a folder of their own under the warehouse, which is gone at the end.

    Nothing is written where one process holds everything: it is lost whole or not at all.
    """
    if is_one_process(spark):
        yield
        return
    context: Any = spark.sparkContext
    context.setCheckpointDir(f"{warehouse_root}/{_FOLDER}")
    own = context.getCheckpointDir()
    try:
        yield
    finally:
        Files(spark).delete(own, recursive=True)


def drop_checkpoints(spark: SparkSession, warehouse_root: str) -> bool:
    """Delete what killed fits left; only under the lock that fits run under. Returns whether there was any.

    Raises:
        LockedError: that lock was lost; nothing is deleted.
    """
    files = Files(spark)
    left = files.list_folders(f"{warehouse_root}/{_FOLDER}")
    check_held()  # after the look: a fit that begins once the lock is lost has a folder of another name
    for folder in left:
        files.delete(folder, recursive=True)
    return bool(left)
