"""Spark's properties files, which are ``java.util.Properties``: ``key value``, ``key=value`` or ``key: value``."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from recsys.errors import ConfigError

_ENTRY: Final = re.compile(r"((?:\\.|[^\s=:\\])+)\s*[=:]?\s*(.*)", re.DOTALL)
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(file: Path) -> dict[str, str]:
    """Read a file; of a key that is there twice the last one counts, as in Spark.

    Raises:
        ConfigError: it cannot be read, a key has no value, or a key is not Spark's, which Spark would ignore.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"Spark properties file '{file}' cannot be read ({err}). Correct or restore it.") from err
    conf: dict[str, str] = {}
    for number, line in _logical_lines(text):
        entry = _ENTRY.fullmatch(line)
        key, value = (_unescape(part) for part in entry.groups()) if entry else (line, "")
        if not value:
            raise ConfigError(f"{file}, line {number}: '{key}' has no value. Write 'key value'.")
        if not key.startswith("spark."):
            raise ConfigError(f"{file}, line {number}: '{key}' does not begin with 'spark.': Spark would ignore it.")
        conf[key] = value
    return conf


def format_properties(conf: Mapping[str, str]) -> str:
    """The lines of a properties file that read back as they are."""
    return "".join(f"{_escape(key, in_key=True)}={_escape(value)}\n" for key, value in conf.items())


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of every entry; one that ends with a backslash goes on in the next line."""
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        entry = line.strip()
        if not entry or entry[0] in "#!":
            continue
        while _is_continued(entry):
            entry = entry[:-1] + next(lines, (0, ""))[1].strip()
        yield number, entry


def _is_continued(entry: str) -> bool:
    return (len(entry) - len(entry.rstrip("\\"))) % 2 == 1


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        letters = match.group(1)
        return chr(int(letters[1:], 16)) if len(letters) == 5 else _UNESCAPES.get(letters, letters)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", one, text).strip()


def _escape(text: str, *, in_key: bool = False) -> str:
    escaped = "".join(_ESCAPES.get(letter, letter) for letter in text)
    if in_key:
        return re.sub(r"([=:\s#!])", r"\\\1", escaped)
    return escaped
