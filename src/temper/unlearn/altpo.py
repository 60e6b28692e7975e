"""Alternate preference optimisation (AltPO): DPO towards answers that the model itself would have given instead.

    L = γ DPO_β(x_f; y_alt preferred to y_f) + α R(D_r),        y_alt sampled from the model before, in its own words

The equation is that of `temper.train.losses.dpo`. Plausible answers of the right form keep the model from falling into
refusals or noise on forget questions; the price is that it then states something false.

| symbol | here | meaning | searched over in the authors' settings |
| --- | --- | --- | --- |
| β | beta | inverse temperature, per nat | 0.05, 0.1, 0.5 |
| α | retain_weight | weight of the retain term | 1, 2, 5 |
| γ | forget_weight | weight of the preference | 1 |

The authors draw five alternatives a question at temperature 1 and train two epochs at 1e-5 to 5e-5.

Source: Mekala et al., Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language Models (2024); the
settings file of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import Field

from temper.recipe import Named, NamedSettings, named_settings
from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["AltPO"]


class AltPO(Objective):
    """Settings of AltPO."""

    name: ClassVar[str] = "altpo"
    family: ClassVar[str] = "preference"
    reads_alternatives: ClassVar[bool] = True
    alternatives: Named = Field(
        default_factory=lambda: cast(NamedSettings, named_settings("alternatives", "generate")),
        description="Where the alternatives come from: generate, or {column: NAME} if they were made before.",
    )
    beta: float = Field(0.1, gt=0, description="β, inverse temperature; the middle of the authors' search.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return DPO on forget rows and their alternatives."""
        from temper.train.losses.dpo import DPO as DPOTerm

        return [DPOTerm("forget", self.forget_weight, beta=self.beta)]
