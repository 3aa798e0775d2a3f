"""Spark's properties files, read as Java reads them; case 90: a bad one is refused with file and line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.properties import format_properties, read_properties
from recsys.errors import ConfigError
from recsys.session import ROOT, read_spark_conf

KEYS = st.from_regex(r"spark\.[ -~é]{1,20}", fullmatch=True).map(str.strip).filter(lambda key: "\x7f" not in key)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"])).map(str.strip).filter(bool)


def write(folder: Path, text: str) -> Path:
    file = folder / "spark.conf"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_three_ways_to_part_key_and_value(tmp_path: Path) -> None:
    file = write(tmp_path, "spark.a 1\nspark.b=2\nspark.c : 3 and more\n\n# spark.d 4\n! spark.e 5\n  spark.f\t6\n")
    assert read_properties(file) == {
        "spark.a": "1",
        "spark.b": "2",
        "spark.c": "3 and more",
        "spark.f": "6",
    }


def test_escapes_and_lines_that_go_on(tmp_path: Path) -> None:
    file = write(tmp_path, "spark.a one \\\n   two\nspark.b c:\\\\temp\nspark.c \\u00e9\nspark.d x\\ty\n")
    assert read_properties(file) == {
        "spark.a": "one two",
        "spark.b": "c:\\temp",
        "spark.c": "é",
        "spark.d": "x\ty",
    }


@given(conf=st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_reads_back(conf: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write(tmp_path_factory.getbasetemp(), format_properties(conf))
    assert read_properties(file) == conf


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spark.a 1\nspark.executor.memory\n", "line 2: 'spark.executor.memory' has no value"),
        ("spark.a 1\n\nexecutor.memory 4g\n", "line 3: 'executor.memory' does not begin with 'spark.'"),
        ("spark.a=\n", "line 1: 'spark.a' has no value"),
    ],
)
def test_case_90_a_bad_line_is_refused_with_its_number(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_properties(write(tmp_path, text))


def test_case_90_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.conf' cannot be read"):
        read_properties(tmp_path / "none.conf")
    (tmp_path / "bytes.conf").write_bytes(b"spark.a \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_properties(tmp_path / "bytes.conf")


@pytest.mark.parametrize("env", ["local", "yarn"])
def test_the_project_s_own_files_mean_the_same_to_launcher_and_session(env: str) -> None:
    file = ROOT / "conf" / f"spark-{env}.conf"
    assert read_properties(file) == read_spark_conf(file)


def test_both_environments_write_the_same_tables() -> None:
    local, yarn = (read_properties(ROOT / "conf" / f"spark-{env}.conf") for env in ("local", "yarn"))
    for key in (
        "spark.sql.extensions",
        "spark.sql.session.timeZone",
        "spark.sql.parquet.outputTimestampType",
        "spark.sql.execution.arrow.maxRecordsPerBatch",
        "spark.sql.execution.arrow.maxBytesPerBatch",
    ):
        assert yarn[key] == local[key]
