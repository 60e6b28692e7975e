"""Cross-entropy unlearning (CE-U): train towards the model's own predictions without the true token.

    L = γ mean over kept t of CE( softmax(z_θ(t) with entry y_t at -∞), p_θ(t) ),      target without gradient

See `temper.train.losses.ceu` for the equation. Its gradient is bounded and fades as a token is forgotten, so no retain
term is set by default. The first answer tokens are left alone, so that the model still starts an answer.

| symbol | here | meaning |
| --- | --- | --- |
| | skip | answer tokens at the start of a row that are left alone |
| γ | forget_weight | weight of the term |

Source: Yang, CE-U: Cross Entropy Unlearning (2025); `skip` is that of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective, RetainTerm

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["CEU"]


class CEU(Objective):
    """Settings of CE-U."""

    name: ClassVar[str] = "ceu"
    family: ClassVar[str] = "distillation"
    skip: int = Field(1, ge=0, description="Answer tokens at the start of a row that are left alone; a row no longer has no say.")
    retain_term: RetainTerm = Field("none", description="What holds the retain rows; the paper has none.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return CE-U on forget."""
        from temper.train.losses.ceu import CrossEntropyUnlearning

        return [CrossEntropyUnlearning("forget", self.forget_weight, skip=self.skip, is_alone=self.retain_term == "none")]
