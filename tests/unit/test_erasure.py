"""What is taken out of a landed file, and that everything else stays byte for byte; how ids reach the job."""

import gzip
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.forget_user import read_ids
from recsys.errors import ConfigError, UsageError
from recsys.ratings.contract import load_contract
from recsys.ratings.erasure import UnreadableFileError, strip_users
from recsys.ratings.landing import Arrival, LandedFile, Layout
from recsys.session import ROOT
from recsys.suppression import Suppression, make_pattern

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")
HEADER = "user_id,item_id,rating,timestamp"
CSV = Layout("csv", 4, (("user_id", 0), ("item_id", 1)), delimiter=",", header=HEADER)
FIELDS = Layout("fields", 4, (("user_id", 0), ("item_id", 1)), delimiter="::")
JSON = Layout("json")
PARQUET = Layout("parquet", names=(("user_id", "user_id", "string"), ("item_id", "item_id", "string")))


def strip(content: bytes, layout: Layout | None, *user_ids: str) -> tuple[bytes, int]:
    file = LandedFile(Arrival("f", "/in/f", len(content), 0), "csv", "", layout)
    found = strip_users(content, file, user_ids, CONTRACT, at_most=1_000_000)
    return found.content, found.removed


@pytest.mark.parametrize(
    ("layout", "stays", "goes"),
    [
        (CSV, f"{HEADER}\r\n8,7,7,7\r\n07,1,5,1\r\n 7,1,5,1\r\n77,1,5,1", '7,1,5,1\r\n"7",2,5,1\r\n'),
        (CSV, f"{HEADER}\n8,1,5\n", "7,1,5\n5;7;1\n"),  # lines that cannot be taken apart, and name the user or not
        (FIELDS, "8::7::7::7\n", "7::1::5::1\n"),
        (JSON, '{"user_id": "8", "item_id": "7"}\n', '{"user_id": "7"}\n{"user_id": 7}\n{"user_id": "7", broken\n'),
    ],
    ids=["csv", "broken lines", "fields", "json"],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
def test_rows_of_the_user_go_and_no_byte_of_anybody_else_s(
    layout: Layout, stays: str, goes: str, pack: Callable[[bytes], bytes]
) -> None:
    first, *rest = stays.splitlines(keepends=True)
    content, removed = strip(pack((first + goes + "".join(rest)).encode()), layout, "7")
    assert (gzip.decompress(content) if pack is gzip.compress else content) == stays.encode()
    assert removed == len(goes.splitlines())
    assert strip(content, layout, "7") == (content, 0), "a second time there is nothing to do"


def test_rows_of_a_parquet_file_go_and_its_other_columns_stay() -> None:
    def pack(users: list[str], items: list[str], more: list[int]) -> bytes:
        sink = io.BytesIO()
        pq.write_table(pa.table({"user_id": users, "item_id": items, "more": more}), sink)
        return sink.getvalue()

    content, removed = strip(pack(["7", "8", "7"], ["1", "7", "2"], [1, 2, 3]), PARQUET, "7")
    assert removed == 2
    assert pq.read_table(io.BytesIO(content)).to_pydict() == {"user_id": ["8"], "item_id": ["7"], "more": [2]}


def test_times_in_a_parquet_file_stay_of_the_kind_that_spark_wrote() -> None:
    """INT96: other times of nanoseconds Spark does not read."""
    times = pa.array([1_700_000_000_123_456, 1_700_000_001_000_000], pa.timestamp("us"))
    sink = io.BytesIO()
    table = pa.table({"user_id": ["7", "8"], "item_id": ["1", "2"], "timestamp": times})
    pq.write_table(table, sink, use_deprecated_int96_timestamps=True)
    content, removed = strip(sink.getvalue(), PARQUET, "7")
    assert removed == 1
    assert pq.ParquetFile(io.BytesIO(content)).schema.column(2).physical_type == "INT96"
    [left] = pq.read_table(io.BytesIO(content), coerce_int96_timestamp_unit="us")["timestamp"].to_pylist()
    assert left == times[1].as_py()


@pytest.mark.parametrize(
    ("layout", "line"),
    [(JSON, '{"user_id": "7", "more": ' + "[" * 100_000 + "}\n"), (CSV, '7,1,"' + "5" * 200_000 + '",1\n')],
    ids=["JSON too deep", "a field too long"],
)
def test_a_line_that_no_parser_takes_goes_when_it_names_the_user_and_stays_otherwise(layout: Layout, line: str) -> None:
    first = f"{HEADER}\n" if layout is CSV else '{"user_id": "8"}\n'
    content = (first + line).encode()
    assert strip(content, layout, "9") == (content, 0)
    assert strip(content, layout, "7") == (first.encode(), 1)


def pack_users(*users: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"user_id": users}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("layout", "content"),
    [
        (None, gzip.compress(b"u1,i1" * 99, mtime=0)[:-9]),
        (None, b"what u1 liked"),
        (None, pack_users(12345)),
        (None, "u1,i1".encode("utf-16")),
        (CSV, gzip.compress(b"u2,i1,5,1\n" * 200_000, mtime=0)),
    ],
    ids=["torn", "unknown", "columns of another type", "two bytes a character", "too large when unpacked"],
)
def test_a_file_whose_rows_cannot_be_told_apart_is_left_to_its_owner(layout: Layout | None, content: bytes) -> None:
    with pytest.raises(UnreadableFileError):
        strip(content, layout, "u1")


def test_a_file_of_unknown_format_that_names_nobody_is_left_alone() -> None:
    assert strip(b"what u11 liked", None, "u1") == (b"what u11 liked", 0)


@pytest.mark.parametrize("text", ["a,u1;b", "u1", '{"x":"u1"}', "u1\n"])
def test_an_id_is_found_where_it_stands_alone(text: str) -> None:
    assert make_pattern(["u1"]).search(text)
    assert not make_pattern(["u1"]).search(text.replace("u1", "u12"))


def test_an_id_is_found_as_json_writes_it() -> None:
    assert make_pattern(["zoë"]).search('{"user_id": "zo\\u00eb"}')


def test_the_list_has_the_salted_hash_of_an_id_and_does_not_show_its_salt() -> None:
    list_of_one = Suppression("salt", frozenset())
    assert list_of_one.hash("u1") == hashlib.sha256(b"saltu1").hexdigest()
    assert "salt='" not in repr(list_of_one)


def test_ids_are_read_as_they_are_from_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    file.touch(mode=0o600)
    file.write_bytes(b"7\r\n 7\n\n007\n")
    assert read_ids(str(file)) == {"7", " 7", "007"}
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        read_ids(str(file))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\n"])
def test_a_file_without_ids_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ids"
    file.touch(mode=0o600)
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"no user id|not UTF-8"):
        read_ids(str(file))


def test_standard_input_is_read_where_it_comes_and_refused_where_spark_submit_holds_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"u1\n u2\n"), encoding="ascii"))
    assert read_ids("-") == {"u1", " u2"}
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1234")
    with pytest.raises(UsageError, match=r"python -m jobs\.forget_user --ids -"):
        read_ids("-")
