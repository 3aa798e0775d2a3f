"""How tests run Spark: two tasks at once, and no more partitions than that.

Nothing runs long enough for the JVM's second compiler to earn back what it takes: a third of all CPU time.
"""

from typing import Final

TWO_TASKS: Final = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:MetaspaceSize=512m "
    "-XX:+UseG1GC -Djava.net.preferIPv4Stack=true",
}
