"""Forgetting against utility: how far each model went from the original to gold, and what it kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from temper.display.figures import NARROW, canvas, figure
from temper.display.numbers import percent
from temper.display.text import squeezed
from temper.display.theme import sentinel
from temper.report.columns import Columns
from temper.report.forgetting import Position

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plane"]


def _place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], width: int, *, avoid: Sequence[tuple[float, float]]
) -> None:
    """Write each name beside its point where it covers no other name and no point."""
    to_pixels = axes.transData.transform
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in (to_pixels(point) for point in avoid)]
    for x, y, name, colour in points:
        px, py = to_pixels((x, y))
        long = 7.4 * len(name)
        offers = [(11, 10, "left"), (-11, 10, "right"), (11, -10, "left"), (-11, -10, "right"), (11, 25, "left"), (11, -25, "left"),
                  (-11, 25, "right"), (-11, -25, "right"), (11, 40, "left"), (-11, -40, "right")]  # fmt: skip

        def box(
            offer: tuple[int, int, str], px: float = px, py: float = py, long: float = long
        ) -> tuple[float, float, float, float]:
            start = px + offer[0] - (long if offer[2] == "right" else 0)
            return start, py + offer[1] - 7, start + long, py + offer[1] + 7

        def cost(offer: tuple[int, int, str]) -> float:
            a = box(offer)
            covered = sum(
                max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1])) for b in taken
            )
            outside = max(0.0, -a[0]) + max(0.0, a[2] - width)
            return float(covered + 1000 * outside)

        chosen = min(offers, key=cost)
        taken.append(box(chosen))
        axes.annotate(name, (x, y), xytext=chosen[:2], textcoords="offset points", ha=chosen[2], va="center", fontsize=12,
                      weight="bold", color=sentinel(colour))  # fmt: skip


def _plane(models: Columns, positions: Sequence[Position], width: int) -> Figure:
    narrow = width <= NARROW
    drawn, axes = canvas(width, 330 if narrow else 380, left=46 if narrow else 58, right=14, top=14, bottom=46)
    marks = {column.name: column.mark for column in models}
    placed = [(p, p.utility, p.forgetting) for p in positions if p.utility is not None and p.forgetting is not None]
    xs = [x for p, u, _ in placed for x in (u, *(p.utility_span or ()))]
    ys = [y for p, _, f in placed for y in (f, *(p.forgetting_span or ()))]
    left, right = min([*xs, 0.8]), max([*xs, 1.0])
    low, high = min([*ys, 0.0]), max([*ys, 1.0])
    axes.set_xlim(left - 0.06 * (right - left), right + 0.09 * (right - left))
    axes.set_ylim(low - 0.1 * (high - low), high + 0.12 * (high - low))
    for y, colour in ((0.0, "line"), (1.0, "gold")):
        axes.axhline(y, color=sentinel(colour), linewidth=1, dashes=(4, 3), zorder=0)
    axes.axvline(1.0, color=sentinel("line"), linewidth=1, dashes=(4, 3), zorder=0)
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}".rstrip("0").rstrip(".")))
    axes.set_xlabel("utility, share of the original's", color=sentinel("muted"), fontsize=12, labelpad=7)
    axes.set_ylabel("forgetting (0 original, 1 gold)", color=sentinel("muted"), fontsize=12, labelpad=5)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(True)
        axes.spines[side].set_color(sentinel("line"))
    labels: list[tuple[float, float, str, str]] = []
    for point, x, y in placed:
        mark = marks[point.name]
        for ends, along in ((point.utility_span, "x"), (point.forgetting_span, "y")):
            if ends:
                line = (ends, (y, y)) if along == "x" else ((x, x), ends)
                axes.plot(*line, color=sentinel(mark.colour), linewidth=1.2, alpha=0.75, zorder=2)
        axes.plot([x], [y], marker=mark.shape, markersize=11, color=sentinel(mark.colour), markeredgecolor=sentinel("surface"),
                  markeredgewidth=1.5, linestyle="none", zorder=4)  # fmt: skip
        labels.append((x, y, squeezed(point.name, 22), mark.colour))
    _place_labels(axes, labels, width, avoid=[(x, y) for _, x, y in placed])
    return drawn


def plane(models: Columns, positions: Sequence[Position], caption: str) -> Markup:
    """Return the forgetting-against-utility plane."""
    placed = [p for p in positions if p.utility is not None and p.forgetting is not None]
    description = "; ".join(f"{p.name}: utility {percent(p.utility or 0)}, forgetting {p.forgetting:.2f}" for p in placed) + "."
    return figure(
        lambda width: _plane(models, positions, width),
        name="plane",
        title="Forgetting against utility",
        description=description,
        caption=caption,
    )
