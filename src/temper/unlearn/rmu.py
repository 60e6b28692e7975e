"""Representation misdirection (RMU) on the trunk.

    L = γ mean_b ⟨(1/d)‖h_θ^ℓ(t) - c·u‖²⟩_{D_f} + α mean_b ⟨(1/d)‖h_θ^ℓ(t) - h_0^ℓ(t)‖²⟩_{D_r}

| symbol | here | meaning |
| --- | --- | --- |
| ℓ | layer | the block whose output is read; nothing above it runs |
| u | from (seed, topic) | direction of norm 1; `uniform` on [0, 1) as published, or `normal` |
| c | steering_coefficient | its length: a number, or `auto:k` = k times the median token norm of the model on D_f |
| α | retain_weight | weight of the anchor |

Which tokens are steered decides what is forgotten. With `answer`, the answer is gone and a reasoning trace may still state the fact;
with `nonpad` the model learns to fire on the question's words too. The mask is stated in every record of a run.

Train few tensors: pass `selection` (e.g. `{layers: {layers: [5, 6, 7], module: mlp.down_proj}}`, the published choice).

Source: Li et al., The WMDP Benchmark (2024); the official code for the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from temper.draws import torch_generator
from temper.unlearn.objective import Context, Objective, RetainTerm, TokenMask

if TYPE_CHECKING:
    import torch

    from temper.train.losses.term import LossTerm

__all__ = ["RMU", "control_direction"]


def control_direction(width: int, seed: int, topic: str, distribution: Literal["uniform", "normal"]) -> torch.Tensor:
    """Return a direction of norm 1, shape (D,), that depends on seed and topic alone.

    With `uniform` all coordinates are positive, so two topics' directions have a cosine near 0.75.
    """
    import torch

    draw = torch_generator(seed, "control direction", topic)
    vector = torch.rand(width, generator=draw) if distribution == "uniform" else torch.randn(width, generator=draw)
    direction_D: torch.Tensor = vector / vector.norm()
    return direction_D


class RMU(Objective):
    """Settings of RMU."""

    name: ClassVar[str] = "rmu"
    family: ClassVar[str] = "representation"
    layer: int = Field(7, description="ℓ, the block whose output is steered, from 0; negative counts from the end.")
    steering_coefficient: float | str = Field(
        "auto:2", description="c: a number; auto:k, k times the median token norm; adaptive:k, k times each token's own."
    )
    retain_weight: float = Field(100.0, ge=0, description="α, the weight of the anchor.")
    retain_term: RetainTerm = Field(
        "embed", description="What holds the retain rows; with anything but embed or none all blocks run."
    )
    mask: TokenMask = Field("nonpad", description="Which forget tokens are steered.")
    direction: Literal["uniform", "normal"] = "uniform"
    topic: str = Field("default", description="Names the direction; another topic has another one.")

    @field_validator("steering_coefficient")
    @classmethod
    def _number_or_auto(cls, value: float | str) -> float | str:
        kind, _, factor = value.partition(":") if isinstance(value, str) else ("auto", ":", value)
        try:
            good = 0 < float(factor) < float("inf") and kind in ("auto", "adaptive")
        except ValueError:
            good = False
        if not good:
            raise ValueError("must be a number above 0, auto:k such as auto:2, or adaptive:k")
        return value

    def layers_read(self) -> dict[str, int]:
        """Return the block that is steered, and the one that is held where it is another."""
        return {"method.layer": self.layer, **super().layers_read()}

    def held_layer(self) -> int | None:
        """Return the layer of the anchor: the one that is steered, unless another is given."""
        return self.layer if self.retain_layer is None else self.retain_layer

    def trunk_depth(self) -> int | None:
        """Return the block at which the pass stops; None where the retain term reads logits."""
        if self.retain_term == "none":
            return self.layer
        held = self.held_layer()
        return self.layer if self.retain_term == "embed" and held == self.layer else None

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return steering on forget."""
        from temper.train.losses.activation import Steer

        layer = context.check_layer(self.layer, "method.layer")
        length, factor = self.steering_coefficient, None
        if isinstance(length, str):
            kind, _, number = length.partition(":")
            norm = context.median_token_norm(layer, "forget")
            length = float(number) * norm
            factor = float(number) if kind == "adaptive" else None
            context.facts["median_token_norm"] = norm
        context.facts.update(layer=layer, steering_length=length, mask=self.mask, retain_mask=self.retain_mask)
        direction_D = control_direction(context.hidden_size, context.seed, self.topic, self.direction)
        return [Steer("forget", self.forget_weight, layer=layer, control_D=length * direction_D, mask=self.mask, factor=factor)]
