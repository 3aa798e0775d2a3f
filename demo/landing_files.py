"""The sample as a production system would see it: a history, then a file a day, some of it poisoned."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

HISTORY_SHARE: Final = 0.8  # of the ratings, by time
FIELDS: Final = ("user_id", "item_id", "rating", "timestamp")

# What a day's file may hold beside good rows; None stands for a missing value. Each is quarantined with a reason.
POISON: Final = (
    ("", "0133093", "8", "{second}"),  # empty user id
    ("poison-1", "0133093", "NaN", "{second}"),
    ("poison-2", "0133093", "11", "{second}"),  # above the scale
    ("poison-3", "0133093", "good", "{second}"),
    ("poison-4", "0133093", "7", "4102444800"),  # the year 2100
    ("poison-5", "", "6", "{second}"),
    ("poison-6", "0133093", "Infinity", "{second}"),
    ("poison-7", "0133093", "5", "soon"),
)


@dataclass(frozen=True)
class Rating:
    """One line of the sample; ids and value stay the text they are."""

    user_id: str
    item_id: str
    value: str
    second: int

    @property
    def day(self) -> str:
        """Day in UTC, as 2013-08-01."""
        return datetime.fromtimestamp(self.second, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True)
class LandingFile:
    """A file that has yet to land: its name and how to make its bytes."""

    name: str
    content: Callable[[], bytes]

    def land(self, folder: Path) -> bool:
        """Write the file aside, then rename it; False when it is there already."""
        target = folder / self.name
        if target.exists():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{self.name}.tmp"
        aside.write_bytes(self.content())
        aside.rename(target)
        return True


def read_sample(folder: Path) -> list[Rating]:
    """The sample's ratings in time order (ties by user and item, so that the order is one and the same)."""
    with gzip.open(folder / "ratings.dat.gz", "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("::") for line in lines]
    ratings = [Rating(user, item, value, int(second)) for user, item, value, second in rows]
    return sorted(ratings, key=lambda rating: (rating.second, rating.user_id, rating.item_id))


def plan_steps(ratings: Sequence[Rating], refreshes: int) -> list[list[LandingFile]]:
    """The files of every step: first the history, then the days in ``refreshes`` even groups.

    Days rotate through CSV, JSON lines and Parquet. The second group also redelivers its first file under
    another name: its rows count as duplicates and change nothing.
    """
    cut = int(len(ratings) * HISTORY_SHARE)
    history, rest = ratings[:cut], ratings[cut:]
    steps = [[LandingFile("history.csv.gz", lambda: gzip.compress(_as_csv(_as_rows(history)), 6, mtime=0))]]
    days = [
        _day_file(number, day, list(of_day))
        for number, (day, of_day) in enumerate(groupby(rest, key=lambda rating: rating.day))
    ]
    size, larger = divmod(len(days), refreshes)
    begin = 0
    for step in range(refreshes):
        end = begin + size + (step < larger)
        steps.append(days[begin:end])
        begin = end
    again = steps[2][0]
    steps[2].append(LandingFile(f"redelivered-{again.name}", again.content))
    return steps


def _day_file(number: int, day: str, ratings: list[Rating]) -> LandingFile:
    ending, write = (("csv", _as_csv), ("jsonl", _as_json_lines), ("parquet", _as_parquet))[number % 3]
    return LandingFile(f"ratings-{day}.{ending}", lambda: write(_poisoned(number, ratings)))


def _poisoned(number: int, ratings: list[Rating]) -> list[tuple[str, ...]]:
    """The day's rows, three bad ones among them, and one row that the producer sent twice."""
    rows = _as_rows(ratings)
    for offset in range(3):
        bad = POISON[(3 * number + offset) % len(POISON)]
        second = str(ratings[0].second)
        rows.insert((offset + 1) * len(ratings) // 4, tuple(field.replace("{second}", second) for field in bad))
    return [*rows, rows[0]]


def _as_rows(ratings: Sequence[Rating]) -> list[tuple[str, ...]]:
    return [(rating.user_id, rating.item_id, rating.value, str(rating.second)) for rating in ratings]


def _as_csv(rows: Sequence[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(rows)
    return text.getvalue().encode()


def _as_json_lines(rows: Sequence[tuple[str, ...]]) -> bytes:
    objects = (dict(zip(FIELDS, map(_json_value, FIELDS, row), strict=True)) for row in rows)
    return "".join(f"{json.dumps(entry)}\n" for entry in objects).encode()


def _json_value(field: str, text: str) -> str | float | int:
    """Numbers as JSON numbers where they are some; what is not stays the text that a sloppy producer sends."""
    if field in ("rating", "timestamp") and text.isdigit():
        return int(text)
    return text


def _as_parquet(rows: Sequence[tuple[str, ...]]) -> bytes:
    """Typed columns: text that is no number arrives as null, as it does from a warehouse export."""
    users, items, values, seconds = zip(*rows, strict=True)
    table = pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "rating": pa.array([_number(value) for value in values], pa.float64()),
            "timestamp": pa.array([int(second) if second.isdigit() else None for second in seconds], pa.int64()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
