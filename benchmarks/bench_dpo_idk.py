"""Claim: DPO towards refusals with a retain term takes 1 pass instead of 5, at most 0.6 of the CPU-seconds, and less memory.

Geometry: 8 blocks, width 256, vocabulary 32,000, 8 forget and 8 retain rows of 64 to 128 tokens of which the last half is the answer, and for
every forget row its prompt with a refusal of 12 tokens, float32, one thread, random weights, everything trains.

- five forwards, the usual way: the model and a frozen copy that stays in memory, each on refusals and on forget rows, and the model on retain
  rows, with logits at every position.
- cached reference: one merged pass of all three, head at scored positions only; the reference came before training.

Both ways give the same loss. Floor: one pass with gradient over all tokens, head at scored positions; its bytes are weights, gradients,
moments, and logits with their gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from memory import MIB, beyond_imports, peaks, run, share
from timing import Bar, alternating, multiplications_per_second, report
from torch.nn import functional as F

from models import PAD, answer_rows, descend, forward_passes, full_model, padded, row_nll, save_model
from temper.data import Item
from temper.train.engine import Engine, count_units
from temper.train.losses.dpo import DPO
from temper.train.losses.nll import NLL
from temper.train.masked import masked_adamw
from temper.train.plan import ALTERNATIVE
from temper.train.reference import reference_of

LAYERS, WIDTH, VOCABULARY, ROWS, BETA = 8, 256, 32_000, 8, 0.1
REFUSAL = tuple(range(100, 112))
REFUSED = "forget" + ALTERNATIVE


def refused(item: Item) -> Item:
    """Return the prompt of a row with the refusal."""
    prompt = item.input_ids[: len(item.input_ids) // 2]
    return dataclasses.replace(item, input_ids=(*prompt, *REFUSAL), labels=(*[-100] * len(prompt), *REFUSAL))


ITEMS = {
    role: answer_rows(seed, role, rows=ROWS, shortest=64, longest=128, vocabulary=VOCABULARY)
    for seed, role in enumerate(("forget", "retain"))
}
ITEMS[REFUSED] = [refused(item) for item in ITEMS["forget"]]
BATCHES = {role: padded(items) for role, items in ITEMS.items()}


def five_forwards(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with a resident reference model; `models` receives what it runs."""
    model, frozen = full_model(folder).train(), full_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    scored = int((BATCHES["retain"]["labels"] != -100).sum())
    if models is not None:
        models += [model, frozen]

    def step() -> float:
        with torch.no_grad():
            chosen_before, rejected_before = row_nll(frozen, BATCHES[REFUSED]), row_nll(frozen, BATCHES["forget"])
        chosen = chosen_before - row_nll(model, BATCHES[REFUSED])
        rejected = rejected_before - row_nll(model, BATCHES["forget"])
        forget = -(2 / BETA) * F.logsigmoid(BETA * (chosen - rejected)).mean()
        return descend(optimizer, forget + row_nll(model, BATCHES["retain"]).sum() / scored)

    return step


def cached_reference(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with the engine."""
    model = full_model(folder)
    terms = [DPO("forget", beta=BETA), NLL("retain")]
    engine = Engine(model, terms, row_sums(model, folder)).train()
    optimizer = masked_adamw(list(model.named_parameters()), lr=1e-5)
    counts = count_units(terms, BATCHES)
    if models is not None:
        models.append(model)
    return lambda: descend(optimizer, engine(BATCHES, counts, (0, 1))["loss"])


def row_sums(model: Any, folder: Path) -> Mapping[str, Any]:
    """Return the stored references of forget rows and refusals, computed where they are not there yet."""
    need = frozenset({"ref_row_nll"})
    return {
        role: reference_of(model, ITEMS[role], range(ROWS), need, pad_id=PAD, identity={}, folder=folder / "store")
        for role in ("forget", REFUSED)
    }


WAYS = {"five forwards": five_forwards, "cached reference": cached_reference}


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
    whole = LAYERS * block + head
    tokens = sum(int(batch["attention_mask"].sum()) for batch in BATCHES.values())
    scored = sum(int((batch["labels"] != -100).sum()) for batch in BATCHES.values())
    cells = {role: batch["input_ids"].numel() for role, batch in BATCHES.items()}
    work = {
        "five forwards": (3 * sum(cells.values()) + cells["forget"] + cells[REFUSED]) * whole,
        "cached reference": 3 * (tokens * LAYERS * block + scored * head),
    }
    least = 16 * sum(p.numel() for p in model.parameters()) + 8 * scored * VOCABULARY
    report(
        "DPO towards refusals + NLL, cached reference against five forwards",
        [
            Bar("CPU-seconds, cached / five forwards", best["cached reference"] / best["five forwards"], at_most=0.6),
            Bar("memory beyond imports, cached / five forwards", share(found, "cached reference", "five forwards"), at_most=0.8),
            Bar("forward passes, cached", passes["cached reference"], at_most=1),
        ],
        {
            "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
            "memory": beyond_imports(found),
            "forward_passes": passes,
            "largest_loss_difference": max(abs(row[0] - other) / abs(row[0]) for row in losses for other in row[1:]),
            "floor": {
                "multiplications": work,
                "ratio_of_multiplications": round(work["cached reference"] / work["five forwards"], 3),
                "multiplications_per_second": round(speed),
                "floor_over_measured_seconds": {name: round(work[name] / speed / best[name], 2) for name in best},
                "cached_reference_mib": round(least / MIB, 1),
            },
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
