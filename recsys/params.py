"""The base of every settings section: frozen, an unknown key is an error, and no password is said."""

import re
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from recsys.errors import ConfigError


class Section(BaseModel):
    """One section of the configuration; immutable once loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def without_password(text: str) -> str:
    """The text with user and password of every address in it hidden, rather too much than a part: ``http://***@host``."""
    return re.sub(r"//(?:[^/@:\s]*:\S*|[^/\s]*)@", "//***@", text)


def require_private(file: Path) -> None:
    """Make sure that nobody but its owner can read or write a file with secrets.

    Raises:
        ConfigError: others can.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"'{file}' holds secrets and has mode {mode:04o}: others can read it. Run: chmod 600 '{file}'"
        )
