"""What a look at names, sizes and first bytes finds; the file system is a dictionary."""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pyspark.sql.types import DoubleType, LongType, StringType, StructType

from recsys.ratings.contract import RatingsContract, UnknownColumns, load_contract
from recsys.ratings.landing import Arrival, LandedFile, cut_batches, inspect, list_arrivals
from recsys.ratings.params import LandingParams
from recsys.session import ROOT

CONTRACT = load_contract(ROOT / "conf/contracts/ratings.yaml")
HEADER = b"user_id,item_id,rating,timestamp\n"
NOW = 1_000_000


@dataclass(frozen=True)
class Status:
    path: str
    size: int
    modified_ms: int


class Disk:
    """A folder ``/in`` of files, with the file system's errors."""

    def __init__(self, files: dict[str, bytes | StructType | OSError], *, age_ms: int = 0) -> None:
        self.files = {f"/in/{name}": content for name, content in files.items()}
        self.age_ms = age_ms

    def list_files(self, folder: str, *, recursive: bool = False) -> Iterator[Status]:
        assert recursive
        for path, content in self.files.items():
            yield Status(path, len(content) if isinstance(content, bytes) else 1, NOW - self.age_ms)

    def _bytes(self, path: str) -> bytes:
        content = self.files[path]
        if isinstance(content, OSError):
            raise content
        return content if isinstance(content, bytes) else b"PAR1"

    def _unpacked(self, path: str) -> bytes:
        try:
            return gzip.decompress(self._bytes(path))
        except EOFError as err:
            raise OSError("Unexpected end of ZLIB input stream") from err

    def head(self, path: str, n_bytes: int, *, unpack: bool = False) -> bytes:
        return (self._unpacked(path) if unpack else self._bytes(path))[:n_bytes]

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self._bytes(path)).hexdigest()

    def unpacked_size(self, path: str, at_most: int) -> int:
        return min(len(self._unpacked(path)), at_most)

    def has_longer_line(self, path: str, limit: int, *, unpack: bool = False) -> bool:
        content = self._unpacked(path) if unpack else self._bytes(path)
        return any(len(line) > limit for line in content.split(b"\n"))

    def parquet_size(self, path: str) -> int:
        return 1000

    def parquet_schema(self, path: str) -> StructType:
        content = self.files[path]
        if not isinstance(content, StructType):
            raise OSError(f"{path} is not a Parquet file")
        return content


def look_at(
    name: str, content: bytes | StructType | OSError, contract: RatingsContract = CONTRACT, **params: int
) -> LandedFile:
    disk = Disk({name: content})
    [status] = disk.list_files("/in", recursive=True)
    arrival = Arrival(name, status.path, status.size, status.modified_ms)
    return inspect(disk, arrival, contract, LandingParams(**params))


def names(disk: Disk, params: LandingParams | None = None) -> list[str]:
    return [arrival.source for arrival in list_arrivals(disk, "/in", params or LandingParams(), now_ms=NOW)]


def test_case_4_files_still_being_written_are_not_listed_and_the_others_come_by_name() -> None:
    listed = names(
        Disk(dict.fromkeys(["z.csv", "a/b.csv", "_SUCCESS", ".x.csv", "x.csv.tmp", "y.csv._COPYING_", "_t/c.csv"], b""))
    )
    assert listed == ["a/b.csv", "z.csv"]


def test_case_3_a_file_younger_than_the_settling_time_waits() -> None:
    assert names(Disk({"a.csv": b"x"}, age_ms=500), LandingParams(settle_seconds=1.0)) == []
    assert names(Disk({"a.csv": b"x"}, age_ms=1500), LandingParams(settle_seconds=1.0)) == ["a.csv"]


def test_case_28_a_backlog_is_cut_by_number_and_by_size_and_nothing_is_left_out() -> None:
    arrivals = [Arrival(str(n), f"/in/{n}", size, 0) for n, size in enumerate([4, 4, 4, 99, 1])]
    by_size = [[a.size for a in batch] for batch in cut_batches(arrivals, LandingParams(max_bytes=10))]
    by_number = [[a.size for a in batch] for batch in cut_batches(arrivals, LandingParams(max_files=2))]
    assert by_size == [[4, 4], [4], [99], [1]]
    assert by_number == [[4, 4], [4, 99], [1]]


def test_case_11_columns_are_found_by_name_in_any_order_and_others_are_let_pass() -> None:
    layout = look_at("a.csv", b"\xef\xbb\xbfextra,timestamp,userId,rating,movieId\r\n1,2,3,4,5\r\n").layout
    assert layout is not None
    assert dict(layout.places) == {"event_time": 1, "user_id": 2, "value": 3, "item_id": 4}
    assert (layout.n_fields, layout.header) == (5, "extra,timestamp,userId,rating,movieId")


@pytest.mark.parametrize(
    ("name", "content", "rule", "said", "by_line"),
    [
        ("a.csv", b"user_id,item_id,stars,timestamp\nu,i,1,2\n", "missing_column", "user_id, item_id, stars", True),
        ("a.csv", b"user_id,user_id,item_id,rating,timestamp\n", "ambiguous_column", "user_id", True),
        ("a.csv", b"", "empty_file", "no bytes", False),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "empty_file", "unpacked", False),
        ("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "not_text", "89 50 4e 47", False),
        ("a.csv.gz", gzip.compress(HEADER * 99, mtime=0)[:30], "unreadable", "end of ZLIB", False),
        ("a.parquet", b"PAR1 torn", "unreadable", "parquet", False),
        ("a.xlsx", b"anything", "unknown_format", ".csv, .dat", False),
        ("a.csv", OSError("Permission denied"), "unreadable", "Permission denied", False),
    ],
)  # fmt: skip
def test_case_5_6_and_11_a_file_that_is_wrong_as_a_whole_gets_a_rule_and_a_reason(
    name: str, content: bytes | OSError, rule: str, said: str, by_line: bool
) -> None:
    file = look_at(name, content)
    assert file.fault is not None
    assert (file.fault.rule, file.fault.by_line) == (rule, by_line)
    assert said in file.fault.reason


def test_case_7_a_file_over_the_limit_is_refused_packed_or_not() -> None:
    bomb = gzip.compress(bytes(5000))
    assert len(bomb) < 1000
    for name, content in (("a.csv", b"x" * 1001), ("a.csv.gz", bomb)):
        fault = look_at(name, content, max_file_bytes=1000).fault
        assert fault is not None
        assert fault.rule == "too_large"


def test_case_7_a_parquet_file_over_the_limit_when_unpacked_is_refused() -> None:
    table = StructType().add("user_id", LongType()).add("item_id", LongType()).add("timestamp", LongType())
    table = table.add("rating", DoubleType())
    assert look_at("a.parquet", table, max_file_bytes=1000).fault is None
    fault = look_at("a.parquet", table, max_file_bytes=999).fault
    assert fault is not None
    assert fault.rule == "too_large"


def test_case_7_a_line_over_the_limit_refuses_its_file_packed_or_not() -> None:
    lines = HEADER + b"u,i,5,1\n" * 20
    for content in (lines, lines + b"x" * 101, lines + b"x" * 101 + b"\nu,i,5,1\n"):
        for name, packed in (("a.csv", content), ("a.csv.gz", gzip.compress(content))):
            fault = look_at(name, packed, max_line_bytes=100).fault
            assert (fault.rule if fault else None) == ("long_line" if b"x" in content else None)


@pytest.mark.parametrize("policy", ["ignore", "quarantine", "reject"])
def test_case_11_a_column_that_the_contract_does_not_know_is_for_the_contract_to_decide(policy: UnknownColumns) -> None:
    contract = CONTRACT.model_copy(update={"unknown_columns": policy})
    table = StructType().add("user_id", LongType()).add("item_id", StringType()).add("timestamp", LongType())
    table = table.add("rating", DoubleType()).add("mood", StringType())
    for name, content in (("a.csv", HEADER[:-1] + b",mood\n"), ("a.parquet", table)):
        fault = look_at(name, content, contract).fault
        if policy == "ignore":
            assert fault is None
        else:
            assert fault is not None
            assert (fault.rule, fault.by_line) == ("unknown_column", name == "a.csv")
            assert "no column mood" in fault.reason
            assert CONTRACT.owner_and_contact in fault.reason


def test_case_12_a_parquet_column_of_another_type_names_the_contracts_owner() -> None:
    good = StructType().add("user_id", LongType()).add("item_id", StringType()).add("timestamp", LongType())
    assert look_at("a.parquet", StructType(good.fields[:]).add("rating", DoubleType())).fault is None
    fault = look_at("a.parquet", StructType(good.fields[:]).add("rating", StringType())).fault
    assert fault is not None
    assert fault.rule == "wrong_type"
    assert "rating is string" in fault.reason
    assert CONTRACT.owner in fault.reason
