"""Weight averaging: the run ends with the mean of the weights it went through, not with the last ones.

    θ_end = mean of θ_s over the steps s = start, start + every, start + 2 every, ...

θ_s is the weights after s optimiser steps, so a run of 125 steps with the defaults averages six of them (100, 105, ..., 125).
The steps themselves are plain. The mean is kept in single precision at least and costs one copy of the weights that train; a
weight that does not move is the same bit for bit in the mean. Optimisers that keep their own copies of the weights hold the
last ones, not the mean: the average is for the end of a run.

Published setting (WMDP-bio, Zephyr, 125 steps): NPO at learning rate 5.5e-6, β 0.05, γ 2, every 5 steps from step 100.

Source: Izmailov et al., Averaging Weights Leads to Wider Optima (2018); Fan et al., Towards LLM Unlearning Resilient to
Relearning Attacks (2025) and its code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.errors import RecipeError, RunError
from temper.train.smoothers.base import Smoother, Smoothing
from temper.train.smoothers.moving import shard_like

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["WA", "Averaging"]


class WA(Smoother):
    """Settings of weight averaging."""

    name: ClassVar[str] = "wa"
    perturbs: ClassVar[bool] = False
    start: int = Field(100, ge=1, description="Optimiser steps before the first weights are taken.")
    every: int = Field(5, ge=1, description="Optimiser steps from one taking to the next.")

    def check(self, total_steps: int) -> None:
        """Refuse a run that ends before the first weights are taken.

        Raises:
            RecipeError: It does.
        """
        if total_steps < self.start:
            raise RecipeError(
                [
                    f"smoother.start = {self.start}, but the run has {total_steps} optimiser steps, so nothing would be averaged. "
                    f"Set start to 1..{total_steps}, or train longer"
                ]
            )

    def begin(self, parameters: Sequence[nn.Parameter]) -> Averaging:
        """Return the running mean."""
        return Averaging(self, parameters)


class Averaging(Smoothing):
    """The running mean of the weights.

    Args:
        smoother: The settings.
        parameters: Those that train.
    """

    def __init__(self, smoother: WA, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(smoother, parameters)
        self._settings = smoother
        self._mean: list[Tensor] = []
        self._count = 0

    def after_step(self, step: int) -> None:
        """Add the weights to the mean, where the step is one of those that are taken."""
        import torch

        if step < self._settings.start or (step - self._settings.start) % self._settings.every:
            return
        self._count += 1
        with torch.no_grad():
            if not self._mean:
                self._mean = [_fine(parameter).clone() for parameter in self.parameters]
                return
            for mean, parameter in zip(self._mean, self.parameters, strict=True):
                mean.add_(_fine(parameter) - mean, alpha=1.0 / self._count)

    def finish(self) -> None:
        """Load the mean.

        Raises:
            RunError: No weights were taken.
        """
        import torch

        if not self._mean:
            raise RunError(
                f"smoother wa: the run ended before step {self._settings.start} (smoother.start), so no weights were averaged. Lower start, or "
                "train longer."
            )
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self._mean, strict=True):
                parameter.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        """Return the mean by parameter number (`mean.0`, ...) and how many weights are in it (`count`)."""
        import torch
        from torch.distributed.tensor import DTensor

        state = {"count": torch.tensor(self._count)}
        for number, mean in enumerate(self._mean):
            whole = mean.full_tensor() if isinstance(mean, DTensor) else mean
            state[f"mean.{number}"] = whole.detach().cpu().clone()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back the mean.

        Raises:
            RunError: It is of other parameters.
        """
        count = int(state["count"]) if "count" in state else -1
        expected = {"count": ()} | {f"mean.{number}": tuple(p.shape) for number, p in enumerate(self.parameters) if count}
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != expected:
            raise RunError(
                f"smoother wa: the checkpoint does not hold an average of the {len(self.parameters)} tensors that train. It was written with "
                "another smoother or selection: resume with those, or remove the checkpoints."
            )
        self._count = count
        self._mean = [
            shard_like(state[f"mean.{number}"], p).to(_fine(p).dtype).clone() for number, p in enumerate(self.parameters) if count
        ]


def _fine(parameter: Tensor) -> Tensor:
    # in half precision a mean of many loses what the last one adds
    return parameter.detach() if parameter.element_size() >= 4 else parameter.detach().float()
