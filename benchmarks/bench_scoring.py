"""Scoring weights by WAGLE, block by block: against one forward and backward over the same rows, and against the memory of the model.

The usual way keeps the gradient of every weight twice (forget and retain) and the scores beside the model, four copies in all.
Here gradients are complete block after block and lie on disk; what is compared is

- CPU seconds of both gradients and of ranking, over those of a plain forward and backward of the same batches;
- the peak beyond imports, over the model plus the gradient of its largest block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from memory import MIB, beyond_imports, peaks, run
from timing import Bar, alternating, report

from models import answer_rows, padded, random_llama, row_nll
from temper.data import Item
from temper.data.batching import length_sorted
from temper.models.ranking import choose
from temper.unlearn.attribution.making import scores_of
from temper.unlearn.attribution.wagle import Wagle

GEOMETRY: Final = {"layers": 8, "width": 640, "vocabulary": 2000, "context": 256}
ROWS, SHORTEST, LONGEST, BATCH_TOKENS = 24, 96, 160, 256
"""Tokens of a batch: a block's activations of one batch are what scoring holds beside the model."""
SELECTION: Final = Wagle(ratio=0.4)


def rows(role: str) -> list[Item]:
    """Return rows whose second half is scored."""
    seed = {"forget": 0, "retain": 1}[role]
    return answer_rows(seed, role, rows=ROWS, shortest=SHORTEST, longest=LONGEST, vocabulary=GEOMETRY["vocabulary"])


def plain(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> None:
    """Run each batch forward and back; gradients add up in the parameters."""
    for tensors in batches:
        row_nll(model, tensors).sum().backward()


def score(model: Any, folder: Path) -> None:
    """Take both gradients, score every weight and choose 40 % of them."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        items = {role: rows(role) for role in ("forget", "retain")}
        found = scores_of(SELECTION, model, items, pad_id=0, seed=0, folder=Path(place), batch_tokens=BATCH_TOKENS)
        choose(found, [SELECTION.ratio])


def usual(folder: Path) -> Callable[[], Any]:
    """Return the usual way: both gradients and the scores beside the model."""
    model = random_llama(**GEOMETRY)

    def step() -> None:
        found: list[dict[str, torch.Tensor]] = []
        for role in ("forget", "retain"):
            items = rows(role)
            plain(
                model,
                [
                    padded([items[place] for place in places])
                    for places in length_sorted(items, GEOMETRY["vocabulary"], BATCH_TOKENS)
                ],
            )
            found.append({name: p.grad for name, p in model.named_parameters()})
            model.zero_grad()
        forget, retain = found
        scores = {name: (p.detach() - retain[name] / SELECTION.gamma) * forget[name] for name, p in model.named_parameters()}
        assert scores

    return step


def ours(folder: Path) -> Callable[[], Any]:
    """Return scoring block by block."""
    model = random_llama(**GEOMETRY)  # not from a file: loading one holds it twice for a moment
    return lambda: score(model, folder)


WAYS: Final = {"usual": usual, "ours": ours}


def main(folder: Path) -> None:
    """Measure and report."""
    model = random_llama(**GEOMETRY)
    batches = []
    for role in ("forget", "retain"):
        items = rows(role)
        batches += [
            padded([items[place] for place in places]) for places in length_sorted(items, GEOMETRY["vocabulary"], BATCH_TOKENS)
        ]

    def once() -> None:
        plain(model, batches)
        model.zero_grad()

    seconds = alternating({"plain": once, "score": lambda: score(model, folder)}, repeats=2)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    block = max(sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in model.model.layers)
    found = peaks(__file__, WAYS, folder)
    beyond = beyond_imports(found)
    ratio = beyond["ours"]["beyond_imports_mib"] * MIB / (size + block)
    report(
        "Scoring by WAGLE costs at most 1.15 of one forward and backward over the same rows, and at most 1.35 of the memory of the model and "
        "one gradient of its largest block.",
        [
            Bar("CPU seconds of scoring / one forward and backward", seconds["score"] / seconds["plain"], at_most=1.15),
            Bar("peak beyond imports / (model + gradient of the largest block)", ratio, at_most=1.35),
        ],
        {
            "parameters": size // 4,
            "model_mib": round(size / MIB, 1),
            "largest_block_mib": round(block / MIB, 1),
            "rows_of_each_role": ROWS,
            "cpu_s": {name: round(value, 3) for name, value in seconds.items()},
            "peaks": beyond,
            "of_the_usual_way": round(beyond["ours"]["beyond_imports_mib"] / beyond["usual"]["beyond_imports_mib"], 3),
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
