"""What only the driver may know, on its way to it in YARN's cluster mode.

A variable that is given to a container stands in the script that YARN starts it with, and YARN copies that script into
the container's logs (``yarn.nodemanager.log-container-debug-info.enabled``, on by default): from there it goes to HDFS.
So the launcher sends a file, which only the submitter's own containers can read.
"""

import json
import os
from pathlib import Path
from typing import Final

VARIABLES: Final = "RECSYS_VARIABLES"  # variable that names the file in the driver's working directory
FILE: Final = "recsys-secrets.json"  # variables and their values


def take_secrets() -> None:
    """Put what the launcher sent into this process's environment, where MLflow and others look for it."""
    file = os.environ.pop(VARIABLES, None)
    if file is not None:
        os.environ.update(json.loads(Path(file).read_text(encoding="utf-8")))
