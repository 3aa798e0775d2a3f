"""A landed file without the ratings of some users: what is left is byte for byte what it was."""

import csv
import gzip
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys import columns as c
from recsys.ratings.contract import RatingsContract
from recsys.ratings.landing import LandedFile, Layout, gunzip, is_binary
from recsys.suppression import make_pattern

_PARQUET: Final = b"PAR1"
_HEAD: Final = 65_536  # bytes that tell whether a file is text
_LINE = re.compile(r".*?(?:\r\n|\n|\r|\Z)", re.DOTALL)  # where Spark ends a line


@dataclass(frozen=True)
class Stripped:
    """A file's new content, and how many of its rows are gone."""

    content: bytes
    removed: int


class UnreadableFileError(ValueError):
    """A file that cannot be looked into, or that names a user where no row can be told from another."""


def strip_users(
    content: bytes, file: LandedFile, user_ids: Collection[str], contract: RatingsContract, *, at_most: int
) -> Stripped:
    """Take out the rows of some users, and the rows that name one and cannot be taken apart.

    Args:
        content: of the file.
        file: as `recsys.ratings.landing.inspect` found it.
        user_ids: whom to take out.
        contract: names of our columns in JSON.
        at_most: bytes that are held of a packed file.

    Raises:
        UnreadableFileError: the file is packed and torn or larger than that, or of no known format and names one of
            them or is no text.
    """
    if file.layout is not None and file.layout.reader == "parquet":
        return _strip_columns(content, file.layout, set(user_ids))
    if file.layout is None:
        require_unnamed(content, user_ids, at_most=at_most)
        return Stripped(content, 0)
    named, is_packed = make_pattern(user_ids), _is_packed(content)
    text = _unpack(content, at_most).decode("utf-8", errors="surrogateescape")
    lines, keep = _LINE.findall(text), []
    for line in lines:
        bare = line.rstrip("\r\n")
        is_header = file.layout.reader == "csv" and bare.removeprefix("\ufeff") == file.layout.header
        user_id = None if is_header else _user_of(bare, file.layout, contract)
        theirs = user_id in user_ids if user_id is not None else not is_header and named.search(bare) is not None
        keep.append(not theirs)
    if all(keep):
        return Stripped(content, 0)
    left = "".join(line for line, is_kept in zip(lines, keep, strict=True) if is_kept)
    plain = left.encode("utf-8", errors="surrogateescape")
    # Without a time in its header the same rows give the same bytes, and so the checksum that the ledger knows.
    return Stripped(gzip.compress(plain, mtime=0) if is_packed else plain, keep.count(False))


def require_unnamed(content: bytes, user_ids: Collection[str], *, at_most: int) -> None:
    """Make sure that a file whose rows cannot be told apart names none of these users.

    Raises:
        UnreadableFileError: it names one, or nobody can tell: it is no text, or packed and torn or too large.
    """
    plain = _unpack(content, at_most)
    if plain[:4] == _PARQUET or is_binary(plain[:_HEAD]):
        raise UnreadableFileError("it is no text, and cannot be looked through")
    if make_pattern(user_ids).search(plain.decode("utf-8", errors="surrogateescape")):
        raise UnreadableFileError("it names a user and is of no format whose rows can be told apart")


def _is_packed(content: bytes) -> bool:
    return content[:2] == b"\x1f\x8b"


def _unpack(content: bytes, at_most: int) -> bytes:
    if not _is_packed(content):
        return content
    try:
        plain = gunzip(content, at_most)
    except OSError as err:
        raise UnreadableFileError("it is packed and cannot be unpacked to its end") from err
    if len(plain) > at_most:
        raise UnreadableFileError(f"it has more than {at_most:,} bytes when unpacked")
    return plain


def _user_of(line: str, layout: Layout, contract: RatingsContract) -> str | None:
    """Whose rating a line is; None when it cannot be told."""
    if layout.reader == "json":
        return _user_of_object(line, contract)
    place = dict(layout.places).get(c.USER_ID)
    try:
        fields = next(csv.reader([line]), []) if layout.reader == "csv" else line.split(layout.delimiter)
    except csv.Error:  # a field of more than 131,072 characters
        return None
    if place is None or len(fields) != layout.n_fields:
        return None
    return fields[place]


def _user_of_object(line: str, contract: RatingsContract) -> str | None:
    try:
        found: Any = json.loads(line, parse_int=str, parse_float=str)  # as Spark reads a number for a text
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    own = (found[name] for name in contract.columns[c.USER_ID] if found.get(name) is not None)
    user_id = next(own, None)
    return user_id if isinstance(user_id, str) else None


def _strip_columns(content: bytes, layout: Layout, user_ids: set[str]) -> Stripped:
    names = {column: name for column, name, _ in layout.names}
    try:
        columns = pq.ParquetFile(pa.BufferReader(content)).schema
        table = pq.read_table(pa.BufferReader(content), partitioning=None, coerce_int96_timestamp_unit="us")
    except (pa.ArrowException, OSError) as err:
        raise UnreadableFileError("it is no Parquet file that can be read to its end") from err
    theirs = pc.is_in(table.column(names[c.USER_ID]).cast(pa.string()), value_set=pa.array(sorted(user_ids)))
    n_theirs = pc.sum(theirs).as_py() or 0
    if n_theirs == 0:
        return Stripped(content, 0)
    sink = pa.BufferOutputStream()
    # Spark's own times; it reads no others of nanoseconds.
    is_old = any(columns.column(n).physical_type == "INT96" for n in range(len(columns)))
    pq.write_table(table.filter(pc.invert(theirs)), sink, use_deprecated_int96_timestamps=is_old)
    return Stripped(bytes(sink.getvalue()), n_theirs)
