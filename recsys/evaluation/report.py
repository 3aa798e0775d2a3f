"""What people read of a run: one table row a pipeline step, and the figures of a fit as PNG bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOT_THERE: Final = "-"
_WIDE: Final = 200
_COMPACT: Final = 120

# Blue, orange, green and grey of Okabe & Ito 2008: told apart by the colour-blind and in print.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#999999")
# Lower ends of the activity bins: ratings a user had before the cut-off.
_ACTIVITY: Final = (0, 1, 3, 6, 11, 21, 51, 101)


@dataclass(frozen=True)
class StepReport:
    """One step of the pipeline: what landed, what was fitted, how it was judged. None: did not happen."""

    step: str
    landed: int
    accepted: int
    duplicate: int
    quarantined: int
    new_users: int
    new_items: int
    policy: str
    why: str
    sweeps: int
    seconds: float
    k: int = 10
    ndcg_candidate: float | None = None
    ndcg_champion: float | None = None
    ndcg_popularity: float | None = None
    recall_candidate: float | None = None
    recall_champion: float | None = None
    recall_popularity: float | None = None
    difference: float | None = None  # NDCG of the candidate less that of the champion; of recent popularity without one
    low: float | None = None  # of its interval
    high: float | None = None
    verdict: str = NOT_THERE
    generation: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON knows, by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepReport":
        """The inverse of :meth:`to_dict`."""
        return cls(**values)

    @staticmethod
    def format_header(width: int = _WIDE, *, k: int = 10) -> str:
        """Column names above :meth:`format_row`; two lines on a terminal narrower than 200 columns."""
        names = {name: title for name, title, _ in _COLUMNS}
        ndcg, recall = f"NDCG@{k}: cand champ trend", f"recall@{k}: cand champ trend"
        cells = names | {"ndcg": ndcg, "recall": recall}
        lines = _lay_out(cells, width)
        return "\n".join([*lines, "-" * max(len(line) for line in lines)])

    def format_row(self, width: int = _WIDE) -> str:
        """One line of at most 200 columns, or two of at most 120 on a narrower terminal."""
        cells = {
            "step": self.step,
            "landed": f"{self.landed:,}",
            "accepted": f"{self.accepted:,}",
            "duplicate": f"{self.duplicate:,}",
            "quarantined": f"{self.quarantined:,}",
            "new_users": f"{self.new_users:,}",
            "new_items": f"{self.new_items:,}",
            "policy": self.policy,
            "why": self.why,
            "sweeps": str(self.sweeps),
            "seconds": f"{self.seconds:.1f}",
            "ndcg": _three(self.ndcg_candidate, self.ndcg_champion, self.ndcg_popularity),
            "recall": _three(self.recall_candidate, self.recall_champion, self.recall_popularity),
            "difference": self._format_difference(),
            "verdict": self.verdict,
            "generation": NOT_THERE if self.generation is None else str(self.generation),
        }
        return "\n".join(_lay_out(cells, width))

    def _format_difference(self) -> str:
        if self.difference is None or self.low is None or self.high is None:
            return NOT_THERE
        return f"{self.difference:+.3f} ({self.low:+.3f} {self.high:+.3f})"


# Name, title, width; a negative width aligns to the left. All of them and the gaps fill 199 columns.
_COLUMNS: Final = (
    ("step", "step", -12),
    ("landed", "landed", 7),
    ("accepted", "accept", 7),
    ("duplicate", "dup", 5),
    ("quarantined", "quar", 5),
    ("new_users", "+users", 6),
    ("new_items", "+items", 6),
    ("policy", "policy", -7),
    ("why", "why", -30),
    ("sweeps", "swp", 3),
    ("seconds", "sec", 5),
    ("ndcg", "", 25),
    ("recall", "", 27),
    ("difference", "diff (interval)", 22),
    ("verdict", "verdict", -10),
    ("generation", "gen", 4),
)
_SECOND_LINE: Final = ("ndcg", "recall", "difference", "verdict", "generation")


def _lay_out(cells: Mapping[str, str], width: int) -> list[str]:
    if width >= _WIDE:
        return [" ".join(_fit(cells[name], size) for name, _, size in _COLUMNS).rstrip()]
    first = [_fit(cells[name], size) for name, _, size in _COLUMNS if name not in _SECOND_LINE]
    second = [_fit(cells[name], size) for name, _, size in _COLUMNS if name in _SECOND_LINE]
    return [" ".join(first).rstrip(), "    " + " ".join(second).rstrip()]


def _fit(text: str, size: int) -> str:
    width = abs(size)
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.ljust(width) if size < 0 else cut.rjust(width)


def _three(*values: float | None) -> str:
    return " ".join(f"{NOT_THERE if value is None else format(value, '.3f'):>5}" for value in values)


def draw_learning_curve(
    losses: Sequence[float | None], metrics: Sequence[float | None], *, metric: str, title: str = "Learning curve"
) -> bytes:
    """Loss and holdout metric after every sweep, as PNG.

    Args:
        losses: one value a sweep, from sweep 1; None where it was not measured.
        metrics: the same for the metric.
        metric: its name with its cut-off, for example ``NDCG@10``.
        title: above the figure.
    """
    figure = _new_figure(7.0, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    sweeps = np.arange(1, max(len(losses), len(metrics)) + 1)
    for axes, values, label, colour in (
        (upper, metrics, f"{metric} on the holdout", _COLOURS[0]),
        (lower, losses, "training loss", _COLOURS[1]),
    ):
        curve = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        axes.plot(sweeps[: len(curve)], curve, marker="o", markersize=4, color=colour)
        axes.set_ylabel(label)
        _tidy(axes)
    upper.set_title(title)
    lower.set_xlabel("sweep")
    lower.xaxis.get_major_locator().set_params(integer=True)
    lower.margins(y=0.15)
    return _to_png(figure)


def draw_metric_by_activity(
    n_history: NDArray[np.integer], values: Mapping[str, NDArray[np.float64]], *, metric: str
) -> bytes:
    """Mean of a metric by the number of ratings a user had before the cut-off, contenders side by side, as PNG.

    Whiskers are the 95 % normal interval of the mean; bins without users are left out.

    Args:
        n_history: (U,) ratings of each judged user.
        values: contender → (U,) its metric of each user; at most four.
        metric: its name with its cut-off.
    """
    bins = np.searchsorted(_ACTIVITY, n_history, side="right") - 1
    present = np.unique(bins)
    figure = _new_figure(8.0, 4.5)
    axes = figure.subplots()
    width = 0.8 / max(1, len(values))
    for number, ((name, metric_values), colour) in enumerate(zip(values.items(), _COLOURS, strict=False)):
        of_bins = [metric_values[bins == b] for b in present]
        axes.bar(
            np.arange(len(present)) + (number - (len(values) - 1) / 2) * width,
            [of_bin.mean() for of_bin in of_bins],
            width * 0.92,
            yerr=[1.96 * of_bin.std() / np.sqrt(len(of_bin)) for of_bin in of_bins],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
            label=name,
            color=colour,
        )
    axes.set_xticks(np.arange(len(present)), [f"{_name_bin(b)}\nn = {(bins == b).sum():,}" for b in present])
    axes.set_xlabel("ratings before the cut-off (n: judged users)")
    axes.set_ylabel(f"mean {metric}, 95 % interval")
    axes.set_title(f"{metric} by user activity")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=len(values), frameon=False)
    _tidy(axes)
    return _to_png(figure)


def _name_bin(b: int) -> str:
    lowest = _ACTIVITY[b]
    if b == len(_ACTIVITY) - 1:
        return f"{lowest}+"
    highest = _ACTIVITY[b + 1] - 1
    return str(lowest) if lowest == highest else f"{lowest}–{highest}"


def _new_figure(width: float, height: float) -> "Figure":
    # Without pyplot there is no display and no global state; imported here because it costs half a second.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)


def _to_png(figure: "Figure") -> bytes:
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
