"""Logit offset (who's Harry Potter): subtract what a reinforced model says more loudly.

    z_u(t) = z_0(t) - a ReLU(z_reinf(t) - z_0(t)),        θ_reinf = θ_0 trained on D_f

The result is two models that answer together (`temper.models.offset`): weights of the original do not change, and every forward costs
two. With `distil: true` θ_0 is then trained to the offset distribution on forget and retain rows, and the result is one ordinary model;
the train section is used for both trainings.

Source: Eldan and Russinovich, Who's Harry Potter? (2023); Shi et al., MUSE (2024), whose code has a = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from temper.unlearn.objective import Context, Objective, RetainTerm

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["LogitOffset"]


class LogitOffset(Objective):
    """Settings of the logit offset."""

    name: ClassVar[str] = "logit_offset"
    family: ClassVar[str] = "distillation"
    result: ClassVar[Literal["weights", "task_vector", "offset"]] = "offset"
    strength: float = Field(1.0, ge=0, description="a, how much of the difference is subtracted.")
    reinforced: str | None = Field(None, description="A model that was trained on the forget data; trained here when left out.")
    distil: bool = Field(
        False, description="Train the original to the offset distribution, so that one ordinary model comes out."
    )
    retain_term: RetainTerm = Field("none", description="What holds the retain rows while the forget data are learned harder.")

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that need data; distillation reads retain rows too."""
        return ("forget", "retain") if self.distil or self.retain_term != "none" else ("forget",)

    @property
    def trains(self) -> bool:
        """Return whether the reinforced model is made here."""
        return self.reinforced is None

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return descent on forget: this run learns what is then subtracted."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight)]
