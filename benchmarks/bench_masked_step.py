"""Training a part of the weights: a masked step against a dense one of `torch.optim.AdamW(fused=True)`.

- A tenth of all weights, drawn at random: at most 0.2 of the memory of dense AdamW (state, masters and places), at most 1.1 of its
  time: of the whole step, and of the optimiser with clipping. What packing costs is part of the backward pass.
- A tenth of the rows: faster than the dense step, since the linear layers compute the gradient of those rows alone.
- Gradients: masked ones are packed as they come, so that the largest tensor is the most that exists at a time.

The whole step is forward, backward, clipping, optimiser and zero_grad over the same rows. The floor of memory is two float32 moments
and a four byte place for every selected weight: 0.15 of dense.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from memory import MIB, beyond_imports, peaks, run, share
from timing import Bar, alternating, report
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import random_llama
from temper.train.masked import MaskedOptimizer

RATIO: Final = 0.1
USUAL, RANDOM, ROWS, COLUMNS = "dense torch AdamW, fused", "random tenth, packed", "tenth of the rows", "tenth of the columns"
UNPACKED, HALF, NINETEEN = "random tenth, gradients whole", "random tenth, bfloat16 with masters", "random 95 %"
MASKS: Final[dict[str, tuple[float, str]]] = {
    RANDOM: (RATIO, "entries"),
    UNPACKED: (RATIO, "entries"),
    ROWS: (RATIO, "rows"),
    COLUMNS: (RATIO, "columns"),
    HALF: (RATIO, "entries"),
    NINETEEN: (0.95, "entries"),
}


def model_of(dtype: torch.dtype = torch.float32) -> Any:
    """Return a Llama of 16 million weights."""
    return random_llama(layers=4, width=512, vocabulary=2048, context=128).to(dtype).train()


def masks_of(model: nn.Module, ratio: float, form: str) -> dict[str, torch.Tensor]:
    """Return masks of all matrices; vectors do not train."""
    draw = torch.Generator().manual_seed(0)
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            masks[name] = torch.zeros(parameter.shape, dtype=torch.bool)
            continue
        rows, columns = parameter.shape
        sizes = {"entries": (rows, columns), "rows": (rows, 1), "columns": (1, columns)}
        masks[name] = (torch.rand(sizes[form], generator=draw) < ratio).expand_as(parameter).contiguous()
    return masks


def built(way: str) -> tuple[Any, torch.optim.Optimizer]:
    """Return the model and the optimiser of a way."""
    model = model_of(torch.bfloat16 if way == HALF else torch.float32)
    base = torch.optim.AdamW(model.named_parameters(), lr=1e-5, fused=True)
    if way == USUAL:
        return model, base
    optimizer = MaskedOptimizer(base, masks_of(model, *MASKS[way]))
    if way != UNPACKED:
        optimizer.attach(model)
    return model, optimizer


def clip(model: nn.Module, optimizer: torch.optim.Optimizer, largest: float = 1.0) -> None:
    """Clip by the norm of what trains."""
    if isinstance(optimizer, MaskedOptimizer):
        optimizer.clip_gradients(largest)
    else:
        nn.utils.clip_grad_norm_(model.parameters(), largest)


def step_of(model: Any, optimizer: torch.optim.Optimizer, rows: int = 4) -> Callable[[], None]:
    """Return a whole training step."""
    ids = torch.randint(2048, (rows, 128), generator=torch.Generator().manual_seed(1))

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        clip(model, optimizer)
        optimizer.step()
        optimizer.zero_grad()

    return step


def after_backward_of(model: Any, optimizer: torch.optim.Optimizer, *, clips: bool) -> Callable[[], None]:
    """Return what a step does after the backward pass, on gradients as that leaves them: whole, or packed."""
    ids = torch.arange(64)[None]
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    whole = {parameter: parameter.grad for parameter in model.parameters() if parameter.grad is not None}
    packed = optimizer.packed_gradients() if isinstance(optimizer, MaskedOptimizer) else {}

    def step() -> None:
        for parameter, gradient in whole.items():
            parameter.grad = gradient
        if isinstance(optimizer, MaskedOptimizer):
            optimizer.put_packed(packed)
        if clips:
            clip(model, optimizer, 1e-3)  # so small that it scales every time
        optimizer.step()

    return step


def held_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimiser: all tensors of its state, and where what it selects lies."""
    state = sum(value.numel() * value.element_size() for entry in optimizer.state.values() for value in entry.values())
    return state + (optimizer.place_bytes() if isinstance(optimizer, MaskedOptimizer) else 0)


def gradient_bytes(model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the gradients of parameters, whole and packed, that are there after a backward pass."""
    ids = torch.arange(64)[None]
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    whole = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    packed = optimizer.packed_gradients().values() if isinstance(optimizer, MaskedOptimizer) else ()
    found = int(whole + sum(gradient.nbytes for gradient in packed))
    optimizer.zero_grad()
    return found


def multiplications(step: Callable[[], None]) -> int:
    """Return the floating point operations of a step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


WAYS: Final = (USUAL, *MASKS)
# one short row, so that what the peak consists of is weights, gradients and state rather than activations
FRESH: dict[str, Callable[[Path], Callable[[], Any]]] = {
    way: lambda folder, way=way: step_of(*built(way), rows=1) for way in WAYS
}


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    found = peaks(__file__, FRESH, folder)
    parts = {way: built(way) for way in WAYS}
    whole = {way: step_of(*part) for way, part in parts.items()}
    seconds = alternating(whole, repeats=4)
    operations = {way: multiplications(step) for way, step in whole.items()}
    gradients = {way: gradient_bytes(*part) for way, part in parts.items()}
    held = {way: held_bytes(optimizer) for way, (_, optimizer) in parts.items()}
    alone = alternating({way: after_backward_of(*part, clips=False) for way, part in parts.items()}, repeats=10)
    clipped = alternating({way: after_backward_of(*part, clips=True) for way, part in parts.items()}, repeats=10)
    selected = {way: optimizer.selected for way, (_, optimizer) in parts.items() if isinstance(optimizer, MaskedOptimizer)}
    total = sum(parameter.numel() for parameter in parts[USUAL][0].parameters())
    report(
        "a masked step against a dense one",
        [
            Bar("optimiser memory, random tenth / dense", held[RANDOM] / held[USUAL], at_most=0.2),
            Bar("time of the whole step, random tenth / dense", seconds[RANDOM] / seconds[USUAL], at_most=1.1),
            Bar("time of the optimiser, clipping included, random tenth / dense", clipped[RANDOM] / clipped[USUAL], at_most=1.1),
            # no bar: it reads and writes a tenth of the entries in almost every cache line of the weights
            Bar("time of the optimiser without clipping, random tenth / dense", alone[RANDOM] / alone[USUAL]),
            Bar("time of the whole step, tenth of the rows / dense", seconds[ROWS] / seconds[USUAL], at_most=1.0),
            Bar("time of the whole step, tenth of the columns / dense", seconds[COLUMNS] / seconds[USUAL], at_most=1.0),
            Bar("operations of the whole step, tenth of the rows / dense", operations[ROWS] / operations[USUAL], at_most=0.85),
            Bar("gradients after a backward pass, random tenth / dense", gradients[RANDOM] / gradients[USUAL], at_most=0.11),
            Bar("peak memory of a step beyond imports, random tenth / dense", share(found, RANDOM, USUAL), at_most=0.5),
        ],
        {
            "weights": total,
            "selected": selected,
            "whole_step_cpu_seconds": {way: round(value, 4) for way, value in seconds.items()},
            "optimizer_cpu_seconds": {way: round(value, 4) for way, value in alone.items()},
            "clip_and_optimizer_cpu_seconds": {way: round(value, 4) for way, value in clipped.items()},
            "optimizer_mib": {way: round(value / MIB, 1) for way, value in held.items()},
            "gradients_mib": {way: round(value / MIB, 1) for way, value in gradients.items()},
            "operations": operations,
            "floor": {"optimiser memory at a ratio of a tenth": RATIO * (8 + 4) / 8},
            "memory": beyond_imports(found),
        },
    )


if __name__ == "__main__":
    run(FRESH, main)
