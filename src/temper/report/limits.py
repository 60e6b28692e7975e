"""What a report does not show: limits that hold for every report, and those that this evidence has."""

from __future__ import annotations

from collections.abc import Sequence

from temper.assess.evidence import Evidence
from temper.report.columns import Columns

__all__ = ["limits", "mismatches"]

_ALWAYS = (
    "It does not show that the forget data has no influence left on the weights; it shows what these questions bring out.",
    "Answers are greedy. Sampling many answers, further fine-tuning, quantisation or other prompts can bring back what greedy answers hide.",
    "A trace counts as leaking when it states the fact in full. Hints, paraphrases in other words and partial statements are not counted.",
    "A membership AUC near gold's does not show that no attack can tell; it is what these scores can tell.",
    "Intervals speak of the sampled items, not of other seeds or other training runs: one run is one draw.",
)


def mismatches(evidences: Sequence[Evidence]) -> list[str]:
    """Return where runs were not judged on the same number of items, although their original and gold are the same."""
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
    return found


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
    return [*said, *_ALWAYS]
