"""Users who were forgotten, told by a hash: their ids are kept nowhere.

The hash is SHA-256 of a salt of the warehouse's own and the id. Whoever reads the list and the salt can try ids, as
they can read the ratings of everybody else; a receipt alone, which has no salt, tells nobody anything. A secret key
would hide more and could be lost: then a forgotten user would come back with the next redelivery (docs/erasure.md).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from pyspark.sql import Column
from pyspark.sql import functions as sf

from recsys import columns as c

RULE: Final = "suppressed_user"  # of the rows in quarantine that stand for what he still sends
SAYS: Final = "the user was forgotten; the text is not kept"

# What may stand around an id in a text that could not be taken apart.
_BETWEEN: Final = r"[\s,;:|\"'{}\[\]]+"


@dataclass(frozen=True)
class Suppression:
    """Whom not to take in, fit, list or show.

    Attributes:
        salt: of the warehouse.
        hashes: SHA-256 in hex, one a user.
    """

    salt: str = field(repr=False)
    hashes: frozenset[str]

    def hash(self, user_id: str) -> str:
        """What the list has of a user."""
        return sha256(f"{self.salt}{user_id}".encode()).hexdigest()

    def hash_of(self, user_id: Column | str) -> Column:
        """The same of a column."""
        return sf.sha2(sf.concat(sf.lit(self.salt), user_id), 256)

    def only(self, hashes: Iterable[str]) -> "Suppression":
        """The same with some of the users."""
        return Suppression(self.salt, frozenset(hashes))

    def condition(self, column: str = c.USER_ID) -> str:
        """SQL: whether a column holds the id of one of them. Plans, logs and commits keep it, and no id is in it."""
        among = ", ".join(f"'{own}'" for own in sorted(self.hashes)) or "NULL"
        return f"coalesce(sha2(concat('{self.salt}', {column}), 256) IN ({among}), false)"

    def holds(self, column: str = c.USER_ID) -> Column:
        """Whether a column holds the id of one of them."""
        return sf.expr(self.condition(column))

    def is_named_in(self, column: str) -> Column:
        """Whether a word of a text is the id of one of them; null counts as no."""
        hashed = sf.transform(sf.split(column, _BETWEEN), self.hash_of)
        return sf.coalesce(sf.arrays_overlap(hashed, sf.array(*map(sf.lit, sorted(self.hashes)))), sf.lit(False))


def make_pattern(user_ids: Iterable[str]) -> re.Pattern[str]:
    """Finds one of the ids in a text where it stands alone, as it is or as JSON writes it."""
    written = {form for own in user_ids for form in (own, json.dumps(own)[1:-1])}
    among = "|".join(re.escape(form) for form in sorted(written, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{among})(?!\w)")
