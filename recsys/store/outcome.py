"""How a driver ends: with its JVM, and for the launcher of one that runs on the cluster, with a word on how.

In YARN's cluster mode a driver's exit code does not come back: spark-submit returns 1 for every failure. And it decides
whether YARN starts the driver again. Spark's ``ApplicationMaster`` (4.2, startUserApplication, finish, run) reports
SUCCEEDED for a Python driver that exits with 0 and FAILED for any other code, and takes leave of YARN ("unregister ...
means the ResourceManager will not retry") on success or in the last attempt only: a deliberate refusal that exits with
its own code would run the whole job again. A driver that ends without ever having had a session fails whatever its
code is (EXIT_SC_NOT_INITED, 13). Hence a file with the job's code, and 0 for YARN when a second attempt would end
alike.
"""

import json
import logging
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from pyspark.sql import SparkSession

from recsys.session import start_session
from recsys.store.files import Files

log = logging.getLogger(__name__)

OUTCOME: Final = "RECSYS_OUTCOME"  # variable with the file's path; a variable, because it is needed before a session
DELIBERATE: Final = frozenset({2, 3, 4, 5})  # exit codes of the errors in recsys.errors that a rerun does not change
_JVM_LOOKS: Final = 0.5  # seconds between two looks whether the JVM lives
_ONE_EXECUTOR: Final = {"spark.executor.instances": "1"}
_CONTAINER: Final = re.compile(r"container_(?:e\d+_)?\d+_\d+_(\d+)_\d+")


@dataclass(frozen=True)
class Ending:
    """A job's exit code and what it says at its end; the fields are the keys of the file."""

    exit_code: int
    message: str = ""  # for standard output
    error: str = ""  # for standard error
    trace: str = ""  # of an error that nobody expected


def end_with_jvm() -> None:
    """End this process within a second when the JVM that started it is gone.

    ``spark-submit`` and YARN's application master start Python from their JVM. When that is killed, Python lives on:
    YARN ends what is left of a container, perhaps not always (a suspicion), and starts the next attempt meanwhile.
    What needs no JVM, like a tracking server's models, would then be written twice. Does nothing where Python came
    first.
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return
    jvm = os.getppid()

    def watch() -> None:
        while os.getppid() == jvm:  # a process whose parent has died gets another
            time.sleep(_JVM_LOOKS)
        with suppress(OSError):  # whoever read it may be gone, too
            os.write(2, b"error: the JVM of this driver was killed; what was not committed is undone. Run it again.\n")
        os._exit(1)

    threading.Thread(target=watch, name="jvm-watch", daemon=True).start()


def hand_over(ending: Ending) -> int:
    """Leave the ending where the launcher asked for it; returns the exit code for this process.

    A second attempt overwrites what the first one left. Where the file cannot be written the job's own code is
    returned: YARN may then try again, and the launcher reports what YARN says.
    """
    path = os.environ.get(OUTCOME)
    if not path:
        return ending.exit_code
    try:
        spark = SparkSession.getActiveSession() or start_session("outcome", env="yarn", conf=_ONE_EXECUTOR)
        Files(spark).write(path, json.dumps(asdict(ending)).encode())
    except Exception:  # whatever it is, the ending matters more
        log.exception("outcome_not_written path=%s", path)
        return ending.exit_code
    return 0 if ending.exit_code in DELIBERATE else ending.exit_code


def yarn_attempt() -> int:
    """Which try of YARN's this driver is, from the name of its container; 1 outside YARN."""
    match = _CONTAINER.fullmatch(os.environ.get("CONTAINER_ID", ""))
    return int(match[1]) if match else 1
