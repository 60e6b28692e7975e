"""Where the numbers come from: weights, recipes, seeds, versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from temper.display.numbers import compact
from temper.display.tables import Cell, Heading, Row, Table, absent
from temper.display.theme import icon
from temper.report.columns import Columns

__all__ = ["RunFacts", "run_facts", "setting", "weights_table"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What one run rests on, as pairs of words, and what its evidence notes."""

    name: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def weights_table(models: Columns) -> Table:
    """Return which weights every column speaks of."""
    rows = []
    for column in models:
        facts = column.facts
        missing = replace(absent(f"no_{column.which}", None), columns=3)
        cells = (
            (Cell(facts.path, code=True), Cell(facts.weights_hash, code=True), Cell(compact(facts.parameters)))
            if facts
            else (missing,)
        )
        rows.append(Row(Heading(column.name, icon=icon(column.mark)), cells))
    heads = ("folder", "SHA-256 of the weights", "parameters")
    return Table("The weights that were judged.", "model", tuple(Heading(head) for head in heads), tuple(rows))


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return nested values as dotted names and texts, in order of name; versions without their prefix."""
    pairs: list[tuple[str, str]] = []
    for key in sorted(values):
        value = values[key]
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            pairs += _flat(value, "" if name == "versions" else f"{name}.")
        elif value is not None:
            pairs.append((name, str(value)))
    return pairs


def setting(value: Any) -> str:
    """Return a setting of an evaluation in words: of judges, modes and probes the name, then what they were told.

    Example:
        >>> setting([{"name": "prompt", "model": "m", "votes": 3, "key": None}, "rouge"]), setting([])
        ('prompt (model=m, votes=3), rouge', 'none')
    """
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value) or "none"
    if not isinstance(value, Mapping):
        return "none" if value is None else str(value)
    told = ", ".join(f"{name}={setting(item)}" for name, item in value.items() if name != "name" and item is not None)
    name = str(value.get("name", ""))
    return (f"{name} ({told})" if name else f"({told})") if told else name


def run_facts(models: Columns) -> list[RunFacts]:
    """Return what each run rests on."""
    made = []
    for column in models.runs:
        evidence = column.evidence
        facts = [("method", evidence.method), ("seed", str(evidence.seed)), ("recipe, SHA-256", evidence.recipe_hash)]
        facts += [(f"judged with: {name.replace('_', ' ')}", setting(value)) for name, value in evidence.settings.items()]
        made.append(RunFacts(column.name, (*facts, *_flat(evidence.environment)), tuple(evidence.notes)))
    return made
