"""Claim: an R2MU step on the trunk takes at least 9 times fewer CPU-seconds and at most 0.4 of the memory of the reference form.

Geometry: 32 blocks, width 256, vocabulary 32,000, read at block 7, down-projections of blocks 5 to 7 train, 4 rows of each kind, float32,
one thread, random weights.

- reference form (that of the released script): two resident models; forget, trace, retain and reasoning rows, and two kinds of rows whose
  losses are only logged, go through all blocks and the head of both: twelve full forwards, six of them with a graph. Every parameter
  requires a gradient and only the chosen three are stepped.
- trunk: blocks 0 to 7 are all that is read from the checkpoint; one pass for the four kinds, and blocks 5 to 7 again for retain and
  reasoning rows with copies of the three matrices from before.
- trunk, stored: the activations of retain and reasoning rows from before lie in a memory-mapped file.
- reference form, stopped: the same loop without the two logged kinds and without forward passes of the frozen model that no loss reads. It
  shows how much of the ratio comes from leaving out what is not needed, and how much from the trunk.

All ways give the same loss. Rows of all kinds have 256 tokens, so that they share one pass; beside them stand the proportions of the
publication (512, 512, 110 and 150 tokens, halved), where the short kinds share another pass. The floor counts multiplications that cannot be
avoided: blocks 0 to 7 once for all rows, the backward pass from block 7 down to the first trained matrix, and without a store blocks 5 to 7
once more for retain and reasoning rows.
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
KINDS = ("forget", "retain", "trace", "reasoning", "logged question", "logged answer")
EQUAL = dict.fromkeys(KINDS, LENGTH)
PUBLISHED = dict(zip(KINDS, (256, 256, 55, 75, 55, 75), strict=True))
CONTROL = torch.full((WIDTH,), 0.4)
WEIGHTS = {"forget": 1.0, "trace": 1.0, "retain": 1.4, "reasoning": 1.0}


def items_of(lengths: dict[str, int]) -> dict[str, list[Any]]:
    """Return the rows of every kind."""
    return {
        kind: answer_rows(seed, kind, rows=ROWS, shortest=length, longest=length, vocabulary=VOCABULARY)
        for seed, (kind, length) in enumerate(lengths.items())
    }


def reference_form(folder: Path, lengths: dict[str, int] = EQUAL, *, stopped: bool = False) -> Callable[[], float]:
    """Return a step with a resident reference model and full forwards."""
    model, frozen = full_model(folder).train(), full_model(folder)
    optimizer = torch.optim.AdamW(
        [model.model.layers[n].mlp.down_proj.weight for n in TRAINED], lr=5e-5, weight_decay=0.0, fused=True
    )
    batches = {kind: padded(items) for kind, items in items_of(lengths).items()}
    kinds = [kind for kind in KINDS if kind in WEIGHTS or not stopped]

    def read(which: Any, kind: str) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        handle = which.model.layers[READ].register_forward_hook(lambda module, args, output: caught.append(output))
        which(input_ids=batches[kind]["input_ids"], attention_mask=batches[kind]["attention_mask"], use_cache=False)
        handle.remove()
        return caught[0]

    def step() -> float:
        loss = torch.zeros(())
        for kind in kinds:
            hidden = read(model, kind)
            held = kind not in ("forget", "trace")
            if held or not stopped:
                with torch.no_grad():
                    kept = read(frozen, kind)
            target = kept if held else CONTROL.expand_as(hidden)
            value = torch.nn.functional.mse_loss(hidden, target)
            if kind in WEIGHTS:
                loss = loss + WEIGHTS[kind] * value
        return descend(optimizer, loss)

    return step


def trunk(
    folder: Path, lengths: dict[str, int] = EQUAL, *, stored: bool = False, passes: list[int] | None = None
) -> Callable[[], float]:
    """Return a step on the trunk; `passes` receives the index of every block that runs."""
    model = cut_model(folder, READ, TRAINED)
    batches = {kind: padded(items) for kind, items in items_of(lengths).items() if kind in WEIGHTS}
    terms = [
        *(Steer(kind, WEIGHTS[kind], layer=READ, control_D=CONTROL, mask="nonpad") for kind in ("forget", "trace")),
        *(Anchor(kind, WEIGHTS[kind], layer=READ) for kind in ("retain", "reasoning")),
    ]
    references = {kind: activations(model, folder, kind, lengths[kind]) for kind in ("retain", "reasoning")} if stored else {}
    return engine_step(model, terms, batches, references, passes)


def activations(model: Any, folder: Path, kind: str, length: int) -> Any:
    """Return the stored activations of the rows of a kind, computed where they are not there yet."""
    need = frozenset({f"ref_hidden:{READ}"})
    rows = items_of({**EQUAL, kind: length})[kind]
    return reference_of(model, rows, range(ROWS), need, pad_id=PAD, identity={}, folder=folder / "store")


WAYS = {
    "reference form": reference_form,
    "trunk": trunk,
    "trunk, stored": lambda folder: trunk(folder, stored=True),
}


def floor() -> dict[str, int]:
    """Return the multiplications of each way, rows of equal length."""
    tokens = ROWS * LENGTH
    attention = LENGTH * WIDTH  # half of the square: a token sees those before it
    forward = 13 * WIDTH**2 + attention  # multiplications a token: attention projections and gated MLP
    matrix = 3 * WIDTH**2
    # backward through activations costs a forward and another attention; in block 5 nothing lies below the trained matrix
    back = 4 * (2 * (forward + attention) + len(TRAINED) * matrix + 2 * matrix)
    stored = 4 * (READ + 1) * forward + back
    usual = 12 * (LAYERS * forward + VOCABULARY * WIDTH) + 4 * (READ + 1) * (2 * forward + attention)
    return {"reference form": tokens * usual, "trunk": tokens * (stored + 2 * 3 * forward), "trunk, stored": tokens * stored}


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    save_model(folder, layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=LENGTH)
    trunk(folder, stored=True)
    found = peaks(__file__, WAYS, folder)
    counted: dict[str, list[int]] = {"trunk": [], "trunk, stored": []}
    steps = {
        "reference form": reference_form(folder),
        "reference form, stopped": reference_form(folder, stopped=True),
        **{way: trunk(folder, stored="stored" in way, passes=passes) for way, passes in counted.items()},
    }
    losses = [[step() for step in steps.values()] for _ in range(3)]
    passes = {way: len(blocks) // 3 for way, blocks in counted.items()}
    # retain and reasoning rows run the trained blocks again, each kind by itself
    planned = {"trunk": READ + 1 + 2 * len(TRAINED), "trunk, stored": READ + 1}
    best = alternating(steps, repeats=3)
    apart = alternating(
        {
            "reference form": reference_form(folder, PUBLISHED),
            "trunk": trunk(folder, PUBLISHED),
            "trunk, stored": trunk(folder, PUBLISHED, stored=True),
        },
        repeats=3,
    )
    model = cut_model(folder, READ, TRAINED)
    speed, work = multiplications_per_second(WIDTH), floor()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = 4 * sum(p.numel() for p in model.parameters())
    usual = "reference form"
    report(
        "R2MU step, trunk against the reference form (twelve full forwards, two models)",
        [
            Bar("CPU-seconds, reference form / trunk", best[usual] / best["trunk"], at_least=9.0),
            Bar("CPU-seconds, reference form / trunk with stored activations", best[usual] / best["trunk, stored"], at_least=9.0),
            Bar("memory beyond imports, trunk / reference form", share(found, "trunk", usual), at_most=0.4),
            Bar("memory beyond imports, stored / reference form", share(found, "trunk, stored", usual), at_most=0.4),
            Bar("block passes, trunk / planned", passes["trunk"] / planned["trunk"], at_most=1.0),
            Bar("block passes, stored / planned", passes["trunk, stored"] / planned["trunk, stored"], at_most=1.0),
        ],
        {
            "cpu_seconds": {name: round(value, 4) for name, value in best.items()},
            "cpu_seconds_published_proportions": {name: round(value, 4) for name, value in apart.items()},
            "ratios_published_proportions": {way: round(apart[usual] / apart[way], 2) for way in ("trunk", "trunk, stored")},
            "stopped_over_trunk": round(best["reference form, stopped"] / best["trunk"], 2),
            "memory": beyond_imports(found),
            "block_passes_a_step": {usual: 12 * LAYERS, **passes, "planned": planned},
            "largest_loss_difference": max(abs(row[0] - other) / abs(row[0]) for row in losses for other in row[1:]),
            "floor": {
                "multiplications": work,
                "ratio_of_multiplications": round(work[usual] / work["trunk"], 2),
                "multiplications_per_second": round(speed),
                "floor_over_measured_seconds": {name: round(work[name] / speed / best[name], 2) for name in work},
                "trunk_mib": round((weights + 12 * trained) / MIB, 1),
            },
        },
    )


if __name__ == "__main__":
    run(WAYS, main)
