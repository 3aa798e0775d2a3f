"""What every submission needs and never changes is copied to HDFS once, under a name that holds a hash of its content.

YARN keeps such a file on every node for all applications after (it is readable by all, hence public to YARN), so the
second submission neither uploads nor unpacks anything large.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from launch.hadoop import Hadoop
from recsys.errors import ConfigError


@dataclass(frozen=True)
class Artifact:
    """A file for the staging folder, and how it is made where it is missing there."""

    name: str
    make: Callable[[Path], None]


def copy_of(file: Path) -> Artifact:
    """A file as it is, named by its content.

    Raises:
        ConfigError: it cannot be read.
    """
    suffix = ".tar.gz" if file.name.endswith(".tar.gz") else file.suffix
    name = f"{file.name.removesuffix(suffix)}-{_digest([file])}{suffix}"
    return Artifact(name, lambda target: link_or_copy(file, target))


def link_or_copy(file: Path, target: Path) -> None:
    """Give a file another name, without a copy where the file system allows it."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def spark_jars(spark_home: Path) -> Artifact:
    """Spark's jars as the one archive that ``spark.yarn.archive`` wants; not compressed, because jars are.

    Raises:
        ConfigError: there are none.
    """
    jars = sorted((spark_home / "jars").glob("*.jar"))
    if not jars:
        raise ConfigError(f"no jars in '{spark_home / 'jars'}'. Set SPARK_HOME to a Spark, or unset it for set-up's.")

    version = next((jar.stem.rpartition("-")[2] for jar in jars if jar.name.startswith("spark-core_")), "jars")

    def zip_jars(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for jar in jars:
                archive.write(jar, jar.name)

    return Artifact(f"spark-{version}-{_digest(jars)}.zip", zip_jars)


def stage(
    artifacts: Sequence[Artifact],
    folder: str,
    there: frozenset[str] | None,
    hadoop: Hadoop,
    scratch: Path,
    say: Callable[[str], None],
) -> None:
    """Copy to HDFS what is not there.

    Args:
        artifacts: What has to be there.
        folder: The staging folder.
        there: The names in it; None where it does not exist.
        hadoop: Does it.
        scratch: Local folder with room for the largest artifact.
        say: Told what takes time.

    Raises:
        ConfigError: it cannot be written.
    """
    missing = [artifact for artifact in artifacts if artifact.name not in (there or ())]
    if not missing:
        return
    say(f"copying {', '.join(artifact.name for artifact in missing)} to {folder} (once) ...")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as made:
        for artifact in missing:
            artifact.make(Path(made, artifact.name))
        if there is None:
            hadoop.make_folder(folder)
        hadoop.upload([Path(made, artifact.name) for artifact in missing], folder)


def _digest(files: Iterable[Path]) -> str:
    """Hash of names and contents: 12 hex digits of SHA-256."""
    whole = sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                whole.update(f"{file.name}\0{file_digest(stream, 'sha256').hexdigest()}\n".encode())
        except OSError as err:
            raise ConfigError(f"'{file}' cannot be read ({err.strerror}). Run 'make setup'.") from err
    return whole.hexdigest()[:12]
