"""The optimisers that step every weight by its own gradient alone, which is what makes stepping some of the weights exact.

A masked step hands an optimiser the selected entries as if they were all there is. That is right where the new value of an
entry depends on nothing but its own value, gradient and state. It is wrong where entries are coupled: by the means of rows and
columns (Adafactor), by making a whole matrix orthogonal (Muon), by a line search over all weights (LBFGS).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from temper.errors import ModelError
from temper.recipe import TrainSection

__all__ = ["SCALARS", "base_of", "check_elementwise", "decay_groups", "states_per_entry"]

_ELEMENTWISE: Final = (AdamW, Adam, SGD, RMSprop, Adagrad, Adamax, NAdam, RAdam, Adadelta)

_COUPLED: Final = {
    "LBFGS": "its line search reads all weights at once",
    "Adafactor": "it keeps the means of whole rows and columns",
    "Muon": "it makes the step of a whole matrix orthogonal",
    "SparseAdam": "it reads sparse gradients, which a masked gradient is not",
}

SCALARS: Final = frozenset({"step", "mu_product"})
"""Parts of a state that are one number a tensor instead of one an entry."""

_FUSED: Final = (AdamW, Adam, SGD, Adagrad)


def check_elementwise(base: Optimizer) -> None:
    """Refuse an optimiser that couples the entries of a tensor.

    Raises:
        ModelError: It is not one that steps every entry by itself.
    """
    if not isinstance(base, _ELEMENTWISE):
        name = type(base).__name__
        why = _COUPLED.get(name, "it is not known to step every weight by its own gradient alone")
        known = ", ".join(kind.__name__ for kind in _ELEMENTWISE)
        raise ModelError(f"{name} cannot step a part of the weights: {why}. Use one of {known}.")


def states_per_entry(base: Optimizer, group: dict[str, Any]) -> int:
    """Return how many numbers the state of an optimiser holds for every entry that it steps."""
    if isinstance(base, SGD):
        return int(group["momentum"] != 0)
    if isinstance(base, RMSprop):
        return 1 + int(group["momentum"] > 0) + int(group["centered"])
    if isinstance(base, Adagrad):
        return 1
    return 2 + int(bool(group.get("amsgrad")))


def decay_groups(named: Sequence[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of an optimiser in which matrices decay and vectors do not, with names."""
    groups: list[dict[str, Any]] = [
        {"params": [(name, p) for name, p in named if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [(name, p) for name, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def base_of(train: TrainSection, named: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
    """Return the optimiser that a recipe asks for, over whole parameters and without state."""
    kinds: dict[str, type[Optimizer]] = {kind.__name__.lower(): kind for kind in _ELEMENTWISE}
    kind = kinds[train.optimizer]
    settings: dict[str, Any] = {"lr": train.learning_rate}
    if kind in (AdamW, Adam, Adamax, NAdam, RAdam):
        settings["betas"] = (train.adam_beta1, train.adam_beta2)
    if kind in (SGD, RMSprop):
        settings["momentum"] = train.momentum
    if kind in _FUSED:
        settings["fused"] = True
    return kind(decay_groups(named, train.weight_decay), **settings)
