"""What has landed: which files are there, how each is to be read, and what is wrong with one as a whole.

Everything here looks at names, sizes and first lines; the rows are Spark's (`recsys.ratings.parse`).
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from recsys.ratings.contract import FileFormat, RatingsContract, Reader, parquet_types
from recsys.ratings.params import LandingParams

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

_HEAD_BYTES = 64 * 1024
_UNREADABLE = 0.1  # share of control and undecodable characters in the head above which a file is not text
_THREADS = 8  # of the driver, for hashing: the file system waits more than it works

UNKNOWN_COLUMN = "unknown_column"  # rule that a contract may have, or not


class FileStatus(Protocol):
    """What a listing says of one file."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def modified_ms(self) -> int: ...  # noqa: D102


class FileContents(Protocol):
    """What a look into one file needs, of `recsys.landed_files.LandedFiles` or of a producer's own disk."""

    def head(self, path: str, n_bytes: int, *, unpack: bool = False) -> bytes: ...  # noqa: D102
    def sha256(self, path: str) -> str: ...  # noqa: D102
    def unpacked_size(self, path: str, at_most: int) -> int: ...  # noqa: D102
    def has_longer_line(self, path: str, limit: int, *, unpack: bool = False) -> bool: ...  # noqa: D102
    def parquet_schema(self, path: str) -> "StructType": ...  # noqa: D102
    def parquet_size(self, path: str) -> int: ...  # noqa: D102


class FileSystem(FileContents, Protocol):
    """The part of `recsys.landed_files.LandedFiles` that landing needs."""

    def list_files(self, folder: str, *, recursive: bool = False) -> Iterator[FileStatus]: ...  # noqa: D102


@dataclass(frozen=True)
class Fault:
    """What is wrong with a whole file. A readable text goes to quarantine line by line, anything else as one row."""

    rule: str
    reason: str
    by_line: bool = False


@dataclass(frozen=True)
class Layout:
    """How a file is read. Files with equal layouts are read in one scan.

    Attributes:
        reader: kind of file.
        n_fields: fields of a line (csv, fields).
        places: our column → place of its field (csv, fields) or its name and Spark type (parquet).
        delimiter: between fields.
        header: the first line, which is not a rating (csv).
    """

    reader: Reader
    n_fields: int = 0
    places: tuple[tuple[str, int], ...] = ()
    names: tuple[tuple[str, str, str], ...] = ()
    delimiter: str = ""
    header: str = ""


@dataclass(frozen=True)
class Arrival:
    """A file that is there: its name below the landing folder, path, size in bytes, modification time."""

    source: str
    path: str
    size: int
    modified_ms: int


@dataclass(frozen=True)
class LandedFile:
    """A file that was looked into. ``checksum`` is empty when it could not be read."""

    arrival: Arrival
    format: str
    checksum: str
    layout: Layout | None
    fault: Fault | None = None

    @property
    def source(self) -> str:
        """Name below the landing folder."""
        return self.arrival.source


def list_arrivals(files: FileSystem, folder: str, params: LandingParams, *, now_ms: int) -> list[Arrival]:
    """Files below the landing folder that are complete, by name.

    Names that start with ``_`` or ``.`` or end with ``.tmp`` or ``._COPYING_``, and whatever is younger than
    ``settle_seconds``, are still being written.
    """
    return [own for own in list_all(files, folder) if not is_being_written(own, params, now_ms=now_ms)]


def list_all(files: FileSystem, folder: str) -> list[Arrival]:
    """All files below the landing folder, complete or not, by name."""
    prefix = f"{folder.rstrip('/')}/"
    found = (
        Arrival(status.path.removeprefix(prefix), status.path, status.size, status.modified_ms)
        for status in files.list_files(folder, recursive=True)
    )
    return sorted(found, key=lambda arrival: arrival.source)


def is_being_written(arrival: Arrival, params: LandingParams, *, now_ms: int) -> bool:
    """Whether a file's name or time says that it is not complete: see `list_arrivals`."""
    is_hidden = any(part.startswith(("_", ".")) for part in arrival.source.split("/"))
    is_young = arrival.modified_ms > now_ms - params.settle_seconds * 1000
    return is_hidden or is_young or arrival.source.endswith((".tmp", "._COPYING_"))


def cut_batches(arrivals: Sequence[Arrival], params: LandingParams) -> Iterator[list[Arrival]]:
    """Arrivals in their order, cut at ``max_files`` and ``max_bytes``; a file larger than that is alone."""
    batch: list[Arrival] = []
    size = 0
    for arrival in arrivals:
        if batch and (len(batch) >= params.max_files or size + arrival.size > params.max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(arrival)
        size += arrival.size
    if batch:
        yield batch


def inspect_all(
    files: FileSystem, arrivals: Iterable[Arrival], contract: RatingsContract, params: LandingParams
) -> list[LandedFile]:
    """Look into files, several at a time; each is read once, for its checksum."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda arrival: inspect(files, arrival, contract, params), arrivals))


def inspect(files: FileContents, arrival: Arrival, contract: RatingsContract, params: LandingParams) -> LandedFile:
    """Find out how a file is to be read, or what is wrong with it.

    The checksum is taken even of a file that is wrong, so that the same content is known again.
    """
    known = contract.format_of(arrival.source)
    ending = known[0].lstrip(".") if known else "unknown"
    try:
        checksum = files.sha256(arrival.path)
    except FileNotFoundError:
        raise
    except OSError as err:
        return LandedFile(arrival, ending, "", None, Fault("unreadable", f"cannot be read: {_short(err)}"))
    if known is None:
        endings = ", ".join(contract.formats)
        return LandedFile(arrival, ending, checksum, None, Fault("unknown_format", f"the ending is not of {endings}"))
    found = _look_into(files, arrival, known[1], contract, params)
    layout, fault = (None, found) if isinstance(found, Fault) else found
    return LandedFile(arrival, ending, checksum, layout, fault)


def _look_into(
    files: FileContents, arrival: Arrival, file_format: FileFormat, contract: RatingsContract, params: LandingParams
) -> Fault | tuple[Layout, Fault | None]:
    is_packed = arrival.source.lower().endswith(".gz")
    if arrival.size == 0:
        return Fault("empty_file", "the file has no bytes")
    if arrival.size > params.max_file_bytes:
        return Fault("too_large", f"{arrival.size} bytes, allowed are {params.max_file_bytes}")
    try:
        if file_format.reader == "parquet":
            schema = files.parquet_schema(arrival.path)
            if files.parquet_size(arrival.path) > params.max_file_bytes:
                return Fault("too_large", f"more than {params.max_file_bytes} bytes when unpacked")
            return _layout_of_columns(schema, contract)
        head = files.head(arrival.path, _HEAD_BYTES, unpack=is_packed)
        size = files.unpacked_size(arrival.path, params.max_file_bytes + 1) if is_packed else arrival.size
        if size > params.max_file_bytes:
            return Fault("too_large", f"more than {params.max_file_bytes} bytes when unpacked")
        limit = params.max_line_bytes
        if not is_binary(head) and size > limit and files.has_longer_line(arrival.path, limit, unpack=is_packed):
            return Fault("long_line", f"a line has more than {limit} bytes")
    except FileNotFoundError:
        raise
    except OSError as err:
        return Fault("unreadable", f"cannot be read as {file_format.reader}: {_short(err)}")
    if not head:
        return Fault("empty_file", "the file has no bytes when unpacked")
    if is_binary(head):
        return Fault("not_text", f"the content is binary; it begins with bytes {head[:8].hex(' ')}")
    if file_format.reader == "csv":
        text = head.decode("utf-8-sig", errors="replace")
        return _layout_of_header(re.split(r"\r\n|\r|\n", text, maxsplit=1)[0], contract)
    if file_format.reader == "fields":
        return _layout_of_fields(file_format.fields or (), file_format.delimiter or "", contract)
    return Layout("json"), None


def find_layout(
    source: str, contract: RatingsContract, header: str | None = None
) -> tuple[Layout, Fault | None] | None:
    """How the rows that quarantine has of a file are read, without the file.

    Args:
        source: the file's name.
        contract: the formats, and the names of our columns.
        header: of csv files.

    Returns:
        None where nobody can tell: the contract does not know the ending, or the header of a csv file is not given.
    """
    known = contract.format_of(source)
    if known is None:
        return None
    file_format = known[1]
    if file_format.reader == "csv":
        return None if header is None else _layout_of_header(header, contract)
    if file_format.reader == "fields":
        return _layout_of_fields(file_format.fields or (), file_format.delimiter or "", contract)
    return Layout("json"), None  # a row of Parquet is kept as JSON


def gunzip(content: bytes, at_most: int) -> bytes:
    """What a gzip file holds, or one byte more than ``at_most`` of it.

    Raises:
        OSError: it cannot be unpacked so far: it is torn or damaged.
    """
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            return packed.read(at_most + 1)
    except (EOFError, zlib.error) as err:
        raise OSError(str(err)) from err


def is_binary(head: bytes) -> bool:
    """Whether bytes from the beginning of a file are no text."""
    text = head.decode("utf-8-sig", errors="replace")
    strange = sum(1 for char in text if char == "\ufffd" or (char < " " and char not in "\t\r\n\f"))
    return strange > _UNREADABLE * len(text)


def _layout_of_header(line: str, contract: RatingsContract) -> tuple[Layout, Fault | None]:
    names = [name.strip() for name in next(csv.reader([line]), [])]
    layout, fault = _layout_of_fields(names, ",", contract)
    layout = Layout("csv", layout.n_fields, layout.places, delimiter=",", header=line)
    return layout, fault or _unknown(names, contract, by_line=True)


def _layout_of_fields(names: Sequence[str], delimiter: str, contract: RatingsContract) -> tuple[Layout, Fault | None]:
    own = _find_columns(names, contract)
    places = tuple((column, names.index(name)) for column, name in own.items())
    layout = Layout("fields", len(names), places, delimiter=delimiter)
    twice = sorted(name for name in own.values() if names.count(name) > 1)
    if twice:
        return layout, Fault("ambiguous_column", f"the header names {', '.join(twice)} more than once", by_line=True)
    return layout, _missing(own, names, contract, by_line=True)


def _layout_of_columns(schema: "StructType", contract: RatingsContract) -> Fault | tuple[Layout, Fault | None]:
    own = _find_columns(schema.names, contract)
    if fault := _missing(own, schema.names, contract, by_line=False):
        return fault
    if fault := _unknown(schema.names, contract, by_line=False):
        return fault
    wrong = [
        f"{name} is {schema[name].dataType.simpleString()}"
        for column, name in own.items()
        if not isinstance(schema[name].dataType, parquet_types(column))
    ]
    if wrong:
        return Fault("wrong_type", f"{', '.join(wrong)}. Ask the contract's owner, {contract.owner_and_contact}")
    names = tuple((column, name, schema[name].dataType.simpleString()) for column, name in own.items())
    return Layout("parquet", names=names), None


def _missing(own: dict[str, str], names: Sequence[str], contract: RatingsContract, *, by_line: bool) -> Fault | None:
    missing = [column for column in contract.columns if column in contract.required and column not in own]
    if not missing:
        return None
    found = _clip(", ".join(names)) or "nothing"
    advice = (
        f"Rename it in the file or map it in the contract (owner: {contract.owner_and_contact}), "
        "and land the file under a new name"
    )
    return Fault("missing_column", f"no column for {', '.join(missing)} (found: {found}). {advice}", by_line=by_line)


def _unknown(names: Sequence[str], contract: RatingsContract, *, by_line: bool) -> Fault | None:
    unknown = [name for name in names if name not in contract.source_names]
    if not unknown or contract.unknown_columns == "ignore":
        return None
    advice = f"Take it out, or add it to the contract (owner: {contract.owner_and_contact})"
    reason = f"the contract has no column {_clip(', '.join(unknown))}. {advice}"
    return Fault(UNKNOWN_COLUMN, reason, by_line=by_line)


def _find_columns(names: Sequence[str], contract: RatingsContract) -> dict[str, str]:
    """Our columns that a file has, with its names for them."""
    first = {column: next((name for name in own if name in names), None) for column, own in contract.columns.items()}
    return {column: name for column, name in first.items() if name is not None}


def _short(err: OSError) -> str:
    return _clip(str(err).splitlines()[0]) if str(err) else type(err).__name__


def _clip(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
