"""An unexpected failure in one line: what happened, and where its words are known, what to do."""

import re
from typing import Final

from recsys.advice import advise
from recsys.errors import RecsysError
from recsys.params import without_password

# How Py4J shows a Java exception: a line of its own ("An error occurred while calling o55.save."), then Java's trace.
_JAVA: Final = re.compile(r"^: (?:[\w$]+\.)*([\w$]+)(?:: (.*))?$", re.MULTILINE)


def describe_failure(err: BaseException) -> str:
    """The error's kind and first line, Java's own where it came from there; without passwords.

    Deliberate errors speak for themselves; to others what to do is added where it is known.
    """
    text = without_password(str(err)).strip()
    first = text.partition("\n")[0]
    if isinstance(err, RecsysError):
        return first
    java = _JAVA.search(text)
    parts = (type(err).__name__, first) if java is None else java.groups()
    what = ": ".join(part for part in parts if part)
    advice = advise(text)
    sentence = what if what.endswith((".", "!", "?")) else f"{what}."
    return sentence if advice is None else f"{sentence} {advice}"
