"""Landing ratings: a producer hands them over, learns at once what is wrong, and they are there whole or not at all.

No Spark and no JVM: a few ratings take milliseconds. What lands is a file of JSON lines in the contract's own names,
every value a text, so that it is exactly what was checked, however the producer wrote it.
"""

import csv
import errno
import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from recsys.errors import RatingsRefusedError, UsageError
from recsys.ratings.contract import FileFormat, RatingsContract
from recsys.ratings.landing import gunzip
from recsys.ratings.params import LandingParams
from recsys.ratings.precheck import Problem, Texts, find_problems
from recsys.store.pause import pause_at

LARGEST: Final = 64 * 2**20  # bytes of a file: it is held in memory; larger ones are landed by a rename
_SHOWN: Final = 20  # refused ratings that an error describes
_DRAFT: Final = ".landing"  # ending of a file that is being written; ingestion reads no name that begins with a dot
_DRAFT_LIVES: Final = 86_400  # seconds; then whoever wrote it has died
_STEM: Final = re.compile(r"[^A-Za-z0-9-]+")
_NO_LINKS: Final = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))


@dataclass(frozen=True)
class Landed:
    """What was landed.

    Attributes:
        path: the file; None where there was nothing to land.
        rows: ratings in it.
    """

    path: Path | None
    rows: int


@dataclass(frozen=True)
class Refusal:
    """A rating that ingestion would put into quarantine: its number, the first is 1, and all that is wrong with it."""

    number: int
    problems: tuple[Problem, ...]


class LandingWriter:
    """Writes into one landing folder, of this machine or mounted on it; any number of writers may do so at once."""

    def __init__(
        self,
        folder: str,
        contract: RatingsContract,
        params: LandingParams,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is written yet.

        Args:
            folder: where ingestion looks for files.
            contract: what a rating must be.
            params: limits of a line and a file.
            clock: seconds since 1970 UTC.

        Raises:
            UsageError: there is no such folder on this machine, or the contract has no format for JSON lines.
        """
        self._folder = _local(folder)
        self._contract = contract
        self._params = params
        self._clock = clock
        self._ending = _json_ending(contract)

    def write(self, ratings: Iterable[Mapping[str, Any]], *, stem: str = "ratings") -> Landed:
        """Land ratings as one file; all of them or none.

        The same ratings written twice are two files of equal content: ingestion counts the second as duplicates.

        Args:
            ratings: each by any of the contract's names of its columns; texts, numbers, booleans, and moments (those
                without a zone are UTC).
            stem: how the file's name begins.

        Raises:
            RatingsRefusedError: at least one would be refused; nothing was landed.
            OSError: the file system does not take it; nothing was landed.
        """
        content, rows = self.check(ratings)
        if rows == 0:
            return Landed(None, 0)
        self._remove_old_drafts()
        return Landed(self._land(content, stem), rows)

    def write_file(self, path: Path) -> Landed:
        """Land what is in a file of any of the contract's formats of text.

        Raises:
            UsageError: the file is not there, larger than 64 MB, or of no such format.
            RatingsRefusedError: it cannot be read, or at least one rating in it would be refused.
            OSError: the file system does not take it; nothing was landed.
        """
        return self.write(self.read_file(path), stem=path.name.split(".")[0])

    def read_file(self, path: Path) -> Iterator[Mapping[str, Any]]:
        """The ratings in a file, not checked; raises as `write_file` does."""
        known = self._contract.format_of(path.name)
        if known is None or known[1].reader == "parquet":
            endings = ", ".join(end for end, own in self._contract.formats.items() if own.reader != "parquet")
            raise UsageError(f"'{path}' is not of a format that is checked here: {endings}, each also with .gz.")
        try:
            if path.stat().st_size > LARGEST:
                raise UsageError(f"'{path}' has more than {LARGEST:,} bytes. Land it as docs/data.md says of files.")
            content = path.read_bytes()
        except FileNotFoundError as err:
            raise UsageError(f"there is no file '{path}'.") from err
        if path.name.lower().endswith(".gz"):
            content = _unpack(content, path)
        return self.read_text(content, known[1], str(path))

    def read_text(self, content: bytes, file_format: FileFormat, name: str) -> Iterator[Mapping[str, Any]]:
        """The ratings in the bytes of a file with this format, not checked; ``name`` is for messages."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as err:
            raise RatingsRefusedError(f"'{name}' is not UTF-8: byte {err.start:,} cannot be read.") from err
        lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip(" ")]
        if file_format.reader == "csv":
            return _read_csv(lines, name)
        if file_format.reader == "fields":
            names, delimiter = file_format.fields or (), file_format.delimiter or ""
            return _read_fields(((n, line.split(delimiter)) for n, line in enumerate(lines, 1)), names, name)
        return _read_json(lines, name)

    def check(self, ratings: Iterable[Mapping[str, Any]]) -> tuple[bytes, int]:
        """What would be landed, and how many ratings that are.

        Raises:
            RatingsRefusedError: at least one would be refused.
        """
        now_us = int(self._clock() * 1e6)
        lines: list[bytes] = []
        refused: list[Refusal] = []
        for number, rating in enumerate(ratings, 1):
            texts, problems = self._read(rating)
            line = to_line(texts, self._contract)
            problems = problems or find_problems(texts, self._contract, now_us=now_us)
            if len(line) > self._params.max_line_bytes:
                problems.append(Problem("long_line", f"has more than {self._params.max_line_bytes:,} bytes"))
            if problems:
                refused.append(Refusal(number, tuple(problems)))
            lines.append(line)
        if refused:
            raise RatingsRefusedError(_describe(refused, len(lines)))
        content = b"".join(lines)
        if len(content) > self._params.max_file_bytes:
            raise RatingsRefusedError(
                f"the ratings are {len(content):,} bytes, and landing.max_file_bytes is "
                f"{self._params.max_file_bytes:,}. Nothing was landed. Hand over fewer at once."
            )
        return content, len(lines)

    def _read(self, rating: Mapping[str, Any]) -> tuple[dict[str, str | None], list[Problem]]:
        """Texts of our columns; of several names for one the first that has a value, as ingestion takes it."""
        texts: dict[str, str | None] = {}
        for column, names in self._contract.columns.items():
            texts[column] = next((_to_text(rating[name]) for name in names if rating.get(name) is not None), None)
        unknown = sorted(set(rating) - set(self._contract.source_names))
        if unknown and self._contract.unknown_columns != "ignore":
            return texts, [Problem("unknown_column", f"the contract has no column {', '.join(unknown)[:200]}")]
        return texts, []

    def _land(self, content: bytes, stem: str) -> Path:
        """Written aside, brought to disk, and only then given the name that ingestion reads."""
        moment = datetime.fromtimestamp(self._clock(), UTC)
        name = f"{_STEM.sub('-', stem) or 'ratings'}-{moment:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}{self._ending}"
        draft, final = self._folder / f".{name}{_DRAFT}", self._folder / name
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            pause_at("land:before_rename")
            _move(draft, final)
        finally:
            draft.unlink(missing_ok=True)  # it has ids in it
        _sync_folder(self._folder)
        return final

    def _remove_old_drafts(self) -> None:
        """Those that killed writers left: they have ids in them."""
        for draft in self._folder.glob(f".*{_DRAFT}"):
            with suppress(FileNotFoundError):  # another writer was quicker
                if draft.stat().st_mtime < self._clock() - _DRAFT_LIVES:
                    draft.unlink()


def to_line(texts: Texts, contract: RatingsContract) -> bytes:
    """A rating as it lands: one line of JSON, each column by the first name that the contract has for it."""
    named = {contract.columns[column][0]: text for column, text in texts.items() if text is not None}
    return json.dumps(named, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _local(folder: str) -> Path:
    scheme = re.match(r"([a-z0-9+.-]+):/", folder)
    if scheme is not None and scheme[1] != "file":
        raise UsageError(
            f"landing.path is '{folder}': ratings are landed in folders of this machine, or mounted on it. There, put "
            "a file under a name that begins with '_' and rename it when it is complete."
        )
    path = Path(folder.removeprefix("file:"))
    if not path.is_dir():
        raise UsageError(f"there is no landing folder '{folder}'. Make it, or correct landing.path.")
    return path


def _json_ending(contract: RatingsContract) -> str:
    endings = [ending for ending, own in contract.formats.items() if own.reader == "json"]
    if not endings:
        raise UsageError(f"contract '{contract.id}' has no format with reader 'json', in which ratings are landed.")
    return endings[0]


def _to_text(value: Any) -> str:
    """A value as ingestion reads it from a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
    if isinstance(value, date):
        return value.isoformat()
    # Half a character pair has no place in UTF-8: it becomes what the rules know as damage.
    return str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _unpack(content: bytes, path: Path) -> bytes:
    try:
        plain = gunzip(content, LARGEST)
    except OSError as err:
        raise RatingsRefusedError(f"'{path}' cannot be unpacked to its end: it is damaged.") from err
    if len(plain) > LARGEST:
        raise UsageError(f"'{path}' has more than {LARGEST:,} bytes. Land it as docs/data.md says of files.")
    return plain


def _read_csv(lines: Sequence[str], name: str) -> Iterator[Mapping[str, Any]]:
    try:
        rows = [(n, next(csv.reader([line], strict=True))) for n, line in enumerate(lines, 1)]
    except csv.Error as err:
        raise RatingsRefusedError(f"'{name}' is no CSV: {err}. Nothing was landed.") from err
    header = [own.strip() for own in rows[0][1]] if rows else []
    return _read_fields((row for row in rows[1:] if lines[row[0] - 1] != lines[0]), header, name)


def _read_fields(
    rows: Iterable[tuple[int, Sequence[str]]], names: Sequence[str], name: str
) -> Iterator[Mapping[str, Any]]:
    for number, fields in rows:
        if len(fields) != len(names):
            raise RatingsRefusedError(
                f"'{name}', line {number:,}: expected {len(names)} fields, found {len(fields)}. Nothing was landed."
            )
        yield {own: field for own, field in zip(names, fields, strict=True) if field != ""}


def _read_json(lines: Sequence[str], name: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as err:
            raise RatingsRefusedError(f"'{name}', line {number:,} is not JSON. Nothing was landed.") from err
        if not isinstance(found, dict):
            raise RatingsRefusedError(f"'{name}', line {number:,} is not one JSON object. Nothing was landed.")
        yield {own: json.dumps(value) if isinstance(value, dict | list) else value for own, value in found.items()}


def _describe(refused: Sequence[Refusal], total: int) -> str:
    by_rule = Counter(problem.rule for each in refused for problem in each.problems)
    rules = ", ".join(f"{rule} {n:,}" for rule, n in by_rule.most_common())
    rows = [f"rating {each.number:,}: {'; '.join(own.reason for own in each.problems)}" for each in refused[:_SHOWN]]
    more = [f"and {len(refused) - _SHOWN:,} more"] if len(refused) > _SHOWN else []
    return "\n".join(
        [f"{len(refused):,} of {total:,} ratings would be refused ({rules}). Nothing was landed.", *rows, *more]
    )


def _move(draft: Path, final: Path) -> None:
    """Give a file its name; never another's. The draft stays where links are made."""
    try:
        os.link(draft, final)
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        draft.rename(final)  # the name has a random part


def _sync_folder(folder: Path) -> None:
    """Bring the name itself to disk. A file system that cannot do so for a folder says that, and has done its best."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in (errno.EINVAL, *_NO_LINKS):
            raise
    finally:
        os.close(descriptor)
