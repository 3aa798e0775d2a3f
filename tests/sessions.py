"""How tests run Spark: two tasks at once, and no more partitions than that.

Nothing runs long enough for compilers to earn back what they take, a third of all CPU time each: the JVM's second one,
and Spark's of queries. The benchmarks' tests (tests/benchmarks) run with conf/spark-local.conf as it is.
"""

from typing import Final

from recsys.session import INTERPRETED
from tests.archive import CLASSPATH, with_archive

TWO_TASKS: Final = {
    **INTERPRETED,
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    "spark.driver.extraClassPath": CLASSPATH,
    "spark.driver.extraJavaOptions": with_archive(
        "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:MetaspaceSize=512m "
        "-XX:+UseG1GC -Djava.net.preferIPv4Stack=true"
    ),
}
