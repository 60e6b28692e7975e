"""Claim: ascent on forget rows with KL on retain rows takes 2 passes, or 1 with stored distributions, instead of 3, and less time and memory.

Geometry: 8 blocks, width 256, vocabulary 32,000, 8 forget and 8 retain rows of 64 to 128 tokens of which the last half is the answer,
KL at every token that has a successor, float32, one thread, random weights, everything trains.

- three forwards, the usual way: the model on forget rows, the model on retain rows, and a frozen copy that stays in memory on retain rows,
  with logits at every position, padding too.
- original weights: one merged pass with the head where it is read, and one of the retain rows under copies of the weights from before.
- stored: one merged pass; the distributions of the retain rows lie in a memory-mapped file.

All ways give the same loss. Floor: one pass with gradient over the tokens of both roles, head where it is read, and without a store one
more over the retain rows; its bytes are weights, gradients, moments, and logits with their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import MIB, beyond_imports, peaks, run, share
from timing import Bar, alternating, multiplications_per_second, report

from models import PAD, answer_rows, descend, forward_passes, full_model, log_probs, padded, row_nll, save_model
from temper.train.engine import Engine, count_units
from temper.train.losses.kl import KL
from temper.train.losses.nll import NLL
from temper.train.masked import masked_adamw
from temper.train.reference import reference_of

LAYERS, WIDTH, VOCABULARY, ROWS = 8, 256, 32_000, 8
ITEMS = {
    role: answer_rows(seed, role, rows=ROWS, shortest=64, longest=128, vocabulary=VOCABULARY)
    for seed, role in enumerate(("forget", "retain"))
}
BATCHES = {role: padded(items) for role, items in ITEMS.items()}


def three_forwards(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with a resident reference model; `models` receives what it runs."""
    model, frozen = full_model(folder).train(), full_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    scored = int((BATCHES["forget"]["labels"] != -100).sum())
    followed = BATCHES["retain"]["attention_mask"][:, 1:]
    if models is not None:
        models += [model, frozen]

    def step() -> float:
        forget = -row_nll(model, BATCHES["forget"]).sum() / scored
        with torch.no_grad():
            before = log_probs(frozen, BATCHES["retain"])
        each = torch.nn.functional.kl_div(log_probs(model, BATCHES["retain"]), before, reduction="none", log_target=True).sum(-1)
        return descend(optimizer, forget + (each * followed).sum() / followed.sum())

    return step


def original_weights(folder: Path, models: list[Any] | None = None, *, stored: bool = False) -> Callable[[], float]:
    """Return a step with the engine."""
    model = full_model(folder)
    terms = [NLL("forget", sign=-1), KL("retain")]
    engine = Engine(model, terms, {"retain": distributions(model, folder)} if stored else {}).train()
    optimizer = masked_adamw(list(model.named_parameters()), lr=1e-5)
    counts = count_units(terms, BATCHES)
    if models is not None:
        models.append(model)
    return lambda: descend(optimizer, engine(BATCHES, counts, (0, 1))["loss"])


def stored(folder: Path, models: list[Any] | None = None) -> Callable[[], float]:
    """Return a step with the engine and a store."""
    return original_weights(folder, models, stored=True)


def distributions(model: Any, folder: Path) -> Any:
    """Return the stored distributions of the retain rows, computed where they are not there yet."""
    need = frozenset({"ref_log_probs:nonpad"})
    return reference_of(model, ITEMS["retain"], range(ROWS), need, pad_id=PAD, identity={}, folder=folder / "store")


WAYS = {"three forwards": three_forwards, "original weights": original_weights, "stored": stored}


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    save_model(folder, layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=128)
    model = full_model(folder)
    distributions(model, folder)
    found = peaks(__file__, WAYS, folder)
    models: dict[str, list[Any]] = {way: [] for way in WAYS}
    steps = {way: build(folder, models[way]) for way, build in WAYS.items()}
    losses = [[step() for step in steps.values()] for _ in range(3)]
    passes = {way: forward_passes(models[way], step) for way, step in steps.items()}
    best = alternating(steps, repeats=5)
    speed = multiplications_per_second(WIDTH)
    block, head = 13 * WIDTH**2, VOCABULARY * WIDTH
    whole = LAYERS * block + head
    tokens = {role: int(batch["attention_mask"].sum()) for role, batch in BATCHES.items()}
    read = {"forget": int((BATCHES["forget"]["labels"] != -100).sum()), "retain": tokens["retain"] - ROWS}
    cells = {role: batch["input_ids"].numel() for role, batch in BATCHES.items()}
    merged = 3 * (sum(tokens.values()) * LAYERS * block + sum(read.values()) * head)
    work = {
        "three forwards": 3 * sum(cells.values()) * whole + cells["retain"] * whole,
        "original weights": merged + tokens["retain"] * LAYERS * block + read["retain"] * head,
        "stored": merged,
    }
    least = 16 * sum(p.numel() for p in model.parameters()) + 8 * sum(read.values()) * VOCABULARY
    report(
        "ascent + KL on retain rows, merged against three forwards",
        [
            Bar("CPU-seconds, original weights / three forwards", best["original weights"] / best["three forwards"], at_most=0.9),
            Bar("CPU-seconds, stored / three forwards", best["stored"] / best["three forwards"], at_most=0.75),
            Bar(
                "memory beyond imports, original weights / three forwards",
                share(found, "original weights", "three forwards"),
                at_most=1.0,
            ),
            Bar("memory beyond imports, stored / three forwards", share(found, "stored", "three forwards"), at_most=1.0),
            Bar("forward passes, original weights", passes["original weights"], at_most=2),
            Bar("forward passes, stored", passes["stored"], at_most=1),
        ],
        {
            "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
            "memory": beyond_imports(found),
            "forward_passes": passes,
            "stored_mib": round(4 * read["retain"] * VOCABULARY / MIB, 1),
            "largest_loss_difference": max(abs(row[0] - other) / abs(row[0]) for row in losses for other in row[1:]),
            "floor": {
                "multiplications": work,
                "ratios_of_multiplications": {name: round(value / work["three forwards"], 3) for name, value in work.items()},
                "multiplications_per_second": round(speed),
                "floor_over_measured_seconds": {name: round(work[name] / speed / best[name], 2) for name in best},
                "merged_mib": round(least / MIB, 1),
            },
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
