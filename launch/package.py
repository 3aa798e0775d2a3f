"""The project's own code as an archive that YARN unpacks beside every container.

Unpacked, because numba caches beside real files only. What numba compiled at set-up goes along: its cache knows a
module by its content, not by its time or place, so containers on the same kind of processor compile nothing. Private to
the application, unlike what `launch.staging` shares: YARN lets a container write into private files only, and numba
gives up a cache that it cannot write.
"""

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

ALIAS: Final = "recsys-package"  # folder in a container's working directory
FOLDERS: Final = ("recsys", "jobs", "conf")
SOME_TIME: Final = 315_532_800  # of every file: 1980, which no tar finds odd
_COMPILED: Final = (".nbi", ".nbc")


def pack_package(root: Path) -> tuple[str, bytes]:
    """Name and content of the archive; the same code gives the same name."""
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for file in _files(root):
            data = file.read_bytes()
            member = tarfile.TarInfo(file.relative_to(root).as_posix())
            member.size, member.mode, member.mtime = len(data), 0o644, SOME_TIME
            archive.addfile(member, io.BytesIO(data))
    data = content.getvalue()
    return f"{ALIAS}-{sha256(data).hexdigest()[:12]}.tar.gz", data


def write_package(file: Path, data: bytes) -> None:
    """Write the archive unless it is there."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{os.getpid()}-{file.name}")
    draft.write_bytes(data)
    draft.replace(file)


def _files(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            is_cache = file.parent.name == "__pycache__"
            if file.is_file() and (file.suffix in _COMPILED if is_cache else not file.name.startswith(".")):
                yield file
