"""Direct preference optimisation towards another answer, with a retain term.

    L = γ DPO_β(x_f; y_alt preferred to y_f) + α R(D_r)

See `temper.train.losses.dpo` for the equation. The alternatives are refusals (DPO-idk) unless others are given. Where NPO
only pushes an answer away, DPO says what is to come instead; the model that refuses may still know, as with `po`.

| symbol | here | meaning |
| --- | --- | --- |
| β | beta | inverse temperature, per nat |
| γ | forget_weight | weight of the preference |
| α | retain_weight | weight of the retain term |

Source: Rafailov et al., Direct Preference Optimization (2023); Maini et al., TOFU (2024), and Zhang et al., Negative Preference
Optimization (2024), for its use as a baseline of unlearning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["DPO"]


class DPO(Objective):
    """Settings of DPO."""

    name: ClassVar[str] = "dpo"
    family: ClassVar[str] = "preference"
    reads_alternatives: ClassVar[bool] = True
    beta: float = Field(0.1, gt=0, description="β, inverse temperature; the default is that of the published baselines.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return DPO on forget rows and their alternatives."""
        from temper.train.losses.dpo import DPO as DPOTerm

        return [DPOTerm("forget", self.forget_weight, beta=self.beta)]
