"""UNDIAL: self-distillation from the model before with the true token's logit lowered.

    L = γ mean over labelled t of CE( softmax(z_0(t) - β·onehot(y_t)), p_θ(t) )

See `temper.train.losses.undial` for the equation. The target is fixed and bounded, so a long run does no more than reach
it; no retain term is needed and none is set by default.

| symbol | here | meaning |
| --- | --- | --- |
| β | beta | by how many nats the true token's logit is lowered; 3, 10 and 30 in the paper's settings |
| γ | forget_weight | weight of the distillation |

Published with an adapter of rank 8 (alpha 16) and a learning rate of 1e-4; those are `selection` and `train`.

Source: Dong et al., UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective, RetainTerm

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["UNDIAL"]


class UNDIAL(Objective):
    """Settings of UNDIAL."""

    name: ClassVar[str] = "undial"
    family: ClassVar[str] = "distillation"
    beta: float = Field(10.0, ge=0, description="β, nats by which the true token is lowered; 0 distils the model as it was.")
    retain_term: RetainTerm = Field("none", description="What holds the retain rows; the paper has none.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return the distillation on forget."""
        from temper.train.losses.undial import Undial

        return [Undial("forget", self.forget_weight, beta=self.beta)]
