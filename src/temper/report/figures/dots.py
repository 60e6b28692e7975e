"""Numbers against gold: one row a number, one dot a model, gold's interval as a band behind them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from temper.display.figures import NARROW, canvas, figure
from temper.display.text import shortened
from temper.display.theme import icon, sentinel
from temper.report.columns import Column, Columns
from temper.report.metrics import describe, role_name
from temper.report.sides import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dots", "legend", "unit_axis"]


def legend(models: Columns, only: Collection[str] | None = None) -> Markup:
    """Return the list of models with their marks; of some of them where their names are given."""
    items = Markup("").join(
        Markup("<li>{} {}</li>").format(icon(column.mark), shortened(column.name, 60))
        for column in models
        if (column.facts is not None if only is None else column.name in only)
    )
    return Markup('<ul class="legend" aria-label="Models">{}</ul>').format(items)


def _dot_row(axes: Axes, y: float, step: float, metric: str, role: str, columns: Sequence[Column]) -> None:
    """Draw one number of all models, one below the other, and gold's interval as a band behind them."""
    gold = next((c.known(metric, role) for c in columns if c.which == "gold"), None)
    ends = span(gold)
    top, bottom = y - step / 2, y + (len(columns) - 0.5) * step
    if ends:
        axes.fill_betweenx((top, bottom), ends[0], ends[1], color=sentinel("band"), linewidth=0, zorder=0)
    if gold is not None and gold.value is not None:
        axes.plot((gold.value, gold.value), (top, bottom), color=sentinel("gold"), linewidth=1.2, zorder=1)
    for number, column in enumerate(columns):
        here = y + number * step
        result = column.known(metric, role)
        if result is None or result.value is None:
            axes.text(0.5, here, "cannot tell", va="center", ha="center", fontsize=10, style="italic", color=sentinel("muted"))
            continue
        reach = span(result)
        if reach:
            axes.plot(reach, (here, here), color=sentinel(column.mark.colour), linewidth=1.3, zorder=2)
        axes.plot([result.value], [here], marker=column.mark.shape, markersize=6.5, color=sentinel(column.mark.colour), linestyle="none",
                  zorder=3)  # fmt: skip


def _dots(models: Columns, groups: Sequence[tuple[str, Sequence[tuple[str, str]]]], width: int) -> Figure:
    narrow = width <= NARROW
    columns = [column for column in models if column.facts is not None]
    step, between, heading = 10, 20, 30
    lines = sum(len(rows) for _, rows in groups)
    per_row = step * len(columns) + between + (16 if narrow else 0)
    height = lines * per_row + heading * len(groups) + 34
    left = 8 if narrow else 210
    drawn, axes = canvas(width, height, left=left, right=12, top=4, bottom=26)
    axes.set_xlim(-0.015, 1.015)
    axes.set_ylim(height - 30, 0)
    axes.set_yticks([])
    unit_axis(axes)
    span_px = width - left - 12
    edge = -0.015 if narrow else -0.015 - 1.03 * (left - 2) / span_px
    y = 0.0
    for name, rows in groups:
        axes.text(edge, y + 14, name, fontsize=12, weight="bold", color=sentinel("ink"), va="center", ha="left")
        y += heading
        for metric, role in rows:
            axes.plot((edge, 1.015), (y - 5, y - 5), color=sentinel("grid"), linewidth=1, clip_on=False)
            label = describe(metric).label
            middle = y + (8 if narrow else step * (len(columns) - 1) / 2 + 5)
            axes.text(edge, middle, label, fontsize=11.5, color=sentinel("ink"), va="center", ha="left")
            _dot_row(axes, y + 5 + (16 if narrow else 0), step, metric, role, columns)
            y += per_row
    return drawn


def unit_axis(axes: Axes) -> None:
    """Mark the axis from 0 to 1."""
    ticks = (0, 0.25, 0.5, 0.75, 1)
    axes.set_xticks(list(ticks), ["0", "0.25", "0.5", "0.75", "1"])
    for tick in ticks:
        axes.axvline(tick, color=sentinel("grid"), linewidth=1, zorder=0)


def dots(models: Columns, keys: Sequence[tuple[str, str]]) -> Markup:
    """Return every number of every model as a dot with its interval, gold's interval as a band behind each row."""
    roles = list(dict.fromkeys(role for _, role in keys))
    groups = [(role_name(role), [key for key in keys if key[1] == role]) for role in roles]
    band = (
        "The band is gold's interval: a model that behaves as if it had never been trained on the forget data lies in it. On the forget "
        "set, right of the band too much is left and left of it more is gone than retraining would remove; on what is to be kept, left of "
        "the band something was lost."
        if models.gold.facts is not None
        else "No gold model was given, so no band says where a retrained model would be."
    )
    description = f"{len(keys)} numbers, each with one dot a model; the table of all numbers holds the same values."
    return legend(models) + figure(
        lambda width: _dots(models, groups, width),
        name="dots",
        title="Every number against gold",
        description=description,
        caption="Each dot is one number of one model on a scale from 0 to 1, with its 95 % interval. " + band,
    )
