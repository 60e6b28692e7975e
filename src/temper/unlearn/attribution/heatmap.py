"""Figures of masks: where the selected weights lie in the model, and which scores were selected."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from temper.display.figures import NARROW, canvas, figure
from temper.display.numbers import compact, percent
from temper.display.text import shortened, squeezed
from temper.display.theme import sentinel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["density_map", "kinds_and_layers", "scale_of", "score_bars"]

_COLOUR: Final = "run-1"
_ROW: Final = 22


def kinds_and_layers(parts: Sequence[dict[str, Any]]) -> tuple[list[str], list[str], int]:
    """Return the kinds inside the decoder blocks and outside of them, in their order, and how many blocks there are."""
    inside = list(dict.fromkeys(part["kind"] for part in parts if part["layer"] is not None))
    outside = list(dict.fromkeys(part["kind"] for part in parts if part["layer"] is None))
    return inside, outside, max((part["layer"] + 1 for part in parts if part["layer"] is not None), default=0)


def scale_of(parts: Sequence[dict[str, Any]]) -> float:
    """Return the highest density of a mask among kinds that hold a hundredth of the weights or more: what is drawn as full.

    Norms, a few weights that are often selected whole, would leave no difference between the others.
    """
    sizes: dict[str, int] = {}
    for part in parts:
        sizes[part["kind"]] = sizes.get(part["kind"], 0) + part["weights"]
    total = sum(sizes.values())
    large = max((part["density"] or 0.0 for part in parts if 100 * sizes[part["kind"]] >= total), default=0.0)
    return large or max((part["density"] or 0.0 for part in parts), default=0.0)


def _alpha(strength: float) -> float:
    """Return how strong the colour is of a share in (0, 1] of the scale: the least that is there can be told from nothing."""
    return round(0.06 + 0.94 * strength, 3)


def _cell(axes: Axes, x: float, y: float, width: float, density: float | None, scale: float, label: bool) -> None:
    """Draw one part of the model as a box whose colour is as strong as its density; a dash where nothing competes."""
    from matplotlib.patches import Rectangle

    if density is None:
        middle, reach = y + _ROW / 2, min(0.15 * width, 5)
        axes.plot((x + width / 2 - reach, x + width / 2 + reach), (middle, middle), color=sentinel("line"), linewidth=1)
        return
    box = (x, y + 1), width, _ROW - 2
    strength = min(density / scale, 1.0) if density and scale else 0.0
    if strength:
        axes.add_patch(Rectangle(*box, facecolor=sentinel(_COLOUR), alpha=_alpha(strength), linewidth=0))
    else:
        axes.add_patch(Rectangle(*box, facecolor="none", edgecolor=sentinel("grid"), linewidth=0.8))
    if label:
        colour = sentinel("surface" if strength > 0.55 else "ink")
        text = percent(density).replace("\u00a0%", "")
        axes.text(x + width / 2, y + _ROW / 2, text, ha="center", va="center_baseline", fontsize=10, color=colour)


def _map(file: dict[str, Any], scale: float, width: int) -> Figure:
    narrow = width <= NARROW
    inside, outside, layers = kinds_and_layers(file["parts"])
    # what does not compete has no density: it could not have been selected
    densities = {(part["kind"], part["layer"]): part["density"] if part["competing"] else None for part in file["parts"]}
    left, right, top, gap = (112 if narrow else 176), 8, 18, 14
    rows = len(inside) + len(outside)
    height = top + rows * _ROW + (gap if inside and outside else 0) + 64
    drawn, axes = canvas(width, height, left=left, right=right, top=0, bottom=0)
    across = width - left - right
    axes.set_xlim(0, across)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    step = across / max(layers, 1)
    space = 2.0 if step > 10 else 0.5 if step > 5 else 0.0
    wide_enough = step >= 30
    last_words = [kind.rsplit(".", 1)[-1] for kind in (*inside, *outside)]

    def name(kind: str, y: float) -> None:
        word = kind.rsplit(".", 1)[-1]
        shown = squeezed(word if narrow and last_words.count(word) == 1 else kind, 15 if narrow else 26)
        axes.text(-8, y + _ROW / 2, shown, ha="right", va="center_baseline", fontsize=11, color=sentinel("ink"))

    every = next(n for n in (1, 2, 4, 5, 8, 10, 20, 50, 100, 1000) if n * step >= 22)
    for layer in range(0, layers, every):
        axes.text((layer + 0.5) * step, 10, str(layer), ha="center", va="center", fontsize=10, color=sentinel("muted"))
    axes.text(-8, 10, "block", ha="right", va="center", fontsize=10, color=sentinel("muted"))
    y = float(top)
    for kind in inside:
        name(kind, y)
        for layer in range(layers):
            if (kind, layer) in densities:
                _cell(axes, layer * step, y, step - space, densities[kind, layer], scale, wide_enough)
        y += _ROW
    y += gap if inside and outside else 0
    for kind in outside:
        name(kind, y)
        _cell(axes, 0, y, min(across, 72) - space, densities[kind, None], scale, True)
        y += _ROW
    _bar(axes, y + 28, across, file, scale)
    return drawn


def _bar(axes: Axes, y: float, across: float, file: dict[str, Any], scale: float) -> None:
    """Draw the scale of colours with the density of the whole model on it."""
    from matplotlib.patches import Rectangle

    length, pieces = min(across, 240.0), 12
    for piece in range(pieces):
        box = (piece * length / pieces, y), length / pieces - 1, 10
        axes.add_patch(Rectangle(*box, facecolor=sentinel(_COLOUR), alpha=_alpha((piece + 0.5) / pieces), linewidth=0))
    axes.text(0, y + 21, "0", ha="left", va="center", fontsize=10, color=sentinel("muted"))
    more = any((part["density"] or 0) > scale for part in file["parts"])
    end = f"{percent(scale)}{' and more' if more else ''}"
    axes.text(length, y + 21, end, ha="right", va="center", fontsize=10, color=sentinel("muted"))
    if file["density"] is not None and scale:
        at = length * min(file["density"] / scale, 1)
        axes.plot((at, at), (y - 11, y + 12), color=sentinel("trace"), linewidth=2)
        side = "left" if at < length / 2 else "right"
        text = f"whole model {percent(file['density'])}"
        axes.text(at + (4 if side == "left" else -4), y - 7, text, ha=side, va="center", fontsize=10, color=sentinel("trace"))


def density_map(file: dict[str, Any], number: int, scale: float) -> Markup:
    """Return the heat map of one mask: kind of module by decoder block.

    Args:
        file: One of `temper.unlearn.attribution.maskfiles.inspect_masks`.
        number: Of the figure on its page.
        scale: The density that is drawn in full colour.
    """
    parts = sorted((p for p in file["parts"] if p["density"] is not None), key=lambda part: -part["density"])
    said = ", ".join(
        f"{part['kind']}{'' if part['layer'] is None else ' of block ' + str(part['layer'])} {percent(part['density'])}"
        for part in (*parts[:3], *parts[-1:])
    )
    return figure(
        lambda width: _map(file, scale, width),
        name=f"map{number}",
        title=f"Share of the weights that {shortened(file['name'], 60)} selects, by module and block",
        description=f"Highest and last: {said}. The table of all parts holds every kind.",
        caption=f"{shortened(file['name'], 80)}: {compact(file['selected'])} of {compact(file['weights'])} weights. Numbers in per cent; the stronger "
        "the colour, the larger the share of a part's weights that is selected; what has a dash did not compete.",
    )


def _bars(histogram: dict[str, Any], width: int) -> Figure:
    edges, counts, selected = histogram["log2"], histogram["counts"], histogram["selected"]
    left, right, top, bottom = 44, 12, 12, 40
    drawn, axes = canvas(width, 230, left=left, right=right, top=top, bottom=bottom)
    total = sum(counts) + histogram.get("zeros", 0)
    shares, chosen = ([100 * n / max(total, 1) for n in numbers] for numbers in (counts, selected))
    widths = [0.9 * (end - start) for start, end in itertools.pairwise(edges)]
    starts = [start + 0.05 * (end - start) for start, end in itertools.pairwise(edges)]
    first, last = _visible(shares)
    axes.bar(starts, shares, width=widths, align="edge", color=sentinel("answer"), alpha=0.45, linewidth=0)
    axes.bar(starts, chosen, width=widths, align="edge", color=sentinel(_COLOUR), linewidth=0)
    axes.set_xlim(edges[first] - 0.5, edges[last + 1] + 0.5)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5 if width <= NARROW else 9, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=sentinel("grid"), linewidth=1)
    axes.set_xlabel("log₂ |score|", fontsize=11, color=sentinel("muted"))
    axes.set_ylabel("% of scores", fontsize=11, color=sentinel("muted"))
    return drawn


def _visible(shares: Sequence[float]) -> tuple[int, int]:
    """Return the first and last bar that can be seen; a few scores far out would press all others together."""
    seen = [place for place, share in enumerate(shares) if share >= 0.02]
    return (seen[0], seen[-1]) if seen else (0, max(len(shares) - 1, 0))


def score_bars(file: dict[str, Any], number: int) -> Markup:
    """Return the histogram of the scores of one mask, what is selected coloured; empty where its header holds none."""
    histogram = file["facts"].get("histogram")
    if not _drawable(histogram):
        return Markup("")
    total = sum(histogram["counts"]) + histogram.get("zeros", 0)
    chosen = sum(histogram["selected"]) + histogram.get("zeros_selected", 0)
    first, last = _visible([100 * n / max(total, 1) for n in histogram["counts"]])
    outside = sum(histogram["counts"][:first]) + sum(histogram["counts"][last + 1 :])
    zeros = histogram.get("zeros", 0)
    notes = [
        f"{shortened(file['name'], 80)}: {compact(chosen)} of {compact(total)} scores are selected, the coloured part of each bar."
    ]
    if zeros:
        taken = histogram.get("zeros_selected", 0)
        notes.append(
            f"{percent(zeros / total)} of the scores are zero and have no bar{f', {compact(taken)} of them selected' if taken else ', none of them selected'}."
        )
    if outside >= 0.0005 * total:
        notes.append(f"{percent(outside / total)} lie outside of the picture.")
    return figure(
        lambda width: _bars(histogram, width),
        name=f"scores{number}",
        title=f"Scores behind {shortened(file['name'], 60)} by their size",
        description=f"Selected are {percent(chosen / total) if total else 'none'} of the scores, the largest where all weights compete with each other.",
        caption=" ".join(notes),
    )


def _drawable(histogram: Any) -> bool:
    """Return whether a header's histogram has the form that can be drawn; headers come from files."""
    if not isinstance(histogram, dict):
        return False
    edges, counts, selected = (histogram.get(name) for name in ("log2", "counts", "selected"))
    if not (isinstance(edges, list) and isinstance(counts, list) and isinstance(selected, list)):
        return False
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in (*edges, *counts, *selected)):
        return False
    return bool(counts) and len(counts) == len(selected) == len(edges) - 1
