"""Every byte of a folder's files, as they are and unpacked, searched for a text."""

import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def find_texts(folder: Path, *texts: str) -> set[str]:
    """Names below the folder of the files that hold one of the texts, and of those with one in their name."""
    wanted = [text.encode() for text in texts]
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file()
        and any(text in content for content in (str(file.name).encode(), *contents_of(file)) for text in wanted)
    }


def contents_of(file: Path) -> Iterator[bytes]:
    """The bytes of a file, and of what it holds packed."""
    raw = file.read_bytes()
    yield raw
    if raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif raw[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif raw[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(raw), partitioning=None)
        yield from (str(column.to_pylist()).encode() for column in table.columns)
        yield str(pq.read_metadata(pa.BufferReader(raw)).to_dict()).encode()
