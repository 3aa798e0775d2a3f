"""The items dictionary: every item has a dense position that it keeps for ever."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as sf

from recsys import columns as c


def number_new_items(events: DataFrame, items: DataFrame, catalogue: DataFrame | None, *, batch: int) -> DataFrame:
    """Rows of ``items`` for the items of ``events`` that have none.

    Positions go on from the highest one, in ascending order of the item ids' bytes.

    Args:
        events: rating events.
        items: the items table as it is.
        catalogue: rows of `parse_catalogue`; None for no titles.
        batch: that brought them.
    """
    first = items.agg(sf.coalesce(sf.max(c.POSITION) + 1, sf.lit(0)).alias("first"))
    new = events.select(c.ITEM_ID).distinct().join(items.select(c.ITEM_ID), c.ITEM_ID, "left_anti")
    # One task numbers them: all items fit anywhere, and new ones are few.
    rank = sf.row_number().over(Window.orderBy(c.ITEM_ID)) - 1
    numbered = new.withColumn("rank", rank).crossJoin(sf.broadcast(first))
    if catalogue is None:
        nothing = sf.lit(None)
        titled = numbered.withColumns({c.TITLE: nothing.cast("string"), c.GENRES: nothing.cast("array<string>")})
    else:
        titled = numbered.join(catalogue, c.ITEM_ID, "left")
    return titled.select(
        c.ITEM_ID,
        (sf.col("first") + sf.col("rank")).cast("int").alias(c.POSITION),
        c.TITLE,
        c.GENRES,
        sf.lit(True).alias(c.AVAILABLE),
        sf.lit(batch).cast("long").alias(c.BATCH),
    )


def parse_catalogue(lines: DataFrame) -> DataFrame:
    """Item id, title and genres from lines ``item_id::title::genre|genre``; of repeated ids one line counts."""
    fields = sf.split("value", r"\Q::\E", -1)
    genres = sf.filter(sf.split(sf.get(fields, sf.lit(2)), r"\|"), lambda genre: genre != "")
    rows = lines.select(
        sf.get(fields, sf.lit(0)).alias(c.ITEM_ID), sf.get(fields, sf.lit(1)).alias(c.TITLE), genres.alias(c.GENRES)
    )
    only = rows.groupBy(c.ITEM_ID).agg(sf.min(sf.struct(c.TITLE, c.GENRES)).alias("row"))
    return only.select(c.ITEM_ID, f"row.{c.TITLE}", f"row.{c.GENRES}")
