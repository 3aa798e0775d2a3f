"""Classes of a Java tool, read and verified once: HotSpot's archives of what an application loads (JEP 350).

The launcher starts Hadoop's tools four to five times a submission, and more than half of what they take is reading
classes: ``hadoop fs -ls`` needs 1.0 s of a processor in place of 2.6.
"""

import os
import subprocess
import uuid
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

Done = subprocess.CompletedProcess[str]

# A JVM that cannot use an archive says so on its standard output, which is the tool's, and goes on without.
_SILENT = ("-XX:+IgnoreUnrecognizedVMOptions", "-Xlog:disable")


def run_archived(run: Callable[[Sequence[str]], Done], java: Path, jars: Path, main: str, folder: Path) -> Done:
    """Run a tool with its archive; where there is none, its first successful run makes it.

    Args:
        run: starts the JVM with these options and waits for its end.
        java: the JVM.
        jars: a folder; all of it has to come first in the class path, because an archive holds for a beginning of it.
        main: the tool's main class.
        folder: where archives are kept, 30 MB each.
    """
    tool = main.rpartition(".")[2]
    kept = folder / f"{tool}-{key_of(java, jars)}.jsa"
    if kept.exists():
        report = f"-XX:ErrorFile={folder}/died-%p.log"  # and not in the folder where somebody happens to be
        done = run((*_SILENT, report, f"-XX:SharedArchiveFile={kept}"))
        if done.returncode >= 0:
            return done
        kept.unlink(missing_ok=True)  # HotSpot dies of an archive that a full disk or a copy has cut
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{uuid.uuid4().hex}.new"
    try:
        done = run((*_SILENT, f"-XX:ArchiveClassesAtExit={new}"))
        if done.returncode == 0 and new.exists():  # other JVMs than HotSpot make none
            for old in folder.glob(f"{tool}-*.jsa"):
                old.unlink(missing_ok=True)
            os.replace(new, kept)
    finally:
        new.unlink(missing_ok=True)
    return done


def key_of(java: Path, jars: Path) -> str:
    """Changes with the JVM and with the jars, which HotSpot compares too, by names, sizes and times."""
    found = [java.resolve(), *sorted(jars.glob("*.jar"))]
    states = [(str(file), file.stat()) for file in found]
    return sha256(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in states]).encode()).hexdigest()[:12]
