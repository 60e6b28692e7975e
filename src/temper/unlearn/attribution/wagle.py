"""WAGLE: weights that matter to the forget loss and whose change does not raise the retain loss.

    s_i = (θ_i - [g_r]_i / γ_H) · [g_f]_i                                                                               (W)

| symbol | meaning |
|---|---|
| θ_i | a weight of the model from before |
| g_f, g_r | mean gradients of the forget and of the retain loss at θ |
| γ_H > 0 | stands for the diagonal of the Hessian of the retain loss |

How much γ_H decides: the published value, 1e-6, is so small that g_r/γ_H dwarfs θ nearly everywhere, and (W) is then the ranking by
|g_r · g_f| (`wagle_product`); γ_H → ∞ leaves |θ · g_f| (`snip`). `relative` sets γ_H = q · median|g_r| / median|θ|, where q = 1 makes the
two parts alike. The *balance share*, the share of weights with |g_r/γ_H| > |θ|, stands with every mask.

Only |s| ranks, so the sign of the forget loss does not matter; g_r must be the gradient of a loss that is minimised.

Where this differs from the published code: gradients are means, not sums, over every row once; γ_H = `absolute` is divided by nothing.
`compat` divides it by the number of retain rows, as sums over batches of one row do.

Source: WAGLE, score `snip_advanced` of OPTML-Group/WAGLE; derivation in docs/wagle.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from temper.errors import ModelError
from temper.unlearn.attribution.base import Given, Need, ScoredSelection

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Wagle"]

_SAMPLE: Final = 2**16
"""Entries of a tensor from which a median is taken."""


class Wagle(ScoredSelection):
    """The weights that forget, by formula (W)."""

    name: ClassVar[str] = "wagle"
    needs: ClassVar[tuple[Need, ...]] = ("forget", "retain")

    gamma: float = Field(1e-6, gt=0, description="γ_H; with gamma_mode relative the factor q.")
    gamma_mode: Literal["absolute", "compat", "relative"] = Field(
        "absolute",
        description="absolute: γ_H itself, for mean gradients; compat: γ_H over the number of retain rows, as the published code's sums over rows "
        "have it (needs average: rows); relative: γ · median|g_r| / median|θ|.",
    )

    @model_validator(mode="after")
    def _sums_of_row_means(self) -> Wagle:
        if self.gamma_mode == "compat" and self.average != "rows":
            raise ValueError("gamma_mode: compat stands for sums over rows, each by its own mean; set average: rows with it")
        return self

    def constants(self, retain: Mapping[str, Tensor], theta: Mapping[str, Tensor], rows: int) -> dict[str, Any]:
        """Return γ_H: as it was given, and `absolute`, as it acts on mean gradients.

        Raises:
            ModelError: It is relative, and half of the retain gradient or of the weights is zero.
        """
        said = {"mode": self.gamma_mode, "value": self.gamma}
        if self.gamma_mode == "absolute":
            return {"gamma": {**said, "absolute": self.gamma}}
        if self.gamma_mode == "compat":
            return {"gamma": {**said, "absolute": self.gamma / rows}}
        slope, size = _median(retain), _median(theta)
        if not slope or not size:
            raise ModelError(
                f"selection.{self.name}.gamma_mode: relative needs medians above 0; that of |g_r| is {slope:g}, that of |θ| {size:g}. Exclude the "
                "embedding (rows of words that do not occur have no gradient), or set gamma_mode=absolute."
            )
        return {"gamma": {**said, "absolute": self.gamma * slope / size}}

    def score(self, given: Given) -> Tensor:
        """Return (θ - g_r/γ_H) g_f."""
        assert given.forget is not None and given.retain is not None
        gamma: float = given.facts["gamma"]["absolute"]
        return (given.theta - given.retain / gamma) * given.forget

    def dominated(self, given: Given) -> Tensor:
        """Return where |g_r/γ_H| exceeds |θ|: the balance share is the mean of it."""
        assert given.retain is not None
        gamma: float = given.facts["gamma"]["absolute"]
        return (given.retain / gamma).abs() > given.theta.abs()


def _median(tensors: Mapping[str, Tensor]) -> float:
    """Return the median of |entries| over all tensors, each represented by evenly spaced entries, in proportion to its size."""
    import torch

    total = sum(tensor.numel() for tensor in tensors.values())
    step = max(1, total // (64 * _SAMPLE))
    parts = [tensor.detach().reshape(-1)[::step].float().abs() for tensor in tensors.values()]
    return float(torch.cat(parts).median()) if parts else 0.0
