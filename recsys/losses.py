"""What Spark lost and made good for while a job ran: executors and attempts of tasks."""

from dataclasses import dataclass
from typing import Any, Self

from pyspark.sql import SparkSession

from recsys.session import is_one_process

_ON_PURPOSE = "killed by driver"  # an idle executor that dynamic allocation gave back


@dataclass(frozen=True)
class Losses:
    """Counts since the application began.

    Attributes:
        executors: that died.
        tasks: attempts that failed on an executor that lived on; Spark does not count those that died with theirs.
    """

    executors: int
    tasks: int

    @classmethod
    def of(cls, spark: SparkSession) -> Self | None:
        """What Spark's own status keeps of executors, dead ones included; None on one machine, which has none.

        Spark remembers the last hundred dead executors (spark.ui.retainedDeadExecutors). Costs milliseconds and no job.
        """
        if is_one_process(spark):
            return None
        context: Any = spark.sparkContext
        listed = context._jsc.sc().statusStore().executorList(False)
        found = [listed.apply(n) for n in range(listed.size())]
        dead = [executor.removeReason() for executor in found if not executor.isActive()]
        return cls(
            executors=sum(not (why.isDefined() and _ON_PURPOSE in why.get()) for why in dead),
            tasks=sum(int(executor.failedTasks()) for executor in found),
        )

    def since(self, before: "Losses") -> dict[str, int]:
        """What was lost after an earlier moment, as counts of a run."""
        return {
            "executors_lost": max(0, self.executors - before.executors),
            "tasks_failed": max(0, self.tasks - before.tasks),
        }
