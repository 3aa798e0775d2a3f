"""Where a contestant's process starts: ``python -m benchmarks.contestant TASK RESULT``."""

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks.process import PeerMissingError, Task, perform


def main(asked: str, answered: str) -> int:
    """Read a task, run it, write its result."""
    task = Task.from_json(Path(asked).read_text(encoding="utf-8"))
    try:
        result = perform(task)
    except PeerMissingError as err:
        result = {"missing": str(err)}
    running = SparkSession.getActiveSession()
    if running is not None:
        running.stop()
    draft = Path(f"{answered}.draft")
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(answered)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
