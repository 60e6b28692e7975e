"""The scores of a model, computed a parameter at a time when they are asked for, from gradients that lie on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from temper.unlearn.attribution.base import Given, ScoredSelection
from temper.unlearn.attribution.wagle import Wagle

__all__ = ["Scores"]


class Scores(Mapping[str, Tensor]):
    """Parameter name to the scores of its entries, float32 (float64 of a float64 model), of its shape.

    Args:
        selection: Has the formula.
        theta: The parameters that compete, by name.
        forget: Mean forget gradients, by name.
        retain: Mean retain gradients, by name.
        inputs: What multiplies a weight matrix, by name.
        rows: Retain rows that were read.
        seed: Of the run.

    Attributes:
        facts: What the formula found out about all weights at once, such as γ_H.
    """

    def __init__(
        self,
        selection: ScoredSelection,
        theta: Mapping[str, Tensor],
        *,
        forget: Mapping[str, Tensor] | None = None,
        retain: Mapping[str, Tensor] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        rows: int = 0,
        seed: int = 0,
    ) -> None:
        self._selection = selection
        self._theta = {name: value.detach() for name, value in theta.items()}
        self._forget, self._retain, self._inputs, self._seed = forget or {}, retain or {}, inputs or {}, seed
        self.facts: dict[str, Any] = selection.constants(self._retain, self._theta, max(rows, 1))

    def _given(self, name: str) -> Given:
        theta = self._theta[name].cpu()
        wide = torch.promote_types(theta.dtype, torch.float32)

        def widened(parts: Mapping[str, Tensor]) -> Tensor | None:
            return parts[name].to(wide) if name in parts else None

        return Given(
            name, theta.to(wide), widened(self._forget), widened(self._retain), self._inputs.get(name), self._seed, self.facts
        )

    def __getitem__(self, name: str) -> Tensor:
        """Return the scores of a parameter."""
        return self._selection.score(self._given(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._theta)

    def __len__(self) -> int:
        return len(self._theta)

    def balance_share(self) -> float | None:
        """Return the share of weights with |g_r/γ_H| > |θ|; None for a score without γ_H."""
        if not isinstance(self._selection, Wagle):
            return None
        dominated = total = 0
        for name in self:
            found = self._selection.dominated(self._given(name))
            dominated += int(found.sum())
            total += found.numel()
        return dominated / max(total, 1)
