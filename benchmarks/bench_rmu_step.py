"""Claim: an RMU step on the trunk takes at least 5 times fewer CPU-seconds than the same step with two full models.

Geometry: 32 blocks, width 256, vocabulary 32,000, read at block 7, down-projections of blocks 5 to 7 train, 4 forget and
4 retain rows of 256 tokens, float32, one thread, random weights.

The usual way is that of the official code: the whole model runs for forget rows (with gradient), retain rows (with
gradient) and, as a second resident copy, retain rows (without); a hook reads block 7; every parameter requires a gradient
and only the chosen three are stepped. Both ways are checked to give the same loss.

The floor counts multiplications that cannot be avoided without a cache: blocks 0 to 4 once, blocks 5 to 7 once with and for
retain rows once without gradient, and the backward pass through blocks 5 to 7.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timing import alternating, report

from models import random_llama
from temper.models.selection import SelectLayers
from temper.train.engine import Engine, count_units
from temper.train.losses.activation import Anchor, Steer
from temper.train.losses.term import Batch

LAYERS, WIDTH, VOCABULARY, READ, ROWS, LENGTH = 32, 256, 32_000, 7, 4, 256
TRAINED = [5, 6, 7]


def rows(seed: int) -> dict[str, torch.Tensor]:
    """Return full rows of random tokens."""
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(), "index": torch.arange(ROWS)}


def down_projections(model: Any) -> list[torch.nn.Parameter]:
    """Return the parameters that are stepped."""
    return [model.model.layers[layer].mlp.down_proj.weight for layer in TRAINED]


def usual(
    model: Any,
    frozen: Any,
    optimizer: Any,
    forget: dict[str, torch.Tensor],
    retain: dict[str, torch.Tensor],
    control: torch.Tensor,
) -> float:
    """Do one step with two full models."""

    def read(which: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        handle = which.model.layers[READ].register_forward_hook(lambda module, args, output: caught.append(output))
        which(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], use_cache=False)
        handle.remove()
        return caught[0]

    loss = torch.nn.functional.mse_loss(read(model, forget), control.expand(ROWS, LENGTH, WIDTH))
    with torch.no_grad():
        kept = read(frozen, retain)
    loss = loss + 100.0 * torch.nn.functional.mse_loss(read(model, retain), kept)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    forget, retain, control = rows(1), rows(2), torch.full((WIDTH,), 0.4)
    full, frozen = (
        random_llama(layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=LENGTH).train(),
        random_llama(layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=LENGTH),
    )
    full_optimizer = torch.optim.AdamW(down_projections(full), lr=5e-5)
    trunk = SelectLayers(layers=TRAINED, module="mlp.down_proj").apply(copy.deepcopy(frozen))
    terms = [Steer("forget", layer=READ, control_D=control, mask="nonpad"), Anchor("retain", 100.0, layer=READ)]
    engine = Engine(trunk, terms)
    optimizer = torch.optim.AdamW([p for p in trunk.parameters() if p.requires_grad], lr=5e-5)
    batches = {"forget": forget, "retain": retain}
    counts = {role: count_units(Batch(**tensors)) for role, tensors in batches.items()}
    passes: list[int] = []
    for index, block in enumerate(trunk.model.layers):
        block.register_forward_hook(lambda *_, index=index: passes.append(index))

    def ours() -> float:
        result = engine(batches, counts, (0, 1))
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        return float(result["loss"].detach())

    losses = [(usual(full, frozen, full_optimizer, forget, retain, control), ours()) for _ in range(3)]
    passes.clear()
    ours()
    block_passes = len(passes)
    best = alternating(
        {"two full models": lambda: usual(full, frozen, full_optimizer, forget, retain, control), "trunk": ours}, repeats=5
    )
    tokens = ROWS * LENGTH
    block = 4 * WIDTH**2 + 9 * WIDTH**2  # multiplications a token: attention projections and gated MLP
    attention = 2 * LENGTH * WIDTH
    forward = block + attention
    # backward through activations costs one forward more; the three trained matrices their own gradient
    floor = tokens * (2 * 5 * forward + 2 * 3 * forward + 3 * forward + 2 * (3 * forward + 3 * attention) + 2 * 3 * 3 * WIDTH**2)
    usual_operations = tokens * (3 * LAYERS * forward + 3 * VOCABULARY * WIDTH + 2 * 2 * (READ + 1) * (forward + attention))
    result = {
        "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
        "block_passes_a_step": {"trunk": block_passes, "planned": READ + 1 + len(TRAINED), "two full models": 3 * LAYERS},
        "largest_loss_difference": max(abs(a - b) / abs(a) for a, b in losses),
        "floor": {
            "multiplications_trunk": floor,
            "multiplications_two_full_models": usual_operations,
            "ratio_of_multiplications": round(usual_operations / floor, 2),
        },
    }
    report("RMU step, trunk against two full models", result, 5.0, best["two full models"] / best["trunk"], at_least=True)


if __name__ == "__main__":
    main()
