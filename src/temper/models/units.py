"""What a structured mask takes or leaves whole: rows, columns, heads or blocks, as lines of the tensors they lie in.

| structure | a unit | lines |
|---|---|---|
| rows | one output of a matrix | a row of W (out, in) |
| columns | one input of a matrix | a column of W |
| heads | one key-value head with the query heads that read it | rows of q, k and v (and of their biases), columns of o |
| blocks | one decoder block | all of its tensors |

Matrices that are stored as (in, out), as GPT-2's are, have their rows where others have columns. Vectors and the stacked experts
of a mixture belong to no row and no column; norms inside attention are shared by all heads and belong to none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from temper.errors import ModelError
from temper.models.aliases import module_pattern
from temper.models.heads import inner_model
from temper.models.rows import transposed_weights
from temper.models.selection import decoder_layers

__all__ = ["Lines", "Structure", "Units", "units_of"]

Structure = Literal["weights", "rows", "columns", "heads", "blocks"]


@dataclass(frozen=True, slots=True)
class Lines:
    """What of one tensor belongs to each unit: unit u has the lines u·width up to (u+1)·width.

    Attributes:
        name: The parameter.
        dim: Along which dimension the lines are counted; 0 for a single number, which is one line.
        width: How many lines of it a unit has.
    """

    name: str
    dim: int
    width: int


@dataclass(frozen=True, slots=True)
class Units:
    """Units of equal form that lie side by side in the same tensors.

    Attributes:
        label: What they belong to: the name of a matrix, `attention 3`, `block 3`.
        count: How many there are.
        parts: Their lines, no tensor twice.
    """

    label: str
    count: int
    parts: tuple[Lines, ...]


def units_of(model: nn.Module, structure: Structure) -> list[Units]:
    """Return the units of a model, every tensor in at most one of them.

    Args:
        model: A causal language model, whole or cut; for rows and columns any module.
        structure: Which units.

    Raises:
        ModelError: The model keeps query, key and value in one matrix (heads), or its layout is not known.
    """
    match structure:
        case "rows" | "columns":
            return _lines_of_matrices(model, structure)
        case "heads":
            return _heads(model)
        case "blocks":
            return _blocks(model)
    raise ModelError(f"structure = {structure!r}: has no units. Use one of rows, columns, heads, blocks.")


def _lines_of_matrices(model: nn.Module, structure: Structure) -> list[Units]:
    transposed = transposed_weights(model)
    found = []
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            dim = int((structure == "columns") != (name in transposed))
            found.append(Units(name, parameter.shape[dim], (Lines(name, dim, 1),)))
    return found


def _blocks(model: Any) -> list[Units]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = []
    for number, block in enumerate(decoder_layers(model)):
        parameters = [parameter for parameter in block.parameters() if id(parameter) in names]
        lines = (Lines(names[id(p)], 0, p.shape[0] if p.dim() else 1) for p in parameters)
        found.append(Units(f"block {number}", 1, tuple(lines)))
    return found


def _heads(model: Any) -> list[Units]:
    patterns = {alias: re.compile(module_pattern(alias, model)) for alias in ("q_proj", "k_proj", "v_proj", "o_proj")}
    config = inner_model(model).config
    count = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = []
    for number, block in enumerate(decoder_layers(model)):
        parts = []
        for parameter in block.parameters():
            name = names.get(id(parameter), "")
            alias = next((alias for alias, pattern in patterns.items() if name and pattern.search(name)), None)
            if alias is None or (alias == "o_proj" and parameter.dim() < 2):
                continue  # what is added after the heads were mixed belongs to none of them
            dim = 1 if alias == "o_proj" else 0
            if parameter.shape[dim] % count:
                raise ModelError(
                    f"structure = 'heads': {name} has {parameter.shape[dim]} lines, which {count} key-value heads do not share evenly. "
                    "Use rows or columns."
                )
            parts.append(Lines(name, dim, parameter.shape[dim] // count))
        if parts:
            found.append(Units(f"attention {number}", count, tuple(parts)))
    return found
