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
from demo.read_lists import Published, find_difference

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


def published(**lists: list[tuple[str, float, str]]) -> Published:
    return Published(1, 1, lists, {})


def test_lists_that_rounding_alone_has_changed_pass_for_the_same_and_no_others_do() -> None:
    rest = [(f"i{n}", float(n), "trending") for n in range(998, 0, -1)]
    entries = [("i1000", 999.0, "trending"), ("i999", 998.99996, "trending"), *rest]
    swapped = [("i999", 999.0, "trending"), ("i1000", 998.99992, "trending"), *rest]
    one = published(u1=entries, u2=entries, u3=[("i1", 1.0, "trending")])
    assert find_difference(one, one).is_rounding
    rounded = find_difference(one, published(u1=swapped, u2=entries, u3=[("i1", 1.0, "trending")]))
    assert (rounded.entries, rounded.n_entries) == (2, 2001)
    assert rounded.score == pytest.approx(4e-5, rel=0.01)
    assert rounded.is_rounding

    for other in (
        published(u1=swapped, u2=swapped, u3=[("i1", 1.0, "trending")]),  # 4 of 2,001
        published(u1=entries, u2=entries, u3=[("i1", 1.001, "trending")]),
        published(u1=entries, u2=entries),
        published(u1=entries, u2=entries, u3=[]),
        published(u1=entries, u2=entries, u3=[("i1", 1.0, "trending")], u4=[]),
    ):
        assert not find_difference(one, other).is_rounding
        assert not find_difference(other, one).is_rounding
