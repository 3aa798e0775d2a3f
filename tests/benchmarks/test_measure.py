"""What becomes of the numbers: no JVM here."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data
from benchmarks.measure import (
    BEGIN,
    END,
    Measured,
    Row,
    describe_machine,
    extrapolate,
    read_results,
    seconds_to,
    update_docs,
    write_result,
)
from benchmarks.quality import Factors, Judge, implicit_loss, reached
from recsys.als.params import AlsParams
from recsys.errors import ConfigError, UsageError

LINE = re.compile(r"^target \d+: \d[\d.]*(x| s| B| GiB) \(goal [\d.]+(x| s| B| GiB)\) (met|missed: .+)")


def measured(*rows: Row, target: int = 1, official: bool = True) -> Measured:
    return Measured(target, "a fit", rows, official, 3, 1, {"processor": "a slow one"}, "22 Nov 2026")


def row(value: float | None, goal: float = 30.0, **more: object) -> Row:
    return Row("explicit", "8.9M", value, "x", goal, "higher", (5.0, 6.0, 7.0), (170.0,), **more)  # type: ignore[arg-type]


def test_a_met_target_says_so() -> None:
    assert measured(row(33.14)).line() == "target 1: 33.1x (goal 30x) met"


def test_a_missed_target_says_what_bounds_it() -> None:
    line = measured(row(12.0, bound="4.0 s before the first sweep")).line()
    assert line == "target 1: 12.0x (goal 30x) missed: 4.0 s before the first sweep"
    assert measured(row(12.0)).line("kernels") == "target 1: 12.0x (goal 30x) missed: kernels"


def test_the_row_furthest_from_its_goal_decides() -> None:
    line = measured(row(60.0), row(29.0, bound="kernels")).line()
    assert line == "target 1: 29.0x (goal 30x) missed: kernels [explicit 60.0x, explicit 29.0x]"


def test_less_is_better_where_a_goal_is_a_limit() -> None:
    limit = Row("job", "netflix", 228.0, " s", 240, "lower")
    assert measured(limit, target=5).line() == "target 5: 228.0 s (goal 240 s) met"


def test_a_size_of_ones_own_is_named() -> None:
    assert measured(row(33.14), official=False).line().endswith(" met, as a trial at 8.9M")


def test_what_was_not_measured_is_not_called_missed() -> None:
    line = measured(row(None, note="implicit is not installed")).line()
    assert line == "target 1: not measured (goal 30x): implicit is not installed"


@pytest.mark.parametrize("value", [0.51, 12.0, 33.1, 140.0])
def test_every_line_has_the_format(value: float) -> None:
    assert LINE.match(measured(row(value, bound="kernels")).line())


def test_results_survive_the_file_and_the_page_is_replaced_between_its_marks(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / "benchmarks.md"
    page.write_text("# Measurements\n\nbefore\n", encoding="utf-8")
    official, other = measured(row(33.14)), measured(row(9.0, bound="kernels"), official=False)
    write_result(official, results, None)
    write_result(other, results, "10M")
    assert read_results(results) == [official, other]
    for _ in range(2):
        update_docs(read_results(results), page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Measurements\n\nbefore\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "| 1 | explicit | 8.9M | 6 s (5 to 7) | 170 s | 33.1x | 30x | met | 3, rival 1 | 22 Nov 2026 |" in text
    assert "bounded by: kernels" in text
    assert "<svg" in (tmp_path / "benchmarks.svg").read_text(encoding="utf-8")


def test_one_mark_alone_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(BEGIN, encoding="utf-8")
    with pytest.raises(ConfigError, match="Put both or neither"):
        update_docs([measured(row(1.0))], page)


def test_equal_quality_is_reached_where_every_number_is() -> None:
    curve = [
        {"seconds": 1.0, "loss": 90.0, "ndcg": 0.10},
        {"seconds": 2.0, "loss": 80.0, "ndcg": 0.10},
        {"seconds": 3.0, "loss": 79.0, "ndcg": 0.20},
    ]
    assert seconds_to(curve, {"loss": 80.0, "ndcg": 0.15}) == 3.0
    assert seconds_to(curve, {"loss": 70.0}) is None
    assert reached({"rmse": 0.9}, {"rmse": 0.9})
    assert not reached({"rmse": 0.901}, {"rmse": 0.9})


def test_iterations_are_extrapolated_on_a_line() -> None:
    fits = [{"iterations": 1, "seconds": 30.0}, {"iterations": 2, "seconds": 50.0}]
    assert extrapolate(fits, 10) == pytest.approx(210.0)
    for useless in (fits[:1], [fits[0], {"iterations": 2, "seconds": 29.0}]):
        with pytest.raises(UsageError, match="Use more ratings"):
            extrapolate(useless, 10)


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    found = describe_machine(2)
    assert {"processor", "cores", "memory", "python", "pyspark", "numpy"} <= set(found)
    assert platform.node() not in " ".join(found.values())


def test_the_implicit_loss_is_that_of_the_whole_matrix() -> None:
    ratings = data.load(data.make_world(data.Shape(6, 8, 20)), data.BASE)
    rng = np.random.default_rng(1)
    x, q = rng.standard_normal((6, 3)).astype(np.float32), rng.standard_normal((8, 3)).astype(np.float32)
    params = AlsParams(objective="implicit", alpha=2.0, reg=0.3, reg_exponent=1.0)
    confidence, preference = np.zeros((6, 8)), np.zeros((6, 8))
    confidence[ratings.owners(), ratings.items] = 2.0 * ratings.values
    preference[ratings.owners(), ratings.items] = 1.0
    error = (1 + confidence) * (preference - x @ q.T) ** 2
    n_users, n_items = preference.sum(axis=1), preference.sum(axis=0)
    expected = error.sum() + 0.3 * (n_users @ (x**2).sum(axis=1) + n_items @ (q**2).sum(axis=1))
    assert implicit_loss(ratings, Factors(x, q), params) == pytest.approx(expected, rel=1e-5)


def test_the_judge_draws_only_users_with_held_out_ratings() -> None:
    world = data.make_world(data.make_shape("3k"))
    judge = Judge(world, AlsParams(objective="explicit"), data.BASE)
    held = data.generate(world, judge.users).take(data.HELD)
    assert np.diff(held.offsets).min() >= 1
    zeros = np.zeros((len(judge.users), 2), np.float32)
    found = judge.judge(zeros, np.zeros((world.shape.n_items, 2), np.float32))
    assert found == {"rmse": pytest.approx(float(np.sqrt(np.mean(held.values**2))))}
