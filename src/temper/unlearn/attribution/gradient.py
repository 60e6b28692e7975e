"""The weights with the largest forget gradient.

    s_i = [g_f]_i

Source: baseline `gradient` of WAGLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.attribution.base import Given, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Gradient"]


class Gradient(ScoredSelection):
    """The weights with the largest forget gradient."""

    name: ClassVar[str] = "gradient"

    def score(self, given: Given) -> Tensor:
        """Return g_f."""
        assert given.forget is not None
        return given.forget
