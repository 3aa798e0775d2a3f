"""How tests run Spark: two tasks at once, and no more partitions than that."""

from typing import Final

TWO_TASKS: Final = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
}
