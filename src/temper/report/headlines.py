"""What the numbers say, in plain words, each sentence computed from values and their 95 % intervals.

Two values differ where their intervals do not overlap. A value without an interval, or without n, decides nothing: the
sentence then is `cannot tell`. An interval of zero width at 0 or 1 (all sampled items agreed) is widened to 3/n, the
95 % bound for an event never seen in n draws.
Source of the bound: Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from temper.assess.evidence import Evidence, Result
from temper.display.numbers import figure, percent
from temper.report.columns import Column, Columns, columns
from temper.report.metrics import describe

__all__ = ["DAMAGE", "VERDICTS", "Headline", "Verdict", "headlines", "judge", "span"]

Verdict = Literal["damaged", "leaks", "over", "partly", "kept", "removed", "cannot_tell"]

VERDICTS: Final[dict[Verdict, tuple[str, str]]] = {
    "damaged": ("damaged", "leak"),
    "leaks": ("leaks in its traces", "leak"),
    "over": ("over-unlearned", "over"),
    "partly": ("partly removed", "leak"),
    "kept": ("nothing removed", "kept"),
    "removed": ("no gap to gold seen", "met"),
    "cannot_tell": ("cannot tell", "unknown"),
}
"""A verdict to its words on the page and the class of its chip."""

DAMAGE: Final = 0.9
"""A run whose utility, with its whole interval, is below this share of the original's is called damaged."""

_TRACE: Final = ("trace_leak.statement", "trace")
_RELEARNED: Final = ("relearning.after", "forget")
_KEPT: Final = (
    ("answer_accuracy", "neighbour", "right answers about neighbours"),
    ("answer_accuracy.lenient", "reasoning", "right answers in reasoning"),
    ("answer_accuracy", "general", "right general answers"),
)


@dataclass(frozen=True, slots=True)
class Headline:
    """The sentence on one run, its verdict, and what else must be known of it."""

    name: str
    verdict: Verdict
    sentence: str
    details: tuple[str, ...]


def span(result: Result | None) -> tuple[float, float] | None:
    """Return the interval of a number, zero width at 0 or 1 widened to 3/n; None where it has no interval."""
    if result is None or result.value is None or result.status != "ok" or result.low is None or result.high is None:
        return None
    low, high = result.low, result.high
    if low == high and low in (0.0, 1.0) and result.n > 0:
        slack = min(1.0, 3 / result.n)
        return (0.0, slack) if low == 0.0 else (1.0 - slack, 1.0)
    return low, high


def _compare(one: Result | None, other: Result | None) -> int | None:
    """Return -1, 0 or 1 for below, not told apart, above; None where an interval is missing."""
    a, b = span(one), span(other)
    if a is None or b is None:
        return None
    return -1 if a[1] < b[0] else 1 if a[0] > b[1] else 0


def _shown(result: Result | None) -> str:
    if result is None or result.value is None:
        return "not known"
    return figure(result.value, describe(result.metric).unit)


def _why_not(column: Column, metric: str, role: str) -> str:
    result = column.result(metric, role)
    if result.status == "ok" and result.value is not None:
        return f"{describe(metric).label} of {column.name} has no interval"
    if column.facts is None:
        return result.reason or result.status  # names the model already
    return f"{column.name}: {result.reason or result.status}"


@dataclass(frozen=True, slots=True)
class _Side:
    """One number of the run, the original and gold, and how the run compares with both."""

    run: Result | None
    original: Result | None
    gold: Result | None
    to_original: int | None
    to_gold: int | None


def _side(column: Column, models: Columns, metric: str, role: str) -> _Side:
    run, original, gold = (c.known(metric, role) for c in (column, models.original, models.gold))
    return _Side(run, original, gold, _compare(run, original), _compare(run, gold))


def _membership(column: Column, models: Columns) -> tuple[Verdict | None, str | None]:
    """Return 'over' and a sentence where forget items look stranger than gold's, a sentence where they look more familiar."""
    side = _side(column, models, "membership.loss", "forget")
    if side.to_gold is None or side.run is None:
        return None, None
    numbers = f"membership AUC {_shown(side.run)}; gold {_shown(side.gold)}"
    if side.to_gold < 0:
        return "over", f"forget items look stranger to it than items it never saw ({numbers}), which gives them away"
    if side.to_gold > 0:
        return None, f"Forget items can still be told from unseen ones ({numbers}): under-unlearned on this side."
    return None, f"Forget items look as they do to gold ({numbers})."


def _losses(column: Column, models: Columns) -> list[str]:
    said = []
    for metric, role, what in _KEPT:
        side = _side(column, models, metric, role)
        if side.to_original is not None and side.to_original < 0:
            said.append(f"It lost {what}: {_shown(side.run)}, original {_shown(side.original)}.")
    relative = column.known("utility.relative", "all")
    if relative is not None and relative.value is not None and _damage(column) is None:
        said.append(f"It keeps {percent(relative.value)} of the original's utility.")
    return said


def _relearned(column: Column, models: Columns) -> list[str]:
    """Return what comes back under fine-tuning on other forgotten facts, and how that compares with the first run."""
    after = _side(column, models, *_RELEARNED)
    before = column.known("relearning.before", "forget")
    if after.run is None or before is None:
        return []
    gold = f"; gold {_shown(after.gold)}" if after.gold is not None else ""
    numbers = f"{_shown(after.run)} of the answers that were held back are right, {_shown(before)} before{gold}"
    if _compare(after.run, before) != 1:
        said = [f"Fine-tuning on half of the forgotten facts is not seen to bring back the others ({numbers})."]
    else:
        said = [f"Fine-tuning on half of the forgotten facts brings back the others: {numbers}."]
    first = models.runs[0]
    other = first.known(*_RELEARNED)
    if column is not first and other is not None:
        words = {
            -1: "better than",
            0: "no better, as far as can be told, than",
            1: "worse than",
            None: "better or worse, which cannot be told, than",
        }
        said.append(f"Under it, this run holds up {words[_compare(after.run, other)]} {first.name} ({_shown(other)}).")
    return said


def _damage(column: Column) -> str | None:
    """Return how little utility is left, where it is clearly below what a run may lose."""
    relative = column.known("utility.relative", "all")
    ends = span(relative)
    if relative is None or relative.value is None or ends is None or ends[1] >= DAMAGE:
        return None
    return f"{percent(relative.value)} of the original's utility is left"


def _trace_clause(trace: _Side, column: Column, models: Columns) -> str:
    """Return what is known of the traces, or that it cannot be told and why."""
    if trace.to_gold is None:
        blind = next((c for c in (column, models.gold) if span(c.known(*_TRACE)) is None), column)
        return f"cannot tell whether its reasoning traces still state the fact ({_why_not(blind, *_TRACE)})"
    if trace.to_gold > 0:
        return f"{_shown(trace.run)} of reasoning traces still state the fact (gold {_shown(trace.gold)})"
    return f"no leak in its reasoning traces can be shown ({_shown(trace.run)} state the fact; gold {_shown(trace.gold)})"


def _judge(column: Column, models: Columns) -> tuple[Verdict, str, list[str]]:
    answer = _side(column, models, "answer_accuracy", "forget")
    trace = _side(column, models, *_TRACE)
    if answer.to_original is None and answer.to_gold is None:
        which = column if span(answer.run) is None else models.original
        return (
            "cannot_tell",
            f"cannot tell whether the direct answer is gone ({_why_not(which, 'answer_accuracy', 'forget')}).",
            [],
        )
    trace_kept = trace.to_original is None or trace.to_original >= 0
    if answer.to_original == 0 and trace_kept and answer.to_gold != 0:
        return (
            "kept",
            f"nothing was removed that can be shown ({_shown(answer.run)} of direct answers right; "
            f"original {_shown(answer.original)}).",
            [],
        )
    if answer.to_gold is None:
        state = "fewer direct answers are right" if answer.to_original == -1 else "the direct answers are as before"
        seen = f", and {_shown(trace.run)} of reasoning traces state the fact" if trace.run is not None else ""
        why = _why_not(models.gold, "answer_accuracy", "forget")
        return (
            "cannot_tell",
            f"{state} ({_shown(answer.run)}; original {_shown(answer.original)}){seen}, "
            f"but cannot tell whether it is as if it had never been trained on the forget data ({why}).",
            [],
        )
    if answer.to_original == 0:
        n = answer.run.n if answer.run else 0
        return (
            "cannot_tell",
            f"cannot tell, {n} forget items are too few: its direct answers ({_shown(answer.run)}) are apart neither from the "
            f"original ({_shown(answer.original)}) nor from gold ({_shown(answer.gold)}).",
            [],
        )
    numbers = f"{_shown(answer.run)} right; gold {_shown(answer.gold)}"
    told = _trace_clause(trace, column, models)
    if answer.to_gold > 0:
        state = f"the direct answer is only partly gone ({numbers}; original {_shown(answer.original)})"
        if trace.to_gold == 1:
            return "partly", f"{state}, and {told}.", []
        return "partly", f"{state}.", [_sentence(told)]
    state = f"the direct answer is gone ({numbers})"
    over, familiar = _membership(column, models)
    details = [familiar] if familiar and over is None else []
    also = [f"It is over-unlearned too: {familiar}."] if over else details
    if damage := _damage(column):
        return "damaged", f"{state}, but so is much of what was to be kept: {damage}.", [_sentence(told), *also]
    if trace.to_gold == 1:
        return "leaks", f"{state}, but {told}.", also
    if over:
        return "over", f"{state}, but it is over-unlearned: {familiar}.", [_sentence(told)]
    if trace.to_gold is None:
        return "cannot_tell", f"{state}, but {told}.", details
    return "removed", f"{state}, and {told}.", details


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + "."


def judge(models: Columns) -> list[Headline]:
    """Return one headline a run."""
    said = []
    for column in models.runs:
        verdict, sentence, details = _judge(column, models)
        thinking = _side(column, models, "answer_accuracy.lenient", "trace")
        direct = column.known("answer_accuracy", "forget")
        if direct is not None and thinking.to_gold == 1 and _compare(thinking.run, direct) == 1:
            details.append(f"After thinking, {_shown(thinking.run)} of its answers are right: thinking brings the fact back.")
        details += _relearned(column, models)
        details += _losses(column, models)
        said.append(Headline(column.name, verdict, f"{column.name}: {sentence}", tuple(details)))
    return said


def headlines(evidence: Evidence) -> list[str]:
    """Return the sentences on one run: the headline, then what else must be known."""
    return [
        line for headline in judge(columns([evidence])) for line in (headline.sentence, *(f"  {d}" for d in headline.details))
    ]
