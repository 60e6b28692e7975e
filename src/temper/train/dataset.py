"""The rows of a training run: sample i holds one row of every role, a pure function of the seed and i."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from temper.data import Encoded, RolePairs, collate

__all__ = ["Derived", "Remap", "RoleDataset", "collator"]

Remap = Callable[[int, int], int]
"""(item, epoch) -> row: lets an objective put another row beside or in place of an item's, e.g. a refusal drawn per epoch."""


@dataclass(frozen=True)
class Derived:
    """Rows that follow from those of a role: in its place where they have its name, else beside it.

    Attributes:
        of: The role whose item decides.
        remap: From that item and the epoch to the row.
    """

    of: str
    remap: Remap


class RoleDataset(Dataset[dict[str, int]]):
    """Which row of each role a sample holds.

    Args:
        pairs: Which row of each role a sample draws.
        derived: Role to the rows that follow from another role's draw.
    """

    def __init__(self, pairs: RolePairs, derived: Mapping[str, Derived] | None = None) -> None:
        self._pairs = pairs
        self._derived = dict(derived or {})

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, int]:
        drawn = {role: self._pairs.draw(role, index) for role in self._pairs.roles}
        sample = {role: row for role, (row, _) in drawn.items()}
        for name, rule in self._derived.items():
            sample[name] = rule.remap(*drawn[rule.of])
        return sample


def collator(rows: Mapping[str, Encoded], pad_id: int) -> Callable[[list[dict[str, int]]], dict[str, Any]]:
    """Return the function that turns samples into padded tensors by role.

    Args:
        rows: Role to its rows, derived ones included.
        pad_id: The id that fills; it is masked.
    """

    def gather(samples: list[dict[str, int]]) -> dict[str, dict[str, torch.Tensor]]:
        return collate(samples, dict(rows), pad_id)

    return gather
