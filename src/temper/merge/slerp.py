"""SLERP: two models on the arc between them, tensor by tensor.

    Θ = arccos(â · b̂)        θ = [sin((1−s)Θ) a + sin(sΘ) b] / sin Θ

| symbol | meaning |
| --- | --- |
| a, b | a tensor of the first and of the second model: weights, not changes |
| â, b̂ | the same, divided by their norms where those are above 1e-8 |
| s | `position`: 0 gives the first model, 1 the second |

Where |cos Θ| > 0.9995 the arc is a line, and so is the way; models trained briefly from one base lie there almost always.
For more than two models there is no such arc: they are refused.

Source: Shoemake, Animating rotation with quaternion curves (1985); the guards are those of mergekit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.merge.method import MergeMethod, Unit

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Slerp", "arc_factors"]

_STRAIGHT = 0.9995
_NO_NORM = 1e-8


def arc_factors(cosine: float, position: float) -> tuple[float, float]:
    """Return what a and b are multiplied by.

    Args:
        cosine: cos Θ.
        position: s.

    Example:
        >>> [round(factor, 6) for factor in arc_factors(0.0, 0.5)]
        [0.707107, 0.707107]
        >>> arc_factors(1.0, 0.25)
        (0.75, 0.25)
    """
    if abs(cosine) > _STRAIGHT:
        return 1 - position, position
    angle = math.acos(cosine)
    return math.sin((1 - position) * angle) / math.sin(angle), math.sin(position * angle) / math.sin(angle)


class Slerp(MergeMethod):
    """Settings of SLERP."""

    name: ClassVar[str] = "slerp"
    shorthand: ClassVar[str] = "position"
    takes_weights: ClassVar[bool] = False
    is_ordered: ClassVar[bool] = True
    most_models: ClassVar[int | None] = 2
    position: float = Field(0.5, ge=0.0, le=1.0, description="s, from the first model (0) to the second (1).")

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return the point on the arc, as a change of the base."""
        import torch

        square_a = square_b = product = 0.0
        for start, stop in unit.pieces():
            base = unit.base(start, stop).double()
            a, b = base + unit.rows[0][start:stop], base + unit.rows[1][start:stop]
            square_a, square_b, product = square_a + float(a @ a), square_b + float(b @ b), product + float(a @ b)
        norms = [math.sqrt(square) if math.sqrt(square) > _NO_NORM else 1.0 for square in (square_a, square_b)]
        one, two = arc_factors(max(-1.0, min(1.0, product / norms[0] / norms[1])), self.position)

        def merged(base_P: Tensor, rows: Sequence[Tensor]) -> Tensor:
            # one (θ + τ_1) + two (θ + τ_2) − θ, without losing what is small beside θ
            return torch.mul(base_P, one + two - 1.0).add_(rows[0], alpha=one).add_(rows[1], alpha=two)

        return merged
