"""A model that lists items: item factors, what is popular and what trends now. No Spark here.

Popularity baselines are the same kind of model with zero factors, so that everything is judged by one piece of code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.als.model import FactorModel, SolvedUsers, solve_users
from recsys.als.params import AlsParams
from recsys.errors import ModelArtifactError, UsageError
from recsys.ranking.params import RankingParams
from recsys.ranking.topn import Scorer, list_users

MANIFEST: Final = "model.json"
ITEM_IDS: Final = "item_ids.json"
_FACTORS: Final = "item_factors.npy"
_BIASES: Final = "item_biases.npy"
_POPULARITY: Final = "popularity.npy"
_TREND: Final = "trend.npy"
_ARRAYS: Final = {_FACTORS: np.float32, _BIASES: np.float32, _POPULARITY: np.int64, _TREND: np.float32}
_LAST: Final = np.float32(-1000)  # below every score of an item that has factors
_FORMAT: Final = 1  # raised when an older reader would misread the files
_MICROS_PER_DAY: Final = 86_400_000_000

History = Sequence[tuple[str, float | None]]  # (item id, rating); None or NaN: withdrawn


@dataclass(frozen=True)
class ListModel:
    """Item factors with the trend and the rule that make lists of them (I items, by position).

    The score of an item is ``factor_weight * x_u.q_i / factor_scale + log(trend_i + trend_floor)``. With
    ``factor_weight`` null it is ``x_u.q_i``, and items without factors come last. A user nobody knows is listed what
    trends.

    Attributes:
        factors: the factorization.
        item_ids: I ids; an item's position is its index.
        popularity: int64 (I,), ratings of all time.
        trend: float32 (I,), ratings decayed by age, as of ``as_of_us``.
        ranking: the rule's parameters.
        trained_through_us: newest rating the factors may know, microseconds UTC; no later judgement is tainted.
        as_of_us: the moment ``trend`` and the ages of ratings are counted from.
        factor_scale: how large ``x_u.q_i`` is at the top of lists, measured once (``recsys.evaluation.tune``); 1 when
            it was not.
    """

    factors: FactorModel
    item_ids: list[str]
    popularity: NDArray[np.int64]
    trend: NDArray[np.float32]
    ranking: RankingParams
    trained_through_us: int
    as_of_us: int
    factor_scale: float = 1.0

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def is_personal(self) -> bool:
        """Whether lists depend on the user at all."""
        return self.ranking.factor_weight != 0

    @cached_property
    def positions(self) -> dict[str, int]:
        """Item id → position."""
        return {item_id: position for position, item_id in enumerate(self.item_ids)}

    def scorer(self, available: NDArray[np.bool_] | None = None) -> Scorer:
        """The rule as arrays; items that are not ``available`` (bool (I,)) are never listed."""
        if available is None:
            return self._scorer
        never = np.float32(-np.inf)
        prior, fallback = (np.where(available, scores, never) for scores in (self._scorer.prior, self._scorer.fallback))
        return Scorer(self._scorer.weight, prior, fallback)

    @cached_property
    def _scorer(self) -> Scorer:
        trending = np.log(self.trend + np.float32(self.ranking.trend_floor))
        if self.ranking.factor_weight is None:
            weight, prior = 1.0, np.where(self.factors.item_factors.any(axis=1), np.float32(0), trending + _LAST)
        else:
            weight, prior = self.ranking.factor_weight / self.factor_scale, trending
        if self.factors.params.biases:
            prior = prior + np.float32(weight) * self.factors.item_biases
        return Scorer(weight, prior, trending)

    def solve(
        self,
        offsets: NDArray[np.int64],
        items: NDArray[np.int32],
        values: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> SolvedUsers:
        """Fold users in (``recsys.als.model.solve_users``); zeros when lists do not depend on them."""
        if self.is_personal:
            return solve_users(self.factors, offsets, items, values, weights)
        n_users = len(offsets) - 1
        return SolvedUsers(np.zeros((n_users, self.factors.params.rank), np.float32), np.zeros(n_users, np.float32))

    def recommend(
        self, histories: Sequence[History], n: int | None = None, *, times_us: Sequence[Sequence[int]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """List every user's best unseen items from his history, best first.

        Items the model does not know are left out; of an item named twice the later entry counts. Lists are shorter
        than ``n`` only where the catalogue is.

        Args:
            histories: one a user; an empty one gets the fallback list.
            n: items a list; None: ``ranking.list_length``.
            times_us: when each rating was given, shaped like ``histories``; None: all count fully. Used only by models
                whose ratings are weighted by age (``als.rating_half_life_days``).

        Returns:
            One list of (item id, score) a user.

        Raises:
            UsageError: an infinite rating.
        """
        ratings = [self._read_history(history, number) for number, history in enumerate(histories)]
        offsets = np.cumsum([0, *(len(rating) for rating in ratings)], dtype=np.int64)
        items = np.array([position for rating in ratings for position in rating], dtype=np.int32)
        entries = [(user, entry) for user, rating in enumerate(ratings) for entry in rating.values()]
        values = np.array([histories[user][entry][1] for user, entry in entries], dtype=np.float32)
        weights = np.ones(len(items), dtype=np.float32)
        half_life_days = self.factors.params.rating_half_life_days
        if times_us is not None and half_life_days is not None:
            times = np.array([times_us[user][entry] for user, entry in entries], dtype=np.int64)
            weights = np.exp2(-np.maximum(self.as_of_us - times, 0) / (half_life_days * _MICROS_PER_DAY))
        x = self.solve(offsets, items, values, weights.astype(np.float32)).x
        listed = list_users(
            self.factors.item_factors, x, offsets, items, [self.scorer()], n or self.ranking.list_length
        )
        return [self._name_items(positions, scores) for positions, scores in zip(*listed[0], strict=True)]

    def list_fallback(self, available: NDArray[np.bool_] | None = None) -> list[tuple[str, float]]:
        """The list for users nobody knows: what trends, as (item id, score)."""
        nobody = np.zeros((1, self.factors.params.rank), dtype=np.float32)
        nothing = np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int32)
        scorers = [self.scorer(available)]
        listed = list_users(self.factors.item_factors, nobody, *nothing, scorers, self.ranking.list_length)
        return self._name_items(listed[0][0][0], listed[0][1][0])

    def factors_only(self) -> "ListModel":
        """The same model ranked by its factors alone: whether they learned anything, the trend set aside."""
        return replace(self, ranking=self.ranking.model_copy(update={"factor_weight": None}))

    def listed_as(self, ranking: RankingParams) -> "ListModel":
        """The same model with the length and the reasons of its lists from ``ranking``; its tuned rule stays."""
        update = {"list_length": ranking.list_length, "explained_by": ranking.explained_by}
        return replace(self, ranking=self.ranking.model_copy(update=update))

    def refreshed(
        self, item_ids: list[str], popularity: NDArray[np.int64], trend: NDArray[np.float32], *, as_of_us: int
    ) -> "ListModel":
        """The same factors with today's counts and items; new items have zero factors and can only trend.

        Raises:
            ValueError: ``item_ids`` does not begin with the model's own: positions are never reused.
        """
        if item_ids[: self.n_items] != self.item_ids:
            raise ValueError(f"{len(item_ids)} item ids do not begin with the {self.n_items} the model was fitted on.")
        return replace(
            self,
            factors=self.factors.extended_to(len(item_ids)),
            item_ids=item_ids,
            popularity=popularity,
            trend=trend,
            as_of_us=as_of_us,
        )

    def problems(self) -> tuple[str, ...]:
        """What makes the model unfit to serve, in words; empty when nothing does."""
        n_items, rank = self.n_items, self.factors.params.rank
        arrays: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "item factors": (self.factors.item_factors, (n_items, rank)),
            "item biases": (self.factors.item_biases, (n_items,)),
            "popularity": (self.popularity, (n_items,)),
            "trend": (self.trend, (n_items,)),
        }
        found = [] if n_items else ["the item set is empty"]
        if len(set(self.item_ids)) < n_items:
            found.append(f"{n_items - len(set(self.item_ids))} item ids are there twice")
        for name, (array, shape) in arrays.items():
            if array.shape != shape:
                found.append(f"the {name} have shape {array.shape}, expected {shape}")
            elif bad := int(np.size(array) - np.isfinite(array).sum()):
                found.append(f"{bad} of {array.size} values of the {name} are not finite")
        if not np.isfinite(self.factors.mean):
            found.append("the mean rating is not finite")
        if not 0 < self.factor_scale < np.inf:
            found.append(f"the factor scale is {self.factor_scale}")
        if (self.trend < 0).any() or (self.popularity < 0).any():
            found.append("popularity or trend is negative")
        return tuple(found)

    def to_files(self) -> dict[str, bytes]:
        """The model as named files, without pickle: arrays as ``.npy``, ids and ``model.json`` as JSON.

        ``model.json`` holds the parameters and the SHA-256 of every file, its own content included.
        """
        files = {name: _pack_array(array) for name, array in self._arrays().items()}
        files[ITEM_IDS] = json.dumps(self.item_ids, ensure_ascii=False).encode()
        manifest = {
            "format": _FORMAT,
            "als": self.factors.params.model_dump(),
            "ranking": self.ranking.model_dump(),
            "mean": float(self.factors.mean),
            "factor_scale": float(self.factor_scale),
            "trained_through_us": self.trained_through_us,
            "as_of_us": self.as_of_us,
            "files": {name: sha256(content).hexdigest() for name, content in files.items()},
        }
        return {**files, MANIFEST: _seal(manifest)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "ListModel":
        """Read what :meth:`to_files` wrote; nothing in the files is executed, and files it does not know are ignored.

        Raises:
            ModelArtifactError: a file is missing or not what ``model.json`` says (tampered with), or the model is
                not fit to serve (:meth:`problems`).
        """
        manifest = _unseal(files)
        try:
            params = AlsParams.model_validate(manifest["als"])
            item_ids = json.loads(files[ITEM_IDS])
            if not all(isinstance(item_id, str) for item_id in item_ids):
                raise TypeError(f"{ITEM_IDS} holds something else than text")
            arrays = {name: _unpack_array(name, files[name]) for name in _ARRAYS}
            model = cls(
                factors=FactorModel(params, arrays[_FACTORS], arrays[_BIASES], float(manifest["mean"])),
                item_ids=item_ids,
                popularity=arrays[_POPULARITY],
                trend=arrays[_TREND],
                ranking=RankingParams.model_validate(manifest["ranking"]),
                trained_through_us=int(manifest["trained_through_us"]),
                as_of_us=int(manifest["as_of_us"]),
                factor_scale=float(manifest["factor_scale"]),
            )
        except (KeyError, TypeError, ValueError) as err:
            raise ModelArtifactError(f"{MANIFEST} does not describe this model: {' '.join(str(err).split())}.") from err
        if problems := model.problems():
            raise ModelArtifactError(f"the model is not fit to serve: {'; '.join(problems)}. Fit a new one.")
        return model

    def _arrays(self) -> dict[str, NDArray[Any]]:
        values = (self.factors.item_factors, self.factors.item_biases, self.popularity, self.trend)
        return dict(zip(_ARRAYS, values, strict=True))

    def _read_history(self, history: History, user: int) -> dict[int, int]:
        """Position of each rated item the model knows → index of its entry, last entry winning."""
        rated: dict[int, int] = {}
        for entry, (item_id, value) in enumerate(history):
            position = self.positions.get(item_id)
            if position is None:
                continue
            rated.pop(position, None)
            if value is None or np.isnan(value):
                continue
            if not np.isfinite(value):
                raise UsageError(f"history {user}: the rating of item '{item_id}' is {value}. Send a finite number.")
            rated[position] = entry
        return rated

    def _name_items(self, positions: NDArray[np.int32], scores: NDArray[np.float32]) -> list[tuple[str, float]]:
        pairs = zip(positions.tolist(), scores.tolist(), strict=True)
        return [(self.item_ids[position], score) for position, score in pairs if position >= 0]


def trend_model(
    item_ids: list[str], popularity: NDArray[np.int64], trend: NDArray[np.float32], *, as_of_us: int
) -> ListModel:
    """The baseline that lists to everybody what trends; popularity of all time when ``trend`` is that."""
    n_items = len(item_ids)
    return ListModel(
        factors=FactorModel(AlsParams(rank=1), np.zeros((n_items, 1), np.float32), np.zeros(n_items, np.float32), 0.0),
        item_ids=item_ids,
        popularity=popularity,
        trend=trend,
        ranking=RankingParams(factor_weight=0.0),
        trained_through_us=as_of_us,
        as_of_us=as_of_us,
    )


def popularity_model(item_ids: list[str], popularity: NDArray[np.int64], *, as_of_us: int) -> ListModel:
    """The baseline that lists to everybody what has most ratings of all time."""
    return trend_model(item_ids, popularity, popularity.astype(np.float32), as_of_us=as_of_us)


def _pack_array(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _unpack_array(name: str, content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(BytesIO(content), allow_pickle=False)
    if array.dtype != _ARRAYS[name]:
        raise TypeError(f"{name} holds {array.dtype}, expected {np.dtype(_ARRAYS[name])}")
    return array


def _seal(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON, with the hash of the rest of it first."""
    content = json.dumps(manifest, indent=1, sort_keys=True)
    return json.dumps({"sha256": sha256(content.encode()).hexdigest(), **manifest}, indent=1, sort_keys=True).encode()


def _unseal(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest, once it and every file it names are what was written, to the byte."""
    if MANIFEST not in files:
        raise ModelArtifactError(f"{MANIFEST} is missing (found: {', '.join(sorted(files)) or 'nothing'}).")
    try:
        manifest = json.loads(files[MANIFEST])
        sealed = {key: value for key, value in manifest.items() if key != "sha256"}
        expected = {name: sealed["files"][name] for name in (*_ARRAYS, ITEM_IDS)}
        is_known = sealed["format"] == _FORMAT
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise ModelArtifactError(f"{MANIFEST} cannot be read: {err}. Restore the artifact from its run.") from err
    if _seal(sealed) != files[MANIFEST]:
        raise ModelArtifactError(f"{MANIFEST} was tampered with: its SHA-256 differs. Restore the artifact.")
    if not is_known:
        raise ModelArtifactError(f"{MANIFEST} has format {sealed['format']}; this version reads format {_FORMAT}.")
    for name, digest in expected.items():
        if name not in files:
            raise ModelArtifactError(f"{name} is missing. Restore the artifact from its run.")
        if sha256(files[name]).hexdigest() != digest:
            raise ModelArtifactError(f"{name} was tampered with: its SHA-256 differs from {MANIFEST}. Restore it.")
    return sealed
