"""What changed in the weights, layer by layer: above, how many of them; below, by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from temper.display.figures import NARROW, canvas, figure
from temper.display.theme import sentinel
from temper.report.columns import Column
from temper.report.weights import Damage, Layer, finely, layer_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["layers"]

_Known = Sequence[tuple[Column, Damage]]


def _places(known: _Known) -> list[int | None]:
    """Return the layers of all runs in order; what lies outside of the blocks is the last."""
    found = {row.layer for _, damage in known for row in damage.layers}
    return sorted(found, key=lambda layer: (layer is None, layer or 0))


def _panel(axes: Axes, known: _Known, places: list[int | None], value: Callable[[Layer], float | None]) -> None:
    """Draw one number of every layer and run; the blocks are joined, what lies outside of them stands apart."""
    x_of = {place: number + (0.5 if place is None and number else 0.0) for number, place in enumerate(places)}
    for column, damage in known:
        rows = [(x_of[row.layer], row.layer, found) for row in damage.layers if (found := value(row)) is not None]
        blocks = sorted((x, found) for x, layer, found in rows if layer is not None)
        colour = sentinel(column.mark.colour)
        axes.plot([x for x, _ in blocks], [y for _, y in blocks], color=colour, linewidth=1.4, zorder=2)
        axes.plot([x for x, _, _ in rows], [y for _, _, y in rows], color=colour, marker=column.mark.shape, markersize=7, linestyle="none",
                  markeredgecolor=sentinel("surface"), markeredgewidth=0.8, zorder=3)  # fmt: skip
    axes.set_xlim(-0.6, max(x_of.values()) + 0.6)
    if None in x_of and len(places) > 1:
        axes.axvline(x_of[None] - 0.75, color=sentinel("line"), linewidth=1, dashes=(4, 3), zorder=0)


def _selected(axes: Axes, known: _Known, places: list[int | None]) -> None:
    """Mark what share of a layer was selected as a line behind the share that changed."""
    x_of = {place: number + (0.5 if place is None and number else 0.0) for number, place in enumerate(places)}
    for column, damage in known:
        for row in damage.layers:
            if row.share_selected is not None and (damage.selected or 0) < damage.parameters:
                here = (x_of[row.layer] - 0.36, x_of[row.layer] + 0.36)
                axes.plot(here, (row.share_selected,) * 2, color=sentinel(column.mark.colour), linewidth=5, alpha=0.3, zorder=1,
                          solid_capstyle="butt")  # fmt: skip


def _grid(axes: Axes, top: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    axes.set_ylim(-0.06 * top, 1.1 * top)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]) if top > 0.8 else MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: finely(value).replace("\u00a0", " ") if value >= 0 else ""))
    axes.grid(axis="y", color=sentinel("grid"), linewidth=1)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(sentinel("line"))


def _ticks(axes: Axes, places: list[int | None], narrow: bool) -> None:
    room = 7 if narrow else 20
    blocks = [place for place in places if place is not None]
    every = -(-len(blocks) // room)
    chosen = [(float(number), str(place)) for number, place in enumerate(blocks) if number % every == 0]
    if None in places:
        chosen.append((len(blocks) + (0.5 if blocks else 0.0), "rest"))
    axes.set_xticks([x for x, _ in chosen], [name for _, name in chosen])


def _layers(known: _Known, width: int) -> Figure:
    narrow = width <= NARROW
    height, left, right, gap = 380, 52 if narrow else 60, 10, 40
    drawn, lower = canvas(width, height, left=left, right=right, top=height // 2, bottom=44)
    share = (height - 44 - gap - 26) / 2 / height
    x0, across = left / width, (width - left - right) / width
    lower.set_position((x0, 44 / height, across, share))
    upper = drawn.add_axes((x0, (44 + gap) / height + share, across, share))
    upper.patch.set_visible(False)
    for side in upper.spines.values():
        side.set_visible(False)
    upper.tick_params(length=0, colors=sentinel("muted"), labelsize=11, pad=5)
    upper.set_axisbelow(True)
    places = _places(known)
    _panel(upper, known, places, lambda row: row.share_changed)
    _selected(upper, known, places)
    _panel(lower, known, places, lambda row: row.relative_change)
    rows = [row for _, damage in known for row in damage.layers]
    _grid(upper, max([1e-6, *(max(row.share_changed, row.share_selected or 0) for row in rows)]))
    _grid(lower, max([1e-6, *(row.relative_change or 0.0 for row in rows)]))
    for axes, title in ((upper, "share of weights that changed"), (lower, "relative change ‖Δθ‖ / ‖θ‖")):
        _ticks(axes, places, narrow)
        axes.set_title(
            title, loc="left", fontsize=12, color=sentinel("ink"), weight="bold", pad=6, x=-(left - 8) / (width - left - right)
        )
    lower.set_xlabel("decoder block; rest: embedding, final norm, head", fontsize=11, color=sentinel("muted"), labelpad=5)
    return drawn


def layers(known: _Known) -> Markup:
    """Return the share that changed and the relative change of every layer.

    Args:
        known: The runs of which it is known, with what each did to the weights.
    """
    told = []
    for column, damage in known:
        most = max(damage.layers, key=lambda row: row.relative_change or 0.0)
        change = finely(most.relative_change) if most.relative_change is not None else "an unknown share"
        told.append(f"{column.name}: most in {layer_name(most.layer)}, by {change} of its norm")
    has_masks = any(damage.selected is not None and damage.selected < damage.parameters for _, damage in known)
    masks = (
        " The pale bar is the share that was selected: where the mark lies on it, all that was selected moved."
        if has_masks
        else ""
    )
    return figure(
        lambda width: _layers(known, width),
        name="layers",
        title="What changed in the weights, by layer",
        description="; ".join(told) + ". The table below holds the same values.",
        caption=f"Above, the share of the weights of each layer that changed; below, by how much, relative to their norm.{masks}",
    )
