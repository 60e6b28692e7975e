"""Pairing roles: which row of each role a sample holds, as a pure function of the seed and the sample's number.

The anchor role is walked in a fresh permutation every epoch. The rows of the other roles are drawn without replacement
from a permutation that wraps. Where a role has several sources, draws are spread over them by an additive low-discrepancy
sequence, so that any stretch of draws holds them in proportion to their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from temper.data.tokenise import Encoded
from temper.draws import generator
from temper.errors import DataError

__all__ = ["RolePairs"]

_GOLDEN = (5**0.5 - 1) / 2
"""Step of the additive sequence: the golden ratio spreads most evenly."""


@lru_cache(maxsize=64)
def _permutation(seed: int, role: str, source: int, turn: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return generator(seed, "order", role, source, turn).permutation(size)


def _wrapped(seed: int, role: str, source: int, size: int, draw: int) -> int:
    """Return the row of draw number `draw` from a permutation of `size` rows that is drawn anew when it is used up."""
    turn, place = divmod(draw, size)
    return int(_permutation(seed, role, source, turn, size)[place])


class _Sources:
    """Assigns the draws of a role to its sources and to the rows within them."""

    def __init__(self, seed: int, role: str, rows: Encoded, length: int) -> None:
        self._seed, self._role = seed, role
        owner_of_row = np.array(rows.source_of)
        self._members = [np.flatnonzero(owner_of_row == source) for source in range(len(rows.source_weights))]
        weights = np.array(rows.source_weights) * np.array([len(members) > 0 for members in self._members])
        borders = np.cumsum(weights / weights.sum())
        points = (generator(seed, "sources", role).random() + np.arange(length) * _GOLDEN) % 1.0
        self._owner = np.minimum(np.searchsorted(borders, points, side="right"), len(borders) - 1).astype(np.int32)
        self._rank = np.zeros(length, dtype=np.int64)
        for source in range(len(borders)):
            drawn = np.flatnonzero(self._owner == source)
            self._rank[drawn] = np.arange(len(drawn))

    def row(self, draw: int) -> int:
        """Return the row of a draw."""
        source = int(self._owner[draw])
        members = self._members[source]
        return int(members[_wrapped(self._seed, self._role, source, len(members), int(self._rank[draw]))])


class RolePairs(Dataset[dict[str, int]]):
    """Sample number to the row of each role.

    Args:
        roles: Role to its rows.
        anchor: The role whose length is an epoch.
        seed: Seed of all draws.
        length: Number of samples.

    Raises:
        DataError: The anchor has no rows, or sources of unequal weight.
    """

    def __init__(self, roles: Mapping[str, Encoded], *, anchor: str, seed: int, length: int) -> None:
        if anchor not in roles:
            raise DataError(f"train.anchor = {anchor!r} has no data. Roles with data: {', '.join(roles)}.")
        if len(set(roles[anchor].source_weights)) > 1:
            raise DataError(
                f"data.{anchor}: its sources have weights {roles[anchor].source_weights}, but every row of the anchor role is visited once an epoch. "
                "Leave their weights at 1, or set train.anchor to another role."
            )
        self._sizes = {role: len(rows.items) for role, rows in roles.items()}
        self._anchor, self._seed, self._length = anchor, seed, length
        self._sources = {role: _Sources(seed, role, rows, length) for role, rows in roles.items() if role != anchor}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, int]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        sample = {self._anchor: _wrapped(self._seed, self._anchor, 0, self._sizes[self._anchor], index)}
        for role, sources in self._sources.items():
            sample[role] = sources.row(index)
        return sample
