"""Judge models on held-out ratings: all of them in one pass over the split blocks.

A task solves the users of its blocks who have held-out ratings, once for each factorization, and sends back only their
lists; the driver computes the metrics of at most ``max_users`` users. Full catalogue, seen items excluded.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame, Row

from recsys import columns as c
from recsys.als.model import FactorModel, SolvedUsers, solve_users
from recsys.blocks.codec import SplitBlock, iter_split_blocks, read_array
from recsys.evaluation import metrics
from recsys.evaluation.gate import Comparison, Rival
from recsys.evaluation.params import EvaluationParams
from recsys.events import log_event
from recsys.ranking.model import ListModel
from recsys.ranking.topn import Scorer, list_users

log = logging.getLogger(__name__)

CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
POPULARITY: Final = "popularity"
RECENT_POPULARITY: Final = "recent popularity"
CANDIDATE_FACTORS: Final = "candidate factors"
CHAMPION_FACTORS: Final = "champion factors"

# What the gate compares: candidate's contender, rival's contender, and the rival's role.
_PAIRS: Final[tuple[tuple[str, str, Rival], ...]] = (
    (CANDIDATE, CHAMPION, "champion"),
    (CANDIDATE_FACTORS, CHAMPION_FACTORS, "champion factors"),
    (CANDIDATE, RECENT_POPULARITY, "recent popularity"),
)

_N_HISTORY: Final = "n_history"
_N_HELD: Final = "n_held"
_LISTS: Final = "lists"
_MEAN_SCORES: Final = "mean_scores"
_PREDICTED: Final = "predicted"
_JUDGED: Final = pa.schema(
    [
        (c.BUCKET, pa.int32()),
        (c.BLOCK, pa.int32()),
        (_N_HISTORY, pa.binary()),  # int64 (U,)
        (_N_HELD, pa.binary()),  # int64 (U,)
        (c.HELD_ITEMS, pa.binary()),  # int32 (H,)
        (c.HELD_VALUES, pa.binary()),  # float32 (H,)
        (_LISTS, pa.binary()),  # int32 (C, U, k)
        (_MEAN_SCORES, pa.binary()),  # float32 (C, U)
        (_PREDICTED, pa.binary()),  # float32 (P, H), P contenders that predict ratings
    ]
)
_JUDGED_DDL: Final = ", ".join(f"{f.name} {'INT' if f.type == pa.int32() else 'BINARY'}" for f in _JUDGED)


@dataclass(frozen=True)
class ContenderScores:
    """How one contender did (U judged users); rating errors are None for contenders that predict no ratings.

    Attributes:
        ndcg: float64 (U,).
        recall: float64 (U,).
        average_precision: float64 (U,).
        mean_score: float64 (U,), of the listed items; NaN for an empty list.
        coverage: share of the catalogue that is in any list.
        gini: of the items' exposure.
        novelty: bits.
        rmse: over the held-out ratings it can predict.
        mae: the same.
        share_predicted: of the held-out ratings, those whose item has ratings and whose user has a history.
    """

    ndcg: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    mean_score: NDArray[np.float64]
    coverage: float
    gini: float
    novelty: float
    rmse: float | None = None
    mae: float | None = None
    share_predicted: float | None = None


@dataclass(frozen=True)
class Judgement:
    """All contenders on the same users and events.

    Attributes:
        k: cut of the lists.
        n_history: int64 (U,), ratings of each user before the cut-off.
        contenders: by name.
    """

    k: int
    n_history: NDArray[np.int64]
    contenders: dict[str, ContenderScores]

    @property
    def n_users(self) -> int:
        """Number of judged users."""
        return len(self.n_history)

    def summary(self) -> dict[str, float]:
        """One number a contender and metric, named as MLflow allows: ``candidate/ndcg_at_10``."""
        found = {"judged_users": float(self.n_users)}
        for name, scores in self.contenders.items():
            values = {
                f"ndcg_at_{self.k}": _mean(scores.ndcg),
                f"recall_at_{self.k}": _mean(scores.recall),
                f"map_at_{self.k}": _mean(scores.average_precision),
                "coverage": scores.coverage,
                "gini": scores.gini,
                "novelty": scores.novelty,
                "rmse": scores.rmse,
                "mae": scores.mae,
                "share_predicted": scores.share_predicted,
            }
            found |= {f"{name.replace(' ', '_')}/{key}": value for key, value in values.items() if value is not None}
        return found


@dataclass(frozen=True)
class _Group:
    """Contenders that share factors, and so their users' solutions."""

    factors: FactorModel
    is_solved: bool
    names: list[str]
    scorers: list[Scorer]
    is_rated: NDArray[np.bool_]  # (I,) items with ratings: those whose ratings can be predicted

    @property
    def predicts(self) -> bool:
        return self.factors.params.objective == "explicit"


def judge(
    split: DataFrame,
    contenders: Mapping[str, ListModel],
    params: EvaluationParams,
    *,
    n_held_users: int | None = None,
) -> Judgement:
    """Judge contenders on the held-out ratings of ``split`` (two Spark jobs; cache ``split``).

    Users without a history are judged by the fallback list. A contender that knows fewer items than another never lists
    those. A broken one (``ListModel.problems``) is not run: all its numbers are NaN.

    Args:
        split: rows of ``SPLIT_BLOCKS``; its age weights are used for every contender.
        contenders: name → model; none may have been fitted on the held-out ratings.
        params: cut, and how many users are judged.
        n_held_users: what :func:`count_held_users` found in ``split``; None: it is counted now, in a job of its own.
    """
    n_items = max((model.n_items for model in contenders.values()), default=0)
    sound = {name: model for name, model in contenders.items() if not model.problems()}
    groups = _group(sound, n_items)
    n_users = count_held_users(split) if n_held_users is None else n_held_users
    share = min(1.0, params.max_users / max(n_users, 1))
    columns = [c.BUCKET, c.BLOCK, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS]
    columns += [c.HELD_OFFSETS, c.HELD_ITEMS, c.HELD_VALUES, *([c.USER_IDS] if share < 1 else [])]
    shipped = split.sparkSession.sparkContext.broadcast(groups)
    try:
        task = partial(_judge_batches, shipped=shipped, k=params.k, share=share)
        rows = split.select(*columns).mapInArrow(task, _JUDGED_DDL).collect()
    finally:
        shipped.destroy()
    log_event(log, "contenders_judged", contenders=len(contenders), held_users=n_users, share=share)
    parts = [row.asDict() for row in sorted(rows, key=lambda row: (row[c.BUCKET], row[c.BLOCK]))]
    return _measure(parts, contenders, groups, params.k, n_items)


def count_held_users(split: DataFrame) -> int:
    """Count the users with held-out ratings (one Spark job)."""

    def count(rows: Iterable[Row]) -> Iterator[int]:
        yield sum(int(np.count_nonzero(np.diff(read_array(row[c.HELD_OFFSETS], np.int64)))) for row in rows)

    return sum(split.select(c.HELD_OFFSETS).rdd.mapPartitions(count).collect())


def compare(judgement: Judgement, params: EvaluationParams) -> list[Comparison]:
    """What the gate reads: the candidate against each rival that was judged, with its bootstrap interval."""
    found = []
    for name, rival_name, rival in _PAIRS:
        if name not in judgement.contenders or rival_name not in judgement.contenders:
            continue
        ours, theirs = judgement.contenders[name].ndcg, judgement.contenders[rival_name].ndcg
        interval = metrics.paired_bootstrap(
            ours, theirs, samples=params.bootstrap_samples, confidence=params.confidence
        )
        found.append(
            Comparison(
                rival=rival,
                metric=f"NDCG@{judgement.k}",
                candidate=_mean(ours),
                rival_value=_mean(theirs),
                low=interval.low,
                high=interval.high,
                confidence=params.confidence,
                n_users=judgement.n_users,
            )
        )
    return found


def _group(contenders: Mapping[str, ListModel], n_items: int) -> list[_Group]:
    """Contenders by the factorization they share; all brought to the same number of items."""
    groups: dict[tuple[int, bool], _Group] = {}
    for name, model in contenders.items():
        new = n_items - model.n_items
        key = id(model.factors), model.is_personal
        if key not in groups:
            is_rated = np.concatenate((model.popularity > 0, np.zeros(new, np.bool_)))
            groups[key] = _Group(model.factors.extended_to(n_items), model.is_personal, [], [], is_rated)
        never = np.full(new, -np.inf, np.float32)
        scorer = model.scorer()
        prior, fallback = (np.concatenate((scores, never)) for scores in (scorer.prior, scorer.fallback))
        groups[key].names.append(name)
        groups[key].scorers.append(Scorer(scorer.weight, prior, fallback))
    return list(groups.values())


def _judge_batches(
    batches: Iterator[pa.RecordBatch], *, shipped: "Broadcast[list[_Group]]", k: int, share: float
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for block in iter_split_blocks(batch):
            users = _choose_users(block, share)
            if len(users):
                row = _judge_users(block, users, shipped.value, k)
                yield pa.RecordBatch.from_pylist([row], schema=_JUDGED)


def _choose_users(block: SplitBlock, share: float) -> NDArray[np.int64]:
    """The users with held-out ratings, a ``share`` of them by the hash of their ids: the same ones every time."""
    users = np.flatnonzero(np.diff(block.held_offsets))
    if share == 1:
        return users
    limit = int(share * 2**64)
    drawn = [int.from_bytes(blake2b(block.user_ids[u].encode(), digest_size=8).digest()) < limit for u in users]
    return users[np.array(drawn, dtype=np.bool_)]


def _judge_users(block: SplitBlock, users: NDArray[np.int64], groups: Sequence[_Group], k: int) -> dict[str, Any]:
    offsets, rated = _gather(block.offsets, users)
    held_offsets, held = _gather(block.held_offsets, users)
    items, values, weights = block.items[rated], block.values[rated], block.weights[rated]
    held_items = block.held_items[held]
    lists, scores, predicted = [], [], []
    for group in groups:
        solved = _solve(group, offsets, items, values, weights)
        for positions, listed_scores in list_users(
            group.factors.item_factors, solved.x, offsets, items, group.scorers, k
        ):
            lists.append(positions)
            scores.append(_mean_score(positions, listed_scores))
        if group.predicts:
            predicted += [_predict(group, solved, offsets, held_offsets, held_items)] * len(group.names)
    return {
        c.BUCKET: block.bucket,
        c.BLOCK: block.block,
        _N_HISTORY: np.diff(offsets).tobytes(),
        _N_HELD: np.diff(held_offsets).tobytes(),
        c.HELD_ITEMS: held_items.tobytes(),
        c.HELD_VALUES: block.held_values[held].tobytes(),
        _LISTS: b"".join(positions.tobytes() for positions in lists),
        _MEAN_SCORES: b"".join(means.tobytes() for means in scores),
        _PREDICTED: b"".join(values.tobytes() for values in predicted),
    }


def _solve(
    group: _Group,
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> SolvedUsers:
    if group.is_solved:
        return solve_users(group.factors, offsets, items, values, weights)
    n_users = len(offsets) - 1
    return SolvedUsers(np.zeros((n_users, group.factors.params.rank), np.float32), np.zeros(n_users, np.float32))


def _gather(offsets: NDArray[np.int64], users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets of the chosen users' entries when laid side by side, and where each entry is now."""
    counts = np.diff(offsets)[users]
    chosen = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return chosen, np.arange(chosen[-1]) + np.repeat(offsets[users] - chosen[:-1], counts)


def _mean_score(positions: NDArray[np.int32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    is_listed = positions >= 0
    count = is_listed.sum(axis=1)
    total = np.where(is_listed, scores, np.float32(0)).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan)).astype(np.float32)


def _predict(
    group: _Group,
    solved: SolvedUsers,
    offsets: NDArray[np.int64],
    held_offsets: NDArray[np.int64],
    held_items: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Ratings of the held-out pairs (H,); NaN where the item has no ratings or a solved user no history."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(held_offsets))
    is_known = held_items < len(group.is_rated)
    items = np.where(is_known, held_items, 0)
    is_known &= group.is_rated[items]
    if group.is_solved:
        is_known &= np.diff(offsets)[owners] > 0
    factors = group.factors
    ratings = np.einsum("hr,hr->h", solved.x[owners], factors.item_factors[items])
    ratings += solved.biases[owners] + factors.item_biases[items] + np.float32(factors.mean)
    return np.where(is_known, ratings, np.float32(np.nan))


def _measure(
    parts: Sequence[Mapping[str, Any]],
    contenders: Mapping[str, ListModel],
    groups: Sequence[_Group],
    k: int,
    n_items: int,
) -> Judgement:
    """The metrics of the lists that the tasks sent, in the contenders' order."""
    names = [name for group in groups for name in group.names]
    predicting = [name for group in groups if group.predicts for name in group.names]
    lists = dict(zip(names, _join(parts, _LISTS, np.int32, len(names), -1, k), strict=True))
    means = dict(zip(names, _join(parts, _MEAN_SCORES, np.float32, len(names), -1), strict=True))
    predicted = dict(zip(predicting, _join(parts, _PREDICTED, np.float32, len(predicting), -1), strict=True))
    n_history = _join(parts, _N_HISTORY, np.int64, -1)
    n_held = _join(parts, _N_HELD, np.int64, -1)
    held_offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(n_held)))
    held_items, held_values = _join(parts, c.HELD_ITEMS, np.int32, -1), _join(parts, c.HELD_VALUES, np.float32, -1)
    scores = {}
    for name, model in contenders.items():
        if name not in lists:
            scores[name] = _no_scores(len(n_history))
            continue
        hits = metrics.find_hits(lists[name], held_offsets, held_items)
        exposures = metrics.count_exposures(lists[name], n_items)
        popularity = np.concatenate((model.popularity, np.zeros(n_items - model.n_items, np.int64)))
        scores[name] = ContenderScores(
            ndcg=metrics.ndcg_at_k(hits, n_held),
            recall=metrics.recall_at_k(hits, n_held),
            average_precision=metrics.average_precision(hits, n_held),
            mean_score=means[name].astype(np.float64),
            coverage=metrics.coverage(exposures),
            gini=metrics.gini(exposures),
            novelty=metrics.novelty(exposures, popularity),
        )
        if name in predicted:
            known = np.isfinite(predicted[name])
            scores[name] = replace(
                scores[name],
                rmse=metrics.rmse(predicted[name][known], held_values[known]),
                mae=metrics.mae(predicted[name][known], held_values[known]),
                share_predicted=_mean(known),
            )
    return Judgement(k, n_history, scores)


def _join(parts: Sequence[Mapping[str, Any]], column: str, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
    """The blocks' arrays side by side along the one axis given as -1."""
    axis = shape.index(-1)
    if not parts or 0 in shape:
        return np.zeros([max(0, size) for size in shape], dtype)
    return np.concatenate([np.frombuffer(part[column], dtype).reshape(shape) for part in parts], axis=axis)


def _no_scores(n_users: int) -> ContenderScores:
    nan, per_user = float("nan"), np.full(n_users, np.nan)
    return ContenderScores(per_user, per_user, per_user, per_user, coverage=nan, gini=nan, novelty=nan)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
