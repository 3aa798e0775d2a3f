"""The engine behind the interface of ``pyspark.ml.recommendation.ALS``, for jobs that want the factorization alone.

Change the import and keep the job::

    from recsys.ml import ALS, ALSModel

What happens in a fit: distinct item ids are numbered on the driver; ratings are shuffled once by user and packed into
blocks of users (recsys.schemas.SPLIT_BLOCKS, with ids in their own type); ``recsys.als.fit.fit`` makes the sweeps over
the blocks; users are then solved once more against the final items, as Spark's ALS solves users last.

Needs a classic session: over Spark Connect there are no RDDs, which the passes run on.
"""

# ruff: noqa: N802, N815 - names as in Spark

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Self, TypedDict, Unpack, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast, StorageLevel, TaskContext
from pyspark.ml.base import Estimator, Model
from pyspark.ml.param import Param, Params, TypeConverters

# The parameters, their defaults and their getters are Spark's own, so that they cannot drift apart from them.
from pyspark.ml.recommendation import _ALSModelParams, _ALSParams
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    ByteType,
    DataType,
    DecimalType,
    FloatType,
    FractionalType,
    IntegerType,
    LongType,
    NumericType,
    ShortType,
    StringType,
    StructField,
    StructType,
)

from recsys import columns as c
from recsys.als.fit import SweepReport
from recsys.als.fit import fit as fit_blocks
from recsys.als.model import FactorModel, solve_users
from recsys.als.params import AlsParams
from recsys.blocks.codec import SplitBlock, encode_row, gather_batches, iter_rows, pack_items, pack_values
from recsys.errors import DataRejectedError, ModelArtifactError, NothingToTrainError, RatingsSchemaError
from recsys.ranking.topn import Scorer, list_users
from recsys.schemas import SPLIT_BLOCKS

Progress = Callable[[SweepReport], None]

# Columns of the factors, as Spark names them, and of the lists.
ID: Final = "id"
FEATURES: Final = "features"
BIAS: Final = "bias"
SEEN: Final = "seen"
RATING: Final = "rating"
RECOMMENDATIONS: Final = "recommendations"

_BAD_USERS: Final = "bad_users"
_BAD_VALUES: Final = "bad_values"
_RANGE: Final = "range"
_PART: Final = "part"

_EXPONENTS: Final = {"count": 1.0, "flat": 0.0}
_COLD_START: Final = ("nan", "drop")
_BATCH_ROWS: Final = 10_000  # Spark's own default
_SEED: Final = 42

_lock = threading.Lock()  # a cross validator fits in several threads
# Cached users of models that are gone: released by the next fit and not by the garbage collector, which may run in the
# middle of a call to the JVM, on the connection that a call of its own would use.
_forgotten: "deque[DataFrame]" = deque()


class AlsOptions(TypedDict, total=False):
    """Keyword arguments of ``ALS(...)`` and ``ALS.setParams(...)``: Spark's, and below the line ours."""

    rank: int
    maxIter: int
    regParam: float
    numUserBlocks: int
    numItemBlocks: int
    implicitPrefs: bool
    alpha: float
    userCol: str
    itemCol: str
    seed: int | None
    ratingCol: str | None
    predictionCol: str
    nonnegative: bool
    checkpointInterval: int
    intermediateStorageLevel: str
    finalStorageLevel: str
    coldStartStrategy: str
    blockSize: int
    # ---
    initialModel: "ALSModel | None"
    regScaling: str | float
    biases: bool
    progress: Progress | None


@dataclass(frozen=True)
class ItemSide:
    """The items of a model (I items), all in memory: they fit everywhere.

    Attributes:
        ids: arrow array (I,), ascending.
        factors: float32 (I, rank).
        biases: float32 (I,); zeros without biases.
        mean: added to every score; 0 without biases.
        biased: whether there are biases.
    """

    ids: pa.Array
    factors: NDArray[np.float32]
    biases: NDArray[np.float32]
    mean: float
    biased: bool

    @property
    def rank(self) -> int:
        """Number of factors."""
        return int(self.factors.shape[1])

    @property
    def seen_type(self) -> Any:
        """The unsigned type in which users' seen items are kept: two bytes where all positions fit."""
        return np.uint16 if len(self.ids) <= 1 << 16 else np.uint32


class _Users:
    """A DataFrame of users (id, features, bias, seen) that stays cached for as long as a model needs it."""

    def __init__(self, rows: DataFrame) -> None:
        self.rows = rows
        weakref.finalize(self, _forgotten.append, rows).atexit = False


class _IdColumns(_ALSModelParams):
    """Columns of ids, of types that Spark's ALS does not take."""

    userCol: Param[str] = Param(
        Params._dummy(),
        "userCol",
        "column name for user ids. Ids are whole numbers or strings.",
        typeConverter=TypeConverters.toString,
    )
    itemCol: Param[str] = Param(
        Params._dummy(),
        "itemCol",
        "column name for item ids. Ids are whole numbers or strings.",
        typeConverter=TypeConverters.toString,
    )


def _to_reg_scaling(value: Any) -> str | float:
    if isinstance(value, str):
        if value in _EXPONENTS:
            return value
        raise TypeError(f"'{value}' is neither 'count' nor 'flat' nor a number from 0 to 1.")
    return TypeConverters.toFloat(value)


def _to_model(value: Any) -> "ALSModel | None":
    if value is None or isinstance(value, ALSModel):
        return value
    raise TypeError(f"{type(value).__module__}.{type(value).__name__} is not a recsys.ml.ALSModel.")


class ALS(Estimator["ALSModel"], _IdColumns, _ALSParams, MLWritable, MLReadable["ALS"]):
    """Alternating least squares with the interface of ``pyspark.ml.recommendation.ALS``.

    The problem is Spark's: regularisation is ``regParam`` times the number of ratings of a user or item (for implicit
    preferences, of those above 0); every row is a term of its own, also where a (user, item) pair occurs twice; the
    implicit confidence is ``alpha |r|`` and the preference 1 where r > 0, else 0. Starts are random in both and not the
    same, so factors differ as those of two seeds do. After ``maxIter`` sweeps items were solved as often as by Spark's.

    Parameters as in Spark, with these differences:

    * ``userCol``, ``itemCol``: whole numbers of any numeric type, or strings. Ids of type byte, short and int come back
      as int, other numbers as long, strings as strings.
    * ``ratingCol``: ``""`` or None makes all ratings 1.
    * ``numUserBlocks``: partitions of the packed ratings, and so of the model's users; Spark's default parallelism
      unless set. A pass of the fit has as many tasks, but no more than that parallelism.
    * ``numItemBlocks``: taken and of no effect: items are never cut into blocks.
    * ``blockSize``: users in a packed block, and rows of a matrix product in the ``recommend`` calls.
    * ``checkpointInterval``: taken and of no effect: users are solved exactly, so no sweep depends on those before.
    * ``seed``: 42 unless set, the same in every process.
    * ``alpha``: above 0. ``rank``: at most 1024. ``nonnegative``: not supported.

    And what Spark's has not:

    * ``initialModel``: an ALSModel of the same rank to go on from. Items are matched by id, new ones start at zero;
      users need no start. ``maxIter=0`` solves the users of the data against its items and moves no item.
    * ``regScaling``: ``"count"`` as Spark; ``"flat"``: ``regParam`` for everyone; or a number nu from 0 to 1:
      ``regParam * n ** nu``.
    * ``biases``: learn a bias for every user and item around the mean rating (explicit ratings only).
    * ``progress``: called after every sweep with its number, seconds and loss. It is not saved. With or without it
      there is a log line for every sweep (logger ``recsys.als.fit``, level INFO).

    Data are read twice in a fit (distinct items, ratings): cache what is costly to compute.
    """

    initialModel: "Param[ALSModel | None]" = Param(
        Params._dummy(), "initialModel", "model whose item factors the fit starts from.", typeConverter=_to_model
    )
    regScaling: Param[Any] = Param(
        Params._dummy(),
        "regScaling",
        "how the regularization of a user or item grows with its n ratings: 'count' (n), 'flat' (not at all) or the "
        "exponent of n, from 0 to 1.",
        typeConverter=_to_reg_scaling,
    )
    biases: Param[bool] = Param(
        Params._dummy(),
        "biases",
        "whether users and items have biases around the mean rating. Explicit ratings only.",
        typeConverter=TypeConverters.toBoolean,
    )

    def __init__(self, **options: Unpack[AlsOptions]) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._setDefault(initialModel=None, regScaling="count", biases=False, seed=_SEED)
        self.setParams(**options)

    def setParams(self, **options: Unpack[AlsOptions]) -> Self:
        """Set several parameters; the class lists them."""
        params: dict[str, Any] = {**options}
        if "progress" in params:
            self._progress = params.pop("progress")
        if params.get("seed", _SEED) is None:
            del params["seed"]
        known = {param.name for param in self.params}
        unknown = sorted(params.keys() - known)
        if unknown:
            raise TypeError(f"ALS has no parameter {', '.join(unknown)}. It has: {', '.join(sorted(known))}, progress.")
        return self._set(**params)

    def setRank(self, value: int) -> Self:
        """Set ``rank``."""
        return self._set(rank=value)

    def setMaxIter(self, value: int) -> Self:
        """Set ``maxIter``."""
        return self._set(maxIter=value)

    def setRegParam(self, value: float) -> Self:
        """Set ``regParam``."""
        return self._set(regParam=value)

    def setNumUserBlocks(self, value: int) -> Self:
        """Set ``numUserBlocks``."""
        return self._set(numUserBlocks=value)

    def setNumItemBlocks(self, value: int) -> Self:
        """Set ``numItemBlocks``."""
        return self._set(numItemBlocks=value)

    def setNumBlocks(self, value: int) -> Self:
        """Set ``numUserBlocks`` and ``numItemBlocks``."""
        return self._set(numUserBlocks=value, numItemBlocks=value)

    def setImplicitPrefs(self, value: bool) -> Self:
        """Set ``implicitPrefs``."""
        return self._set(implicitPrefs=value)

    def setAlpha(self, value: float) -> Self:
        """Set ``alpha``."""
        return self._set(alpha=value)

    def setUserCol(self, value: str) -> Self:
        """Set ``userCol``."""
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set ``itemCol``."""
        return self._set(itemCol=value)

    def setRatingCol(self, value: str | None) -> Self:
        """Set ``ratingCol``; empty or None: all ratings are 1."""
        return self._set(ratingCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set ``predictionCol``."""
        return self._set(predictionCol=value)

    def setNonnegative(self, value: bool) -> Self:
        """Set ``nonnegative``; a fit refuses True."""
        return self._set(nonnegative=value)

    def setCheckpointInterval(self, value: int) -> Self:
        """Set ``checkpointInterval``, which has no effect."""
        return self._set(checkpointInterval=value)

    def setIntermediateStorageLevel(self, value: str) -> Self:
        """Set ``intermediateStorageLevel``: of the packed ratings during the fit."""
        return self._set(intermediateStorageLevel=value)

    def setFinalStorageLevel(self, value: str) -> Self:
        """Set ``finalStorageLevel``: of the model's users."""
        return self._set(finalStorageLevel=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set ``coldStartStrategy``: ``nan`` or ``drop``."""
        return self._set(coldStartStrategy=value)

    def setSeed(self, value: int) -> Self:
        """Set ``seed``."""
        return self._set(seed=value)

    def setBlockSize(self, value: int) -> Self:
        """Set ``blockSize``."""
        return self._set(blockSize=value)

    def setInitialModel(self, value: "ALSModel | None") -> Self:
        """Set ``initialModel``."""
        return self._set(initialModel=value)

    def getInitialModel(self) -> "ALSModel | None":
        """The value of ``initialModel``."""
        return self.getOrDefault(self.initialModel)

    def setRegScaling(self, value: str | float) -> Self:
        """Set ``regScaling``."""
        return self._set(regScaling=value)

    def getRegScaling(self) -> str | float:
        """The value of ``regScaling``."""
        scaling: str | float = self.getOrDefault(self.regScaling)
        return scaling

    def setBiases(self, value: bool) -> Self:
        """Set ``biases``."""
        return self._set(biases=value)

    def getBiases(self) -> bool:
        """The value of ``biases``."""
        return self.getOrDefault(self.biases)

    def setProgress(self, value: Progress | None) -> Self:
        """Set what is called after every sweep; None: nothing."""
        self._progress = value
        return self

    def getProgress(self) -> Progress | None:
        """What is called after every sweep."""
        return self._progress

    def write(self) -> MLWriter:
        """A writer of the parameters, and of the initial model where there is one."""
        return _ALSWriter(self)

    @classmethod
    def read(cls) -> "_ALSReader":
        """A reader of what ``write`` wrote."""
        return _ALSReader()

    def _fit(self, dataset: DataFrame) -> "ALSModel":
        """Fit a model.

        Raises:
            ValueError: a parameter out of range or not supported, with what to do.
            RatingsSchemaError: a column that is missing or of the wrong type.
            DataRejectedError: rows without an id or a finite rating, with how many.
            NothingToTrainError: no ratings.
        """
        _release_forgotten()
        params = self._check_params()
        tasks = self.getNumUserBlocks() if self.isSet(self.numUserBlocks) else _default_parallelism(dataset)
        ratings = _select_ratings(dataset, self.getUserCol(), self.getItemCol(), self.getRatingCol())
        item_ids = _count_items(ratings, self.getUserCol(), self.getItemCol(), self.getRatingCol())
        blocks = _pack_blocks(ratings, item_ids, tasks, self.getBlockSize())
        blocks.persist(_storage_level(self, self.intermediateStorageLevel))
        try:
            with _large_batches(dataset.sparkSession):
                blocks.count()
            items = self._fit_items(blocks, item_ids, params)
            users = _solve_users(blocks, items, params)
            level = _storage_level(self, self.finalStorageLevel)
            if level != StorageLevel.NONE:
                users.persist(level).count()
        finally:
            blocks.unpersist()
        model = ALSModel(items, _Users(users))
        model._resetUid(self.uid)
        return self._copyValues(model)

    def _fit_items(self, blocks: DataFrame, item_ids: pa.Array, params: AlsParams) -> ItemSide:
        initial = self.getInitialModel()
        start = None if initial is None else _match_items(initial._items, item_ids, params)
        if start is not None and self.getMaxIter() == 0:
            factors = start
        else:
            factors = fit_blocks(
                blocks, len(item_ids), params, start=start, max_sweeps=self.getMaxIter(), on_sweep=self._progress
            ).model
        return ItemSide(item_ids, factors.item_factors, factors.item_biases, factors.mean, params.biases)

    def _check_params(self) -> AlsParams:
        if self.getNonnegative():
            raise ValueError(
                "nonnegative=True is not supported: users and items are solved by least squares without constraints. "
                "Use pyspark.ml.recommendation.ALS for non-negative factors, or leave the parameter out."
            )
        scaling = self.getRegScaling()
        exponent = _EXPONENTS[scaling] if isinstance(scaling, str) else scaling
        initial = self.getInitialModel()
        limits = [
            ("rank", self.getRank(), 1 <= self.getRank() <= 1024, "must be from 1 to 1024"),
            ("maxIter", self.getMaxIter(), 0 <= self.getMaxIter() <= 1000, "must be from 0 to 1000"),
            (
                "maxIter",
                0,
                self.getMaxIter() > 0 or initial is not None,
                "needs an initialModel: items would be random",
            ),
            ("regParam", self.getRegParam(), self.getRegParam() >= 0, "must not be below 0"),
            ("alpha", self.getAlpha(), self.getAlpha() > 0, "must be above 0"),
            ("regScaling", scaling, 0 <= exponent <= 1, "must be 'count', 'flat' or from 0 to 1"),
            ("numUserBlocks", self.getNumUserBlocks(), self.getNumUserBlocks() >= 1, "must be at least 1"),
            ("blockSize", self.getBlockSize(), self.getBlockSize() >= 1, "must be at least 1"),
            ("biases", True, not (self.getBiases() and self.getImplicitPrefs()), "is for explicit ratings only"),
        ]
        for name, value, is_fine, rule in limits:
            if not is_fine:
                raise ValueError(f"ALS parameter {name}={value!r} {rule}.")
        _check_cold_start(self)
        if _storage_level(self, self.intermediateStorageLevel) == StorageLevel.NONE:
            raise ValueError("ALS parameter intermediateStorageLevel='NONE' is not allowed: sweeps would pack again.")
        _storage_level(self, self.finalStorageLevel)
        if initial is not None and initial.rank != self.getRank():
            raise ValueError(
                f"initialModel has rank {initial.rank}, the fit rank {self.getRank()}. "
                f"Set rank={initial.rank}, or leave initialModel out for a fit from a random start."
            )
        return AlsParams(
            objective="implicit" if self.getImplicitPrefs() else "explicit",
            rank=self.getRank(),
            reg=self.getRegParam(),
            reg_exponent=exponent,
            alpha=self.getAlpha(),
            biases=self.getBiases(),
            user_solver="exact",
            rating_half_life_days=None,
            seed=self.getSeed() % 2**63,
        )


class ALSModel(Model, _IdColumns, MLWritable, MLReadable["ALSModel"]):
    """A fitted factorization with the methods of ``pyspark.ml.recommendation.ALSModel``.

    Items are in the driver's memory, users in a DataFrame that is cached (``finalStorageLevel``) for as long as the
    model is in use. A prediction is ``x_u.q_i``, with biases plus the mean rating and both biases.
    """

    def __init__(self, items: ItemSide, users: _Users) -> None:
        super().__init__()
        self._items = items
        self._users = users
        # Made when first needed, and shared by the copies of a model.
        self._made: dict[str, Any] = {}

    def setUserCol(self, value: str) -> Self:
        """Set ``userCol``."""
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set ``itemCol``."""
        return self._set(itemCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set ``predictionCol``."""
        return self._set(predictionCol=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set ``coldStartStrategy``: ``nan`` or ``drop``."""
        return self._set(coldStartStrategy=value)

    def setBlockSize(self, value: int) -> Self:
        """Set ``blockSize``."""
        return self._set(blockSize=value)

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self._items.rank

    @property
    def userFactors(self) -> DataFrame:
        """Rows (id, features array<float>), one a user; with biases also the bias."""
        return self._users.rows.select(*self._factor_columns())

    @property
    def itemFactors(self) -> DataFrame:
        """Rows (id, features array<float>), one an item; with biases also the bias."""
        return self._item_rows().select(*self._factor_columns())

    def recommendForAllUsers(self, numItems: int, excludeSeen: bool = False) -> DataFrame:
        """The items with the highest predictions for each user.

        Args:
            numItems: length of a list, at most.
            excludeSeen: leave out what the user rated in the training data.

        Returns:
            Rows (userCol, recommendations array<struct<itemCol, rating: float>>), best first.
        """
        return self._list_items(self._users.rows, numItems, exclude_seen=excludeSeen)

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int, excludeSeen: bool = False) -> DataFrame:
        """``recommendForAllUsers`` for the users in ``userCol`` of a dataset; an unknown one has no row.

        Args:
            dataset: users; repeated ones are listed once.
            numItems: length of a list, at most.
            excludeSeen: leave out what the user rated in the training data.
        """
        users = self._among(self._users.rows, dataset, self.getUserCol())
        return self._list_items(users, numItems, exclude_seen=excludeSeen)

    def recommendForAllItems(self, numUsers: int, excludeSeen: bool = False) -> DataFrame:
        """The users with the highest predictions for each item.

        Args:
            numUsers: length of a list, at most.
            excludeSeen: leave out users who rated the item in the training data.

        Returns:
            Rows (itemCol, recommendations array<struct<userCol, rating: float>>), best first.
        """
        return self._list_users(numUsers, None, exclude_seen=excludeSeen)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int, excludeSeen: bool = False) -> DataFrame:
        """``recommendForAllItems`` for the items in ``itemCol`` of a dataset; an unknown one has no row.

        Runs a Spark job that finds the items.

        Args:
            dataset: items; repeated ones are listed once.
            numUsers: length of a list, at most.
            excludeSeen: leave out users who rated the item in the training data.
        """
        found = self._among(self._item_rows(), dataset, self.getItemCol()).select(c.POSITION).toArrow()
        return self._list_users(numUsers, np.sort(found[c.POSITION].to_numpy()), exclude_seen=excludeSeen)

    def write(self) -> MLWriter:
        """A writer of JSON metadata and Parquet: no pickle."""
        return _ALSModelWriter(self)

    @classmethod
    def read(cls) -> "_ALSModelReader":
        """A reader of what ``write`` wrote."""
        return _ALSModelReader()

    def __repr__(self) -> str:
        return f"ALSModel: uid={self.uid}, rank={self.rank}"

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """The dataset with its predictions; unknown users or items have NaN, or no row if the strategy is ``drop``."""
        _check_cold_start(self)
        prediction = self.getPredictionCol()
        if prediction in dataset.columns:
            raise RatingsSchemaError(
                f"the dataset already has a column '{prediction}'. Drop it, or set another predictionCol."
            )
        user_key, item_key = f"{self.uid}_user", f"{self.uid}_item"
        keyed = dataset.withColumns(
            {
                user_key: self._key(dataset, self.getUserCol(), self._users.rows, strict=True),
                item_key: self._key(dataset, self.getItemCol(), self._item_rows(), strict=True),
            }
        )
        item_positions = self._item_rows().select(ID, c.POSITION)
        rated, users, items = keyed.alias("rated"), self._users.rows.alias("users"), item_positions.alias("items")
        joined = rated.join(users, sf.col(f"rated.{user_key}") == sf.col(f"users.{ID}"), "left").join(
            sf.broadcast(items), sf.col(f"rated.{item_key}") == sf.col(f"items.{ID}"), "left"
        )
        # Spark's stubs want the kind of function, and Spark itself warns where it is given beside annotations.
        score = arrow_udf(_predictor(self._share()), FloatType())  # type: ignore[call-overload]
        scores = score(sf.col(f"users.{FEATURES}"), sf.col(f"users.{BIAS}"), sf.col(f"items.{c.POSITION}"))
        predicted = joined.select("rated.*", scores.alias(prediction)).drop(user_key, item_key)
        if self.getColdStartStrategy().lower() == "drop":
            return predicted.where(~sf.isnan(_column(prediction)))
        return predicted

    def _list_items(self, users: DataFrame, n: int, *, exclude_seen: bool) -> DataFrame:
        schema = self._list_schema(self.getUserCol(), self._user_type(), self.getItemCol(), self._item_type())
        _check_length(n)
        task = partial(
            _list_items,
            shared=self._share(),
            n=min(n, len(self._items.ids)),
            exclude_seen=exclude_seen,
            rows=self.getBlockSize(),
            schema=to_arrow_schema(schema),
        )
        return users.mapInArrow(task, schema)

    def _list_users(self, n: int, positions: NDArray[np.int32] | None, *, exclude_seen: bool) -> DataFrame:
        _check_length(n)
        user_type, item_type = self._user_type(), self._item_type()
        schema = self._list_schema(self.getItemCol(), item_type, self.getUserCol(), user_type)
        best = StructType(
            [
                StructField(_RANGE, IntegerType()),
                StructField(_PART, IntegerType()),
                StructField(c.POSITION, BinaryType()),
                StructField(c.USER_IDS, ArrayType(user_type)),
                StructField(c.SCORE, BinaryType()),
            ]
        )
        shared = self._share()
        find = partial(
            _list_users_of_part,
            shared=shared,
            n=n,
            positions=positions,
            exclude_seen=exclude_seen,
            step=self.getBlockSize(),
            schema=to_arrow_schema(best),
        )
        arrow_schema = to_arrow_schema(schema)

        def merge(pieces: pa.Table) -> pa.Table:  # no partial: Spark reads the annotations
            return _merge_lists(pieces, shared.value, n, arrow_schema)

        return self._users.rows.mapInArrow(find, best).groupBy(_RANGE).applyInArrow(merge, schema)

    @staticmethod
    def _list_schema(owner: str, owner_type: DataType, listed: str, listed_type: DataType) -> StructType:
        entry = StructType([StructField(listed, listed_type), StructField(RATING, FloatType())])
        return StructType([StructField(owner, owner_type), StructField(RECOMMENDATIONS, ArrayType(entry))])

    def _among(self, rows: DataFrame, dataset: DataFrame, name: str) -> DataFrame:
        """The rows whose id is in a column of the dataset."""
        wanted = dataset.select(self._key(dataset, name, rows, strict=False).alias(ID))
        same = sf.col(f"rows.{ID}") == sf.col(f"wanted.{ID}")
        return rows.alias("rows").join(wanted.alias("wanted"), same, "left_semi")

    @staticmethod
    def _key(dataset: DataFrame, name: str, rows: DataFrame, *, strict: bool) -> Column:
        """Ids of a dataset in the type of the model's; strict: a null or a fraction fails the job."""
        wanted = rows.schema[ID].dataType
        found = _id_type(dataset, name)
        if isinstance(found, StringType) != isinstance(wanted, StringType):
            raise RatingsSchemaError(
                f"column '{name}' has type {found.simpleString()}, the model's ids {wanted.simpleString()}. "
                "Cast the column to the type that the model was fitted on."
            )
        ids = _ids(dataset, name)
        if strict:
            ids = sf.coalesce(ids, sf.raise_error(f"{_bad_ids(name)}. Filter these rows out before transform."))
        # An id that the model's type cannot hold is an unknown one.
        return ids.try_cast(wanted)

    def _factor_columns(self) -> list[str]:
        return [ID, FEATURES, BIAS] if self._items.biased else [ID, FEATURES]

    def _user_type(self) -> DataType:
        return self._users.rows.schema[ID].dataType

    def _item_type(self) -> DataType:
        return self._item_rows().schema[ID].dataType

    def _item_rows(self) -> DataFrame:
        """Rows (id, position, features, bias)."""
        if "item_rows" not in self._made:
            items = self._items
            columns = {
                ID: items.ids,
                c.POSITION: pa.array(np.arange(len(items.ids), dtype=np.int32)),
                FEATURES: _lists_of(items.factors),
                BIAS: pa.array(items.biases),
            }
            self._made["item_rows"] = self._users.rows.sparkSession.createDataFrame(pa.table(columns))
        rows: DataFrame = self._made["item_rows"]
        return rows

    def _share(self) -> "Broadcast[ItemSide]":
        if "broadcast" not in self._made:
            self._made["broadcast"] = self._users.rows.sparkSession.sparkContext.broadcast(self._items)
        shared: Broadcast[ItemSide] = self._made["broadcast"]
        return shared


class _ALSWriter(MLWriter):
    """Parameters as Spark's writers of Python estimators write them; the initial model beside them."""

    _INITIAL: ClassVar = "initialModel"

    def __init__(self, instance: ALS) -> None:
        super().__init__()
        self._instance = instance

    def saveImpl(self, path: str) -> None:
        """Write to ``path``, which must not exist."""
        als, initial = self._instance, self._instance.getInitialModel()
        plain = {param.name: value for param, value in als._paramMap.items() if param.name != self._INITIAL}
        extra = {self._INITIAL: initial is not None}
        DefaultParamsWriter.saveMetadata(als, path, self.sparkSession, extraMetadata=extra, paramMap=plain)
        if initial is not None:
            initial.write().session(self.sparkSession).save(f"{path}/{self._INITIAL}")


class _ALSReader(MLReader[ALS]):
    def load(self, path: str) -> ALS:
        """The estimator that was saved at ``path``; without its progress callback."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        _check_class(metadata, ALS, path)
        als = ALS()
        als._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(als, metadata)
        if metadata[_ALSWriter._INITIAL]:
            als.setInitialModel(ALSModel.read().session(self.sparkSession).load(f"{path}/{_ALSWriter._INITIAL}"))
        return als


class _ALSModelWriter(MLWriter):
    """``metadata`` in JSON; in Parquet ``itemFactors`` (id, position, features, bias) and ``userFactors``."""

    def __init__(self, instance: ALSModel) -> None:
        super().__init__()
        self._instance = instance

    def saveImpl(self, path: str) -> None:
        """Write to ``path``, which must not exist."""
        model, items = self._instance, self._instance._items
        extra = {"rank": items.rank, "items": len(items.ids), "mean": items.mean, "biased": items.biased}
        DefaultParamsWriter.saveMetadata(model, path, self.sparkSession, extraMetadata=extra)
        model._item_rows().write.parquet(f"{path}/itemFactors")
        model._users.rows.write.parquet(f"{path}/userFactors")


class _ALSModelReader(MLReader[ALSModel]):
    def load(self, path: str) -> ALSModel:
        """The model that was saved at ``path``.

        Users are read when they are needed, as by Spark's: overwriting the path of a loaded model destroys it.

        Raises:
            ModelArtifactError: the files are not those of one whole model.
        """
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        _check_class(metadata, ALSModel, path)
        rows = self.sparkSession.read.parquet(f"{path}/itemFactors").toArrow().sort_by(c.POSITION)
        n, rank = metadata["items"], metadata["rank"]
        features, positions = rows[FEATURES].combine_chunks().flatten(), rows[c.POSITION].to_numpy()
        if not np.array_equal(positions, np.arange(n)) or len(features) != n * rank:
            raise ModelArtifactError(
                f"model at '{path}': itemFactors has {rows.num_rows} items with {len(features)} factors, the metadata "
                f"says {n} items of rank {rank}. The model is incomplete: save it again."
            )
        factors = _to_numpy(features).reshape(n, rank)
        biases = rows[BIAS].to_numpy()
        items = ItemSide(rows[ID].combine_chunks(), factors, biases, metadata["mean"], metadata["biased"])
        model = ALSModel(items, _Users(self.sparkSession.read.parquet(f"{path}/userFactors")))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _select_ratings(dataset: DataFrame, user: str, item: str, rating: str | None) -> DataFrame:
    """Rows (user_id, item_id, value float); an id that is null or no whole number is null."""
    value = sf.lit(1.0)
    if rating:
        found = _type_of(dataset, rating)
        if not isinstance(found, NumericType):
            raise RatingsSchemaError(
                f"column '{rating}' has type {found.simpleString()}, but ratings are numbers. "
                "Cast it, or set ratingCol to '' to make all ratings 1."
            )
        value = _column(rating)
    return dataset.select(
        _ids(dataset, user).alias(c.USER_ID), _ids(dataset, item).alias(c.ITEM_ID), value.cast("float").alias(c.VALUE)
    )


def _count_items(ratings: DataFrame, user: str, item: str, rating: str | None) -> pa.Array:
    """Distinct item ids, ascending (one Spark job); the same job looks for rows that cannot be used.

    Raises:
        DataRejectedError: there are some, with how many.
        NothingToTrainError: there are no rows.
    """
    value = sf.col(c.VALUE)
    is_finite = value.isNotNull() & ~sf.isnan(value) & (sf.abs(value) < float("inf"))
    counted = ratings.groupBy(c.ITEM_ID).agg(
        sf.count("*").alias(c.N_RATINGS),
        sf.count_if(sf.col(c.USER_ID).isNull()).alias(_BAD_USERS),
        sf.count_if(~is_finite).alias(_BAD_VALUES),
    )
    table = counted.toArrow()
    is_bad = pc.is_null(table[c.ITEM_ID])
    bad = {
        _bad_ids(user): pc.sum(table[_BAD_USERS]).as_py(),
        _bad_ids(item): pc.sum(table[c.N_RATINGS].filter(is_bad)).as_py(),
        f"column '{rating}' holds ratings that are null, NaN or infinite": pc.sum(table[_BAD_VALUES]).as_py(),
    }
    found = [f"{what} ({n:,} rows)" for what, n in bad.items() if n]
    if found:
        raise DataRejectedError(f"ratings cannot be used: {'; '.join(found)}. Filter these rows out before fit.")
    if table.num_rows == 0:
        raise NothingToTrainError("nothing to train on: the dataset has no rows. Check the filters that made it.")
    ids = table[c.ITEM_ID].combine_chunks()
    return ids.take(pc.sort_indices(ids))


def _pack_blocks(ratings: DataFrame, item_ids: pa.Array, tasks: int, users_per_block: int) -> DataFrame:
    """Rows of ``SPLIT_BLOCKS`` with user ids in their own type, nothing held out; ``tasks`` partitions.

    Independent of the order of the rows: users ascend by id within a partition, ratings by item, then value.
    """
    user_type = ratings.schema[c.USER_ID].dataType
    schema = StructType(
        [
            StructField(f.name, ArrayType(user_type), f.nullable) if f.name == c.USER_IDS else f
            for f in SPLIT_BLOCKS.fields
        ]
    )
    shared = ratings.sparkSession.sparkContext.broadcast(item_ids)
    pack = partial(_pack_part, shared=shared, users_per_block=users_per_block, schema=to_arrow_schema(schema))
    return ratings.repartition(tasks, c.USER_ID).mapInArrow(pack, schema)


def _pack_part(
    batches: Iterator[pa.RecordBatch], *, shared: "Broadcast[pa.Array]", users_per_block: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The blocks of one partition: ratings (user_id, item_id, value) in any order."""
    received = list(batches)
    if not received:
        return
    table = pa.Table.from_batches(received)
    positions = pc.index_in(table[c.ITEM_ID], value_set=shared.value)
    if positions.null_count:
        raise DataRejectedError(
            f"{positions.null_count:,} ratings name an item that was not there when items were counted: the dataset "
            "gives other rows each time it is read. Cache or checkpoint it before fit."
        )
    item = positions.to_numpy()
    value = table[c.VALUE].to_numpy() + np.float32(0)  # -0.0 and 0.0 are one rating
    encoded = table[c.USER_ID].dictionary_encode().combine_chunks()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    user = rank[_to_numpy(encoded.indices)]
    ids = encoded.dictionary.take(order)
    by_user = np.lexsort((value, item, user))
    user, item, value = user[by_user], item[by_user], value[by_user]
    starts = np.searchsorted(user, np.arange(len(ids) + 1)).astype(np.int64)
    part = _part_number()
    for number, first in enumerate(range(0, len(ids), users_per_block)):
        last = min(first + users_per_block, len(ids))
        own = slice(starts[first], starts[last])
        dictionary, codes = pack_values(value[own])
        row = {
            c.BUCKET: part,
            c.BLOCK: number,
            c.USER_IDS: ids[first:last],
            c.OFFSETS: (starts[first : last + 1] - starts[first]).tobytes(),
            c.ITEMS: pack_items(item[own]).tobytes(),
            c.VALUES: codes.tobytes(),
            c.DICTIONARY: dictionary.tobytes(),
            c.WEIGHTS: b"",
            c.HELD_OFFSETS: np.zeros(last - first + 1, np.int64).tobytes(),
            c.HELD_ITEMS: b"",
            c.HELD_VALUES: b"",
        }
        yield encode_row(row, schema)


def _solve_users(blocks: DataFrame, items: ItemSide, params: AlsParams) -> DataFrame:
    """Rows (id, features, bias, seen), one a user: solved against the items, and the positions of rated items."""
    ids = cast(ArrayType, blocks.schema[c.USER_IDS].dataType)
    schema = StructType(
        [
            StructField(ID, ids.elementType),
            StructField(FEATURES, ArrayType(FloatType())),
            StructField(BIAS, FloatType()),
            StructField(SEEN, BinaryType()),
        ]
    )
    model = FactorModel(params, items.factors, items.biases, items.mean)
    shared = blocks.sparkSession.sparkContext.broadcast(model)
    solve = partial(_solve_part, shared=shared, seen_type=items.seen_type, schema=to_arrow_schema(schema))
    columns = (c.BUCKET, c.BLOCK, c.USER_IDS, c.OFFSETS, c.ITEMS, c.VALUES, c.DICTIONARY, c.WEIGHTS)
    return blocks.select(*columns).mapInArrow(solve, schema)


def _solve_part(
    batches: Iterator[pa.RecordBatch], *, shared: "Broadcast[FactorModel]", seen_type: Any, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    model = shared.value
    for batch in batches:
        for row in iter_rows(batch):
            ids = row.pop(c.USER_IDS)
            block = SplitBlock.from_row(row)
            users = solve_users(model, block.offsets, block.items, block.values, block.weights)
            seen = block.items.astype(seen_type)
            ends = (block.offsets * seen.itemsize).astype(np.int32)
            buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(seen.tobytes())]
            columns = [
                ids,
                _lists_of(users.x),
                pa.array(users.biases),
                pa.Array.from_buffers(pa.binary(), len(ids), buffers),
            ]
            typed = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(typed, schema=schema)


def _match_items(initial: ItemSide, item_ids: pa.Array, params: AlsParams) -> FactorModel:
    """The initial model's items in the order of ``item_ids``, zeros for new ones."""
    if pa.types.is_string(initial.ids.type) != pa.types.is_string(item_ids.type):
        raise RatingsSchemaError(
            f"initialModel has item ids of type {initial.ids.type}, the dataset {item_ids.type}. Cast the column."
        )
    common = pa.string() if pa.types.is_string(item_ids.type) else pa.int64()
    found = pc.index_in(item_ids.cast(common), value_set=initial.ids.cast(common))
    is_known = _to_numpy(pc.is_valid(found))
    factors = np.zeros((len(item_ids), initial.rank), np.float32)
    biases = np.zeros(len(item_ids), np.float32)
    positions = _to_numpy(found.drop_null())
    factors[is_known] = initial.factors[positions]
    if params.biases:
        biases[is_known] = initial.biases[positions]
    return FactorModel(params, factors, biases, initial.mean if params.biases else 0.0)


@dataclass(frozen=True)
class _UserSide:
    """Some users (U users), read from rows.

    Attributes:
        ids: arrow array (U,).
        x: float32 (U, rank).
        biases: float32 (U,).
        seen_offsets: int64 (U + 1,) where each user's seen items start.
        seen_items: (N,) their positions.
    """

    ids: pa.Array
    x: NDArray[np.float32]
    biases: NDArray[np.float32]
    seen_offsets: NDArray[np.int64]
    seen_items: NDArray[Any]


def _read_users(batches: list[pa.RecordBatch], items: ItemSide, *, with_seen: bool) -> _UserSide:
    table = pa.Table.from_batches(batches)
    n = table.num_rows
    x = _to_numpy(table[FEATURES].combine_chunks().flatten()).reshape(n, items.rank)
    offsets, seen = np.zeros(n + 1, np.int64), np.empty(0, items.seen_type)
    if with_seen:
        packed = table[SEEN].combine_chunks().cast(pa.large_binary())
        _, ends, data = packed.buffers()
        ends = np.frombuffer(ends, np.int64)[packed.offset : packed.offset + n + 1]
        if data is not None:
            seen = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].copy().view(items.seen_type)
        offsets = (ends - ends[0]) // seen.itemsize
    return _UserSide(table[ID].combine_chunks(), x, table[BIAS].to_numpy(), offsets, seen)


def _list_items(
    batches: Iterator[pa.RecordBatch],
    *,
    shared: "Broadcast[ItemSide]",
    n: int,
    exclude_seen: bool,
    rows: int,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Each user's n best items."""
    items = shared.value
    prior = items.biases + np.float32(items.mean)
    # Without factors a user's prediction is what remains of the sum: the prior.
    scorer = Scorer(1.0, prior, prior)
    for gathered in gather_batches(batches, rows):
        users = _read_users(gathered, items, with_seen=exclude_seen)
        [(positions, scores)] = list_users(items.factors, users.x, users.seen_offsets, users.seen_items, [scorer], n)
        scores = scores + users.biases[:, None]
        yield _encode_lists(users.ids, items.ids, positions, scores, positions >= 0, schema)


def _list_users_of_part(
    batches: Iterator[pa.RecordBatch],
    *,
    shared: "Broadcast[ItemSide]",
    n: int,
    positions: NDArray[np.int32] | None,
    exclude_seen: bool,
    step: int,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Each item's n best users among those of one partition, in ranges of ``step`` items.

    The same top-N with the sides exchanged: the items are listed for, and the users are what is listed.
    """
    received = [batch for batch in batches if batch.num_rows]
    if not received:
        return
    items = shared.value
    users = _read_users(received, items, with_seen=exclude_seen)
    wanted = np.arange(len(items.ids), dtype=np.int32) if positions is None else positions
    by_item = np.argsort(users.seen_items, kind="stable")
    raters = np.repeat(np.arange(len(users.ids), dtype=np.int32), np.diff(users.seen_offsets))[by_item]
    starts = np.searchsorted(users.seen_items[by_item], np.arange(len(items.ids) + 1))
    scorer = Scorer(1.0, users.biases, users.biases)
    part, n = _part_number(), min(n, len(users.ids))
    for number, first in enumerate(range(0, len(wanted), step)):
        own = wanted[first : first + step]
        counts = starts[own + 1] - starts[own]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        seen = raters[np.repeat(starts[own] - offsets[:-1], counts) + np.arange(offsets[-1])]
        [(best, scores)] = list_users(users.x, items.factors[own], offsets, seen, [scorer], n)
        scores = scores + (items.biases[own] + np.float32(items.mean))[:, None]
        ids = users.ids.take(pa.array(best.ravel(), mask=best.ravel() < 0))
        row = {
            _RANGE: number,
            _PART: part,
            c.POSITION: own.tobytes(),
            c.USER_IDS: ids,
            c.SCORE: scores.astype(np.float32).tobytes(),
        }
        yield encode_row(row, schema)


def _merge_lists(pieces: pa.Table, items: ItemSide, n: int, schema: pa.Schema) -> pa.Table:
    """The n best of the lists that the partitions made for one range of items (R items)."""
    rows = sorted((row for batch in pieces.to_batches() for row in iter_rows(batch)), key=lambda row: row[_PART])
    positions = np.frombuffer(rows[0][c.POSITION], np.int32)
    scores, where, before = [], [], 0
    for row in rows:
        own = np.frombuffer(row[c.SCORE], np.float32).reshape(len(positions), -1)
        scores.append(own)
        where.append(before + np.arange(own.size).reshape(own.shape))
        before += own.size
    everyone, index = np.concatenate(scores, axis=1), np.concatenate(where, axis=1)
    best = np.argsort(-everyone, axis=1, kind="stable")[:, :n]
    top, index = np.take_along_axis(everyone, best, axis=1), np.take_along_axis(index, best, axis=1)
    ids = pa.concat_arrays([row[c.USER_IDS] for row in rows])
    lists = _encode_lists(items.ids.take(pa.array(positions)), ids, index, top, top > -np.inf, schema)
    return pa.Table.from_batches([lists])


def _encode_lists(
    owners: pa.Array,
    ids: pa.Array,
    index: NDArray[Any],
    scores: NDArray[np.float32],
    is_listed: NDArray[np.bool_],
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Rows (owner, list of structs): entry j of list u is ``ids[index[u, j]]`` with its score, where it is listed."""
    owner, lists = schema
    offsets = np.concatenate((np.zeros(1, np.int32), np.cumsum(is_listed.sum(axis=1), dtype=np.int32)))
    fields = list(lists.type.value_type)
    columns = [ids.take(pa.array(index[is_listed])).cast(fields[0].type), pa.array(scores[is_listed], pa.float32())]
    entries = pa.StructArray.from_arrays(columns, fields=fields)
    listed = pa.ListArray.from_arrays(pa.array(offsets), entries, type=lists.type)
    return pa.RecordBatch.from_arrays([owners.cast(owner.type), listed], schema=schema)


def _predictor(shared: "Broadcast[ItemSide]") -> Callable[[pa.Array, pa.Array, pa.Array], pa.Array]:
    def predict(features: pa.Array, biases: pa.Array, positions: pa.Array) -> pa.Array:  # no partial, as above
        return _predict(shared.value, features, biases, positions)

    return predict


def _predict(items: ItemSide, features: pa.Array, biases: pa.Array, positions: pa.Array) -> pa.Array:
    """Predictions of rows; NaN where a row's user (features) or item (position) is null."""
    is_known = _to_numpy(pc.and_(pc.is_valid(features), pc.is_valid(positions)))
    known = pa.array(is_known)
    x = _to_numpy(features.filter(known).flatten()).reshape(-1, items.rank)
    own = _to_numpy(positions.filter(known))
    scores = np.full(len(is_known), np.nan, np.float32)
    scores[is_known] = np.einsum("uk,uk->u", x, items.factors[own])
    if items.biased:
        scores[is_known] += _to_numpy(biases.filter(known)) + items.biases[own] + np.float32(items.mean)
    return pa.array(scores)


def _type_of(dataset: DataFrame, name: str) -> DataType:
    if name not in dataset.columns:
        raise RatingsSchemaError(
            f"column '{name}' is missing (found: {', '.join(dataset.columns)}). "
            "Rename it, or set userCol, itemCol or ratingCol."
        )
    return dataset.schema[name].dataType


def _id_type(dataset: DataFrame, name: str) -> DataType:
    """The type in which ids of a column are kept."""
    found = _type_of(dataset, name)
    if isinstance(found, StringType):
        return StringType()
    if isinstance(found, ByteType | ShortType | IntegerType):
        return IntegerType()
    if isinstance(found, NumericType):
        return LongType()
    raise RatingsSchemaError(
        f"column '{name}' has type {found.simpleString()}, but ids are whole numbers or strings. Cast the column."
    )


def _ids(dataset: DataFrame, name: str) -> Column:
    """The ids of a column in the type in which they are kept; null for what is not one."""
    kept, column = _id_type(dataset, name), _column(name)
    whole = column.try_cast(kept)
    if isinstance(_type_of(dataset, name), FractionalType | DecimalType):
        return sf.when(column == whole, whole)
    return whole


def _bad_ids(name: str) -> str:
    return f"column '{name}' holds ids that are null or not whole numbers"


def _column(name: str) -> Column:
    """A column by its exact name, which may hold dots."""
    return sf.col("`" + name.replace("`", "``") + "`")


def _lists_of(rows: NDArray[np.float32]) -> pa.ListArray:
    n, width = rows.shape
    return pa.ListArray.from_arrays(np.arange(0, (n + 1) * width, width, dtype=np.int32), pa.array(rows.ravel()))


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    array: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return array


def _part_number() -> int:
    context = TaskContext.get()
    return context.partitionId() if context else 0


def _check_length(n: int) -> None:
    if n < 1:
        raise ValueError(f"a list of {n} recommendations: ask for at least one.")


def _check_cold_start(params: _ALSModelParams) -> None:
    strategy = params.getColdStartStrategy()
    if strategy.lower() not in _COLD_START:
        raise ValueError(f"parameter coldStartStrategy={strategy!r} must be 'nan' or 'drop'.")


def _storage_level(als: ALS, param: Param[str]) -> StorageLevel:
    name = als.getOrDefault(param)
    level = getattr(StorageLevel, name, None)
    if not isinstance(level, StorageLevel):
        raise ValueError(f"ALS parameter {param.name}='{name}' is no storage level. Try 'MEMORY_AND_DISK'.")
    return level


def _check_class(metadata: dict[str, Any], expected: type, path: str) -> None:
    name = f"{expected.__module__}.{expected.__name__}"
    if metadata["class"] != name:
        raise ModelArtifactError(f"'{path}' holds a {metadata['class']}, not a {name}. Load it with that class.")


def _default_parallelism(dataset: DataFrame) -> int:
    return dataset.sparkSession.sparkContext.defaultParallelism


def _release_forgotten() -> None:
    with _lock:
        while _forgotten:
            rows = _forgotten.popleft()
            if rows.sparkSession.sparkContext._jsc is not None:  # not stopped, which has released them
                rows.unpersist()


@contextmanager
def _large_batches(session: SparkSession) -> Iterator[None]:
    """Arrow batches of at least Spark's default size while ratings are packed.

    A session may ask for few rows, because its rows are large, such as blocks; here a row is a rating.
    """
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    with _lock:
        before = str(session.conf.get(key))
        is_small = 0 < int(before) < _BATCH_ROWS
        if is_small:
            session.conf.set(key, str(_BATCH_ROWS))
        try:
            yield
        finally:
            if is_small:
                session.conf.set(key, before)
