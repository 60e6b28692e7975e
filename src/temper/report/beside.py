"""What was measured beside the default numbers, a sentence each: probes, further judges, decoding modes; and garbled traces."""

from __future__ import annotations

from collections.abc import Sequence

from temper.assess.evidence import Evidence
from temper.report.columns import Column, Columns, columns
from temper.report.sides import compared, shown, side

__all__ = ["beside", "beside_lines", "garbled"]


def beside(column: Column, models: Columns) -> list[str]:
    """Return the sentences on one run, those that were measured alone."""
    return [
        *_relearned(column, models),
        *_prefilled(column, models),
        *_judged(column, models),
        *_decoded(column, models),
    ]


def beside_lines(evidences: Sequence[Evidence]) -> list[str]:
    """Return the sentences on some runs, with the name of the run before each where there are several."""
    models = columns(evidences)
    return [
        f"{column.name}: {line}" if len(models.runs) > 1 else line
        for column in models.runs
        for line in [*garbled(column, models), *beside(column, models)]
    ]


def garbled(column: Column, models: Columns) -> list[str]:
    """Return that a low leak rate may be garble, where the traces are unlike those of the other models."""
    from temper.assess.notes import GARBLED, perplexity  # with numpy, which loads only here

    found = side(column, models, "trace_health.nll_original", "trace")
    own = found.run.value if found.run is not None else None
    others = [result.value for result in (found.original, found.gold) if result is not None and result.value is not None]
    if own is None or not others or own - max(others) <= GARBLED:
        return []
    return [
        f"Its traces about the forgotten facts are unlike those of the other models (perplexity {perplexity(own)} under the "
        f"original, theirs {perplexity(max(others))} at most): few leaks there may be garble and not forgetting."
    ]


def _relearned(column: Column, models: Columns) -> list[str]:
    """Return what comes back under fine-tuning on other forgotten facts, and how that compares with the first run."""
    key = ("relearning.after", "forget")
    after = side(column, models, *key)
    before = column.known("relearning.before", "forget")
    if after.run is None or before is None:
        return []
    gold = f"; gold {shown(after.gold)}" if after.gold is not None else ""
    numbers = f"{shown(after.run)} of the answers that were held back are right, {shown(before)} before{gold}"
    if compared(after.run, before) != 1:
        said = [f"Fine-tuning on half of the forgotten facts is not seen to bring back the others ({numbers})."]
    else:
        said = [f"Fine-tuning on half of the forgotten facts brings back the others: {numbers}."]
    first = models.runs[0]
    other = first.known(*key)
    if column is not first and other is not None:
        words = {
            -1: "better than",
            0: "no better, as far as can be told, than",
            1: "worse than",
            None: "better or worse, which cannot be told, than",
        }
        said.append(f"Under it, this run holds up {words[compared(after.run, other)]} {first.name} ({shown(other)}).")
    return said


def _prefilled(column: Column, models: Columns) -> list[str]:
    """Return what follows once the first half of the original's own trace is given."""
    stated, right = (side(column, models, f"trace_prefill.{part}", "trace") for part in ("statement", "answer"))
    parts = [
        f"{shown(found.run)} of {what} ({found.others})"
        for found, what in ((stated, "continuations state the fact"), (right, "answers are right"))
        if found.run is not None
    ]
    return [f"After the first half of the original's own trace, {' and '.join(parts)}."] if parts else []


def _judged(column: Column, models: Columns) -> list[str]:
    """Return what judges find: the first one where there are more, then each further one, and how far they agree."""
    names = [
        result.metric.split(".")[1]
        for result in column.evidence.results
        if result.model == column.which and result.metric.count(".") == 2 and result.metric.endswith(".unsafe")
    ]
    if not names:
        return []
    first = column.known("trace_category.unsafe", "trace")
    kappa = column.known("trace_category.kappa", "trace")
    agreement = f"; agreement beyond chance, kappa {shown(kappa)}" if kappa is not None else ""
    said = []
    for number, name in enumerate(names):
        found = side(column, models, f"trace_category.{name}.unsafe", "trace")
        if found.run is not None:
            also = f" The first judge finds {shown(first)}{agreement}." if number == 0 and first is not None else ""
            said.append(f"The judge {name} finds {shown(found.run)} of traces unsafe ({found.others}).{also}")
    return said


def _decoded(column: Column, models: Columns) -> list[str]:
    """Return what is right about the forgotten facts with a forced thought, by mode."""
    modes = dict.fromkeys(
        result.metric.partition("@")[2] for result in column.evidence.results if "@" in result.metric and result.role == "trace"
    )
    said = []
    for mode in modes:
        parts = [
            f"{shown(found.run)} of {what} ({found.others})"
            for metric, what in (
                ("answer_accuracy.lenient", "answers are right"),
                ("final_answer", "answers name the right option"),
                ("trace_leak.statement", "answers state the fact"),
            )
            if (found := side(column, models, f"{metric}@{mode}", "trace")).run is not None
        ]
        if parts:
            said.append(f"Decoded with {mode.replace('_', ' ')}, {', '.join(parts)}.")
    return said
