"""The loop on YARN under Airflow 3: copy this file to the folder of DAGs, and set RECSYS_HOME and RECSYS_CONF there.

The worker that runs a task needs what every submitting machine needs (docs/cluster.md): this repository after
``make setup``, Java 17 and HADOOP_CONF_DIR. In cluster mode it only waits: the driver runs on YARN.
"""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import DAG, BaseOperator

HOME = os.environ.get("RECSYS_HOME", "/opt/recsys")
CONF = os.environ.get("RECSYS_CONF", "/etc/recsys.yaml")

# Exit codes of the jobs that ask for a person: the same call would end the same again.
FINAL = {
    2: "usage or configuration: correct what the last lines name",
    3: "the data was rejected: look at the quarantine table, then at the files named",
    4: "the gate refused the candidate: the champion stays, and its lists are fresh",
}
LOCKED = 5
# Longer than warehouse.lock_expiry_seconds: by then the lock of a driver that died is free.
PAUSE = timedelta(minutes=3)


class SubmitJob(BaseOperator):
    """Run a job by the launcher and tell Airflow what its exit code asks for: a retry, or a person."""

    def __init__(self, *, job: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job

    def execute(self, context: Any) -> None:
        """Submit and wait."""
        command = [f"{HOME}/spark-submit.sh", "--env", "yarn", "--deploy-mode", "cluster", f"jobs/{self.job}.py"]
        command += ["--", "--conf", CONF]
        with subprocess.Popen(
            command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as self.process:
            for line in self.process.stdout or ():
                print(line, end="", flush=True)
        self.judge(self.process.returncode, tries=context["ti"].try_number)

    def on_kill(self) -> None:
        """The application goes on and keeps its locks: a later try ends with `LOCKED` until it has ended."""
        self.process.terminate()

    def judge(self, code: int, *, tries: int) -> None:
        """Return when all is well.

        Raises:
            AirflowFailException: a person is needed; Airflow does not try again.
            AirflowException: Airflow tries again.
        """
        if code == 0:
            return
        if code in FINAL:
            raise AirflowFailException(f"{self.job}: exit code {code}, {FINAL[code]}.")
        if code == LOCKED:
            raise AirflowException(f"{self.job}: another job holds a lock; tried again in {PAUSE}.")
        if tries > 1:
            raise AirflowFailException(
                f"{self.job}: exit code {code} at try {tries}: look at the driver's lines above."
            )
        raise AirflowException(f"{self.job}: exit code {code}; tried once more in {PAUSE}.")


# One run at a time, and none for the hours that were missed: a turn takes in all that has landed.
COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
    "default_args": {"retries": 5, "retry_delay": PAUSE, "execution_timeout": timedelta(hours=6)},
}

with DAG("recsys_pipeline", schedule="@hourly", **COMMON):
    SubmitJob(task_id="pipeline", job="pipeline")

with DAG("recsys_maintenance", schedule="@weekly", **COMMON):
    SubmitJob(task_id="maintain_tables", job="maintain_tables")
