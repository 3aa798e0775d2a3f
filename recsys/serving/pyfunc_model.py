"""The registered model as MLflow loads it: from this code and data files, never from a pickle, without Spark.

    model = mlflow.pyfunc.load_model("models:/recsys@champion")
    model.predict(pandas.DataFrame({"history": [[("0110912", 9.0), ("1375666", 8.0)], []]}), params={"n": 5})

``history`` holds one user's ratings a row. A rating is ``(item_id, value)`` or ``(item_id, value, event_time)``, a
mapping with these keys, or an item id alone; the whole list may be JSON text, which is what MLflow's scoring server
passes on. A value left out is 1 and null is a withdrawn rating. A time is a timestamp, ISO text (UTC unless it says
otherwise) or seconds since 1970; a rating without one counts as if given today. An empty history, or one of items the
model does not know, gets the list for users nobody knows.

The answer has a row for each row asked, under the same index, and in ``items`` the list, best first, of mappings with
``item_id`` and ``score``.

MLflow executes this file; it needs the package ``recsys`` with its ``serving`` requirements.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from recsys.columns import EVENT_TIME, ITEM_ID, ITEMS, SCORE, VALUE
from recsys.errors import UsageError
from recsys.ranking.model import ListModel

HISTORY = "history"

Rating = tuple[str, float | None, int | None]  # item id, value (None: withdrawn), microseconds UTC (None: today)


class RecommendationLists(PythonModel):  # type: ignore[misc]  # MLflow comes without types
    """Users' histories in, their lists out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read and check the data files.

        Raises:
            ModelArtifactError: a file is missing, altered or not finite.
        """
        folder = Path(context.artifacts["lists"])
        self._model = ListModel.from_files({file.name: file.read_bytes() for file in folder.iterdir()})

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recommend for each row's history; see the module's text.

        Args:
            context: Not used.
            model_input: Frame with the column ``history``.
            params: ``n``, the items on a list; 0 or none: as many as the model was made for.

        Raises:
            UsageError: a history that is not a list of ratings.
        """
        ratings = [read_history(cell, row) for row, cell in enumerate(model_input[HISTORY])]
        today = self._model.as_of_us
        lists = self._model.recommend(
            [[(item_id, value) for item_id, value, _ in history] for history in ratings],
            int((params or {}).get("n") or 0) or None,
            times_us=[[today if time is None else time for _, _, time in history] for history in ratings],
        )
        answers = [[{ITEM_ID: item_id, SCORE: score} for item_id, score in entries] for entries in lists]
        return pd.DataFrame({ITEMS: pd.Series(answers, index=model_input.index, dtype=object)})


def read_history(cell: Any, row: int) -> list[Rating]:
    """One cell of ``history``.

    Raises:
        UsageError: not a list of ratings; names the row.
    """
    try:
        entries = json.loads(cell) if isinstance(cell, str) else cell
        return [_read_rating(entry) for entry in ([] if entries is None else entries)]
    except (TypeError, ValueError, KeyError) as err:
        raise UsageError(
            f"history of row {row}: {repr(cell)[:200]} is not a list of ratings ({err}). Give [item_id, value] or "
            '[item_id, value, event_time] lists, {"item_id": …, "value": …, "event_time": …} mappings, or item ids.'
        ) from err


def _read_rating(entry: Any) -> Rating:
    if isinstance(entry, str):
        return entry, 1.0, None
    if isinstance(entry, Mapping):
        item_id, value, time = entry[ITEM_ID], entry.get(VALUE, 1.0), entry.get(EVENT_TIME)
    else:
        item_id, value, time = entry if len(entry) == 3 else (*entry, None)
    if not isinstance(item_id, str):
        raise TypeError(f"item id {item_id!r} is not text")
    return item_id, None if value is None else float(value), None if time is None else _read_time(time)


def _read_time(time: Any) -> int:
    """Microseconds since 1970 UTC."""
    stamp = pd.Timestamp(time, unit="s") if isinstance(time, int | float) else pd.Timestamp(time)
    in_utc = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
    return int(in_utc.value // 1000)


mlflow.models.set_model(RecommendationLists())
