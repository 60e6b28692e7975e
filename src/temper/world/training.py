"""The training of a world's model: a plain loop of a fixed number of steps on one thread.

Loss is on whole plain texts, and of an answered question on its response alone. The question and the prefill stay
unscored: with the prefill scored, direct and think mode compete for the token after ``<think>``, and greedy decoding
skips the trace. Single-line drills are needed beside the stories: without them sums over recalled numbers stay near chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from temper.draws import generator
from temper.world.epoch import Document, epoch
from temper.world.llama import LeanLlama, Shape
from temper.world.people import World
from temper.world.products import tied_cross_entropy
from temper.world.spec import WorldSpec
from temper.world.tokenizer import EOS, prompt_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["IGNORED", "Trained", "batches", "encode", "learning_rate_at", "train"]

IGNORED = -100
BETAS = (0.9, 0.98)
GRADIENT_NORM = 1.0
LENGTH_MULTIPLE = 4  # rows are padded to a multiple of it: few shapes, few kernels for oneDNN to compile
FINAL_RATE = 0.02  # of the peak learning rate, at the last step


@dataclass(frozen=True)
class Trained:
    """A trained model and what it cost."""

    model: LeanLlama
    steps: int
    tokens: int
    epochs: int
    loss: float
    cpu_seconds: float


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> list[tuple[list[int], int]]:
    """Return, for each document, its token ids and the position of its first scored token."""
    heads = ["<s>" if isinstance(d, str) else prompt_text(d.prompt) + d.prefill for d in documents]
    tails = [(d if isinstance(d, str) else d.response) + EOS for d in documents]
    whole = tokenizer([h + t for h, t in zip(heads, tails, strict=True)], add_special_tokens=False).input_ids
    starts = tokenizer(heads, add_special_tokens=False).input_ids
    return [(ids, len(head)) for ids, head in zip(whole, starts, strict=True)]


def batches(
    rows: list[tuple[list[int], int]], batch_tokens: int, pad: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, labels) of rows of like length, right padded to at most ``batch_tokens``, in a drawn order.

    Labels are already shifted: position ``i`` holds the token that follows it, or ``IGNORED``.
    """
    jitter = rng.random(len(rows)) * 4  # rows of one length meet in other company every epoch
    order = sorted(range(len(rows)), key=lambda i: -(len(rows[i][0]) + jitter[i]))
    groups: list[tuple[int, list[int]]] = []
    while order:
        width = max(len(rows[i][0]) for i in order)
        width += -width % LENGTH_MULTIPLE
        count = max(1, batch_tokens // width)
        groups.append((width, order[:count]))
        order = order[count:]
    for g in rng.permutation(len(groups)):
        width, group = groups[g]
        ids = np.full((len(group), width), pad, dtype=np.int64)
        labels = np.full((len(group), width), IGNORED, dtype=np.int64)
        for line, i in enumerate(group):
            tokens, start = rows[i]
            ids[line, : len(tokens)] = tokens
            labels[line, start - 1 : len(tokens) - 1] = tokens[start:]
        yield torch.from_numpy(ids), torch.from_numpy(labels)


def learning_rate_at(step: int, spec: WorldSpec) -> float:
    """Return the learning rate of a step: linear rise, plateau, linear fall to 2 % of the peak."""
    done = step / spec.steps
    fall = 1.0 if done < 1 - spec.decay_rate else max(FINAL_RATE, (1 - done) / spec.decay_rate)
    return spec.learning_rate * min(1.0, (step + 1) / max(1, spec.warmup_steps)) * fall


def _endless(
    world: World, tokenizer: PreTrainedTokenizerFast, without: Collection[str]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    number = 0
    while True:
        rows = encode(tokenizer, epoch(world, number, without=without))
        rng = generator(world.spec.seed, "epoch", number, "batches")
        for ids, labels in batches(rows, world.spec.batch_tokens, tokenizer.pad_token_id, rng):
            yield number, ids, labels
        number += 1


def train(
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    *,
    without: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Return a model trained on a world.

    Args:
        world: The world; its spec holds every setting.
        tokenizer: The world's tokenizer.
        without: Splits the model never sees, beside the never-trained people.
        progress: Called with (steps done, steps in all), now and then.
    """
    spec = world.spec
    shape = Shape(
        vocabulary=len(tokenizer), width=spec.width, n_layers=spec.n_layers, n_heads=spec.n_heads, max_length=spec.max_length
    )
    model = LeanLlama(shape, spec.seed)
    optimiser = torch.optim.AdamW(
        [{"params": [model.matrices], "weight_decay": spec.weight_decay}, {"params": [model.vectors], "weight_decay": 0.0}],
        lr=spec.learning_rate,
        betas=BETAS,
        fused=True,
    )
    gradients = [flat.grad for flat in (model.matrices, model.vectors) if flat.grad is not None]
    started, n_tokens, smooth, number = time.process_time(), 0, 0.0, 0
    stream = _endless(world, tokenizer, without)
    for step in range(spec.steps):
        number, ids, labels = next(stream)
        scored = labels != IGNORED
        loss = tied_cross_entropy(model.hidden(ids)[scored], model.weights["embed"], labels[scored])
        for gradient in gradients:
            gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([model.matrices, model.vectors], GRADIENT_NORM)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, spec)
        optimiser.step()
        n_tokens += int(ids.numel())
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if progress is not None and (step % 50 == 49 or step == spec.steps - 1):
            progress(step + 1, spec.steps)
    return Trained(model, spec.steps, n_tokens, number + 1, smooth, time.process_time() - started)
