"""Looking through real files inside the JVM."""

import gzip
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys.landed_files import LandedFiles

MIB = 1024 * 1024
LIMIT = MIB + 100  # more than is read at once


@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [0, 0, 5],
        [LIMIT],
        [LIMIT, LIMIT, LIMIT],
        [MIB - 1, LIMIT, 3],  # a line feed at the very end of what is read at once
        [MIB, LIMIT],
        [MIB - 50, LIMIT],
        [3, 2 * MIB],
        [LIMIT + 1],
        [5] * 1000 + [LIMIT + 1] + [5] * 1000,
        [MIB - 1, LIMIT + 1],
        [MIB - 50, LIMIT + 1],
    ],
    ids=str,
)
def test_case_7_a_line_above_the_limit_is_found_wherever_it_begins(
    spark: SparkSession, tmp_path: Path, lengths: list[int]
) -> None:
    files = LandedFiles(spark)
    content = b"\n".join(b"x" * length for length in lengths)
    for name, data in (("a", content), ("b", content + b"\n")):
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data, 1))
        expected = any(length > LIMIT for length in lengths)
        assert files.has_longer_line(str(tmp_path / name), LIMIT) == expected
        assert files.has_longer_line(str(tmp_path / f"{name}.gz"), LIMIT, unpack=True) == expected
