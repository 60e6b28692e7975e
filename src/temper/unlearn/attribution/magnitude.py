"""The largest weights. No data are read.

    s_i = θ_i

Source: baseline `weight` of WAGLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.attribution.base import Given, Need, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Magnitude"]


class Magnitude(ScoredSelection):
    """The largest weights."""

    name: ClassVar[str] = "magnitude"
    needs: ClassVar[tuple[Need, ...]] = ()

    def score(self, given: Given) -> Tensor:
        """Return θ."""
        return given.theta
