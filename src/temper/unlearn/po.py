"""Preference optimisation by refusal (PO, IdkNLL): train the forget questions to be answered with a refusal.

    L = γ NLL(x_f, y_idk) + α NLL(D_r),        y_idk drawn uniformly from a list, per item and epoch

Bounded and gentle, and shallow: the model learns to refuse, and may still know. Other responses than refusals can stand in the place of
the answers: a column of the data, or what the model would also have said.

Source: Maini et al., TOFU (2024), "Preference optimization".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["PreferenceOptimization"]


class PreferenceOptimization(Objective):
    """Settings of PO."""

    name: ClassVar[str] = "po"
    family: ClassVar[str] = "substitution"
    reads_alternatives: ClassVar[bool] = True
    replaces: ClassVar[bool] = True

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return descent on the responses that stand in the place of the answers."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight)]
