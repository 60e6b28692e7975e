"""Gradient difference: ascent on the forget rows, descent on the retain rows.

    L = -γ NLL(D_f) + α NLL(D_r)

Still unbounded; the retain term buys time. On the embedded world no weight gives both full forgetting and full retention.

Source: Liu et al., Continual Learning and Private Unlearning (2022); Maini et al., TOFU (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["GradDiff"]


class GradDiff(Objective):
    """Settings of GradDiff."""

    name: ClassVar[str] = "graddiff"

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return ascent on forget."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight, sign=-1)]
