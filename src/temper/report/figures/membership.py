"""Membership: how well forget items are told from items never trained on, with the sides of too little and too much named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from temper.assess.evidence import Result
from temper.display.figures import NARROW, canvas, figure
from temper.display.text import squeezed
from temper.display.theme import sentinel
from temper.report.columns import Column, Columns
from temper.report.figures.dots import unit_axis
from temper.report.metrics import describe
from temper.report.sides import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["membership"]


def _membership(models: Columns, keys: Sequence[tuple[str, str]], width: int) -> Figure:
    narrow = width <= NARROW
    columns = [column for column in models if column.facts is not None]
    step, head = 18, 30
    block = step * len(columns) + head
    height = block * len(keys) + 62
    left = 92 if narrow else 160
    drawn, axes = canvas(width, height, left=left, right=12, top=30, bottom=30)
    axes.set_xlim(0, 1)
    axes.set_ylim(block * len(keys), 0)
    axes.set_yticks([])
    edge = -(left - 2) / (width - left - 12)
    unit_axis(axes)
    axes.axvline(0.5, color=sentinel("line"), linewidth=1.2, zorder=1)
    for block_number, (metric, role) in enumerate(keys):
        y = block_number * block
        gold = models.gold.known(metric, role)
        ends = span(gold)
        top, bottom = y + head - 9, y + block - 3
        if ends:
            for x0, x1, colour in ((0.0, ends[0], "over"), (ends[0], ends[1], "band"), (ends[1], 1.0, "under")):
                axes.fill_betweenx((top, bottom), x0, x1, color=sentinel(colour), linewidth=0, zorder=0)
        axes.text(
            edge, y + 8, describe(metric).label, fontsize=11.5, weight="bold", va="center", ha="left", color=sentinel("ink")
        )
        for number, column in enumerate(columns):
            here = y + head + number * step
            axes.text(
                edge,
                here,
                squeezed(column.name, 12 if narrow else 20),
                fontsize=11,
                va="center",
                ha="left",
                color=sentinel("ink"),
            )
            _dot_line(axes, here, column, column.result(metric, role))
    if any(span(models.gold.known(*key)) for key in keys):
        axes.text(0.01, -14, "over-unlearned" if narrow else "over-unlearned: stranger than unseen", fontsize=11, va="center", ha="left",
                  color=sentinel("chip-over"))  # fmt: skip
        axes.text(0.99, -14, "under-unlearned" if narrow else "under-unlearned: still recognised", fontsize=11, va="center", ha="right",
                  color=sentinel("chip-leak"))  # fmt: skip
    return drawn


def _dot_line(axes: Axes, y: float, column: Column, result: Result) -> None:
    if result.value is None or result.status != "ok":
        axes.text(0.5, y, "cannot tell", va="center", ha="center", fontsize=10.5, style="italic", color=sentinel("muted"))
        return
    reach = span(result)
    if reach:
        axes.plot(reach, (y, y), color=sentinel(column.mark.colour), linewidth=1.4, zorder=2)
    axes.plot([result.value], [y], marker=column.mark.shape, markersize=8, color=sentinel(column.mark.colour), linestyle="none", zorder=3,
              markeredgecolor=sentinel("surface"), markeredgewidth=0.8)  # fmt: skip


def membership(models: Columns, keys: Sequence[tuple[str, str]]) -> Markup:
    """Return the AUC of each membership score, the sides of under- and over-unlearning named."""
    known = [(c.name, describe(m).label, c.known(m, r)) for m, r in keys for c in models]
    description = "; ".join(
        f"{name}, {label}: {result.value:.2f}" for name, label, result in known if result and result.value is not None
    )
    has_gold = any(span(models.gold.known(*key)) for key in keys)
    sides = (
        "The middle band is gold's interval. Right of it forget items still look trained on (under-unlearned); left of it they look "
        "stranger than items never trained on (over-unlearned), which also tells that something was removed."
        if has_gold
        else "No gold model was given, so the sides of under- and over-unlearning cannot be placed."
    )
    return figure(
        lambda width: _membership(models, keys, width),
        name="membership",
        title="Membership",
        description=description + ".",
        caption=f"AUC of telling forget items from items never trained on, 95 % intervals; 0.5 (the darker line) is chance. {sides}",
    )
