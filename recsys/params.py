"""The base of every settings section: frozen, an unknown key is an error, and no password is said."""

import re

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the configuration; immutable once loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def without_password(text: str) -> str:
    """The text with user and password of every address in it hidden, rather too much than a part: ``http://***@host``."""
    return re.sub(r"//(?:[^/@:\s]*:\S*|[^/\s]*)@", "//***@", text)
