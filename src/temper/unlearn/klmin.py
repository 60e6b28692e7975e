"""KL minimisation: ascent on the forget rows, the retain rows' distributions held where they were.

    L = -γ NLL(D_f) + α KL(p_0 ‖ p_θ; D_r)

The distributions of the model before are read from a store, or cost a second, ungraded pass over the retain rows. Unbounded in its forget term, like GradDiff.

Source: Maini et al., TOFU (2024), "KL minimization".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective, RetainTerm

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["KLMin"]


class KLMin(Objective):
    """Settings of KL-min."""

    name: ClassVar[str] = "klmin"
    retain_term: RetainTerm = Field("kl", description="What holds the retain rows; KL-min is GradDiff with kl.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return ascent on forget."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight, sign=-1)]
