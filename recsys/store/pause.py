"""Named points where a test can stop a job and kill it: docs/architecture.md, Faults."""

import os
import time
from pathlib import Path


def pause_at(name: str) -> None:
    """Create the file ``$RECSYS_PAUSE_FILE`` and wait for ever, if ``$RECSYS_PAUSE_AT`` is this point.

    Without the variable, as in production, this costs one dictionary look-up.
    """
    if os.environ.get("RECSYS_PAUSE_AT") != name:
        return
    Path(os.environ["RECSYS_PAUSE_FILE"]).touch()
    while True:
        time.sleep(3600)
