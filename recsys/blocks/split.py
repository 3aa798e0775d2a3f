"""What one fit, judgement or scoring reads: user blocks cut at a point in time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import to_arrow_schema

from recsys import columns as c
from recsys.blocks.codec import encode_row, iter_rows, make_offsets, pack_items, pack_values
from recsys.blocks.partials import Part, sum_parts
from recsys.blocks.recent import RATING_COLUMNS, read_ratings, select_ratings
from recsys.errors import NothingToTrainError
from recsys.schemas import SPLIT_BLOCKS

MICROS_PER_DAY: Final = 86_400_000_000
_QUANTILE_ACCURACY: Final = 100_000  # rank error of holdout_start: one in as many


def split_blocks(
    user_blocks: DataFrame,
    *,
    cutoff_us: int | None,
    until_us: int | None = None,
    as_of_us: int | None = None,
    half_life_days: float | None = None,
    max_per_user: int = 0,
) -> DataFrame:
    """Cut every block into ratings before the cut-off and held-out ratings from it on; withdrawn ones are left out.

    A rating appears once, at the time of its newest event. Of events (several of a pair) those before the cut-off are
    summed, and a pair that has none of these is held out with the sum of those from the cut-off on. So a held-out pair
    is never also observed. Users with neither kind are dropped; a user with held-out ratings only stays, with an empty
    history.

    Args:
        user_blocks: rows of ``user_blocks``, assembled where recent ratings lie beside them (`recsys.blocks.recent`).
        cutoff_us: microseconds; observed is ``time < cutoff``. None: all are observed.
        until_us: held out is ``cutoff <= time < until``. None: without end.
        as_of_us: the moment ages are counted from; needed with a half-life.
        half_life_days: weight of a rating is ``0.5 ** (age / half_life)``; None: no weights. Of summed events each
            counts with its own age: the weight is that of their mean, so that weight times value is the decayed sum.
        max_per_user: of a user with more observed ratings only so many are left, the newest; of one time those of the
            items with the highest positions. 0: all are.

    Returns:
        Rows of ``recsys.schemas.SPLIT_BLOCKS``; blocks without users left are dropped.
    """
    if half_life_days is not None and as_of_us is None:
        raise ValueError("half_life_days needs as_of_us: the moment from which ages are counted.")
    cut = partial(
        split_row,
        cutoff=cutoff_us,
        until=until_us,
        as_of=as_of_us,
        half_life_days=half_life_days,
        max_per_user=max_per_user,
    )
    schema = to_arrow_schema(SPLIT_BLOCKS)

    def split_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in iter_rows(batch):
                out = cut(row)
                if out is not None:
                    yield encode_row(out, schema)

    return select_ratings(user_blocks, c.BUCKET, c.BLOCK, *RATING_COLUMNS).mapInArrow(split_batches, SPLIT_BLOCKS)


def count_events(
    user_blocks: DataFrame,
    n_items: int,
    *,
    as_of_us: int,
    before_us: int | None = None,
    half_lives_days: Sequence[float] = (),
) -> NDArray[np.float64]:
    """Count current ratings by item in one pass (one Spark job), plainly and decayed by age for each half-life.

    Args:
        user_blocks: rows of ``user_blocks``.
        n_items: length of the result's second axis, above every position.
        as_of_us: the moment ages are counted from; a younger rating weighs 1.
        before_us: only ratings with ``time < before`` count; None: all.
        half_lives_days: H half-lives.

    Returns:
        float64 (1 + H, n_items): plain counts, then one row a half-life.
    """
    half_lives = tuple(half_lives_days)

    def count_rows(rows: Iterable[Row]) -> Iterator[Part]:
        counts = np.zeros((1 + len(half_lives), n_items))
        for row in rows:
            ratings = read_ratings(row.asDict())
            keep, times = ratings.is_current, ratings.times
            if before_us is not None:
                keep &= times < before_us
            items = ratings.items[keep]
            counts[0] += np.bincount(items, minlength=n_items)
            for h, half_life in enumerate(half_lives, 1):
                counts[h] += np.bincount(items, age_weights(times[keep], as_of_us, half_life), minlength=n_items)
        yield (counts,)

    rows = select_ratings(user_blocks, c.ITEMS, c.VALUES, c.DICTIONARY, c.TIMES).rdd
    [counts] = sum_parts(rows.mapPartitions(count_rows), shapes=[(1 + len(half_lives), n_items)])
    return counts


@dataclass(frozen=True)
class Timeline:
    """When current ratings happened, in microseconds UTC: the newest, and where the newest part of a share starts."""

    newest: int
    starts: tuple[int, ...]


def find_times(user_blocks: DataFrame, shares: Sequence[float] = ()) -> Timeline:
    """Find the newest current rating, and cut-offs that leave the newest ``share`` at or after them (one Spark job).

    Ratings of one time are never separated, and above 100,000 ratings the rank is approximate by one in 100,000.

    Args:
        user_blocks: rows of ``user_blocks``.
        shares: of all current ratings, each between 0 and 1.

    Raises:
        NothingToTrainError: there is no rating.
    """

    def times_of(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in iter_rows(batch):
                ratings = read_ratings(row)
                yield pa.RecordBatch.from_arrays([pa.array(ratings.times[ratings.is_current])], [c.EVENT_TIME])

    times = select_ratings(user_blocks, c.VALUES, c.DICTIONARY, c.TIMES).mapInArrow(times_of, f"{c.EVENT_TIME} LONG")
    last_observed = [sf.percentile_approx(c.EVENT_TIME, 1.0 - share, _QUANTILE_ACCURACY) for share in shares]
    [[newest, *before]] = times.agg(sf.max(c.EVENT_TIME), *last_observed).collect()
    if newest is None:
        raise NothingToTrainError("user_blocks hold no rating. Ingest ratings first.")
    return Timeline(int(newest), tuple(int(time) + 1 for time in before))


def age_weights(times: NDArray[np.int64], as_of_us: int, half_life_days: float) -> NDArray[np.float64]:
    """``0.5 ** (age / half_life)`` of each time (microseconds); a time after ``as_of_us`` has age 0."""
    ages = np.maximum(as_of_us - times, 0) / (half_life_days * MICROS_PER_DAY)
    return np.exp2(-ages)


def split_row(
    row: dict[str, Any],
    *,
    cutoff: int | None,
    until: int | None,
    as_of: int | None,
    half_life_days: float | None,
    max_per_user: int = 0,
) -> dict[str, Any] | None:
    """The split row of one row of ``user_blocks``; None when no user is left. Arguments as in ``split_blocks``."""
    ratings = read_ratings(row)
    offsets, items, times = ratings.offsets, ratings.items, ratings.times
    known, values, current = ratings.dictionary, ratings.values, ratings.is_current
    is_value = ~np.isnan(known)
    observed, held = current, np.zeros_like(current)
    if cutoff is not None:
        observed = current & (times < cutoff)
        held = current & (times >= cutoff)
        if until is not None:
            held &= times < until
    ages = None if half_life_days is None or as_of is None else age_weights(times, as_of, half_life_days)
    is_first = _find_firsts(items, offsets)
    if not is_first.all():
        events = known[values] if len(known) else values
        counted = np.where(observed, times, np.iinfo(np.int64).min)
        times = np.maximum.reduceat(counted, np.flatnonzero(is_first))  # of the newest observed event of each pair
        items, offsets = items[is_first], make_offsets(is_first.astype(np.int64))[offsets]
        values, observed, held, ages = _sum_events(np.cumsum(is_first) - 1, events, observed, held, ages)
        known = np.empty(0, np.float32)
    n_observed, n_held = _counts(observed, offsets), _counts(held, offsets)
    if 0 < max_per_user < n_observed.max(initial=0):
        observed = _keep_newest(observed, offsets, times, max_per_user)
        n_observed = np.minimum(n_observed, max_per_user)
    stays = (n_observed + n_held) > 0
    if not stays.any():
        return None
    if len(known):  # codes stay as they are: NaN, the last of the dictionary, has none left
        dictionary, packed, held_values = known[is_value], values[observed], known[values[held]]
    else:
        (dictionary, packed), held_values = pack_values(values[observed]), values[held]
    weights = np.empty(0, np.float32) if ages is None else ages[observed].astype(np.float32)
    return {
        c.BUCKET: row[c.BUCKET],
        c.BLOCK: row[c.BLOCK],
        c.USER_IDS: ratings.user_ids.filter(pa.array(stays)),
        c.OFFSETS: make_offsets(n_observed[stays]).tobytes(),
        c.ITEMS: pack_items(items[observed]).tobytes(),
        c.VALUES: packed.tobytes(),
        c.DICTIONARY: dictionary.tobytes(),
        c.WEIGHTS: weights.tobytes(),
        c.HELD_OFFSETS: make_offsets(n_held[stays]).tobytes(),
        c.HELD_ITEMS: pack_items(items[held]).tobytes(),
        c.HELD_VALUES: held_values.tobytes(),
    }


def _keep_newest(
    observed: NDArray[np.bool_], offsets: NDArray[np.int64], times: NDArray[np.int64], at_most: int
) -> NDArray[np.bool_]:
    """What is observed when a user has so many ratings at most."""
    kept = observed.copy()
    for u in np.flatnonzero(_counts(observed, offsets) > at_most):
        own = offsets[u] + np.flatnonzero(observed[offsets[u] : offsets[u + 1]])
        kept[own[np.argsort(times[own], kind="stable")[:-at_most]]] = False
    return kept


def _find_firsts(items: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an entry is the first of its user and item: all are, unless a block holds events."""
    is_first = np.ones(len(items), np.bool_)
    is_first[1:] = items[1:] != items[:-1]
    is_first[offsets[:-1][offsets[:-1] < len(items)]] = True
    return is_first


def _sum_events(
    pair: NDArray[np.int64],
    values: NDArray[np.float32],
    observed: NDArray[np.bool_],
    held: NDArray[np.bool_],
    ages: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64] | None]:
    """Values, what is observed, what is held out and weights of P pairs, from those of their N events.

    Args:
        pair: (N,), the place of each event's pair, ascending from 0.
        values: (N,); NaN where an event was withdrawn.
        observed: (N,).
        held: (N,).
        ages: (N,), weight of each event by its age.
    """
    value = np.where(observed | held, values, 0).astype(np.float64)
    is_observed = np.bincount(pair, observed) > 0
    is_held = (np.bincount(pair, held) > 0) & ~is_observed
    counts = observed | (held & is_held[pair])
    sums = np.bincount(pair, value * counts)
    weights = None
    if ages is not None:
        weights = np.divide(np.bincount(pair, value * counts * ages), sums, out=np.ones_like(sums), where=sums > 0)
    return sums.astype(np.float32), is_observed, is_held, weights


def _counts(chosen: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    before = np.concatenate(([0], np.cumsum(chosen)))
    return before[offsets[1:]] - before[offsets[:-1]]
