"""Which rows the scores of weights are taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from temper.draws import generator
from temper.errors import DataError
from temper.unlearn.alternatives import Alternatives, Draft
from temper.unlearn.attribution.base import ScoredSelection
from temper.unlearn.substitution import substitute

if TYPE_CHECKING:
    from temper.data import Encoded, Item
    from temper.recipe import Recipe
    from temper.unlearn.prepare import Prepared

__all__ = ["forget_rows", "score_rows", "scored_tokens"]


def score_rows(
    selection: ScoredSelection, rows: Mapping[str, Encoded], forget: Encoded | None, seed: int
) -> dict[str, list[Item]]:
    """Return role to the rows that are scored.

    Args:
        selection: Says how many.
        rows: Role to all its rows.
        forget: The forget rows with the responses that are scored; None where the score reads none.
        seed: Of the run: decides which rows are drawn.

    Raises:
        DataError: There are hardly any retain rows for so many forget rows.
    """
    found: dict[str, list[Item]] = {}
    for role in selection.roles:
        items = forget.items if role == "forget" and forget is not None else rows[role].items
        most = selection.max_rows if selection.max_rows is not None else len(items)
        if role == "retain" and selection.retain_rows == "paired":
            most = min(most, len(found["forget"]))
        if most < len(items):
            drawn = generator(seed, "score rows", role).permutation(len(items))[:most]
            items = [items[place] for place in sorted(drawn.tolist())]
        found[role] = items
    if "retain" in found and not selection.allow_unequal:
        forget_tokens, retain_tokens = (scored_tokens(found[role]) for role in ("forget", "retain"))
        if retain_tokens * 10 < forget_tokens:
            raise DataError(
                f"data.retain: {len(found['retain'])} rows with {retain_tokens} scored tokens stand against {len(found['forget'])} forget rows with "
                f"{forget_tokens}; a gradient of so little says nothing about what must be kept. Give more retain rows, lower "
                f"selection.{selection.name}.max_rows, or set selection.{selection.name}.allow_unequal=true."
            )
    return found


def scored_tokens(items: Sequence[Item]) -> int:
    """Return how many tokens of some rows are scored."""
    return sum(label != -100 for item in items for label in item.labels[1:])


class _EachOnce:
    """Draws every item of a role once, in its first epoch."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def draw(self, role: str, index: int) -> tuple[int, int]:
        return index, 0


def forget_rows(recipe: Recipe, prepared: Prepared, selection: ScoredSelection, model: Any) -> Encoded:
    """Return the forget rows with the responses that are scored: their own, or those that the objective trains on in their place.

    Args:
        recipe: The recipe.
        prepared: Its rows.
        selection: Says whose responses.
        model: Writes the responses where a model has to.
    """
    rows = prepared.rows.get("forget") or prepared.score_rows["forget"]
    if selection.labels == "own" or not prepared.objective.replaces:
        return rows
    source = prepared.objective.alternatives
    assert isinstance(source, Alternatives)
    draft = Draft(rows.items, recipe.seed, "forget", None, model, prepared.tokenizer, prepared.max_length)
    return substitute(recipe, source, draft, _EachOnce(len(rows.items)), rows, prepared.tokenizer, prepared.max_length).rows
