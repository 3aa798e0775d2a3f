"""Files on a local disk or HDFS, by the Hadoop client that Spark brings.

Paths are fully qualified (``file:/…`` or ``hdfs://…``) as `Files.resolve` returns them. What must be atomic is done
by a rename, which both systems do in one step.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from recsys.store.faults import explain


@dataclass(frozen=True)
class FileStatus:
    """One file: qualified path, size in bytes, last modification in milliseconds since 1970 UTC."""

    path: str
    size: int
    modified_ms: int


class Files:
    """The few file operations the system needs, the same for every file system.

    Raises (all methods): ``FileNotFoundError`` for a path that is not there; :class:`StorageError` when the file system
    is away, full or closed for writing, and :class:`UsageError` when this user may not do it, which are no
    ``OSError``: they say nothing about the file; ``OSError`` for anything else.
    """

    def __init__(self, spark: SparkSession) -> None:
        self._jvm: Any = spark._jvm  # the classic session has one
        self._session: Any = spark._jsparkSession
        self._gateway: Any = spark.sparkContext._gateway
        self._conf: Any = spark.sparkContext._jsc.hadoopConfiguration()
        self._classes: dict[str, Any] = {}
        self._path = self.java_class("org.apache.hadoop.fs.Path")

    def java_class(self, name: str) -> Any:
        """A class of the JVM by its full name.

        Kept, because py4j looks through all jars for a class of each package's name: 20 ms for one of Spark's.
        """
        if name not in self._classes:
            self._classes[name] = reduce(getattr, name.split("."), self._jvm)
        return self._classes[name]

    def resolve(self, path: str) -> str:
        """The path with its scheme; a relative one is below the working directory, or the home on HDFS."""
        fs, jpath = self._open(path)
        return str(jpath.makeQualified(fs.getUri(), fs.getWorkingDirectory()).toString())

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        fs, jpath = self._open(path)
        with _translated(path):
            return bool(fs.exists(jpath))

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder of this name."""
        fs, jpath = self._open(path)
        with _translated(path):
            return bool(fs.exists(jpath) and fs.getFileStatus(jpath).isDirectory())

    def status(self, path: str) -> FileStatus:
        """Size and time of one file."""
        fs, jpath = self._open(path)
        with _translated(path):
            return _to_status(fs.getFileStatus(jpath))

    def list_files(self, folder: str, *, recursive: bool = False) -> Iterator[FileStatus]:
        """The files below a folder, in no particular order."""
        fs, jpath = self._open(folder)
        with _translated(folder):
            entries = fs.listFiles(jpath, recursive)
            while entries.hasNext():
                yield _to_status(entries.next())

    def list_folders(self, folder: str) -> list[str]:
        """The folders right in a folder; none when that is not there."""
        fs, jpath = self._open(folder)
        with _translated(folder):
            entries = fs.listStatus(jpath) if fs.exists(jpath) else []
            return [str(entry.getPath().toString()) for entry in entries if entry.isDirectory()]

    def read(self, path: str) -> bytes:
        """The bytes of a small file."""
        with self._stream(path) as stream:
            return bytes(stream.readAllBytes())

    def head(self, path: str, n_bytes: int, *, unpack: bool = False) -> bytes:
        """The first bytes of any file, or of what a gzip file holds."""
        with self._stream(path, unpack=unpack) as stream:
            return bytes(stream.readNBytes(n_bytes))

    def unpacked_size(self, path: str, at_most: int) -> int:
        """Bytes that a gzip file holds, counted no further than ``at_most``; the file is read, so a torn one fails."""
        with self._stream(path, unpack=True) as stream:
            nowhere = self.java_class("java.io.OutputStream").nullOutputStream()
            return int(self.java_class("org.apache.commons.io.IOUtils").copyLarge(stream, nowhere, 0, at_most))

    def parquet_schema(self, path: str) -> StructType:
        """The columns of a Parquet file, from its footer."""
        jvm = self._jvm
        _, jpath = self._open(path)
        parquet = jvm.org.apache.parquet.hadoop
        with _translated(path):
            reader = parquet.ParquetFileReader.open(parquet.util.HadoopInputFile.fromPath(jpath, self._conf))
            try:
                schema = reader.getFooter().getFileMetaData().getSchema()
                converter = jvm.org.apache.spark.sql.execution.datasources.parquet.ParquetToSparkSchemaConverter
                text = converter(self._session.sessionState().conf()).convert(schema).json()
            except AnalysisException as err:  # a type that Spark has not: times in nanoseconds, for one
                raise OSError(f"{path}: {err}") from err
            finally:
                reader.close()
        return StructType.fromJson(json.loads(text))

    def read_text(self, path: str) -> str:
        """The text of a small UTF-8 file."""
        return self.read(path).decode("utf-8")

    def sha256(self, path: str) -> str:
        """SHA-256 of the content in hex, streamed inside the JVM."""
        with self._stream(path) as stream:
            return str(self.java_class("org.apache.commons.codec.digest.DigestUtils").sha256Hex(stream))

    def write(self, path: str, data: bytes) -> None:
        """Write a small file, replacing an older one; readers see the old content or the new, never a part."""
        target = self.resolve(path)
        self.replace(self._write_draft(target, data), target)

    def replace(self, source: str, target: str) -> None:
        """Give a file the name of another, which is gone then; readers see the old content or the new."""
        if local := _local_path(target):
            os.replace(_local_path(source) or source, local)
            return
        rename = self.java_class("org.apache.hadoop.fs.Options$Rename")
        overwrite = self._gateway.new_array(rename, 1)
        overwrite[0] = rename.OVERWRITE
        contexts = self.java_class("org.apache.hadoop.fs.FileContext")
        context = contexts.getFileContext(self._path(target).toUri(), self._conf)
        with _translated(target):
            context.rename(self._path(source), self._path(target), overwrite)

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless there is one already: of several callers exactly one gets True."""
        target = self.resolve(path)
        draft = self._write_draft(target, data)
        try:
            if local := _local_path(target):
                os.link(_local_path(draft) or draft, local)  # unlike a local rename, refuses an existing name
                return True
            return self.rename(draft, target)  # HDFS refuses an existing name by itself
        except FileExistsError:
            return False
        finally:
            self.delete(draft)

    def rename(self, source: str, target: str) -> bool:
        """Give a file or folder another name; False when that was not possible."""
        fs, jpath = self._open(source)
        with _translated(source):
            return bool(fs.rename(jpath, self._path(target)))

    def delete(self, path: str, *, recursive: bool = False) -> bool:
        """Remove a file, or a folder with everything in it; False when there was none."""
        fs, jpath = self._open(path)
        with _translated(path):
            return bool(fs.delete(jpath, recursive))

    def make_folders(self, path: str) -> None:
        """Create a folder and those above it."""
        fs, jpath = self._open(path)
        with _translated(path):
            fs.mkdirs(jpath)

    @contextmanager
    def _stream(self, path: str, *, unpack: bool = False) -> Iterator[Any]:
        fs, jpath = self._open(path)
        with _translated(path):
            stream = fs.open(jpath)
            try:
                yield self.java_class("java.util.zip.GZIPInputStream")(stream) if unpack else stream
            finally:
                stream.close()

    def _open(self, path: str) -> tuple[Any, Any]:
        jpath = self._path(path)
        fs = jpath.getFileSystem(self._conf)
        # Spark's local file system leaves a .crc file beside every file it writes and trusts stale ones.
        if fs.getUri().getScheme() == "file":
            fs = fs.getRawFileSystem()
        return fs, jpath

    def _write_draft(self, target: str, data: bytes) -> str:
        folder, _, name = target.rpartition("/")
        draft = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        if local := _local_path(draft):
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return draft
        fs, jpath = self._open(draft)
        with _translated(draft):
            stream = fs.create(jpath, False)
            try:
                stream.write(data)
                stream.hsync()
            finally:
                stream.close()
        return draft


def _to_status(status: Any) -> FileStatus:
    return FileStatus(str(status.getPath().toString()), int(status.getLen()), int(status.getModificationTime()))


def as_pattern(path: str) -> str:
    """A path as Spark's readers want it, which take what they are given for patterns."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", path)


def _local_path(resolved: str) -> Path | None:
    """The local path of a resolved one, None when it is elsewhere. Hadoop's path texts are not percent-encoded."""
    return Path(resolved.removeprefix("file:")) if resolved.startswith("file:") else None


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Java's file errors as Python's, and as our own what says nothing about the file."""
    try:
        yield
    except Py4JJavaError as err:
        name = err.java_exception.getClass().getName()
        message = f"{path}: {name.rpartition('.')[2]}: {err.java_exception.getMessage()}"
        if name in _NOT_FOUND:
            raise FileNotFoundError(message) from err
        told = explain(err)
        if told is not None:
            raise told from err
        raise OSError(message) from err


_NOT_FOUND = frozenset({"java.io.FileNotFoundException", "java.nio.file.NoSuchFileException"})
