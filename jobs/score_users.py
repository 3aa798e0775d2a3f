"""Score every user with the champion and publish the lists as one generation."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame

from jobs.runner import JobContext, JobResult, run_job
from recsys import columns as c
from recsys.blocks.split import count_events, find_times, split_blocks
from recsys.errors import UsageError
from recsys.ranking.model import ListModel
from recsys.ranking.score import fallback_row, score_blocks
from recsys.schemas import RECOMMENDATIONS
from recsys.store.generations import Generation, current, next_generation, publish, write_lists
from recsys.store.items import Items, read_items
from recsys.store.locks import LISTS
from recsys.store.pause import pause_at
from recsys.store.registry import Registry
from recsys.user_blocks import find_reflected, read_user_blocks


@dataclass(frozen=True)
class ScoreReport:
    """The generation that consumers read now, and whether this run published it."""

    generation: Generation
    published: bool

    def to_result(self) -> JobResult:
        """The report as the runner records it."""
        entry = self.generation
        verb = "published" if self.published else "unchanged, nothing is new:"
        return JobResult(
            f"{verb} generation {entry.generation}: lists for {entry.n_users:,} users by model {entry.model_version}",
            counts={"generation": entry.generation, "users": entry.n_users, "published": int(self.published)},
            versions_in=dict(entry.table_versions),
        )


def run(context: JobContext, *, reason: str = "score_users", force: bool = False) -> ScoreReport:
    """Bring the champion's trend up to now, list the best unseen items of every user, publish.

    Nothing happens when the current generation was made by the same model from the same batches, unless forced.

    Raises:
        UsageError: there is no champion.
        PublicationError: lists came out incomplete; the current generation stays.
    """
    tables = context.tables
    registry = Registry(context.settings.mlflow, tables.root)
    version = registry.champion
    if version is None:
        raise UsageError("there is no champion to score with. Run train_model and promote_model first.")
    # The batch, and not the tables' versions, says whether anything is new: maintenance makes versions, too.
    through_batch = find_reflected(tables).batch
    versions = {table.name: table.version() for table in (tables.user_blocks, tables.items)}
    now = current(tables)
    if now is not None and not force:
        made_from = now.model_version, now.table_versions.get(c.THROUGH_BATCH)
        if made_from == (version, through_batch):
            return ScoreReport(now, published=False)
    for table in (tables.recommendations, tables.generations):
        table.read_ahead()
    champion = ListModel.from_files(registry.load(version)).listed_as(context.settings.ranking)
    items = read_items(tables.items, versions[tables.items.name])
    blocks = read_user_blocks(tables, versions[tables.user_blocks.name])
    if registry.describe(version).table_versions.items() >= versions.items():  # fitted on all that there is
        model = champion
    else:
        model = refresh_model(champion, blocks, items)
    generation = next_generation(tables)
    split = split_blocks(
        blocks,
        cutoff_us=None,
        as_of_us=model.as_of_us,
        half_life_days=model.factors.params.rating_half_life_days,
    )
    lists = score_blocks(split, model, items.available, generation)
    fallback = context.spark.createDataFrame([fallback_row(model, items.available, generation)], RECOMMENDATIONS)
    pause_at("score:before_lists")
    written = write_lists(tables, generation, lists.unionByName(fallback))
    entry = publish(tables, written, version, {**versions, c.THROUGH_BATCH: through_batch}, reason)
    pause_at("score:after_publish")
    return ScoreReport(entry, published=True)


def refresh_model(model: ListModel, blocks: DataFrame, items: Items) -> ListModel:
    """The model with these items, and with counts and trend as of just after the newest rating, like a refit's."""
    as_of = find_times(blocks).newest + 1
    half_life = model.ranking.trend_half_life_days
    counts = count_events(blocks, len(items.ids), as_of_us=as_of, half_lives_days=[half_life])
    return model.refreshed(items.ids, counts[0].astype(np.int64), counts[1].astype(np.float32), as_of_us=as_of)


def main(argv: Sequence[str]) -> int:
    """Run the job from its command line."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--force", action="store_true", help="publish even when nothing is new")
        parser.add_argument("--reason", default="score_users", help="why, for the record")

    def body(context: JobContext) -> JobResult:
        return run(context, reason=context.args.reason, force=context.args.force).to_result()

    return run_job("score_users", body, argv, description=__doc__, locks=(LISTS,), arguments=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
