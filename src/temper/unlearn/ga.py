"""Gradient ascent on the forget rows, alone.

    L = -(1/N_tok) Σ log-likelihood loss of the forget tokens

The oldest and bluntest objective: nothing holds the rest of the model, and the loss has no lower bound. Ten steps too
many and the model says nothing any more. It is here as the baseline that others must beat.

Source: Jang et al., Knowledge Unlearning (2023); Maini et al., TOFU (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective, RetainTerm

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["GradientAscent"]


class GradientAscent(Objective):
    """Settings of GA: only the forget weight."""

    name: ClassVar[str] = "ga"
    retain_term: RetainTerm = Field("none", description="GA reads no retain rows; graddiff is GA with a retain term.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return ascent on forget."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight, sign=-1)]
