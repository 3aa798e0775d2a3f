"""The file by which a job stands at its pause points (recsys.store.pause), seen from the test that waits for it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

WAIT_SECONDS = 900.0  # a busy machine


class Pauses:
    """Where a job stands, and the way to let it go on."""

    def __init__(self, file: Path, points: Sequence[str]) -> None:
        """The job has to be started with `environment`.

        Args:
            file: a path that nothing is at; the job's machine must be this one.
            points: where the job stops, every time it comes by.
        """
        self._file = file
        self.environment = {"RECSYS_PAUSE_AT": ",".join(points), "RECSYS_PAUSE_FILE": str(file)}

    def wait(self, has_ended: Callable[[], bool], seconds: float = WAIT_SECONDS) -> str | None:
        """The point the job stands at, as soon as it stands at one; None when it has ended."""
        deadline = time.monotonic() + seconds
        while not self._file.exists():
            if has_ended():
                return None
            assert time.monotonic() < deadline, f"no pause point was reached in {seconds:.0f} s"
            time.sleep(0.05)
        return self._file.read_text()

    def go_on(self) -> None:
        """Let the job go on."""
        self._file.unlink(missing_ok=True)
