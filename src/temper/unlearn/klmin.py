"""KL minimisation: ascent on the forget rows, the retain rows' distributions held where they were.

    L = -γ NLL(D_f) + α KL(p_0 ‖ p_θ; D_r)

Costs a second, ungraded pass over the retain rows. Unbounded in its forget term, like GradDiff.

Source: Maini et al., TOFU (2024), "KL minimization".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["KLMin"]


class KLMin(Objective):
    """Settings of KL-min."""

    name: ClassVar[str] = "klmin"
    retain_weight: float = Field(1.0, ge=0, description="α, the weight of the KL term.")

    def terms(self, context: Context) -> Sequence[LossTerm]:
        """Return ascent on forget and KL to the model before on retain."""
        from temper.train.losses.kl import KL
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight, sign=-1), KL("retain", self.retain_weight)]
