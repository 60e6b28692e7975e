"""Weights drawn at random: the control that every other score must beat.

    s_i ~ U(0, 1), by the seed of the run and the name of the parameter

Source: baseline `random` of WAGLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.attribution.base import Given, Need, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Uniform"]


class Uniform(ScoredSelection):
    """Weights drawn at random."""

    name: ClassVar[str] = "random"
    needs: ClassVar[tuple[Need, ...]] = ()

    def score(self, given: Given) -> Tensor:
        """Return a draw for every weight, none of them 0."""
        import torch

        from temper.draws import torch_generator

        draw = torch_generator(given.seed, "mask", given.name)
        return 1 - torch.rand(given.theta.shape, generator=draw)
