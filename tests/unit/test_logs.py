"""Cases 41 and 42: what a damaged log of a table still holds, and the least that has to be taken out of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.store.logs import Log, Plan, fault_of_commit, plan_repair, read_log

FAULT = "is empty"
SAID = {"operation": "WRITE", "operationMetrics": {"numFiles": "3", "numOutputRows": "3", "numRemovedFiles": "1"}}
ADDS = [{"add": {"path": "é", "stats": json.dumps({"numRecords": n})}} for n in (1, 2)]  # Delta leaves empty files out
COMMIT = "".join(
    json.dumps(action, ensure_ascii=False) + "\n"
    for action in ({"commitInfo": SAID}, {"txn": {}}, *ADDS, {"remove": {}})
)


@given(st.integers(0, len(COMMIT.encode()) - 2))
def test_case_42_a_commit_that_lost_its_end_anywhere_is_noticed(length: int) -> None:
    torn = COMMIT.encode()[:length]
    log = read_log([f"{0:020d}.json"], lambda _: torn.decode(), lambda _: None)
    assert log.commits[0] is not None


def test_case_42_an_append_that_lost_whole_lines_is_noticed_by_its_rows() -> None:
    said = {"operation": "WRITE", "operationMetrics": {"numFiles": "3", "numOutputRows": "3"}}
    lines = [json.dumps(action) + "\n" for action in ({"commitInfo": said}, *ADDS)]
    assert fault_of_commit("".join(lines)) is None
    for n in (1, 2):
        assert "rows where it says that it wrote 3" in str(fault_of_commit("".join(lines[:n])))


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85"])
def test_what_an_id_in_the_statistics_holds_ends_no_line(char: str) -> None:
    stats = json.dumps({"numRecords": 3, "minValues": {"item_id": f"a{char}b"}}, ensure_ascii=False)
    commit = [{"commitInfo": SAID}, {"add": {"path": "é", "stats": stats}}, {"remove": {}}]
    assert fault_of_commit("\n".join(json.dumps(action, ensure_ascii=False) for action in commit)) is None


def test_a_commit_that_is_whole_has_no_fault() -> None:
    assert fault_of_commit(COMMIT) is None
    assert fault_of_commit(COMMIT.rstrip()) is None
    assert fault_of_commit('{"commitInfo":{"operation":"SET TBLPROPERTIES"}}\n{"metaData":{}}') is None


@pytest.mark.parametrize(
    ("log", "plan"),
    [
        (Log({0: None, 1: FAULT}, {}), Plan(commits=(1,), lost=1)),
        (Log({0: FAULT}, {}), Plan(commits=(0,), lost=0)),
        (Log({0: FAULT, 1: None}, {1: None}), Plan(commits=(0,))),
        (Log({0: None, 1: None}, {1: FAULT}), Plan(checkpoints=(1,), hint=True)),
        (Log({3: None, 4: None}, {3: None}, hint=FAULT), Plan(hint=True)),
        (Log({2: None, 3: None, 4: None}, {2: None, 3: FAULT}), Plan(checkpoints=(3,), hint=True)),
        (Log({3: None, 4: FAULT}, {3: None}), Plan(commits=(4,), lost=4)),
        (
            Log({3: None, 4: None}, {3: FAULT}),
            Plan(refusal=f"checkpoint 3 {FAULT}; commits before 3 are cleaned up"),
        ),
        (Log({0: None, 1: FAULT, 2: None}, {}), Plan(refusal=f"commit 1 {FAULT}")),
        (Log({0: None, 2: None}, {}), Plan(refusal="commit 1 is missing")),
    ],
)
def test_cases_41_42_the_least_is_taken_out_and_nothing_where_a_row_would_be_lost_that_is_not_the_last(
    log: Log, plan: Plan
) -> None:
    assert plan_repair(log) == plan


_faults = st.dictionaries(st.integers(0, 6), st.sampled_from([None, FAULT]), max_size=7)


@given(_faults, _faults, st.sampled_from([None, FAULT]))
def test_cases_41_42_what_is_left_is_whole_and_ends_where_the_log_ended_or_one_commit_before(
    commits: dict[int, str | None], checkpoints: dict[int, str | None], hint: str | None
) -> None:
    log = Log(commits, checkpoints, hint)
    plan = plan_repair(log)
    if plan.refusal is not None:
        assert (plan.commits, plan.checkpoints, plan.lost) == ((), (), None)
        return
    left = Log(
        {version: fault for version, fault in commits.items() if version not in plan.commits},
        {version: fault for version, fault in checkpoints.items() if version not in plan.checkpoints},
        None if plan.hint else hint,
    )
    last = max([*commits, *checkpoints], default=-1)
    assert left.is_readable(last if plan.lost is None else last - 1)
    assert plan_repair(left) == Plan()
