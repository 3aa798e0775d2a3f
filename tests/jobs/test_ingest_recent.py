"""Recent ratings beside large blocks: what reads blocks sees what it would see had they been packed anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import ingest_ratings
from jobs.runner import JobContext, make_context
from recsys import columns as c
from recsys.blocks.codec import NEWCOMERS, RECENT, WHOLE, iter_split_blocks
from recsys.blocks.split import count_events, find_times, split_blocks
from recsys.user_blocks import read_user_blocks
from tests.jobs.warehouses import land_csv, make_settings

DAY = 1_700_000_000
N_ITEMS = 4
BESIDE = {"recent_from": 1, "recent_share": 1.0}
Seen = dict[str, tuple[list[tuple[int, float]], list[tuple[int, float]]]]

FIRST = [f"u{user},i{item},{3 + item % 2},{DAY + 100 * item}" for user in range(8) for item in range(3)]
# A correction, a late event that changes nothing, a redelivery, newcomers, a new item.
SECOND = [f"u0,i1,5,{DAY + 900}", f"u1,i1,1,{DAY - 900}", FIRST[4], f"n0,i0,2,{DAY + 901}", f"u7,i3,4,{DAY + 902}"]
# The newcomer again, a correction of the correction, and one more user.
THIRD = [f"n0,i0,4,{DAY + 950}", f"n0,i2,4,{DAY + 951}", f"u0,i1,2,{DAY + 952}", f"n1,i1,3,{DAY + 953}"]


def see(context: JobContext) -> tuple[Seen, list[list[float]], tuple[int, ...]]:
    """What a fit, a trend and a holdout are made from."""
    blocks = read_user_blocks(context.tables)
    cut = split_blocks(blocks, cutoff_us=(DAY + 905) * 1_000_000).toArrow()
    seen: Seen = {}
    for split in (split for batch in cut.to_batches() for split in iter_split_blocks(batch)):
        for u, user in enumerate(split.user_ids):
            own, held = slice(*split.offsets[u : u + 2]), slice(*split.held_offsets[u : u + 2])
            observed = list(zip(split.items[own].tolist(), split.values[own].tolist(), strict=True))
            seen[user] = (
                observed,
                list(zip(split.held_items[held].tolist(), split.held_values[held].tolist(), strict=True)),
            )
    counts = count_events(blocks, N_ITEMS, as_of_us=(DAY + 1000) * 1_000_000, half_lives_days=[0.01])
    times = find_times(blocks, [0.1])
    return seen, np.round(counts, 9).tolist(), (times.newest, *times.starts)


def layers(context: JobContext) -> dict[int, set[int]]:
    """The batches that the rows of each layer reflect."""
    found: dict[int, set[int]] = {}
    for row in context.tables.user_blocks.read().select(c.LAYER, c.THROUGH_BATCH).collect():
        found.setdefault(row[0], set()).add(row[1])
    return found


@pytest.fixture
def twins(spark: SparkSession, tmp_path: Path) -> tuple[JobContext, JobContext]:
    """Two warehouses over one landing folder: ratings lie beside the blocks of one, the other's are packed anew."""
    contexts = []
    for name, more in (("beside", BESIDE), ("anew", {})):
        warehouse: dict[str, Any] = {"root": str(tmp_path / name), "buckets": 2, "users_per_block": 2, **more}
        contexts.append(make_context(spark, make_settings(tmp_path / name, tmp_path / "landing", warehouse=warehouse)))
    return contexts[0], contexts[1]


def test_recent_ratings_beside_the_blocks_are_seen_as_if_blocks_were_packed_anew(
    twins: tuple[JobContext, JobContext], tmp_path: Path
) -> None:
    beside, anew = twins
    for number, rows in enumerate((FIRST, SECOND, THIRD), 1):
        land_csv(tmp_path / "landing", f"{number}.csv", *rows)
        new_users = [ingest_ratings.run(context).new_users for context in twins]
        assert new_users[0] == new_users[1]
        assert see(beside) == see(anew)
    assert layers(beside)[WHOLE] == {1}, "whole blocks were written again"
    assert layers(beside)[RECENT] <= {2, 3}
    assert layers(beside)[NEWCOMERS] <= {2, 3}
    assert set(layers(anew)) == {WHOLE}

    # One time, two values: event ids decide, and these blocks are packed anew with all that lay beside them.
    land_csv(tmp_path / "landing", "4.csv", *(f"u{user},i0,1,{DAY}" for user in range(8)))
    for context in twins:
        ingest_ratings.run(context)
    assert see(beside) == see(anew)
    assert set(layers(beside)) == {WHOLE}


def test_more_recent_ratings_than_their_share_are_merged(twins: tuple[JobContext, JobContext], tmp_path: Path) -> None:
    beside, _ = twins
    many = [f"u{user},i{item},{1 + item},{DAY + 2000 + item}" for user in range(8) for item in range(4)]
    for number, (rows, is_beside) in enumerate(((FIRST, False), (SECOND, True), (many, False)), 1):
        land_csv(tmp_path / "landing", f"{number}.csv", *rows)
        ingest_ratings.run(beside)
        assert (RECENT in layers(beside)) is is_beside
