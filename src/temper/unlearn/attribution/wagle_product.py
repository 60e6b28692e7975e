"""|g_r · g_f|: what WAGLE becomes for small γ_H, and what its lower level gives when it is differentiated exactly.

    s_i = [g_r]_i · [g_f]_i

Differentiating the re-settling of the other weights with a Hessian γ_H·I gives -g_r·g_f/γ_H: the term θ·g_f of (W) cancels.

Source: WAGLE; derivation in docs/wagle.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.attribution.base import Given, Need, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["WagleProduct"]


class WagleProduct(ScoredSelection):
    """The weights on which both losses depend most."""

    name: ClassVar[str] = "wagle_product"
    needs: ClassVar[tuple[Need, ...]] = ("forget", "retain")

    def score(self, given: Given) -> Tensor:
        """Return g_r g_f."""
        assert given.forget is not None and given.retain is not None
        return given.retain * given.forget
