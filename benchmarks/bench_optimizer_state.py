"""Claim: the optimiser holds state for the weights that train and for nothing else, byte for byte.

Geometry: 8 blocks, width 256, vocabulary 32,000, one thread, random weights and gradients. Bytes are counted on the state tensors themselves
after three steps and compared with what must be held: two float32 moments an entry that trains, a float32 master too where weights are
bfloat16, and a step count of 4 bytes a tensor. The usual way is `torch.optim.AdamW` over every float32 weight.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import MIB, beyond_imports, peaks, run
from timing import Bar, alternating, report

from models import random_llama
from temper.train.masked import masked_adamw

LAYERS, WIDTH, VOCABULARY = 8, 256, 32_000
USUAL = "torch AdamW, everything"


def model_of(dtype: torch.dtype = torch.float32) -> Any:
    """Return a model whose weights all have a gradient."""
    model = random_llama(layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=128).to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return model


def usual() -> tuple[torch.optim.Optimizer, int]:
    """Return the usual optimiser and the bytes its state takes."""
    model = model_of()
    parameters = list(model.parameters())
    return torch.optim.AdamW(parameters, lr=1e-5, fused=True), 8 * sum(p.numel() for p in parameters) + 4 * len(parameters)


def whole(dtype: torch.dtype, *, layers: tuple[int, ...] | None = None) -> tuple[torch.optim.Optimizer, int]:
    """Return an optimiser of whole parameters, all or those of some blocks."""
    parts = tuple(f"layers.{layer}." for layer in layers or ())
    named = [(name, p) for name, p in model_of(dtype).named_parameters() if layers is None or any(part in name for part in parts)]
    entry = 8 if dtype == torch.float32 else 12
    return masked_adamw(named, lr=1e-5), entry * sum(p.numel() for _, p in named) + 4 * len(named)


def masked(*, rows: bool) -> tuple[torch.optim.Optimizer, int]:
    """Return an optimiser of a tenth of all matrices, random entries or whole rows."""
    draw = torch.Generator().manual_seed(0)
    named = [(name, p) for name, p in model_of().named_parameters() if p.dim() == 2]
    masks = {
        name: (torch.rand(p.shape[0], 1 if rows else p.shape[1], generator=draw) < 0.1).expand_as(p).contiguous()
        for name, p in named
    }
    return masked_adamw(named, masks, lr=1e-5), 8 * sum(int(mask.sum()) for mask in masks.values()) + 4 * len(named)


OPTIMIZERS: dict[str, Callable[[], tuple[torch.optim.Optimizer, int]]] = {
    USUAL: usual,
    "all": lambda: whole(torch.float32),
    "blocks 5 to 7": lambda: whole(torch.float32, layers=(5, 6, 7)),
    "random tenth": lambda: masked(rows=False),
    "tenth of the rows": lambda: masked(rows=True),
    "all, bfloat16 with masters": lambda: whole(torch.bfloat16),
}
WAYS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    way: lambda folder, build=build: build()[0].step for way, build in OPTIMIZERS.items()
}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors of the state."""
    return sum(value.numel() * value.element_size() for state in optimizer.state.values() for value in state.values())


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    found = peaks(__file__, WAYS, folder)
    built = {way: build() for way, build in OPTIMIZERS.items()}
    best = alternating({way: optimizer.step for way, (optimizer, _) in built.items()}, repeats=3)
    held = {way: state_bytes(optimizer) for way, (optimizer, _) in built.items()}
    wrong = sum(held[way] != expected for way, (_, expected) in built.items())
    report(
        "optimiser state, selected weights against all",
        [
            Bar("state, tenth of the rows / everything", held["tenth of the rows"] / held[USUAL], at_most=0.11),
            Bar("state, random tenth / everything", held["random tenth"] / held[USUAL], at_most=0.11),
            Bar("state, all / everything", held["all"] / held[USUAL], at_most=1.0),
            Bar(
                "state, bfloat16 with masters / everything in float32",
                held["all, bfloat16 with masters"] / held[USUAL],
                at_most=1.5,
            ),
            Bar("ways whose bytes are not the expected ones", wrong, at_most=0),
        ],
        {
            "state_bytes": held,
            "floor": {"expected_bytes": {way: expected for way, (_, expected) in built.items()}},
            "state_mib": {way: round(value / MIB, 1) for way, value in held.items()},
            "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
            "memory": beyond_imports(found),
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
