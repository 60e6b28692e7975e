"""What a reader must know to read the numbers of an evidence right, in sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from temper.assess.evidence import Result, Which
from temper.assess.measure import NOT_FINITE

if TYPE_CHECKING:
    from temper.data import Encoded
    from temper.recipe import EvaluateSection

__all__ = ["GARBLED", "INVALID", "notes", "perplexity"]

_MASKS: Final = {
    "answer": "the answer positions",
    "labelled": "the scored positions",
    "final": "the end of the thought and what follows it",
    "nonpad": "every token, questions included",
    "all": "every position, padding included",
}
"""A mask to the tokens that it lets act."""

_STEERED: Final = (("mask", "forget"), ("trace_mask", "trace"))
_HELD: Final = (("retain_mask", "retain"), ("reasoning_mask", "reasoning"))
_REACTS: Final = ("nonpad", "all")

_RUNS_ON: Final = 0.1
"""Share of answers that begin right and run on from which it is said."""


_COMES_BACK: Final = 0.1
"""Share of held-back facts, above before and above gold, from which relearning is said to bring them back."""

INVALID: Final = re.compile(r"trace_category\.(?:.+\.)?invalid")
"""Names of the numbers that say on how many traces a judge gave no verdict."""

GARBLED: Final = 1.0
"""Nats a token, above the original's and gold's own traces, from which a trace is said to be unlike theirs."""


def notes(
    facts: Mapping[str, Any],
    rows: Mapping[str, Encoded],
    results: Sequence[Result],
    models: Sequence[Which],
    settings: EvaluateSection | None = None,
) -> list[str]:
    """Return the notes of an assessment.

    Args:
        facts: What the training stage left; empty for a model that was not trained here.
        rows: Evaluation rows by role.
        results: Every result.
        models: Which models were scored.
        settings: What was asked for; what of it had nothing to work on is said.
    """
    lines = []
    if stopped := facts.get("stopped"):
        lines.append(f"Training {stopped['sentence']}.")
    lines += _masks(facts)
    lines += [
        f"Each {role} row was read {times:.1f} times: there are fewer of them than the run drew."
        for role, times in facts.get("reads_of_a_row", {}).items()
        if times > 1 and role in ("trace", "reasoning")
    ]
    if "gold" not in models:
        lines.append("No retrained model was given: how near the model is to one that never saw the forget data is not known.")
    if "original" not in models:
        lines.append("No original model was given: changes since then are not known.")
    if "holdout" not in rows:
        lines.append("No holdout rows were given: membership was not tested.")
    lines += [
        f"{len(encoded.dropped)} of {len(encoded.dropped) + len(encoded.items)} rows of {role} could not be used: {encoded.dropped[0].reason}."
        for role, encoded in rows.items()
        if encoded.dropped
    ]
    failed = sorted({f"{result.model} on {result.role}" for result in results if NOT_FINITE in (result.reason or "")})
    if failed:
        lines.append(f"Some rows gave no finite numbers and were left out: {', '.join(failed)}. The model is broken there.")
    lines += _running_on(results)
    lines += _relearned(results)
    lines += _garbled(results)
    lines += _invalid(results, settings)
    lines += _idle(results, settings) if settings is not None else []
    few = sorted({result.role for result in results if result.status == "too_few_items"})
    if few:
        lines.append(f"Too few rows for a firm membership test in: {', '.join(few)}.")
    return lines


def _masks(facts: Mapping[str, Any]) -> list[str]:
    """State every mask that acted, and what follows from those that steered."""
    said = []
    for word, parts in (("Steered", _STEERED), ("Held", _HELD)):
        acted = [
            f"{role} rows on {_MASKS.get(facts[field], facts[field])} ({field}: {facts[field]})"
            for field, role in parts
            if facts.get(field)
        ]
        if acted:
            said.append(f"{word}: {', '.join(acted)}.")
    if not said:
        return []
    if any(facts.get(field) in _REACTS for field, _ in _STEERED):
        said.append("The model may react to the names it is asked about.")
    if facts.get("mask") and not facts.get("trace_mask"):
        left = "a thought before it was left alone" if facts["mask"] == "final" else "a thought only where forget rows hold one"
        said.append(f"No trace rows were steered; {left}.")
    return [" ".join(said)]


def _running_on(results: Sequence[Result]) -> list[str]:
    """Say where right answers are counted as wrong because the model does not stop after them."""
    strict = {result.role: result for result in results if (result.metric, result.model) == ("answer_accuracy", "unlearned")}
    lines = []
    for result in results:
        if (result.metric, result.model) != ("answer_accuracy.lenient", "unlearned") or result.role not in strict:
            continue
        value = strict[result.role].value
        if result.value is not None and value is not None and result.value - value > _RUNS_ON:
            lines.append(
                f"On {result.role} the model often gives the right answer and does not stop: {result.value:.2f} of the answers begin "
                f"with it, {value:.2f} are it. Its end is damaged, not its knowledge."
            )
    return lines


def _values(results: Sequence[Result], metric: str, role: str) -> dict[str, float]:
    """Return the value of a number by model, where it has one."""
    return {
        result.model: result.value
        for result in results
        if (result.metric, result.role) == (metric, role) and result.value is not None
    }


def _relearned(results: Sequence[Result]) -> list[str]:
    """Say where a little fine-tuning on other facts brings forgotten ones back."""
    before, after = (_values(results, f"relearning.{part}", "forget") for part in ("before", "after"))
    if "unlearned" not in before or "unlearned" not in after:
        return []
    if after["unlearned"] - max(before["unlearned"], after.get("gold", 0.0)) <= _COMES_BACK:
        return []
    gold = f", {after['gold']:.2f} after the same on the retrained model" if "gold" in after else ""
    return [
        f"A little fine-tuning on other forgotten facts brings the rest back: {after['unlearned']:.2f} of those held back are answered, "
        f"{before['unlearned']:.2f} before{gold}. They were hidden, not lost."
    ]


def perplexity(nll: float) -> str:
    """Return exp of nats a token, to be read."""
    value = math.exp(min(nll, 700.0))
    return f"{value:.3g}" if value < 1000 or value >= 1e6 else f"{value:,.0f}"


def _garbled(results: Sequence[Result]) -> list[str]:
    """Say where traces are unlike what the original and gold write, so that a low leak rate may be garble."""
    lines = []
    name = "trace_health.nll_original"
    for role in dict.fromkeys(result.role for result in results if result.metric == name):
        found = _values(results, name, role)
        own = found.pop("unlearned", None)
        if own is None or not found or own - max(found.values()) <= GARBLED:
            continue
        lines.append(
            f"On {role} the model's traces are unlike those of the other models: perplexity {perplexity(own)} under the original, "
            f"against {perplexity(max(found.values()))} at most for theirs. "
            + ("A low leak rate there may be garble." if role == "trace" else "Its reasoning is damaged there.")
        )
    return lines


def _invalid(results: Sequence[Result], settings: EvaluateSection | None) -> list[str]:
    """Say on how many traces a judge gave no valid verdict."""
    first = f"the judge {settings.judges[0].name}" if settings is not None and settings.judges else "the first judge"
    lines = []
    names = dict.fromkeys(result.metric for result in results if INVALID.fullmatch(result.metric))
    for name in names:
        counts = [
            f"{round(result.value * result.n)} of {result.n} of the {result.model} model"
            for result in results
            if result.metric == name and result.value
        ]
        if counts:
            judge = f"the judge {name.split('.')[1]}" if name.count(".") == 2 else first
            lines.append(
                f"{judge[:1].upper()}{judge[1:]} gave no valid verdict on some traces: {', '.join(counts)}. What they hold is not known."
            )
    return lines


def _idle(results: Sequence[Result], settings: EvaluateSection) -> list[str]:
    """Say which decoding modes and judges of the recipe had nothing to work on."""
    used = {result.metric.partition("@")[2] for result in results}
    lines = [
        f"The decoding mode {mode.name} asked nothing: no metric of this assessment reads its answers, or no row thinks."
        for mode in settings.decoding
        if mode.name not in used
    ]
    judged = any(result.metric.startswith("trace_category.") and result.n for result in results)
    names = [judge.name for judge in settings.judges]
    if not judged and names != ["deterministic"]:
        lines.append(
            f"Nothing was judged by {', '.join(names)}: it needs the metric trace_category and rows of the role trace with an answer."
        )
    return lines
