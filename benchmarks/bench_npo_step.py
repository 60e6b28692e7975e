"""Claim: an NPO + NLL step with cached reference costs at most 0.6 of the three-forward form in CPU-seconds, and one role at a time also in memory.

Geometry: 8 blocks, width 256, vocabulary 32,000, 8 forget and 8 retain rows of 64 to 128 tokens of which the last half is
scored (prompts are not), float32, one thread, random weights, everything trains.

- three forwards, the usual way: the model on forget rows, a frozen copy that stays in memory on forget rows, and the model on retain rows,
  with logits at every position.
- cached reference: one merged pass with the head at scored positions only; the reference came before training.
- by role: the same, forward and backward of one role at a time (`train.passes: by_role`), so that only one role's activations are held.

All ways give the same loss. Floor: one pass with gradient over the tokens of both roles, head at scored positions; its bytes are
weights, gradients, moments, and the logits with their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import MIB, beyond_imports, peaks, run, share
from timing import Bar, alternating, multiplications_per_second, report
from torch.nn import functional as F

from models import PAD, answer_rows, descend, forward_passes, full_model, padded, row_nll, save_model
from temper.train.engine import Engine, count_units
from temper.train.losses.nll import NLL
from temper.train.losses.npo import NPO
from temper.train.masked import masked_adamw
from temper.train.reference import reference_of

LAYERS, WIDTH, VOCABULARY, ROWS, BETA = 8, 256, 32_000, 8, 0.1
ITEMS = {
    role: answer_rows(seed, role, rows=ROWS, shortest=64, longest=128, vocabulary=VOCABULARY)
    for seed, role in enumerate(("forget", "retain"))
}
BATCHES = {role: padded(items) for role, items in ITEMS.items()}


def three_forwards(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with a resident reference model; `models` receives what it runs."""
    model, frozen = full_model(folder).train(), full_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    scored = int((BATCHES["retain"]["labels"] != -100).sum())
    if models is not None:
        models += [model, frozen]

    def step() -> float:
        with torch.no_grad():
            before = row_nll(frozen, BATCHES["forget"])
        forget = -(2 / BETA) * F.logsigmoid(BETA * (row_nll(model, BATCHES["forget"]) - before)).mean()
        return descend(optimizer, forget + row_nll(model, BATCHES["retain"]).sum() / scored)

    return step


def cached_reference(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with the engine."""
    model = full_model(folder)
    terms = [NPO("forget", beta=BETA), NLL("retain")]
    engine = Engine(model, terms, {"forget": row_sums(model, folder)}).train()
    optimizer = masked_adamw(list(model.named_parameters()), lr=1e-5)
    counts = count_units(terms, BATCHES)
    if models is not None:
        models.append(model)
    return lambda: descend(optimizer, engine(BATCHES, counts, (0, 1))["loss"])


def by_role(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with the engine, one role at a time, as the trainer does it."""
    model = full_model(folder)
    terms = [NPO("forget", beta=BETA), NLL("retain")]
    engine = Engine(model, terms, {"forget": row_sums(model, folder)}).train()
    optimizer = masked_adamw(list(model.named_parameters()), lr=1e-5)
    counts = count_units(terms, BATCHES)
    if models is not None:
        models.append(model)

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for index in range(len(terms)):
            loss = engine(BATCHES, counts, (index,))["loss"]
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        return total

    return step


def row_sums(model: Any, folder: Path) -> Any:
    """Return the stored reference of the forget rows, computed where it is not there yet."""
    need = frozenset({"ref_row_nll"})
    return reference_of(model, ITEMS["forget"], range(ROWS), need, pad_id=PAD, identity={}, folder=folder / "store")


WAYS = {"three forwards": three_forwards, "cached reference": cached_reference, "by role": by_role}


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    save_model(folder, layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=128)
    model = full_model(folder)
    row_sums(model, folder)
    found = peaks(__file__, WAYS, folder)
    models: dict[str, list[Any]] = {way: [] for way in WAYS}
    steps = {way: build(folder, models[way]) for way, build in WAYS.items()}
    losses = [[step() for step in steps.values()] for _ in range(3)]
    passes = {way: forward_passes(models[way], step) for way, step in steps.items()}
    best = alternating(steps, repeats=5)
    speed = multiplications_per_second(WIDTH)
    block, head = 13 * WIDTH**2, VOCABULARY * WIDTH
    tokens = sum(int(batch["attention_mask"].sum()) for batch in BATCHES.values())
    scored = sum(int((batch["labels"] != -100).sum()) for batch in BATCHES.values())
    cells = {role: batch["input_ids"].numel() for role, batch in BATCHES.items()}
    whole = LAYERS * block + head
    work = {
        "three forwards": 3 * sum(cells.values()) * whole + cells["forget"] * whole,
        "cached reference": 3 * (tokens * LAYERS * block + scored * head),
        "by role": 3 * (tokens * LAYERS * block + scored * head),
    }
    least = 16 * sum(p.numel() for p in model.parameters()) + 8 * scored * VOCABULARY
    report(
        "NPO + NLL step, cached reference against three forwards",
        [
            Bar("CPU-seconds, cached / three forwards", best["cached reference"] / best["three forwards"], at_most=0.6),
            Bar("CPU-seconds, by role / three forwards", best["by role"] / best["three forwards"], at_most=0.6),
            Bar("memory beyond imports, by role / three forwards", share(found, "by role", "three forwards"), at_most=0.6),
            Bar("forward passes, cached", passes["cached reference"], at_most=1),
        ],
        {
            "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
            "memory": beyond_imports(found),
            "memory_merged_over_three_forwards": round(share(found, "cached reference", "three forwards"), 3),
            "forward_passes": passes,
            "largest_loss_difference": max(abs(row[0] - other) / abs(row[0]) for row in losses for other in row[1:]),
            "floor": {
                "multiplications": work,
                "ratio_of_multiplications": round(work["cached reference"] / work["three forwards"], 3),
                "multiplications_per_second": round(speed),
                "floor_over_measured_seconds": {name: round(work[name] / speed / best[name], 2) for name in best},
                "cached_reference_mib": round(least / MIB, 1),
            },
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
