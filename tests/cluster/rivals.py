"""What a driver does, told by a test, to tables that jobs write: without their lock, as people do it by hand."""

import time
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import functions as sf

from recsys.session import start_session
from recsys.store.params import WarehouseParams
from recsys.store.tables import Tables


def main(argv: Sequence[str]) -> int:
    """``compact <warehouse> <stop file>``, again and again until that is there; ``overwrite <table> <title>``."""
    spark = start_session("rival")
    if argv[0] == "overwrite":
        rows = spark.read.format("delta").load(argv[1]).limit(1).withColumn("title", sf.lit(argv[2]))
        rows.coalesce(1).localCheckpoint().write.format("delta").mode("overwrite").save(argv[1])
        return 0
    tables, rounds, joined = Tables(spark, WarehouseParams(root=argv[1])), 0, 0
    while not Path(argv[2]).exists():
        for table in (tables.ratings, tables.quarantine, tables.ledger, tables.items, tables.user_blocks):
            joined += table.join_small_files()
        rounds += 1
        time.sleep(0.1)
    print(f"{rounds} rounds, {joined} files")
    return 0
