import json
import struct
from dataclasses import fields, replace

import numpy as np
import pytest

from recsys.evaluation.report import StepReport, draw_learning_curve, draw_metric_by_activity

WARM = StepReport(
    step="2013-08-01",
    landed=1_203,
    accepted=1_190,
    duplicate=5,
    quarantined=8,
    new_users=140,
    new_items=99,
    policy="warm",
    why="1.5% new events, 99 new items",
    sweeps=3,
    seconds=9.34,
    ndcg_candidate=0.1434,
    ndcg_champion=0.142,
    ndcg_popularity=0.141,
    recall_candidate=0.22,
    recall_champion=0.219,
    recall_popularity=0.218,
    difference=0.0014,
    low=-0.004,
    high=0.0081,
    verdict="passed",
    generation=2,
)
FOLD_IN = StepReport("2013-08-02", 3, 1, 1, 1, 0, 0, "fold-in", "0.0% new events, 0 new items: less than 0.2%", 0, 3.3)


def test_a_row_holds_every_number_under_its_title_and_fits_its_width() -> None:
    header, row = StepReport.format_header(200).splitlines()[0], WARM.format_row(200)
    for title, value in (("landed", "1,203"), ("quar", "8"), ("+items", "99"), ("sec", "9.3"), ("gen", "2")):
        end = header.index(title) + len(title)
        assert row[:end].endswith(f" {value}")
    assert "0.143 0.142 0.141" in row
    assert "+0.001 (-0.004 +0.008)" in row
    assert len(row) <= 200


@pytest.mark.parametrize("width", [80, 120, 199])
def test_on_a_narrower_terminal_a_row_is_two_lines(width: int) -> None:
    for text in (StepReport.format_header(width), WARM.format_row(width), FOLD_IN.format_row(width)):
        lines = [line for line in text.splitlines() if not line.startswith("---")]
        assert len(lines) == 2
        assert max(map(len, lines)) <= 120


def test_what_did_not_happen_is_a_dash_and_what_is_too_long_is_cut() -> None:
    row = FOLD_IN.format_row(200)
    assert row.split()[-9:] == ["-"] * 9  # three times NDCG and recall, difference, verdict, generation
    assert "0.0% new events, 0 new items:…" in row


def test_a_report_survives_json() -> None:
    for report in (WARM, FOLD_IN):
        assert StepReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert len(WARM.to_dict()) == len(fields(WARM))


def test_the_cut_of_the_metrics_is_in_the_titles() -> None:
    assert "NDCG@5" in replace(WARM, k=5).format_header(k=5)


def _size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_figures_are_png_images() -> None:
    assert _size(draw_learning_curve([3.0, 2.5, 2.4], [0.1, None, 0.12], metric="NDCG@10"))[0] > 600
    n_history = np.array([0, 0, 4, 300])
    values = {name: np.linspace(0, 1, 4) for name in ("candidate", "champion", "recent popularity")}
    assert _size(draw_metric_by_activity(n_history, values, metric="NDCG@10"))[0] > 600


def test_figures_of_nothing_are_still_images() -> None:
    assert _size(draw_learning_curve([], [], metric="NDCG@10"))
    assert _size(draw_metric_by_activity(np.zeros(0, np.int64), {"candidate": np.zeros(0)}, metric="NDCG@10"))
