"""Wanda: weights that are large where their inputs are large on the forget rows.

    s_ij = |W_ij| · ‖X_j‖₂,      ‖X_j‖₂ = root of the summed squares of input j over the tokens of the calibration rows

Ranked within each output row, as published. Only linear layers inside decoder blocks compete; nothing else trains (in the published
unlearning code everything else trains whole).

Source: Sun et al., Wanda (2024); baseline `wanda` of WAGLE, 128 forget rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from temper.errors import ModelError
from temper.unlearn.attribution.base import Given, Need, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Wanda"]


class Wanda(ScoredSelection):
    """The weights with the largest products of size and input."""

    name: ClassVar[str] = "wanda"
    needs: ClassVar[tuple[Need, ...]] = ("inputs",)

    scope: Literal["global", "per_tensor", "per_row", "per_module_type"] = Field(
        "per_row", description="Among which weights the share is taken."
    )
    max_rows: int | None = Field(128, ge=1, description="Forget rows that calibrate.")

    def competing(self, model: nn.Module) -> list[str]:
        """Return the weights of linear layers inside decoder blocks.

        Raises:
            ModelError: There is none.
        """
        from temper.unlearn.attribution.inputs import linear_weights

        linear = set(linear_weights(model))
        names = [name for name in super().competing(model) if name in linear]
        if not names:
            raise ModelError(f"selection {self.name}: {type(model).__name__} has no linear layer left in its blocks to score")
        return names

    def score(self, given: Given) -> Tensor:
        """Return |W| ‖X‖."""
        assert given.inputs is not None
        return given.theta.abs() * given.inputs
