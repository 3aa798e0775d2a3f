"""Ratings that a producer hands over are there whole under one name, or not at all and the producer knows why."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.land_ratings import main
from recsys.errors import RatingsRefusedError, UsageError
from recsys.landing_writer import LARGEST, LandingWriter
from recsys.ratings.contract import UnknownColumns, load_contract
from recsys.ratings.params import LandingParams
from recsys.session import ROOT
from tests.jobs.pauses import Pauses

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")
NOW = datetime(2024, 6, 1, tzinfo=UTC).timestamp()
RATING = {"user_id": "u1", "item_id": "i1", "value": 5, "event_time": 1_700_000_000}


def open_writer(folder: Path, unknown: UnknownColumns = "ignore", **params: int) -> LandingWriter:
    contract = CONTRACT.model_copy(update={"unknown_columns": unknown})
    return LandingWriter(str(folder), contract, LandingParams(**params), clock=lambda: NOW)


def read(file: Path | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_every_value_lands_as_the_text_that_was_checked_under_the_first_name_of_its_column(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 600, tzinfo=timezone(timedelta(hours=1)))
    landed = open_writer(tmp_path).write(
        [
            {"movieId": "007", "user": " 7", "rating": 4.5, "timestamp": 1_700_000_000, "colour": "red"},
            {"item": "\u2028é", "userId": "7", "value": np.float64(3), "time": moment, "event_id": "e"},
            {"item": "i", "user": "u", "withdrawn": True, "time": moment.replace(tzinfo=None)},
        ]
    )
    assert landed.rows == 3
    assert read(landed.path) == [
        {"user_id": " 7", "item_id": "007", "value": "4.5", "event_time": "1700000000"},
        {
            "user_id": "7",
            "item_id": "\u2028é",
            "value": "3.0",
            "event_time": "2024-01-02T02:04:05.000600Z",
            "event_id": "e",
        },
        {"user_id": "u", "item_id": "i", "event_time": "2024-01-02T03:04:05.000600Z", "withdrawn": "true"},
    ]


def test_one_bad_rating_keeps_all_out_and_each_is_told_with_its_number_and_no_id(tmp_path: Path) -> None:
    bad = [{**RATING, "user_id": "secret\x00"}, {**RATING, "value": "1e400", "event_time": "soon"}]
    with pytest.raises(RatingsRefusedError) as refused:
        open_writer(tmp_path).write([RATING, *bad])
    assert str(refused.value).splitlines() == [
        "2 of 3 ratings would be refused (bad_user_id 1, value_not_finite 1, bad_event_time 1). Nothing was landed.",
        "rating 2: user_id holds control or undecodable characters",
        "rating 3: value '1e400' is not finite; event_time 'soon' is not a time",
    ]
    assert list(tmp_path.iterdir()) == []


def test_of_many_bad_ratings_twenty_are_described(tmp_path: Path) -> None:
    with pytest.raises(RatingsRefusedError) as refused:
        open_writer(tmp_path).write([{**RATING, "value": 11}] * 1_234)
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("1,234 of 1,234 ratings would be refused (value_out_of_range 1,234)")
    assert (len(lines), lines[-1]) == (22, "and 1,214 more")


@pytest.mark.parametrize(("unknown", "refused"), [("ignore", False), ("quarantine", True), ("reject", True)])
def test_a_column_that_the_contract_has_not_is_refused_where_ingestion_refuses_it(
    tmp_path: Path, unknown: UnknownColumns, refused: bool
) -> None:
    writer, ratings = open_writer(tmp_path, unknown), [{**RATING, "colour": "red"}]
    if refused:
        with pytest.raises(RatingsRefusedError, match="the contract has no column colour"):
            writer.write(ratings)
    else:
        assert writer.write(ratings).rows == 1


def test_half_a_character_pair_is_damage(tmp_path: Path) -> None:
    with pytest.raises(RatingsRefusedError, match="bad_item_id 1"):
        open_writer(tmp_path).write([{**RATING, "item_id": "\ud800"}])


def test_lines_and_files_above_the_limits_of_landing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RatingsRefusedError, match="long_line 1"):
        open_writer(tmp_path, max_line_bytes=60).write([RATING])
    with pytest.raises(RatingsRefusedError, match=r"landing\.max_file_bytes is 100"):
        open_writer(tmp_path, max_file_bytes=100).write([RATING] * 2)
    assert list(tmp_path.iterdir()) == []


def test_nothing_handed_over_is_nothing_landed(tmp_path: Path) -> None:
    landed = open_writer(tmp_path).write([])
    assert (landed.path, landed.rows) == (None, 0)
    assert list(tmp_path.iterdir()) == []


def test_files_of_every_format_of_text_land_alike(tmp_path: Path) -> None:
    folder = tmp_path / "landing"
    folder.mkdir()
    texts = {
        "a.csv": '\ufeffuser_id,movieId,rating,timestamp\r\nu,"i,""1""",5,1700000000\r\n\r\n',
        "b.dat": 'u::i,"1"::5::1700000000\n',
        "c.jsonl": '{"user": "u", "item": "i,\\"1\\"", "rating": 5, "time": 1700000000}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, newline="")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    expected = [{"user_id": "u", "item_id": 'i,"1"', "value": "5", "event_time": "1700000000"}]
    for name in [*texts, "d.csv.gz"]:
        path = open_writer(folder).write_file(tmp_path / name).path
        assert read(path) == expected, name
        assert path is not None
        assert path.name.startswith(f"{name[0]}-20240601T000000000000Z-")


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("a.csv", b"user,item,rating,time\nu,i,5\n", RatingsRefusedError, "line 2: expected 4 fields, found 3"),
        ("a.csv", b'user,item,rating,time\nu,"i,5,1\n', RatingsRefusedError, "is no CSV"),
        ("a.jsonl", b'{"user": "u"', RatingsRefusedError, "line 1 is not JSON"),
        ("a.jsonl", b"[" * 100_000, RatingsRefusedError, "line 1 is not JSON"),
        ("a.jsonl", b"[1]", RatingsRefusedError, "line 1 is not one JSON object"),
        ("a.jsonl", b'{"user": ["u"], "item": "i", "rating": 5, "time": 1}', RatingsRefusedError, "nested_value 1"),
        ("a.csv", b"user,item\xff\n", RatingsRefusedError, "byte 9 cannot be read"),
        ("a.csv.gz", gzip.compress(b"user,item", mtime=0)[:-4], RatingsRefusedError, "cannot be unpacked to its end"),
        (
            "a.csv.gz",
            gzip.compress(b"u,i" * 9, mtime=0)[:10] + b"\xff" * 20,
            RatingsRefusedError,
            "cannot be unpacked to",
        ),
        ("a.csv.gz", gzip.compress(b"0" * (LARGEST + 1), mtime=0), UsageError, "more than 67,108,864 bytes"),
        ("a.xlsx", b"", UsageError, r"not of a format that is checked here: \.csv, \.dat, \.jsonl, \.json,"),
        ("a.parquet", b"PAR1", UsageError, "not of a format that is checked here"),
        ("none.csv", None, UsageError, "there is no file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_lands_nothing(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], said: str
) -> None:
    folder = tmp_path / "landing"
    folder.mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=said):
        open_writer(folder).write_file(tmp_path / name)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("folder", ["hdfs://namenode/landing", "/no/such/folder"])
def test_a_folder_that_is_not_here_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="landing"):
        LandingWriter(folder, CONTRACT, LandingParams())


def test_whoever_looks_meanwhile_sees_whole_files_only(tmp_path: Path) -> None:
    """Twelve writers at once, and a reader that lists what ingestion would read."""
    ratings, over, torn = [{**RATING, "user_id": f"u{n}"} for n in range(500)], threading.Event(), []

    def look() -> None:
        while not over.is_set():
            for file in tmp_path.iterdir():
                if not file.name.startswith(".") and len(file.read_bytes().splitlines()) != len(ratings):
                    torn.append(file.name)

    with ThreadPoolExecutor(13) as pool:
        looking = pool.submit(look)
        landed = list(pool.map(lambda _: open_writer(tmp_path).write(ratings), range(12)))
        over.set()
        looking.result()
    assert torn == []
    assert sorted(own.path for own in landed if own.path) == sorted(tmp_path.iterdir())
    assert len({own.path for own in landed}) == 12
    assert len({own.path.read_bytes() for own in landed if own.path}) == 1, "ingestion counts the copies as duplicates"


def test_case_3_a_writer_killed_before_the_file_has_its_name_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "landing"
    folder.mkdir()
    (tmp_path / "a.csv").write_text("user,item,rating,time\nu,i,5,1700000000\n")
    words = [str(tmp_path / "a.csv"), "--set", f"landing.path={folder}"]
    pauses = Pauses(tmp_path / "paused", ["land:before_rename"])
    command = [sys.executable, "-m", "jobs.land_ratings", *words]
    environment = os.environ | pauses.environment | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as writer:
        assert pauses.wait(lambda: writer.poll() is not None) == "land:before_rename"
        writer.send_signal(signal.SIGKILL)
    [draft] = folder.iterdir()
    assert draft.name.startswith(".")

    two_days_ago = draft.stat().st_mtime - 2 * 86_400
    os.utime(draft, (two_days_ago, two_days_ago))
    assert main(words) == 0
    [landed] = folder.iterdir()
    assert read(landed) == [{"user_id": "u", "item_id": "i", "value": "5", "event_time": "1700000000"}]


def test_an_error_of_the_file_system_is_raised_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        open_writer(tmp_path).write([RATING])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["good.csv"], 0, "landed 1 ratings"),
        (["good.csv", "--check"], 0, "1 ratings are in order; nothing was landed"),
        (["bad.csv"], 3, "1 of 1 ratings would be refused (value_out_of_range 1)"),
        (["-"], 2, "add --format"),
        (["good.csv", "--format", ".xml"], 2, "--format .xml: the contract has .csv, .dat, .jsonl, .json."),
        (["good.csv", "--set", "landing.path=null"], 2, "landing.path is not set"),
    ],
)
def test_the_command_says_what_it_landed_or_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr("jobs.runner.start_session", lambda *_, **__: pytest.fail("a JVM was started"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "landing").mkdir()
    Path("good.csv").write_text("user,item,rating,time\nu,i,5,1700000000\n")
    Path("bad.csv").write_text("user,item,rating,time\nu,i,11,1700000000\n")
    assert main(["--set", f"landing.path={tmp_path / 'landing'}", *words]) == code
    text = capsys.readouterr()
    assert said in text.out + text.err
    assert len(list((tmp_path / "landing").iterdir())) == int(said.startswith("landed"))
