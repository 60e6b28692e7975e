"""Claim: an NPO + NLL step with cached reference costs at most 0.7 of the three-forward form with a resident reference model.

Geometry: 8 blocks, width 256, vocabulary 32,000, 8 forget and 8 retain rows of 64 to 128 tokens of which the last half is
scored (prompts are not), float32, one thread, random weights.

The usual way runs the model on forget rows, a frozen copy on forget rows, and the model on retain rows, with logits at every
position. Ours: one merged pass with the head at scored positions only; the reference came before training. Both ways give
the same loss. Floor: one pass with gradient over both roles, head at scored positions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timing import alternating, report
from torch.nn import functional as F

from models import random_llama
from temper.train.engine import Engine, count_units
from temper.train.losses.nll import NLL
from temper.train.losses.npo import NPO
from temper.train.losses.term import Batch

LAYERS, WIDTH, VOCABULARY, ROWS = 8, 256, 32_000, 8


def rows(seed: int) -> dict[str, torch.Tensor]:
    """Return padded rows whose second half is scored."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(64, 129, (ROWS,), generator=draw)
    width = int(lengths.max())
    ids = torch.randint(1, VOCABULARY, (ROWS, width), generator=draw)
    place = torch.arange(width).expand(ROWS, width)
    mask = (place < lengths.unsqueeze(1)).long()
    scored = (place >= lengths.unsqueeze(1) // 2) & (mask == 1)
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "labels": ids.where(scored, torch.tensor(-100)),
        "index": torch.arange(ROWS),
    }


def row_nll(model: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return summed -log p of the scored tokens of each row, with logits everywhere."""
    logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], use_cache=False).logits[:, :-1]
    labels = tensors["labels"][:, 1:]
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    batches = {"forget": rows(1), "retain": rows(2)}
    frozen = random_llama(layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=256)
    full, merged = copy.deepcopy(frozen), copy.deepcopy(frozen)
    with torch.no_grad():
        reference = row_nll(frozen, batches["forget"])
    engine = Engine(merged, [NPO("forget", beta=0.1), NLL("retain")], {"forget": reference})
    counts = {role: count_units(Batch(**tensors)) for role, tensors in batches.items()}
    full_optimizer, optimizer = torch.optim.AdamW(full.parameters(), lr=1e-5), torch.optim.AdamW(merged.parameters(), lr=1e-5)

    def usual() -> float:
        with torch.no_grad():
            ref = row_nll(frozen, batches["forget"])
        forget = -(2 / 0.1) * F.logsigmoid(0.1 * (row_nll(full, batches["forget"]) - ref)).mean()
        loss = forget + row_nll(full, batches["retain"]).sum() / counts["retain"]["tokens"]
        full_optimizer.zero_grad()
        loss.backward()
        full_optimizer.step()
        return float(loss.detach())

    def ours() -> float:
        loss = engine(batches, counts, (0, 1))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    losses = [(usual(), ours()) for _ in range(3)]
    best = alternating({"three forwards": usual, "cached reference": ours}, repeats=5)
    forward = 13 * WIDTH**2
    head = VOCABULARY * WIDTH
    padded = sum(tensors["input_ids"].numel() for tensors in batches.values())
    scored = sum(count["tokens"] for count in counts.values())
    floor = 3 * (padded * LAYERS * forward + scored * head)
    forget = batches["forget"]["input_ids"].numel()
    usual_operations = 3 * padded * (LAYERS * forward + head) + forget * (LAYERS * forward + head)
    result = {
        "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
        "largest_loss_difference": max(abs(a - b) / abs(a) for a, b in losses),
        "floor": {
            "multiplications_ours": floor,
            "multiplications_usual": usual_operations,
            "ratio_of_multiplications": round(floor / usual_operations, 3),
        },
    }
    report(
        "NPO + NLL step, cached reference against three forwards",
        result,
        0.7,
        best["cached reference"] / best["three forwards"],
        at_least=False,
    )


if __name__ == "__main__":
    main()
