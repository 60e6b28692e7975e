"""What a report does not show: limits that hold for every report, and those that this evidence has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from temper.assess.evidence import Evidence
from temper.report.columns import Columns
from temper.report.provenance import setting

__all__ = ["limits", "mismatches"]

_ALWAYS = (
    "It does not show that the forget data has no influence left on the weights; it shows what these questions bring out.",
    "A membership AUC near gold's does not show that no attack can tell; it is what these scores can tell.",
    "Intervals speak of the sampled items, not of other seeds or other training runs: one run is one draw.",
)


_DECIDES: Final = ("judges", "decoding", "probes", "max_new_tokens", "open_tag", "close_tag")
"""Settings that change what a number means."""

_PACE: Final = ("workers", "timeout_s", "retries", "backoff_s", "batch_size")


def mismatches(evidences: Sequence[Evidence]) -> list[str]:
    """Return where runs were not judged on the same number of items or in the same way, although their original and gold are the same."""
    found = []
    first = evidences[0]
    for other in evidences[1:]:
        roles = sorted(
            {
                mine.role
                for mine in first.results
                for its in [other.find(mine.metric, mine.role, mine.model)]
                if its is not None and mine.n and its.n and mine.n + mine.dropped != its.n + its.dropped
            }
        )
        if roles:
            found.append(
                f"{first.name} and {other.name} were judged on different numbers of items for {', '.join(roles)}: compare with care."
            )
        said = [name for name in _DECIDES if _decisive(first.settings.get(name)) != _decisive(other.settings.get(name))]
        if bool(first.settings) != bool(other.settings):
            early = other if first.settings else first
            found.append(f"How {early.name} was judged was not kept (it is from an earlier version): compare with care.")
        elif said:
            found.append(
                f"{first.name} and {other.name} were judged with different settings ({'; '.join(_words(first, other, said))}): compare with "
                "care. The original and gold stand as the first of them was judged."
            )
    return found


def _decisive(value: Any) -> Any:
    """Return settings without what only says how fast something is asked."""
    if isinstance(value, Mapping):
        return {name: _decisive(item) for name, item in value.items() if name not in _PACE}
    return [_decisive(item) for item in value] if isinstance(value, list) else value


def _words(first: Evidence, other: Evidence, fields: Sequence[str]) -> list[str]:
    return [f"{name}: {setting(first.settings.get(name))} against {setting(other.settings.get(name))}" for name in fields]


def limits(models: Columns, evidences: Sequence[Evidence]) -> list[str]:
    """Return the limits of this report, the particular ones first."""
    said = mismatches(evidences)
    if models.gold.facts is None:
        said.append(
            "No gold model was given. Without a model retrained without the forget data, nobody can say how often the right answer comes "
            "up by chance, so no claim of forgetting can be checked to the end."
        )
    if models.original.facts is None:
        said.append("The original model was not given: what was lost or removed cannot be measured, only what is there.")
    measured = {r.role for e in evidences for r in e.results if r.value is not None}
    if "trace" not in measured:
        said.append("No reasoning traces were judged: the fact may still be stated there.")
    if not any(r.metric.startswith("membership.") and r.value is not None for e in evidences for r in e.results):
        said.append("No membership score was taken (it needs a hold-out set): over-unlearning cannot be seen.")
    seeds = {(e.method, e.seed) for e in evidences}
    if len(seeds) == len({method for method, _ in seeds}):
        said.append("Each method was run with one seed only: differences between methods may be differences between seeds.")
    return [*said, *_of_measures({r.metric for e in evidences for r in e.results if r.value is not None}), *_ALWAYS]


def _of_measures(names: Collection[str]) -> list[str]:
    """Return the limits that depend on what was measured."""
    tuned = "" if "relearning.after" in names else "further fine-tuning, "
    said = [
        f"Answers are greedy. Sampling many answers, {tuned}quantisation or other prompts can bring back what greedy answers hide."
    ]
    if tuned == "":
        said.append(
            "Relearning was tried with one set of facts, one rate and one number of steps: more of it can bring back more than it did."
        )
    stated, judged = "trace_leak.statement" in names, "trace_category.unsafe" in names
    if stated:
        counted = "are for the judge to find, which can err" if judged else "are not counted"
        said.append(
            f"A trace states the fact when it does so in full. Hints, paraphrases in other words and partial statements {counted}."
        )
    elif judged:
        said.append("Whether a trace is unsafe is what a judge says, and judges err: compare with gold, not with 0.")
    return said
