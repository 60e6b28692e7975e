"""Task-vector negation: learn the forget data harder, then go the other way.

    θ_reinf = θ_0 trained on D_f,        θ_u = θ_0 - a (θ_reinf - θ_0)

The train section says how θ_reinf is trained (MUSE: 10 epochs at 1e-5, a = 5). No retain data hold anything, unless a retain term is
chosen for that training. a = 0 gives the model before, a = -1 the reinforced one. With `reinforced` an existing model is taken instead.

Source: Ilharco et al., Editing Models with Task Arithmetic (2023); Shi et al., MUSE (2024) for the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from temper.unlearn.objective import Context, Objective, RetainTerm

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["TaskVector"]


class TaskVector(Objective):
    """Settings of task-vector negation."""

    name: ClassVar[str] = "task_vector"
    family: ClassVar[str] = "arithmetic"
    result: ClassVar[Literal["weights", "task_vector", "offset"]] = "task_vector"
    strength: float = Field(5.0, description="a, how far against the vector; 0 changes nothing.")
    reinforced: str | None = Field(None, description="A model that was trained on the forget data; trained here when left out.")
    retain_term: RetainTerm = Field("none", description="What holds the retain rows while the forget data are learned harder.")

    @property
    def trains(self) -> bool:
        """Return whether the reinforced model is made here."""
        return self.reinforced is None

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return descent on forget: this run learns what is then taken away."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight)]
