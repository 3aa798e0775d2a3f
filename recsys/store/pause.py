"""Named points where a test can stop a job and kill it: docs/architecture.md, Faults."""

import os
import time
from pathlib import Path


def pause_at(name: str) -> None:
    """Write the name into the file ``$RECSYS_PAUSE_FILE`` and wait until somebody deletes that.

    Only where the comma-separated ``$RECSYS_PAUSE_AT`` names this point. Without it, as in production, this costs one
    dictionary look-up.
    """
    if name not in os.environ.get("RECSYS_PAUSE_AT", "").split(","):
        return
    file = Path(os.environ["RECSYS_PAUSE_FILE"])
    written = file.with_suffix(".new")
    written.write_text(name)
    written.rename(file)  # whoever waits for the file reads all of it
    while file.exists():
        time.sleep(0.05)
