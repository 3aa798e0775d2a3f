"""What came of it, for people: lists with titles and reasons, the judgement in one line, where to look."""

from pathlib import Path

from pyspark.sql import functions as F

from jobs.pipeline import recorded_turns
from jobs.runner import JobContext
from recsys import columns as c
from recsys.blocks.current import current_ratings
from recsys.ranking.score import TRENDING
from recsys.store.generations import read_generation
from recsys.store.registry import Registry

N_USERS = 3


def show_lists(context: JobContext) -> None:
    """Print the lists of three users who rated 15 to 40 titles, with the ratings that explain each item most."""
    generation, lists = read_generation(context.tables)
    ratings = current_ratings(context.tables.ratings.read()).select(c.USER_ID, c.ITEM_ID, c.VALUE)
    per_user = ratings.groupBy(c.USER_ID).agg(F.count("*").alias("n")).where("n between 15 and 40")
    users = [row[0] for row in per_user.orderBy(F.xxhash64(c.USER_ID)).limit(N_USERS).collect()]
    titles = {row[0]: row[1] or row[0] for row in context.tables.items.read().select(c.ITEM_ID, c.TITLE).collect()}
    rated = {(row[0], row[1]): row[2] for row in ratings.where(F.col(c.USER_ID).isin(users)).collect()}
    print(f"\nLists of generation {generation.generation}, made by model version {generation.model_version}:")
    for row in lists.where(F.col(c.USER_ID).isin(users)).orderBy(c.USER_ID).collect():
        n_rated = sum(user == row[c.USER_ID] for user, _ in rated)
        print(f"\nuser {row[c.USER_ID]}, {n_rated} ratings")
        for rank, entry in enumerate(row[c.ITEMS], 1):
            why = entry[c.REASON]
            if why != TRENDING:
                items = why.removeprefix("rated ").split(" and ")
                why = "rated " + " and ".join(f"{titles[item]}: {rated[row[c.USER_ID], item]:g}" for item in items)
            print(f"  {rank:2}. {titles[entry[c.ITEM_ID]]:50.50} {entry[c.SCORE]:6.2f}  {why}")


def show_where(context: JobContext) -> None:
    """Print how the lists compare with popularity over all steps, and where everything is."""
    judged = [report for report in recorded_turns(context) if report.ndcg_candidate is not None]
    mine = sum(report.ndcg_candidate or 0 for report in judged) / max(len(judged), 1)
    popular = sum(report.ndcg_popularity or 0 for report in judged) / max(len(judged), 1)
    print(
        f"\nNDCG@{context.settings.evaluation.k} on held-out days, mean of {len(judged)} steps: lists {mine:.3f}, "
        f"popularity with a half-life of {context.settings.evaluation.baseline_half_life_days:g} days {popular:.3f}"
    )
    root = Path(context.settings.warehouse.root)
    tracking = Registry(context.settings.mlflow, context.tables.root).tracking_uri
    print("\nMLflow's page:   .venv/bin/mlflow ui --host 127.0.0.1 --backend-store-uri " + tracking)
    print(f"The tables:      {root}/<table>, for example in Python:")
    print("                 from recsys.session import start_session")
    print(f'                 start_session("look").read.format("delta").load("{root}/quarantine").show()')
    print(f"The state:       ./spark-submit.sh jobs/status.py -- --warehouse {root}")
