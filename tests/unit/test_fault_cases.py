"""docs/faults.md says which test holds which fault case; this holds it to the tests."""

import ast
import re
from pathlib import Path

from recsys.session import ROOT

CASES = {*range(1, 66), *range(80, 97)}


def numbers_in(name: str) -> set[int]:
    """The cases that a test's name names: ``test_cases_5_6_and_11_…``, ``test_cases_33_to_36_…``."""
    found = re.match(r"test_cases?_((?:\d+_|and_|to_)+)", name)
    numbers: list[int] = []
    words = found[1].strip("_").split("_") if found else []
    for before, word in zip(["", *words], words, strict=False):
        if word.isdigit():
            numbers += range(numbers[-1] + 1, int(word)) if before == "to" else []
            numbers.append(int(word))
    return set(numbers)


def read_rows() -> dict[int, str]:
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    return {int(number): held for number, held in re.findall(r"^\| (\d+) \| .+? \| (.+) \|$", text, re.MULTILINE)}


def cases_of_tests() -> dict[str, set[int]]:
    found = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and numbers_in(node.name):
                found[f"{Path(file).relative_to(ROOT)}::{node.name}"] = numbers_in(node.name)
    return found


def test_every_case_has_a_row_with_a_test_or_a_reason() -> None:
    rows = read_rows()
    assert set(rows) == CASES
    without = {case for case, held in rows.items() if "`tests/" not in held}
    assert all(re.search(r"Not held|Does not apply", rows[case]) for case in without), without


def test_the_tests_of_the_table_exist_and_name_their_case() -> None:
    tests = cases_of_tests()
    for case, held in read_rows().items():
        missing = {name for name in re.findall(r"`(tests/[^`]+)`", held) if case not in tests.get(name, set())}
        assert not missing, case


def test_no_row_says_that_a_case_is_not_held_which_a_test_names() -> None:
    named = set().union(*cases_of_tests().values())
    assert not {case for case, held in read_rows().items() if case in named and "`tests/" not in held}


def test_a_name_may_hold_one_case_several_or_a_range() -> None:
    assert numbers_in("test_case_7_a_line_of_2_gb") == {7}
    assert numbers_in("test_cases_5_6_and_11_x") == {5, 6, 11}
    assert numbers_in("test_cases_33_to_36_x") == {33, 34, 35, 36}
    assert numbers_in("test_a_case_5") == set()
