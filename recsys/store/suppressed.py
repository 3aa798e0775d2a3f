"""The table of forgotten users: `suppressed_users`, made by the first erasure."""

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as sf

from recsys import columns as c
from recsys import schemas
from recsys.errors import TableDamagedError
from recsys.events import log_event
from recsys.store.tables import SUPPRESSED, Memo, Tables
from recsys.suppression import Suppression

log = logging.getLogger(__name__)

_SALT: Final = "recsys.salt"

_known: "Memo[Suppression]" = Memo()


def receipts_folder(tables: Tables) -> str:
    """Where the receipts of erasures are."""
    return f"{tables.root}/erasures"


def read_suppression(tables: Tables) -> Suppression | None:
    """Whom this warehouse has forgotten; None when nobody was.

    Raises:
        TableDamagedError: there are receipts of erasures and no table, or an empty one: forgotten users would come
            back.
    """
    table = tables.suppressed_users
    if not table.exists():
        _require_no_receipt(tables, "gone")
        return None
    state = table.state()
    found = _known.get(table, state)
    if found is None:
        hashes = [row[0] for row in table.read_version(state[1]).select(c.USER_HASH).collect()]
        found = Suppression(table.properties()[_SALT], frozenset(hashes))
        _known.put(table, state, found)
    if not found.hashes:
        _require_no_receipt(tables, "empty")
        return None
    return found


def _require_no_receipt(tables: Tables, state: str) -> None:
    if tables.files.exists(receipts_folder(tables)):
        raise TableDamagedError(
            f"'{tables.suppressed_users.path}' is {state}, though '{receipts_folder(tables)}' tells of users who were "
            "forgotten: they would come back. Nothing was read or written. Put it back from a snapshot or a backup, or "
            "delete the receipts and run forget_user for all of them again."
        )


def suppress(tables: Tables, user_ids: Iterable[str]) -> Suppression:
    """Put users on the list, from which nobody is taken off; returns the list with these users only.

    One commit, before anything of them is deleted: whatever comes in from then on is refused. It also keeps which
    generations have a list of each, so that these can still be told from incomplete ones. Called under the locks on
    tables and lists.
    """
    table, spark = tables.suppressed_users, tables.recommendations.read().sparkSession
    table.create(SUPPRESSED, {_SALT: uuid.uuid4().hex})
    whole = Suppression(table.properties()[_SALT], frozenset())
    these = whole.only(whole.hash(own) for own in user_ids)
    before = {row[0] for row in table.read().select(c.USER_HASH).collect()}
    new = these.only(these.hashes - before)
    if new.hashes:
        listed, now = _find_generations(tables, new), datetime.now(UTC)
        rows = [(own, now, listed.get(own, [])) for own in sorted(new.hashes)]
        table.append(spark.createDataFrame(rows, schemas.SUPPRESSED_USERS).coalesce(1))
        log_event(log, "users_suppressed", users=len(rows))
    return these


def without_suppressed(tables: Tables, rows: DataFrame) -> DataFrame:
    """The rows that are of nobody who was forgotten."""
    suppressed = read_suppression(tables)
    return rows if suppressed is None else rows.where(~suppressed.holds())


def count_forgotten_lists(tables: Tables, generation: int) -> int:
    """Lists that a generation was published with and that are of users who were forgotten since."""
    if not tables.suppressed_users.exists():
        return 0
    return tables.suppressed_users.read().where(sf.array_contains(c.LISTED_IN, generation)).count()


def _find_generations(tables: Tables, users: Suppression) -> Mapping[str, Sequence[int]]:
    own = users.hash_of(c.USER_ID).alias(c.USER_HASH)
    lists = tables.recommendations.read().where(users.holds()).select(own, c.GENERATION)
    found = lists.groupBy(c.USER_HASH).agg(sf.sort_array(sf.collect_set(c.GENERATION)).alias(c.LISTED_IN)).collect()
    return {row[c.USER_HASH]: row[c.LISTED_IN] for row in found}
