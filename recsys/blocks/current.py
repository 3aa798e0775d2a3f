"""The one definition of *current ratings*: the newest event of each pair, unless it withdrew the rating."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as sf

from recsys import columns as c


def current_ratings(ratings: DataFrame) -> DataFrame:
    """Keep the newest event of each (user, item) pair and drop the pairs whose newest event withdrew the rating.

    Newest is by event time, then by event id compared as UTF-8 bytes: the order in which events arrived, or how often,
    plays no part.

    Args:
        ratings: rating events in the columns of the ratings table.

    Returns:
        The same columns, one row a pair with a value.
    """
    newest = sf.max_by(sf.struct("*"), sf.struct(c.EVENT_TIME, c.EVENT_ID, c.VALUE)).alias("newest")
    return ratings.groupBy(c.USER_ID, c.ITEM_ID).agg(newest).select("newest.*").where(sf.col(c.VALUE).isNotNull())
