"""The demo's files: what lands is the sample, day by day, and the few rows that were put in to be refused."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo import run
from demo.landing_files import LandingFile, Rating, plan_steps

DAY = 86_400
# Ten a day, from midnight on.
RATINGS = [Rating(f"u{n % 7}", f"i{n}", str(1 + n % 10), 1_699_920_000 + n * DAY // 10) for n in range(500)]


def read_rows(file: LandingFile) -> list[tuple[str, str, float, int]]:
    """The rows that can be ratings, whatever the file's format."""
    content = file.content()
    if file.name.endswith(".parquet"):
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
    elif file.name.endswith(".jsonl"):
        rows = [json.loads(line) for line in content.decode().splitlines()]
    else:
        text = gzip.decompress(content) if file.name.endswith(".gz") else content
        rows = list(csv.DictReader(io.StringIO(text.decode())))
    known = {rating.user_id for rating in RATINGS}
    return [
        (row["user_id"], row["item_id"], float(row["rating"]), int(row["timestamp"]))
        for row in rows
        if row["user_id"] in known
    ]


def test_every_rating_lands_once_and_one_row_a_day_and_one_file_come_again() -> None:
    history, *refreshes = plan_steps(RATINGS, refreshes=3)
    assert [file.name for file in history] == ["history.csv.gz"]
    days = [file for step in refreshes for file in step if not file.name.startswith("redelivered")]
    assert {file.name.rpartition(".")[2] for file in days} == {"csv", "jsonl", "parquet"}
    landed = read_rows(history[0])
    for file in days:
        *rows, again = read_rows(file)
        assert again == rows[0]
        landed += rows
    expected = [(rating.user_id, rating.item_id, float(rating.value), rating.second) for rating in RATINGS]
    assert sorted(landed) == sorted(expected)
    assert len(history + days) == len({file.name for file in history + days}) == 1 + 10
    again, first = refreshes[1][-1], refreshes[1][0]
    assert again.name == f"redelivered-{first.name}"
    assert again.content() == first.content()


def test_a_catalogue_whose_unpacking_was_killed_is_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: no handler of ours catches it."""

    write_bytes = Path.write_bytes

    def write_half(file: Path, content: bytes) -> int:
        write_bytes(file, content[: len(content) // 2])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(Killed):
            run.place_catalogue(tmp_path)
    run.place_catalogue(tmp_path)
    whole = gzip.decompress((run.SAMPLE / "movies.dat.gz").read_bytes())
    assert (tmp_path / "catalogue" / "movies.dat").read_bytes() == whole
