"""The Python environment of driver and executors as one archive that needs nothing on the nodes.

It is made from what set-up installed: every distribution that requirements/runtime.txt pins, copied file by file out
of the running environment, with the interpreter and its standard library. venv-pack, the usual tool, packs a whole
environment (with pyspark's jars and the development tools, so a second environment would have to be installed first)
and leaves the interpreter out: its ``bin/python`` is a link to a path that every node must have (FAULTS case 89).
pyspark is left out, because it comes with Spark.
"""

import importlib.metadata
import io
import os
import platform
import posixpath
import re
import stat
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from launch.package import SOME_TIME
from recsys.errors import ConfigError

PYTHON: Final = "bin/python"
MINOR: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
FROM_SPARK: Final = frozenset({"pyspark"})

_LAYOUT: Final = 1  # a change of what is packed must change the archive's name
_COMPRESSION: Final = 4  # of 9: a third of the time of 9, for 2 % more bytes
_UNUSED: Final = frozenset({"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages"})
_DIST_INFO: Final = re.compile(r"lib/python(?P<minor>3\.\d+)/site-packages/(?P<name>[^/]+?)-[^-/]+\.dist-info/METADATA")
_PIN: Final = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
# The interpreter of a shared build finds its library by an absolute path of the machine it was built on.
_WRAPPER: Final = """#!/bin/sh
here="$(cd "$(dirname "$0")/.." && pwd)"
LD_LIBRARY_PATH="$here/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" exec "$here/bin/python{minor}" "$@"
"""


@dataclass(frozen=True)
class Contents:
    """What the check needs to know of an archive."""

    python: str | None  # what bin/python is in the end: a file of the archive or of this machine; None: dangling
    link: str  # bin/python's own target, empty when it is no link
    minors: frozenset[str]  # Python versions that it has packages for
    packages: frozenset[str]  # normalized names


def pins(requirements: Path) -> dict[str, str]:
    """Distribution → version of every line of a requirements file, but for those that come with Spark.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text = requirements.read_text(encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"'{requirements}' cannot be read ({err.strerror}). Restore it from the repository.") from err
    found = {_normalize(name): version for name, version in re.findall(_PIN, text)}
    return {name: version for name, version in found.items() if name not in FROM_SPARK}


def archive_name(requirements: Path) -> str:
    """The archive's name: a hash of what decides its content, so that nothing has to be packed to know it.

    Raises:
        ConfigError: the requirements cannot be read.
    """
    machine = f"{platform.machine()}-{platform.libc_ver()[0]}"
    wanted = sorted(pins(requirements).items())
    decisive = repr((_LAYOUT, wanted, platform.python_version(), machine, _has_shared_library()))
    return f"environment-py{MINOR}-{sha256(decisive.encode()).hexdigest()[:12]}.tar.gz"


def pack_environment(target: Path, requirements: Path) -> None:
    """Write the archive, check it, and only then give it its name.

    Raises:
        ConfigError: the running environment is not the one that the requirements pin.
    """
    wanted = pins(requirements)
    files = dict(_interpreter_files())
    for name, version in wanted.items():
        files.update(_distribution_files(name, version))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        with tarfile.open(draft, "w:gz", compresslevel=_COMPRESSION, dereference=True) as archive:
            _add_bytes(archive, PYTHON, _WRAPPER.format(minor=MINOR).encode())
            for name, file in sorted(files.items()):
                archive.add(file, name, recursive=False, filter=_anonymous)
        check_archive(inspect_archive(draft), target, wanted)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def inspect_archive(archive: Path) -> Contents:
    """List an archive; a few seconds, all of them decompression.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with tarfile.open(archive) as tar:
            members = {posixpath.normpath(member.name): member for member in tar}
    except (OSError, tarfile.TarError, EOFError) as err:
        raise ConfigError(f"environment archive '{archive}' cannot be read ({err}). Make it again.") from err
    found = [match for name in members if (match := _DIST_INFO.fullmatch(name))]
    head = members.get(PYTHON)
    return Contents(
        python=_resolve(PYTHON, members),
        link=head.linkname if head is not None and head.issym() else "",
        minors=frozenset(match["minor"] for match in found),
        packages=frozenset(_normalize(match["name"]) for match in found),
    )


def check_archive(contents: Contents, archive: Path, wanted: Mapping[str, str]) -> None:
    """Refuse an archive that containers could not start with.

    Raises:
        ConfigError: what is wrong with it and what to do.
    """
    name = f"environment archive '{archive}'"
    if contents.python is None and contents.link:
        raise ConfigError(
            f"{name}: its interpreter, {PYTHON}, is a link to '{contents.link}', which does not exist. Make it again "
            "from an environment that works, or set spark.recsys.python to packed."
        )
    if contents.python is None:
        raise ConfigError(f"{name}: there is no {PYTHON} in it. Make it with conda-pack or venv-pack, or set packed.")
    if contents.minors and MINOR not in contents.minors:
        found = ", ".join(sorted(contents.minors))
        raise ConfigError(f"{name} is for Python {found}, the jobs run on {MINOR}. Make it with Python {MINOR}.")
    missing = sorted(wanted.keys() - contents.packages)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ConfigError(f"{name} lacks {shown}. Install requirements/runtime.txt there and make it again.")


def _resolve(name: str, members: Mapping[str, tarfile.TarInfo]) -> str | None:
    """Follow links, inside the archive and out of it; None when they end nowhere."""
    for _ in range(40):  # as many as Linux follows
        member = members.get(name)
        if member is None:
            return None
        if member.islnk():
            name = posixpath.normpath(member.linkname)
        elif member.issym():
            if posixpath.isabs(member.linkname):
                return member.linkname if os.access(member.linkname, os.X_OK) else None
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        else:
            return name if member.isfile() else None
    return None


def _interpreter_files() -> Iterator[tuple[str, Path]]:
    """Interpreter, library and standard library, under the names that make the folder Python's prefix."""
    yield f"bin/python{MINOR}", Path(sys.executable).resolve()
    if _has_shared_library():
        library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
        if library.is_file():
            yield f"lib/{library.name}", library
    home = f"lib/python{MINOR}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    yield from _tree(stdlib, home, skip=lambda folder: folder in _UNUSED or folder.startswith("config-"))
    extensions = Path(sysconfig.get_config_var("DESTSHARED") or stdlib / "lib-dynload")
    if extensions.is_dir():
        yield from _tree(extensions, f"{home}/lib-dynload")


def _distribution_files(name: str, version: str) -> Iterator[tuple[str, Path]]:
    """Every installed file of a distribution but its scripts, which name this machine's interpreter."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as err:
        raise ConfigError(f"{name} is in requirements/runtime.txt and not installed. Run 'make setup'.") from err
    if found.version != version:
        raise ConfigError(
            f"{name} {found.version} is installed, requirements/runtime.txt pins {version}. Run 'make setup'."
        )
    if not found.files:
        raise ConfigError(f"{name}: its list of files is missing. Remove .venv and run 'make setup'.")
    for entry in found.files:
        if ".." in entry.parts or entry.suffix == ".pyc":
            continue
        file = Path(str(found.locate_file(entry)))
        if not file.is_file():
            raise ConfigError(f"{name}: '{file}' is missing. Remove .venv and run 'make setup'.")
        yield f"lib/python{MINOR}/site-packages/{entry.as_posix()}", file
    yield from _compiled(found)


def _compiled(found: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """Byte code beside the modules: containers may not be able to write it, and would compile at every start."""
    site = Path(str(found.locate_file("")))
    for entry in found.files or ():
        if entry.suffix != ".py" or ".." in entry.parts:
            continue
        cached = site / entry.parent / "__pycache__" / f"{entry.stem}.cpython-{MINOR.replace('.', '')}.pyc"
        if cached.is_file():
            yield f"lib/python{MINOR}/site-packages/{cached.relative_to(site).as_posix()}", cached


def _tree(folder: Path, name: str, *, skip: Callable[[str], bool] = lambda _: False) -> Iterator[tuple[str, Path]]:
    for root, folders, files in os.walk(folder):
        below = Path(root).relative_to(folder)
        folders[:] = [each for each in folders if each == "__pycache__" or below != Path() or not skip(each)]
        for file in files:
            if not file.endswith((".a", ".opt-1.pyc", ".opt-2.pyc")):
                yield str(Path(name, below, file)), Path(root, file)


def _has_shared_library() -> bool:
    return bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
    return member


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o755, SOME_TIME
    archive.addfile(member, io.BytesIO(data))


def _normalize(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()
