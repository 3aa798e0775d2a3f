"""Make the archive of classes where it is missing, in a minute: ``make test`` and its like do. 200 MB."""

import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from jobs.pipeline import main
from recsys.session import start_session
from tests.archive import archive_file
from tests.jobs.test_pipeline import SETTINGS, land
from tests.jobs.warehouses import arguments
from tests.sessions import TWO_TASKS
from tests.stores import place_empty_store
from tests.worlds import two_tastes


def make(file: Path) -> None:
    """One turn of the loop in a JVM that keeps what it loads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}")
    options = f"{TWO_TASKS['spark.driver.extraJavaOptions']} -XX:ArchiveClassesAtExit={new} -Xlog:disable"
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        warehouse, landing = Path(folder, "warehouse"), Path(folder, "landing")
        place_empty_store(warehouse)
        land(landing, "1.csv", two_tastes(n_users=60, n_items=30, n_rated=8))
        session = start_session("archive", conf={**TWO_TASKS, "spark.driver.extraJavaOptions": options})
        session.sparkContext.setLogLevel("ERROR")
        code = main(arguments(warehouse, landing, SETTINGS))
        gateway = session.sparkContext._gateway  # type: ignore[attr-defined]
        session.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait()
    if code or not new.exists():  # other JVMs than HotSpot make none
        print(f"no archive of classes was made: tests run without it. {said.getvalue()[-500:]}", file=sys.stderr)
        return
    for old in file.parent.glob("classes-*.jsa"):
        old.unlink()
    new.replace(file)


if __name__ == "__main__":
    wanted = archive_file()
    if wanted is not None and not wanted.exists():
        print("making the tests' archive of classes (a minute, once) ...", file=sys.stderr, flush=True)
        make(wanted)
