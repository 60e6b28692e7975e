"""Roles: what each data set of a recipe is for, and loading all sources of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from temper.data.readers import read
from temper.data.tokenise import Encoded, encode, join
from temper.errors import DataError
from temper.recipe import DataSource, WorldSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ROLE_MEANINGS", "load_role"]

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
) -> Encoded:
    """Return the rows of a role from all its sources, encoded.

    Raises:
        DataError: The role has no source, or a source is wrong.
    """
    if not sources:
        raise DataError(f"data.{role}: has no source. Give a path.")
    parts = []
    for source in sources:
        rows = read(source, world)
        parts.append(
            encode(rows, tokenizer, source, max_length=max_length, overflow=overflow, where=f"data.{role}: {source.path}")
        )
    return join(parts)
