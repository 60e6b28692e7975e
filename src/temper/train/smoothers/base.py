"""What every smoother is, and the plain step.

The trainer hands over two functions: `forget()` runs the forget terms of all micro-batches of the step at the weights as
they are and adds their gradient ∇F, weight γ included, summed over processes and zeroed where a mask says so, to `p.grad`;
`retain()` does the same for all other terms, ∇R. Both return the value of their loss. Since one call covers all
micro-batches, a smoother that calls `forget` several times loses none of them.

    smoothing = smoother.begin(parameters)
    for step in range(total_steps):
        report = smoothing.step(forget, retain, (seed, step))      # leaves in p.grad what the optimiser is to use
        optimizer.step()
        smoothing.after_step(step + 1)
    smoothing.finish()

Weights that a smoother moves are put back from saved copies, bit for bit, also when a pass raises. The passes of one step
that are compared with each other see the same dropout. Parameters may be DTensors (FSDP2): norms are those of the whole
tensors. FSDP2 must reshard after each backward pass, its default, or a pass would see the weights of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from temper.errors import ModelError, RunError
from temper.recipe import NamedSettings
from temper.train.smoothers.moving import clear

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["NoSmoothing", "Pass", "Smoother", "Smoothing", "StepReport"]

Pass = Callable[[], float]
"""Runs terms at the weights as they are, adds their gradient to p.grad and returns their value."""


@dataclass
class StepReport:
    """What a step was about.

    Attributes:
        loss: The value of what the step goes down on: the smoothed F, penalties included, plus R.
        statistics: Numbers for the log, by name.
    """

    loss: float
    statistics: dict[str, float] = field(default_factory=dict)


class Smoother(NamedSettings):
    """Base of all smoothers; on its own the plain step ∇F(θ) + ∇R(θ).

    Attributes:
        perturbs: Whether it moves weights by little and needs them in single precision or better.
    """

    perturbs: ClassVar[bool] = True

    @property
    def forget_passes(self) -> int:
        """Return how often a step runs the forget terms; the plain step does it once."""
        return 1

    def check(self, total_steps: int) -> None:
        """Refuse settings that a run of so many optimiser steps cannot meet; called before training.

        Raises:
            RecipeError: The run is too short.
        """

    def check_parameters(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Refuse weights that are too coarse to be moved by little.

        Args:
            named: Name and parameter; those that do not train are passed over.

        Raises:
            ModelError: A parameter that trains is in half precision.
        """
        if not self.perturbs:
            return
        coarse = [(name, p) for name, p in named if p.requires_grad and p.element_size() < 4]
        if coarse:
            name, parameter = coarse[0]
            raise ModelError(
                f"smoother {self.name}: {len(coarse)} parameters that train are in half precision ({name} is "
                f"{str(parameter.dtype).removeprefix('torch.')}), where a perturbation this small rounds away. "
                "Weights must be float32 or float64: set model.dtype: float32, train a float32 adapter, or use smoother none or wa."
            )

    def begin(self, parameters: Sequence[nn.Parameter]) -> Smoothing:
        """Return the running side for the parameters that train, in an order that every resumed run repeats."""
        return Smoothing(self, parameters)

    def step(self, parameters: Sequence[nn.Parameter], forget: Pass, retain: Pass, key: tuple[int, ...]) -> StepReport:
        """Leave in p.grad the gradient that the optimiser is to use.

        Args:
            parameters: Those that train.
            forget: Adds ∇F; see the module.
            retain: Adds ∇R; see the module.
            key: Seed and number of the step; random draws depend on it and on nothing else.

        Gradients that are there from an earlier step are discarded.

        Raises:
            RunError: A gradient that is to be followed is not finite.
        """
        clear(parameters)
        forget_loss = forget()
        retain_loss = retain()
        return StepReport(forget_loss + retain_loss, {"forget_loss": forget_loss})


class NoSmoothing(Smoother):
    """The plain step."""

    name: ClassVar[str] = "none"
    perturbs: ClassVar[bool] = False


class Smoothing:
    """The running side of a smoother: holds what changes during a run. This one holds nothing.

    Args:
        smoother: The settings.
        parameters: Those that train.
    """

    def __init__(self, smoother: Smoother, parameters: Sequence[nn.Parameter]) -> None:
        self.smoother = smoother
        self.parameters = list(parameters)

    def step(self, forget: Pass, retain: Pass, key: tuple[int, ...]) -> StepReport:
        """Leave in p.grad the gradient that the optimiser is to use; see `Smoother.step`."""
        return self.smoother.step(self.parameters, forget, retain, key)

    def after_step(self, step: int) -> None:
        """Take note of the weights after so many optimiser steps (1 after the first)."""

    def finish(self) -> None:
        """Put the weights in place that the run ends with."""

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, as whole tensors. With DTensors every process must call it."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            RunError: It does not fit.
        """
        if state:
            raise RunError(
                f"smoother {self.smoother.name}: keeps no state, but the checkpoint holds {', '.join(sorted(state)[:3])}. It was written with "
                "another smoother: resume with that one, or remove the checkpoints."
            )
