"""Maximum entropy (ME) with a retain term: forget answers predicted as if by chance.

    L = γ mean over labelled t of KL(Uniform ‖ p_θ(t)) + α R(D_r)

See `temper.train.losses.entropy` for the equation. Bounded below and the same for every answer, so nothing about the
answer has to be negated; what the model says on forget questions then is close to noise.

| symbol | here | meaning |
| --- | --- | --- |
| γ | forget_weight | weight of the entropy term; small, because it counts the whole vocabulary |
| α | retain_weight | weight of the retain term |

Source: Yuan et al., A Closer Look at Machine Unlearning for Large Language Models (2024); the weights are those of its code on TOFU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["MaximumEntropy"]


class MaximumEntropy(Objective):
    """Settings of ME."""

    name: ClassVar[str] = "me"
    family: ClassVar[str] = "entropy"
    forget_weight: float = Field(0.1, ge=0, description="γ, the weight of the forget term.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return the divergence from uniform on forget."""
        from temper.train.losses.entropy import UniformKL

        return [UniformKL("forget", self.forget_weight)]
