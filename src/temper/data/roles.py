"""Roles: what each data set of a recipe is for, and loading all sources of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from temper.data.provider import Made
from temper.data.readers import read
from temper.data.tokenise import Encoded, encode, join
from temper.errors import DataError
from temper.recipe import DataSource, WorldSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ROLE_MEANINGS", "Maker", "load_role"]

Maker = Callable[[str, DataSource, Sequence[dict[str, Any]], Any, int], Made]
"""(role, source, its rows, tokenizer, max_length) -> the rows that the source's provider makes of them."""

ROLE_MEANINGS: Final[dict[str, str]] = {
    "forget": "what the model must not know any more",
    "retain": "what it must keep, of the same kind as forget",
    "holdout": "of the same kind as forget, never trained on: the non-members of membership tests",
    "trace": "reasoning text about the forget target",
    "reasoning": "general reasoning to keep",
    "retain_trace": "reasoning text about what must be kept",
    "neighbour": "near the forget target but outside it: shows spill-over",
    "general": "far from the target: world facts, general tasks",
    "preference": "pairs of a chosen and a rejected response",
    "demonstration": "supervised examples of wanted behaviour",
    "labelled": "inputs with class labels",
}


def load_role(
    role: str,
    sources: Sequence[DataSource],
    tokenizer: PreTrainedTokenizerBase,
    *,
    world: WorldSection,
    max_length: int,
    overflow: Literal["error", "truncate", "drop"],
    make: Maker | None = None,
) -> Encoded:
    """Return the rows of a role from all its sources, encoded.

    Args:
        role: The role.
        sources: Where its rows are.
        tokenizer: The tokenizer.
        world: What `world:` means.
        max_length: Tokens a row may have.
        overflow: What happens to longer ones.
        make: Makes the rows of a source that names a provider.

    Raises:
        DataError: The role has no source, or a source is wrong.
    """
    if not sources:
        raise DataError(f"data.{role}: has no source. Give a path.")
    parts = []
    for source in sources:
        rows = read(source, world)
        dropped = []
        if source.provider is not None:
            if make is None:
                raise DataError(f"data.{role}: {source.path}: a provider makes rows for training alone. Leave it out here.")
            made = make(role, source, rows, tokenizer, max_length)
            rows, source, dropped = made.rows, made.source, made.dropped
        limit = max_length if source.max_length is None else min(max_length, source.max_length)
        part = encode(
            rows,
            tokenizer,
            source,
            max_length=limit,
            overflow=overflow if source.max_length is None or source.max_length > max_length else "truncate",
            where=f"data.{role}: {source.path}",
        )
        parts.append(replace(part, dropped=[*dropped, *part.dropped]))
    return join(parts)
