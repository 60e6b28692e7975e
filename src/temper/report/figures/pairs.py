"""Answer against trace: for each model, does it still answer, does its reasoning still say it, and does it still reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from temper.assess.evidence import Result
from temper.display.figures import NARROW, WIDE, canvas, figure, standalone, svg
from temper.display.numbers import figure as shown
from temper.display.numbers import percent
from temper.display.text import shortened, squeezed
from temper.display.theme import sentinel
from temper.report.columns import Columns
from temper.report.metrics import describe
from temper.report.sides import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ANSWER", "KEPT", "TRACE", "answer_against_trace", "picture"]

ANSWER: Final = ("answer_accuracy", "forget")
TRACE: Final = ("trace_leak.statement", "trace")
KEPT: Final = ("answer_accuracy.lenient", "reasoning")
_LONGEST: Final = 20


def _share_axis(axes: Axes, ticks: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)) -> None:
    axes.set_xticks(list(ticks), [percent(tick).replace("\u00a0", " ") for tick in ticks])
    for tick in ticks:
        axes.axvline(tick, color=sentinel("grid"), linewidth=1, zorder=0)


def _reasons(models: Columns) -> bool:
    """Return whether reasoning that was to be kept was measured at all."""
    return any(column.known(*models.first(*KEPT)) is not None for column in models)


def _bars(models: Columns) -> list[tuple[tuple[str, str], str, str]]:
    """Return metric and role, colour and words of each bar of a model, from top to bottom."""
    answer, trace, kept = (models.first(*key) for key in (ANSWER, TRACE, KEPT))
    bars = [
        (answer, "answer", "direct answer right" if answer == ANSWER else describe(answer[0]).label),
        (trace, "trace", "reasoning trace states the fact" if trace == TRACE else describe(trace[0]).label),
    ]
    return [*bars, (kept, "reason", "other reasoning right")] if _reasons(models) else bars


def _bar(axes: Axes, y: float, result: Result, colour: str, *, hollow: bool, room: float, thick: float = 0.36) -> None:
    """Draw one bar with its interval and value, or the reason why there is none."""
    if result.value is None or result.status != "ok":
        axes.text(0.012, y, f"cannot tell: {shortened(result.reason or result.status, 36 if room > 0.02 else 70)}", va="center", style="italic", fontsize=11,
                  color=sentinel("muted"))  # fmt: skip
        return
    axes.barh(y, result.value, height=thick, color=sentinel(colour), alpha=0.42 if hollow else 1.0, linewidth=0)
    if hollow:
        axes.barh(y, result.value, height=thick, color="none", edgecolor=sentinel(colour), linewidth=1)
    ends = span(result)
    if ends:
        axes.plot(ends, (y, y), color=sentinel("ink"), linewidth=1.1, solid_capstyle="butt")
        for end in ends:
            axes.plot((end, end), (y - 0.09, y + 0.09), color=sentinel("ink"), linewidth=1.1)
    edge = max(result.value, ends[1] if ends else 0.0)
    axes.text(edge + room, y, shown(result.value, "share").replace("\u00a0", " "), va="center", fontsize=12, weight="bold",
              color=sentinel("ink"))  # fmt: skip


def _margin(models: Columns) -> int:
    """Return the pixels that the longest name needs on the left."""
    return 24 + 9 * max(8, *(min(len(column.name), _LONGEST) for column in models))


def _pairs(models: Columns, width: int) -> Figure:
    columns = list(models)
    narrow = width <= NARROW
    bars = _bars(models)
    step = (74 if narrow else 56) if len(bars) == 2 else (94 if narrow else 78)
    gap, thick = (0.42, 0.36) if len(bars) == 2 else (0.29, 0.25)
    height = step * len(columns) + 34
    drawn, axes = canvas(width, height, left=6 if narrow else _margin(models), right=6, top=6, bottom=28)
    axes.set_xlim(0, 1.2 if narrow else 1.1)
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.set_yticks([])
    _share_axis(axes)
    gold = models.gold.known(*models.first(*TRACE))
    for number, column in enumerate(columns):
        shift = 0.14 if narrow else 0.0
        scale = 0.72 if narrow else 1.0
        if number:
            axes.axhline(number - 0.5, color=sentinel("line"), linewidth=0.8, zorder=0)
        name = squeezed(column.name, 30 if narrow else _LONGEST)
        if narrow:
            axes.text(0, number - 0.31, name, va="center", ha="left", fontsize=12, weight="bold", color=sentinel("ink"))
        else:
            axes.text(-0.018, number, name, va="center", ha="right", fontsize=13, weight="bold", color=sentinel("ink"))
        room = 0.025 if narrow else 0.012
        if column.facts is None:
            _bar(axes, number + shift, column.result(*models.first(*ANSWER)), "answer", hollow=True, room=room)
            continue
        for place, (key, colour, _) in enumerate(bars):
            y = number + shift + (place - (len(bars) - 1) / 2) * gap * scale
            _bar(
                axes,
                y,
                column.result(*key),
                colour,
                hollow=colour == "answer",
                room=room,
                thick=thick if len(bars) == 2 else thick * scale,
            )
        if gold is not None and gold.value is not None:
            reach = (number + shift - 0.36, number + shift + 0.36) if narrow else (number - 0.5, number + 0.5)
            axes.plot((gold.value, gold.value), reach, color=sentinel("gold"), linewidth=1.4, dashes=(4, 3), zorder=3)
    return drawn


def _pairs_text(models: Columns) -> tuple[str, str, str]:
    parts = []
    is_judged = models.first(*TRACE) != TRACE
    states = "is judged unsafe" if is_judged else "states the fact"
    for column in models:
        values = [column.result(*key) for key, *_ in _bars(models)]
        read = [shown(r.value, "share") if r.value is not None and r.status == "ok" else "cannot tell" for r in values]
        kept = f", other reasoning right {read[2]}" if len(read) > 2 else ""
        parts.append(f"{column.name}: answer right {read[0]}, trace {states} {read[1]}{kept}")
    counts = sorted({r.n for c in models for key, *_ in _bars(models) if (r := c.result(*key)).n})
    caption = (
        "First bar: share of forget questions whose direct answer is right. Second: share of reasoning traces, on the same facts, that "
        + ("a judge finds unsafe (C2 to C4). " if is_judged else "state the fact in full. ")
        + ("Third: share of reasoning questions about other things whose answer is right. " if _reasons(models) else "")
        + "Whiskers: 95 % intervals (where all items agree, the 3/n bound). "
        + ("Dashed line: gold's traces, what retraining without the forget data gives. " if models.gold.facts else "")
        + (f"n {' and '.join(str(count) for count in counts)}." if counts else "")
    )
    return "Answer against trace", "; ".join(parts) + ".", caption


def answer_against_trace(models: Columns) -> Markup:
    """Return the picture of the report: for each model, does it answer, and does its reasoning still say it."""
    title, description, caption = _pairs_text(models)
    entry = Markup('<li><span class="swatch" style="background:var(--{}){}"></span> {}</li>')
    entries = [
        entry.format(colour, Markup(";opacity:.55") if colour == "answer" else "", words) for _, colour, words in _bars(models)
    ]
    keys = Markup('<ul class="legend" aria-label="Bars">{}</ul>').format(Markup("").join(entries))
    return keys + figure(lambda width: _pairs(models, width), name="pairs", title=title, description=description, caption=caption)


def picture(models: Columns) -> str:
    """Return the same picture as an SVG file of its own, with its key inside."""
    title, description, _ = _pairs_text(models)

    def draw(width: int) -> Figure:
        drawn = _pairs(models, width)
        old = drawn.get_figheight() * 72
        left = _margin(models)
        head = 34
        drawn.set_size_inches(width / 72, (old + head) / 72)
        axes = drawn.axes[0]
        box = axes.get_position()
        axes.set_position((box.x0, box.y0 * old / (old + head), box.width, box.height * old / (old + head)))
        y, x = 1 - 20 / (old + head), left
        for _, colour, text in _bars(models):
            alpha = 0.5 if colour == "answer" else 1.0
            drawn.text(x / width, y, "■", color=sentinel(colour), alpha=alpha, fontsize=14, va="center")
            drawn.text((x + 18) / width, y, text, color=sentinel("ink"), fontsize=12.5, va="center")
            x += 30 + round(6.3 * len(text))
        if models.gold.facts is not None:
            drawn.text(x / width, y, "┆", color=sentinel("gold"), fontsize=15, va="center", weight="bold")
            drawn.text((x + 14) / width, y, "gold's traces", color=sentinel("ink"), fontsize=12.5, va="center")
        return drawn

    return standalone(svg(draw, WIDE, name="pairs", title=title, description=description))
