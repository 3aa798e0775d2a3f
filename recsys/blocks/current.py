"""The one definition of *current ratings*: the newest event of each pair, unless it withdrew the rating; or sums."""

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as sf

from recsys import columns as c

_NEWEST: Final = "newest"


def current_ratings(ratings: DataFrame, *, keeps_events: bool = False) -> DataFrame:
    """Keep the newest event of each (user, item) pair and drop the pairs whose newest event withdrew the rating.

    Newest is by event time, then by event id compared as UTF-8 bytes: the order in which events arrived, or how often,
    plays no part.

    Args:
        ratings: rating events in the columns of the ratings table.
        keeps_events: the table holds events to be summed: of those with one id the newest counts, and a pair's row is
            its newest event with the sum of all.

    Returns:
        The same columns, one row a pair with a value.
    """
    events = keep_newest(ratings, keeps_events=keeps_events).where(sf.col(c.VALUE).isNotNull())
    if not keeps_events:
        return events
    total = sf.sum(c.VALUE).alias(c.VALUE)
    summed = events.groupBy(c.USER_ID, c.ITEM_ID).agg(_find_newest(), total)
    return summed.select(*(c.VALUE if name == c.VALUE else f"{_NEWEST}.{name}" for name in ratings.columns))


def event_key(*, keeps_events: bool) -> tuple[str, ...]:
    """The columns of which one event counts: of a pair, or of an event id where events are summed."""
    return (c.USER_ID, c.ITEM_ID, c.EVENT_ID) if keeps_events else (c.USER_ID, c.ITEM_ID)


def keep_newest(ratings: DataFrame, *, keeps_events: bool) -> DataFrame:
    """Keep the newest event of each key, withdrawals among them: what all the others cannot change any more."""
    return ratings.groupBy(*event_key(keeps_events=keeps_events)).agg(_find_newest()).select(f"{_NEWEST}.*")


def _find_newest() -> Column:
    return sf.max_by(sf.struct("*"), sf.struct(c.EVENT_TIME, c.EVENT_ID, c.VALUE)).alias(_NEWEST)
