"""Claim: an RMU step on the trunk takes at least 6 times fewer CPU-seconds and at most 0.45 of the memory of two full models.

Geometry: 32 blocks, width 256, vocabulary 32,000, read at block 7, down-projections of blocks 5 to 7 train, 4 forget and
4 retain rows of 256 tokens, float32, one thread, random weights.

- two full models, the usual way (that of the official code): the whole model runs for forget rows (with gradient), retain rows (with
  gradient) and, as a second resident copy, retain rows (without); a hook reads block 7; every parameter requires a gradient and only the
  chosen three are stepped.
- trunk: blocks 0 to 7 are all that is read from the checkpoint; one pass for both roles, and blocks 5 to 7 again with copies of the three
  matrices from before.
- trunk, stored: the activations of the retain rows under the weights from before lie in a memory-mapped file.

All ways give the same loss. The floor counts multiplications that cannot be avoided: blocks 0 to 7 once for both roles, the backward pass
from block 7 down to the first trained matrix, and without a store blocks 5 to 7 once more for retain rows; its bytes are weights, gradients
and optimiser state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import MIB, beyond_imports, peaks, run, share
from timing import Bar, alternating, multiplications_per_second, report

from models import PAD, answer_rows, cut_model, descend, engine_step, full_model, padded, save_model
from temper.train.losses.activation import Anchor, Steer
from temper.train.reference import reference_of

LAYERS, WIDTH, VOCABULARY, READ, ROWS, LENGTH = 32, 256, 32_000, 7, 4, 256
TRAINED = [5, 6, 7]
ITEMS = {
    role: answer_rows(seed, role, rows=ROWS, shortest=LENGTH, longest=LENGTH, vocabulary=VOCABULARY)
    for seed, role in enumerate(("forget", "retain"))
}
BATCHES = {role: padded(items) for role, items in ITEMS.items()}
CONTROL = torch.full((WIDTH,), 0.4)


def two_full_models(folder: Path) -> Callable[[], float]:
    """Return a step with a resident reference model."""
    model, frozen = full_model(folder).train(), full_model(folder)
    optimizer = torch.optim.AdamW(
        [model.model.layers[n].mlp.down_proj.weight for n in TRAINED], lr=5e-5, weight_decay=0.0, fused=True
    )

    def read(which: Any, role: str) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        handle = which.model.layers[READ].register_forward_hook(lambda module, args, output: caught.append(output))
        which(input_ids=BATCHES[role]["input_ids"], attention_mask=BATCHES[role]["attention_mask"], use_cache=False)
        handle.remove()
        return caught[0]

    def step() -> float:
        loss = torch.nn.functional.mse_loss(read(model, "forget"), CONTROL.expand(ROWS, LENGTH, WIDTH))
        with torch.no_grad():
            kept = read(frozen, "retain")
        return descend(optimizer, loss + 100.0 * torch.nn.functional.mse_loss(read(model, "retain"), kept))

    return step


def trunk(folder: Path, *, stored: bool = False, passes: list[int] | None = None) -> Callable[[], float]:
    """Return a step on the trunk; `passes` receives the index of every block that runs."""
    model = cut_model(folder, READ, TRAINED)
    terms = [Steer("forget", layer=READ, control_D=CONTROL, mask="nonpad"), Anchor("retain", 100.0, layer=READ)]
    return engine_step(model, terms, BATCHES, {"retain": activations(model, folder)} if stored else {}, passes)


def activations(model: Any, folder: Path) -> Any:
    """Return the stored activations of the retain rows, computed where they are not there yet."""
    need = frozenset({f"ref_hidden:{READ}"})
    return reference_of(model, ITEMS["retain"], range(ROWS), need, pad_id=PAD, identity={}, folder=folder / "store")


WAYS = {
    "two full models": two_full_models,
    "trunk": trunk,
    "trunk, stored": lambda folder: trunk(folder, stored=True),
}


def floor() -> dict[str, int]:
    """Return the multiplications of each way."""
    tokens = ROWS * LENGTH
    attention = LENGTH * WIDTH  # half of the square: a token sees those before it
    forward = 13 * WIDTH**2 + attention  # multiplications a token: attention projections and gated MLP
    matrix = 3 * WIDTH**2
    # backward through activations costs a forward and another attention; in block 5 nothing lies below the trained matrix
    back = 2 * (2 * (forward + attention) + len(TRAINED) * matrix + 2 * matrix)
    stored = 2 * (READ + 1) * forward + back
    usual = 3 * (LAYERS * forward + VOCABULARY * WIDTH) + 2 * (READ + 1) * (2 * forward + attention)
    return {"two full models": tokens * usual, "trunk": tokens * (stored + 3 * forward), "trunk, stored": tokens * stored}


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    save_model(folder, layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=LENGTH)
    model = cut_model(folder, READ, TRAINED)
    activations(model, folder)
    found = peaks(__file__, WAYS, folder)
    counted: dict[str, list[int]] = {"trunk": [], "trunk, stored": []}
    steps = {
        "two full models": two_full_models(folder),
        **{way: trunk(folder, stored="stored" in way, passes=passes) for way, passes in counted.items()},
    }
    losses = [[step() for step in steps.values()] for _ in range(3)]
    passes = {way: len(blocks) // 3 for way, blocks in counted.items()}
    planned = {"trunk": READ + 1 + len(TRAINED), "trunk, stored": READ + 1}
    best = alternating(steps, repeats=5)
    speed, work = multiplications_per_second(WIDTH), floor()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = 4 * sum(p.numel() for p in model.parameters())
    report(
        "RMU step, trunk against two full models",
        [
            Bar("CPU-seconds, two full models / trunk", best["two full models"] / best["trunk"], at_least=6.0),
            Bar(
                "CPU-seconds, two full models / trunk with stored activations",
                best["two full models"] / best["trunk, stored"],
                at_least=6.0,
            ),
            Bar("memory beyond imports, trunk / two full models", share(found, "trunk", "two full models"), at_most=0.45),
            Bar(
                "memory beyond imports, stored / two full models", share(found, "trunk, stored", "two full models"), at_most=0.45
            ),
            Bar("block passes, trunk / planned", passes["trunk"] / planned["trunk"], at_most=1.0),
            Bar("block passes, stored / planned", passes["trunk, stored"] / planned["trunk, stored"], at_most=1.0),
        ],
        {
            "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
            "memory": beyond_imports(found),
            "block_passes_a_step": {"two full models": 3 * LAYERS, **passes, "planned": planned},
            "largest_loss_difference": max(abs(row[0] - other) / abs(row[0]) for row in losses for other in row[1:]),
            "floor": {
                "multiplications": work,
                "ratio_of_multiplications": round(work["two full models"] / work["trunk"], 2),
                "multiplications_per_second": round(speed),
                "floor_over_measured_seconds": {name: round(work[name] / speed / best[name], 2) for name in best},
                "trunk_mib": round((weights + 12 * trained) / MIB, 1),
            },
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
