"""The rows of a training run: sample i holds one row of every role, a pure function of the seed and i."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from temper.data import Encoded, RolePairs, collate

__all__ = ["Remap", "RoleDataset", "collator"]

Remap = Callable[[int, int], int]
"""(item, epoch) -> item: lets an objective put another row in an item's place, e.g. a refusal drawn per epoch."""


class RoleDataset(Dataset[dict[str, int]]):
    """Which row of each role a sample holds.

    Args:
        roles: Role to the rows that are drawn from.
        anchor: The role whose length is an epoch.
        seed: Seed of the pairing.
        length: Samples in the whole run.
        remap: Role to a substitution of its rows.
    """

    def __init__(
        self, roles: Mapping[str, Encoded], *, anchor: str, seed: int, length: int, remap: Mapping[str, Remap] | None = None
    ) -> None:
        self._pairs = RolePairs(dict(roles), anchor=anchor, seed=seed, length=length)
        self._length = length
        self._epoch = len(roles[anchor].items)
        self._remap = dict(remap or {})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, int]:
        sample = dict(self._pairs[index])
        for role, remap in self._remap.items():
            sample[role] = remap(sample[role], index // self._epoch)
        return sample


def collator(rows: Mapping[str, Encoded], pad_id: int) -> Callable[[list[dict[str, int]]], dict[str, Any]]:
    """Return the function that turns samples into padded tensors by role.

    Args:
        rows: Role to its rows, substitutes included.
        pad_id: The id that fills; it is masked.
    """

    def gather(samples: list[dict[str, int]]) -> dict[str, dict[str, torch.Tensor]]:
        return collate(samples, dict(rows), pad_id)

    return gather
