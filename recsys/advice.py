"""What to do about failures that Spark or YARN report, read from their own words; the standard library only."""

import re
from typing import Final

# The first that fits counts: a lost executor's reason comes before the loss.
_ADVICE: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (
        # As Spark quotes YARN (YarnAllocator), and as YARN says it of a driver (ContainersMonitorImpl).
        re.compile(r"exceeding (?:physical|virtual) memory limits|beyond the '(?:PHYSICAL|VIRTUAL)' memory limit"),
        "A container needed more memory than it was given, for item factors, sums and blocks of a task live in Python, "
        "outside the JVM's heap: raise spark.executor.memoryOverhead (of a driver: spark.driver.memoryOverhead) in "
        "conf/spark-yarn.conf. 'train_model --plan' says what a fit needs.",
    ),
    (
        re.compile(r"OutOfMemoryError: (Java heap space|GC overhead)"),
        "A JVM's heap is too small: raise spark.executor.memory, or spark.driver.memory where the driver says so, in "
        "conf/spark-yarn.conf.",
    ),
    (
        re.compile(r"Max number of executor failures|ExecutorLostFailure|Lost executor|Executor heartbeat timed out"),
        "Executors were lost again and again. 'Lost executor' in the driver's log says why each one was: killed from "
        "outside, exit code 137 (out of memory: raise spark.executor.memoryOverhead), or its node gone (look at YARN's "
        "page of nodes). Nothing half done is visible; run the job again when the cause is gone. "
        "spark.executor.maxNumFailures is how many losses end an application.",
    ),
)


def advise(text: str) -> str | None:
    """What a person should do about a failure; None when its words are not known.

    Args:
        text: an error with its causes, YARN's diagnostics, or a driver's last lines.
    """
    return next((advice for pattern, advice in _ADVICE if pattern.search(text)), None)
