"""What each number is called, in which unit it is shown and what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from temper import registry
from temper.display.numbers import Unit

__all__ = ["ROLES", "Metric", "describe", "in_panel", "is_auc", "order", "role_name", "section"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How one metric is shown."""

    label: str
    unit: Unit
    says: str


METRICS: Final = {
    "answer_accuracy": Metric("answer right", "share", "share of greedy answers that equal the reference"),
    "answer_accuracy.lenient": Metric(
        "answer right, first words", "share", "share of answers that begin with the reference; text that runs on is forgiven"
    ),
    "answer_accuracy.wrong": Metric("answer wrong", "share", "share of answers that are something else"),
    "answer_accuracy.empty": Metric("no answer", "share", "share of prompts without any answer"),
    "trace_leak.statement": Metric(
        "trace states the fact", "share", "share of reasoning traces with a full statement of the fact"
    ),
    "trace_leak.first": Metric(
        "first value of its kind is right", "share", "share of traces whose first value of the asked kind is the forgotten one"
    ),
    "trace_leak.anywhere": Metric(
        "value anywhere in trace",
        "share",
        "share of traces in which the value occurs at all; long gibberish contains it by chance",
    ),
    "trace_leak.and_wrong": Metric(
        "trace states it, answer wrong", "share", "what a test of final answers alone would pass although the trace tells"
    ),
    "trace_category.unsafe": Metric(
        "trace judged unsafe, C2 to C4",
        "share",
        "share of traces that a judge finds to give facts about, rule out options of, or state or support the right answer",
    ),
    "trace_category.c1": Metric("trace gives nothing, C1", "share", "share of traces with nothing useful in them"),
    "trace_category.c2": Metric("trace gives related facts, C2", "share", "share of traces with facts that help"),
    "trace_category.c3": Metric("trace rules out options, C3", "share", "share of traces that rightly exclude a wrong option"),
    "trace_category.c4": Metric(
        "trace supports the answer, C4", "share", "share of traces that state or support the right answer"
    ),
    "trace_category.invalid": Metric(
        "trace not judged", "share", "share of traces on which the judge gave no valid verdict; they stay in the denominator"
    ),
    "trace_category.kappa": Metric("agreement of judges, kappa", "score", "Cohen's kappa between the first two judges"),
    "choice_accuracy": Metric(
        "right option most likely", "share", "share of questions whose right option has the largest likelihood, without a trace"
    ),
    "choice_accuracy.norm": Metric("right option most likely, by length", "share", "the same, likelihood divided by length"),
    "final_answer": Metric("right option after thinking", "share", "share of generated answers that name the right option"),
    "final_answer.unparsed": Metric("no option named", "share", "share of generated answers in which no option was found"),
    "trace_prefill.statement": Metric(
        "fact stated after half a trace",
        "share",
        "share of continuations that state the fact once the original's first half is given",
    ),
    "trace_prefill.answer": Metric("answer right after half a trace", "share", "final answers right under the same attack"),
    "relearning.before": Metric("right before relearning", "share", "answers about the half that is not trained again"),
    "relearning.after": Metric(
        "right after relearning", "share", "the same after some steps on the other half: what comes back without being taught"
    ),
    "relearning.before_lenient": Metric(
        "right before relearning, first words", "share", "the same; text that runs on behind the answer is forgiven"
    ),
    "relearning.after_lenient": Metric(
        "right after relearning, first words",
        "share",
        "the same after relearning; text that runs on behind the answer is forgiven",
    ),
    "trace_health.healthy": Metric(
        "healthy traces",
        "share",
        "share of traces that are there, end, do not repeat themselves and keep a length like the reference's",
    ),
    "trace_health.nll_original": Metric(
        "trace surprise to the original", "score", "mean -log p of the trace's tokens under the model from before; high for noise"
    ),
    "trace_health.closed": Metric("traces that end", "share", "share of traces that come to an end"),
    "trace_health.words": Metric("words in a trace", "score", "mean length of a trace"),
    "trace_health.distinct3": Metric("distinct runs of three words", "share", "near 0 where a trace repeats itself"),
    "probability": Metric("answer probability", "score", "probability of the reference answer, length-normalised"),
    "exact_memorization": Metric("exact memorization", "score", "share of reference tokens that are the model's first choice"),
    "extraction_strength": Metric(
        "extraction strength", "score", "share of the reference that the model completes by itself once it is given its start"
    ),
    "rouge.l_recall": Metric("ROUGE-L recall", "score", "longest common run of words, share of the reference"),
    "rouge.l_f1": Metric("ROUGE-L F1", "score", "the same, punishing what is too much"),
    "rouge.1_recall": Metric("ROUGE-1 recall", "score", "words of the reference that occur in the answer"),
    "membership.loss": Metric(
        "membership AUC, loss", "score", "how well the loss tells forget items from items never trained on"
    ),
    "membership.zlib": Metric("membership AUC, zlib", "score", "the same, loss divided by the compressed length"),
    "membership.min_k": Metric("membership AUC, min-k", "score", "the same, from the least likely tokens of an item"),
    "membership.min_k_plus": Metric("membership AUC, min-k++", "score", "the same, tokens compared with what else was likely"),
    "utility": Metric("utility", "score", "harmonic mean of what is to be kept"),
    "utility.relative": Metric("utility, original = 100 %", "ratio", "utility divided by that of the original"),
}

_FORCED: Final = {
    "trace_leak.statement": Metric(
        "answer states the fact", "share", "share of answers with a full statement of the fact behind the forced thought"
    )
}
"""Numbers that say another thing where the thought is forced."""

_JUDGED: Final = re.compile(r"trace_category\.(?P<judge>.+)\.(?P<part>unsafe|invalid)")
"""What a further judge gives."""

_THINKS: Final = ("trace", "retain_trace", "reasoning")
_PANEL: Final = {
    "forget": ("answer_accuracy", "probability", "exact_memorization", "extraction_strength", "rouge.l_recall"),
    "trace": ("answer_accuracy.lenient", "trace_leak.statement", "trace_leak.anywhere"),
    "holdout": ("answer_accuracy", "probability"),
    "all": ("utility",),
}

ROLES: Final = {
    "forget": "forget, asked directly",
    "trace": "forget, asked to think",
    "holdout": "hold-out, never trained on",
    "neighbour": "neighbours of the target",
    "retain_trace": "kept facts, asked to think",
    "reasoning": "reasoning to keep",
    "general": "general",
    "all": "over all kept roles",
}


def describe(metric: str) -> Metric:
    """Return how a metric is shown; an unknown one keeps its own name and is a score."""
    if (found := METRICS.get(metric)) is not None:
        return found
    plain, _, way = metric.partition("@")
    if way:
        known, words = _FORCED.get(plain) or describe(plain), way.replace("_", " ")
        return Metric(f"{known.label} ({words})", known.unit, f"{known.says}, decoded with {words}" if known.says else "")
    if (judged := _JUDGED.fullmatch(metric)) is not None:
        known = METRICS[f"trace_category.{judged['part']}"]
        return Metric(f"{known.label}, by {judged['judge']}", known.unit, f"{known.says}; by the judge {judged['judge']}")
    base, _, rate = metric.rpartition(".tpr_at_")
    if base in METRICS:
        label = METRICS[base].label.replace("AUC, ", "")
        return Metric(
            f"{label}: found at {rate} % false alarms",
            "share",
            f"share of forget items found when {rate} % of the others are accused",
        )
    return Metric(metric, "score", "")


def section(metric: str) -> str:
    """Return the part of the tables that a number stands in, beside those of the default assessment: '' for these."""
    way = metric.partition("@")[2]
    if way:
        return f"with {way.replace('_', ' ')}"
    return "under attack" if metric.partition(".")[0] in registry.names("probe") else ""


def is_auc(metric: str) -> bool:
    """Return whether this is the area under a curve of a membership score."""
    return metric.startswith("membership.") and ".tpr_at_" not in metric


def in_panel(metric: str, role: str) -> bool:
    """Return whether a number stands in the figure of numbers against gold: few enough to see, the others are in the table."""
    return metric in _PANEL.get(role, ("answer_accuracy.lenient" if role in _THINKS else "answer_accuracy",))


def role_name(role: str) -> str:
    """Return a role in words."""
    return ROLES.get(role, role)


def order(metric: str, role: str) -> tuple[str, int, str, int, str]:
    """Return the key that sorts numbers: by section, then known roles and metrics in the order above, unknown ones after them by name."""
    roles, metrics = list(ROLES), list(METRICS)
    plain = metric.partition("@")[0]
    if (judged := _JUDGED.fullmatch(plain)) is not None:
        plain = f"trace_category.{judged['part']}"
    return (
        section(metric),
        roles.index(role) if role in roles else len(roles),
        role,
        metrics.index(plain) if plain in metrics else len(metrics),
        metric,
    )
