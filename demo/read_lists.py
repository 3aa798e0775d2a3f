"""The current lists as a consumer reads them: by delta-rs, without Spark and a JVM, from a local disk or from HDFS.

``python -m demo.read_lists WAREHOUSE`` prints them as JSON.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltalake import DeltaTable


@dataclass(frozen=True)
class Published:
    """What is published.

    Attributes:
        generation: the number of the generation that the pointer names.
        model_version: of the model that made it.
        lists: user id to items, best first: item id, score, reason. The empty user id has the fallback list.
        titles: item id to title, where the catalogue has one.
    """

    generation: int
    model_version: int
    lists: dict[str, list[tuple[str, float, str]]]
    titles: dict[str, str]


def read_published(root: str) -> Published:
    """Read a warehouse's pointer, then the lists that it names."""
    pointers = _rows(f"{root}/generations", None, ["sequence", "generation", "model_version"])
    pointer = max(pointers, key=lambda row: int(row["sequence"]))
    current = [("generation", "=", pointer["generation"])]
    rows = _rows(f"{root}/recommendations", current, ["user_id", "items"])
    lists = {row["user_id"]: [(e["item_id"], e["score"], e["reason"]) for e in row["items"]] for row in rows}
    titles = {row["item_id"]: row["title"] or row["item_id"] for row in _rows(f"{root}/items", None, _TITLES)}
    return Published(pointer["generation"], pointer["model_version"], lists, titles)


def fetch_published(root: str) -> Published:
    """The same in a process of its own: delta-rs may abort an interpreter that ends, after everything was printed.

    Raises:
        OSError: nothing was printed; with what was said instead.
    """
    command = [sys.executable, "-m", "demo.read_lists", root]
    here = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
    if not done.stdout:
        raise OSError(f"the lists of '{root}' could not be read: {done.stderr.strip()[-500:]}")
    found = json.loads(done.stdout)
    lists = {user: [(item, score, why) for item, score, why in entries] for user, entries in found["lists"].items()}
    return Published(**{**found, "lists": lists})


@dataclass(frozen=True)
class Difference:
    """How far the lists of two warehouses are apart.

    Attributes:
        users: who have a list in one of them only, or lists of different lengths.
        entries: of how many entries, rank by rank, item or reason are not the same.
        n_entries: entries that were compared.
        score: greatest difference of the scores at one rank.
    """

    users: frozenset[str]
    entries: int
    n_entries: int
    score: float

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains it: sums of other tasks' parts differ in the last bits of a 32-bit float.

        Then scores agree to four places, and at most one entry of a thousand has changed its rank with one as good.
        """
        return not self.users and self.score <= _ROUNDING and self.entries <= self.n_entries / 1000


def find_difference(one: Published, other: Published) -> Difference:
    """Compare the lists of two warehouses, rank by rank."""
    mine, theirs = ({(user, len(entries)) for user, entries in own.lists.items()} for own in (one, other))
    users = frozenset(user for user, _ in mine ^ theirs)
    pairs = [pair for user in one.lists.keys() - users for pair in zip(one.lists[user], other.lists[user], strict=True)]
    return Difference(
        users,
        entries=sum((a[0], a[2]) != (b[0], b[2]) for a, b in pairs),
        n_entries=len(pairs),
        score=max((abs(a[1] - b[1]) for a, b in pairs), default=0.0),
    )


_TITLES = ["item_id", "title"]
_ROUNDING = 1e-4


def _rows(table: str, filters: list[tuple[str, str, Any]] | None, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = DeltaTable(table).to_pyarrow_table(filters=filters, columns=columns).to_pylist()
    return rows


if __name__ == "__main__":
    print(json.dumps(asdict(read_published(sys.argv[1]))), flush=True)
