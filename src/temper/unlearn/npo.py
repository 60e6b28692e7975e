"""Negative preference optimisation with a retain term.

    L = γ NPO_β(D_f) + α NLL(D_r)

See `temper.train.losses.npo` for the equation. The default of the everyday unlearner: it forgets as far as ascent does and does not run
away. Small β is close to ascent; on small models and short answers β near 1 keeps more.

Three versions are in circulation, with settings that cannot be exchanged: β of `batch_mean` acts about T times as weakly, since its ratio
is a mean over tokens (its tuned values are 0.0125 to 0.05); `npo_muse_compat` compares raw logits and is not NPO.

Source: Zhang et al., Negative Preference Optimization (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["NPO"]


class NPO(Objective):
    """Settings of NPO."""

    name: ClassVar[str] = "npo"
    family: ClassVar[str] = "preference"
    beta: float = Field(0.1, gt=0, description="β, inverse temperature; smaller is closer to gradient ascent.")
    form: Literal["sequence_sum", "batch_mean", "npo_muse_compat"] = Field(
        "sequence_sum",
        description="What the ratio is taken over: a row (the paper), a whole batch, or every logit (MUSE's code, for parity).",
    )

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return NPO on forget."""
        if self.form == "batch_mean":
            from temper.train.losses.npo_batch_mean import NPOBatchMean

            return [NPOBatchMean("forget", self.forget_weight, beta=self.beta)]
        if self.form == "npo_muse_compat":
            from temper.train.losses.npo_muse_compat import NPOMuseCompat

            return [NPOMuseCompat("forget", self.forget_weight, beta=self.beta)]
        from temper.train.losses.npo import NPO as NPOTerm

        return [NPOTerm("forget", self.forget_weight, beta=self.beta)]
