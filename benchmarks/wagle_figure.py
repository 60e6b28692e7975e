"""The figures of the study of WAGLE, drawn like those of a report; see `wagle_study.py`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wagle_bench import BENCHES
from wagle_compare import KEPT, MAIN, OBJECTIVES, at, baseline, done, shared_level

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from wagle_study import Way

__all__ = ["differences_of", "figure_of"]

DRAWN = ("all", "lora-x5", "random-0.2", "magnitude-0.2", "wanda-0.2", "wagle-0.2")
"""The ways that have a line."""


def figure_of(bench: str, results: Mapping[str, Any], ways: Sequence[Way]) -> str:
    """Return the figure as an SVG file: a panel an objective, neighbour loss against the level of forgetting."""
    from temper.display.figures import WIDE, standalone, svg

    named = {way.key: way.title.replace("*", "") for way in ways}
    title = f"Neighbour loss at equal forget loss, {BENCHES[bench].title}"
    description = "A panel for each objective; a line for each selection that trains a fifth of the weights, dense and LoRA; the table holds the same numbers."
    drawing = svg(lambda width: _drawn(results, named, width), WIDE, name=f"wagle-{bench}", title=title, description=description)
    return standalone(drawing)


def _drawn(results: Mapping[str, Any], named: Mapping[str, str], width: int) -> Figure:
    from matplotlib.figure import Figure

    from temper.display.theme import sentinel

    height, colours = 500, dict(zip(DRAWN, ("original", "run-5", "run-4", "run-3", "run-1", "run-2"), strict=True))
    shapes = dict(zip(DRAWN, ("s", "P", "v", "p", "^", "o"), strict=True))
    drawn = Figure(figsize=(width / 72, height / 72), dpi=72)
    drawn.patch.set_visible(False)
    shares = results["shares"]
    handles: dict[str, Any] = {}
    for number, (objective, points) in enumerate(results["points"].items()):
        column, line = number % 2, number // 2
        left, bottom = (54 + column * (width / 2 - 8)) / width, (76 + (1 - line) * 212) / height
        axes = drawn.add_axes((left, bottom, (width / 2 - 76) / width, 162 / height))
        axes.patch.set_visible(False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(length=0, colors=sentinel("muted"), labelsize=10.5, pad=4)
        axes.grid(axis="y", color=sentinel("grid"), linewidth=1)
        axes.set_axisbelow(True)
        for shift, key in enumerate(key for key in DRAWN if done(points.get(key, ()))):
            columns = [[v for v in at(points[key], level, KEPT) if v is not None] for level in range(len(shares))]
            # a mean over the seeds that got there would follow the lucky ones
            whole = [n for n, values in enumerate(columns) if values and len(values) == len(done(points[key]))]
            xs = [n + 0.05 * (shift - 2.5) for n in whole]
            means = [statistics.fmean(columns[n]) for n in whole]
            bars = [statistics.stdev(columns[n]) if len(columns[n]) > 1 else 0.0 for n in whole]
            colour = sentinel(colours[key])
            heavy = key.startswith("wagle")
            handle = axes.errorbar(
                xs, means, yerr=bars, color=colour, marker=shapes[key], markersize=6 if heavy else 5, linewidth=2.0 if heavy else 1.2,
                elinewidth=0.9, capsize=0,
            )  # fmt: skip
            handles[key] = handle
        axes.set_title(OBJECTIVES[objective], fontsize=12, weight="bold", color=sentinel("ink"), loc="left", pad=6)
        axes.set_xticks(range(len(shares)), [f"{100 * share:g} %" for share in shares])
        axes.set_xlim(-0.4, len(shares) - 0.6)
        axes.set_ylim(bottom=0)
        if column == 0:
            axes.set_ylabel("neighbour loss, nats", fontsize=10.5, color=sentinel("muted"))
        if line == 1 or number + 2 >= len(results["points"]):
            axes.set_xlabel("forget loss, share of the way to gold", fontsize=10.5, color=sentinel("muted"))
    labels = [named[key].replace(", 5 times the learning rate", "") + (" 0.2" if "-0.2" in key else "") for key in handles]
    legend = drawn.legend(
        list(handles.values()),
        labels,
        loc="lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=10.5,
        columnspacing=1.4,
        handlelength=1.4,
    )
    for text in legend.get_texts():
        text.set_color(sentinel("ink"))
    return drawn


def differences_of(bench: str, results: Mapping[str, Any], ways: Sequence[Way]) -> str:
    """Return the figure as an SVG file: a row a comparison of WAGLE with random masks, a dot a seed."""
    from temper.display.figures import WIDE, standalone, svg

    title = f"WAGLE minus random masks of the same ratio and rate, {BENCHES[bench].title}"
    description = "A row for each comparison, a dot for each seed; right of the line WAGLE keeps less."
    drawing = svg(
        lambda width: _dots(_rows(bench, results, ways), width),
        WIDE,
        name=f"wagle-{bench}-differences",
        title=title,
        description=description,
    )
    return standalone(drawing)


def _rows(bench: str, results: Mapping[str, Any], ways: Sequence[Way]) -> list[tuple[str, list[float]]]:
    top = list(results["shares"]).index(MAIN[bench])
    found = []
    for objective, points in results["points"].items():
        for way in ways:
            other = baseline(way, points)
            if way.name != "wagle" or other is None or not done(points.get(way.key, ())):
                continue
            level, values = shared_level(points, way.key, other, top)
            if level is not None:
                kind = ", γ_H relative" if "relative" in way.key else "" if way.rate is None else ", rate of dense"
                at_level = "" if level == top else f" (at {100 * results['shares'][level]:g} %)"
                found.append((f"{OBJECTIVES[objective]}, ratio {way.ratio:g}{kind}{at_level}", values))
    return found


def _dots(rows: Sequence[tuple[str, list[float]]], width: int) -> Figure:
    from temper.display.figures import canvas
    from temper.display.theme import sentinel

    height = 22 * len(rows) + 56
    drawn, axes = canvas(width, height, left=250, right=16, top=6, bottom=46)
    reach = 1.1 * max((abs(value) for _, values in rows for value in values), default=1.0)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=sentinel("muted"), linewidth=1)
    axes.grid(axis="x", color=sentinel("grid"), linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    for number, (_, values) in enumerate(rows):
        mean = statistics.fmean(values)
        axes.plot([0, mean], [number, number], color=sentinel("run-2"), linewidth=1.4)
        axes.plot(values, [number] * len(values), "o", markersize=5, color=sentinel("run-2"), alpha=0.75, markeredgewidth=0)
        axes.plot([mean], [number], "|", markersize=13, markeredgewidth=2, color=sentinel("ink"))
    axes.set_xlabel("neighbour loss, nats: WAGLE keeps more  ◂  0  ▸  random keeps more", fontsize=10.5, color=sentinel("muted"))
    return drawn
