"""SNIP: the first-order change of the forget loss when a weight is removed.

    s_i = θ_i · [g_f]_i

Source: Lee, Ajanthan and Torr, SNIP (2019); in WAGLE the limit γ_H → ∞.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.attribution.base import Given, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Snip"]


class Snip(ScoredSelection):
    """The weights whose removal changes the forget loss most."""

    name: ClassVar[str] = "snip"

    def score(self, given: Given) -> Tensor:
        """Return θ g_f."""
        assert given.forget is not None
        return given.theta * given.forget
