"""What training holds in memory beside activations, counted from the recipe before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from temper.recipe import TrainSection

__all__ = ["Trained", "bytes_beside_weights"]

_FEW: Final = 0.25
"""Share of a tensor up to which the places of single entries take four bytes each; more take two."""


@dataclass(frozen=True)
class Trained:
    """What trains.

    Attributes:
        entries: Weights that train.
        whole: Weights of the tensors they lie in.
        masked: Whether single entries are selected.
        lines: Whether those are whole rows, columns, heads or blocks, whose places take next to nothing.
        width: Bytes of a weight.
    """

    entries: int
    whole: int
    masked: bool
    lines: bool
    width: int


def bytes_beside_weights(train: TrainSection, trained: Trained, *, keeps_original: bool) -> int:
    """Return the bytes of gradients, optimiser state, masters, places and kept originals.

    Args:
        train: The train section.
        trained: What trains.
        keeps_original: Whether a loss asks the weights from before, so that they are kept.
    """
    import torch
    from torch import nn

    from temper.train.bases import base_of, states_per_entry

    base = base_of(train, [("weight", nn.Parameter(torch.zeros(1, 1)))])
    states = states_per_entry(base, base.param_groups[0])
    compat = trained.masked and train.storage == "dense_compat"
    step_width = trained.width if train.precision == "bf16_pure" else max(4, trained.width)
    span = trained.whole if compat else trained.entries
    state = span * states * step_width
    master = step_width if step_width != trained.width else 0
    kept = span * (trained.width + step_width if train.storage == "delta" else master)
    packs = trained.masked and not compat and train.clip == "masked"
    gradients = trained.entries * step_width if packs else trained.whole * trained.width
    single = trained.masked and not trained.lines
    places = trained.entries * (4 if trained.entries <= _FEW * trained.whole else 2) if single else 0
    original = trained.entries * trained.width if keeps_original and train.storage != "delta" else 0
    return state + kept + gradients + places + original
