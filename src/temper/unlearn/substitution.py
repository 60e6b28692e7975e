"""Other responses to the prompts of a role: which ones a run meets, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from temper.errors import DataError
from temper.recipe import DataSource, Recipe

if TYPE_CHECKING:
    from temper.data import Encoded
    from temper.train.dataset import Derived
    from temper.unlearn.alternatives import Alternatives, Draft

__all__ = ["Draws", "Substitution", "substitute"]


class Draws(Protocol):
    """Which item of a role a sample draws, and in which epoch."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def draw(self, role: str, index: int) -> tuple[int, int]:
        """Return the item and its epoch."""
        ...


@dataclass
class Substitution:
    """Rows with other responses, and which of them goes with an item in an epoch."""

    rows: Encoded
    derived: Derived


def substitute(
    recipe: Recipe,
    alternatives: Alternatives,
    draft: Draft,
    pairs: Draws,
    encoded: Encoded,
    tokenizer: Any,
    max_length: int,
) -> Substitution:
    """Return the rows that the alternatives of a role give; only those that the run meets are made.

    Args:
        recipe: The recipe, for the role's sources.
        alternatives: Where the responses come from.
        draft: What that source may use.
        pairs: Which item a sample draws, and in which epoch.
        encoded: The rows of the role.
        tokenizer: The tokenizer.
        max_length: Tokens a row may have.
    """
    from temper.train.dataset import Derived

    met = sorted({pairs.draw(draft.role, index) for index in range(len(pairs))})
    responses = alternatives.responses(draft, met)
    variants = sorted({(item, response) for (item, _), response in zip(met, responses, strict=True)})
    place = {variant: number for number, variant in enumerate(variants)}
    row_of = {pair: place[pair[0], response] for pair, response in zip(met, responses, strict=True)}
    # what a model generated may be a token too long once it is tokenised anew
    overflow: Literal["error", "truncate"] = "truncate" if alternatives.needs_model else "error"
    rows = _encode(recipe, draft.role, encoded, variants, tokenizer, max_length, overflow)
    return Substitution(rows, Derived(draft.role, lambda item, epoch: row_of[item, epoch]))


def _with_response(row: dict[str, Any], source: DataSource, role: str, response: str) -> dict[str, Any]:
    """Return a row with another answer.

    Raises:
        DataError: The row is text without an answer of its own.
    """
    if source.messages in row:
        # the template writes what stands between a turn's mark and its words
        return {**row, source.messages: [*row[source.messages][:-1], {"role": "assistant", "content": response.strip()}]}
    if source.prompt in row:
        return {**row, source.response: response}
    raise DataError(
        f"data.{role}: {source.path}: the objective reads other answers, and row {row['id']!r} is text without one. Give {source.prompt!r} and "
        f"{source.response!r} columns, or messages."
    )


def _encode(
    recipe: Recipe,
    role: str,
    encoded: Encoded,
    variants: Sequence[tuple[int, str]],
    tokenizer: Any,
    max_length: int,
    overflow: Literal["error", "truncate"],
) -> Encoded:
    """Return one row for each (item, response), in the order given."""
    from temper.data import Encoded, encode

    items: list[Any] = [None] * len(variants)
    for number, source in enumerate(recipe.data[role]):
        places = [place for place, (item, _) in enumerate(variants) if encoded.source_of[item] == number]
        if not places:
            continue
        changed = [
            {
                **_with_response(encoded.items[variants[place][0]].row, source, role, variants[place][1]),
                source.id: f"{encoded.items[variants[place][0]].id}~{place}",
                "id": f"{encoded.items[variants[place][0]].id}~{place}",
            }
            for place in places
        ]
        where = f"{source.path} with other responses"
        # a variant that was dropped would put another one in its place: too long is an error here
        part = encode(changed, tokenizer, source, max_length=max_length, overflow=overflow, where=where)
        if [item.response.strip() for item in part.items] != [variants[place][1].strip() for place in places]:
            raise DataError(f"data.{role}: another response leaves nothing to score. Give responses that are not empty.")
        for place, item in zip(places, part.items, strict=True):
            items[place] = item
    return Encoded(items, [], [0] * len(items), [1.0])
