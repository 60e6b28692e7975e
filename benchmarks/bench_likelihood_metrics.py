"""Claim: seven likelihood metrics from one record pass cost at most a sixth of seven evaluators that run the model each for itself.

Geometry: Llama of 0.6 million parameters (4 blocks, width 96, vocabulary 1379), 400 forget and 400 holdout rows of 30 to 160 tokens, of
which the answer is scored (about two thirds), float32, one thread, random weights.

The usual way, as evaluation harnesses for unlearning do it: each metric has its own loop over rows in the order given, 16 at a time,
padded to the longest of the 16, with logits at every position. Probability, EM and ES run over forget; LOSS, ZLib, Min-K and Min-K++ over
forget and holdout. Ours: one pass over both, rows sorted by length under a token budget, the head at scored positions only, then
arithmetic on a few numbers a token. Floor: the multiplications that no implementation avoids, every true token once through the blocks
and every scored token once through the head.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from timing import Bar, alternating, report
from torch.nn import functional as F

from models import random_llama
from temper.assess.metrics.exact_memorization import exact_memorization
from temper.assess.metrics.extraction_strength import extraction_strength
from temper.assess.metrics.membership import loss, min_k, min_k_plus, zlib_ratio
from temper.assess.metrics.probability import probability
from temper.assess.records import score
from temper.data import Item
from temper.data.batching import length_sorted

LAYERS, WIDTH, VOCABULARY, ROWS, BATCH, END, PAD = 4, 96, 1379, 400, 16, 2, 0
Values = dict[str, list[float]]


def rows(seed: int, name: str) -> list[Item]:
    """Return made-up rows: a prompt of 10 to 40 tokens, an answer of 20 to 120, an end token."""
    draw = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number in range(ROWS):
        given, scored = int(draw.integers(10, 41)), int(20 + 100 * draw.beta(1.5, 3.0))
        ids = [int(token) for token in draw.integers(3, VOCABULARY, given + scored)]
        tokens = (*ids, END)
        labels = (*[-100] * given, *ids[given:], END)
        items.append(Item(f"{name}/{number}", tokens, labels, {}, "", " ".join(map(str, ids[given:]))))
    return items


def padded(items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and labels padded on the right."""
    width = max(len(item.input_ids) for item in items)
    ids = torch.tensor([[*item.input_ids, *[PAD] * (width - len(item.input_ids))] for item in items])
    mask = torch.tensor([[1] * len(item.input_ids) + [0] * (width - len(item.input_ids)) for item in items])
    labels = torch.tensor([[*item.labels, *[-100] * (width - len(item.labels))] for item in items])
    return ids, mask, labels


class Usual:
    """One loop a metric, full logits, given order."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.forwards = 0
        self.tokens = 0

    def loop(self, items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], torch.Tensor, torch.Tensor]]:
        """Yield rows with their logits and the tokens these predict."""
        for start in range(0, len(items), BATCH):
            chosen = items[start : start + BATCH]
            ids, mask, labels = padded(chosen)
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            self.forwards += 1
            self.tokens += ids.numel()
            yield chosen, logits[:, :-1], labels[:, 1:]

    def mean_nll(self, items: Sequence[Item], use: Callable[[Item, float], float]) -> list[float]:
        """Return a function of each row's mean -log p."""
        values = []
        for chosen, logits, labels in self.loop(items):
            nll = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)
            means = nll / (labels != -100).sum(1)
            values += [use(item, float(mean)) for item, mean in zip(chosen, means, strict=True)]
        return values

    def hits(self, items: Sequence[Item], use: Callable[[np.ndarray], float]) -> list[float]:
        """Return a function of each row's right first choices."""
        values = []
        for _, logits, labels in self.loop(items):
            best = logits.argmax(-1)
            for row, choice in zip(labels, best, strict=True):
                kept = (row != -100) & (row != END)
                values.append(use((choice == row)[kept].numpy()))
        return values

    def lowest(self, items: Sequence[Item], standardised: bool) -> list[float]:
        """Return Min-K or Min-K++ of each row."""
        values = []
        for _, logits, labels in self.loop(items):
            log_probs = logits.log_softmax(-1)
            chosen = log_probs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
            if standardised:
                p = log_probs.exp()
                mean = (p * log_probs).sum(-1)
                spread = (p * log_probs.square()).sum(-1) - mean.square()
                chosen = (chosen - mean) / spread.clamp(min=1e-6).sqrt()
            for row, scores in zip(labels, chosen, strict=True):
                kept = scores[(row != -100) & (row != END)]
                values.append(-float(kept.sort().values[: max(1, int(0.4 * len(kept)))].mean()))
        return values

    @torch.no_grad()
    def run(self, forget: Sequence[Item], holdout: Sequence[Item]) -> Values:
        """Return all seven metrics."""
        self.forwards = self.tokens = 0
        both = [*forget, *holdout]
        return {
            "probability": self.mean_nll(forget, lambda _, nll: float(np.exp(-nll))),
            "exact_memorization": self.hits(forget, lambda hit: float(hit.mean())),
            "extraction_strength": self.hits(forget, run_to_the_end),
            "loss": self.mean_nll(both, lambda _, nll: nll),
            "zlib": self.mean_nll(both, lambda item, nll: nll / len(zlib.compress(item.response.encode()))),
            "min_k": self.lowest(both, standardised=False),
            "min_k_plus": self.lowest(both, standardised=True),
        }


def run_to_the_end(hit: np.ndarray) -> float:
    """Return the share of tokens in the run of right ones that reaches the end."""
    count = 0
    for right in hit[::-1]:
        if not right:
            break
        count += 1
    return count / len(hit)


def ours(model: Any, forget: Sequence[Item], holdout: Sequence[Item]) -> dict[str, list[Any]]:
    """Return all seven metrics from one pass."""
    both = [*forget, *holdout]
    records = score(model, both, pad_id=PAD, eos_id=END)
    first = records[: len(forget)]
    return {
        "probability": [probability(record) for record in first],
        "exact_memorization": [exact_memorization(record) for record in first],
        "extraction_strength": [extraction_strength(record) for record in first],
        "loss": [loss(record) for record in records],
        "zlib": [zlib_ratio(record, item.response) for record, item in zip(records, both, strict=True)],
        "min_k": [min_k(record) for record in records],
        "min_k_plus": [min_k_plus(record) for record in records],
    }


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    model = random_llama(layers=LAYERS, width=WIDTH, vocabulary=VOCABULARY, context=256, std=0.2)
    forget, holdout = rows(1, "forget"), rows(2, "holdout")
    both = [*forget, *holdout]
    usual = Usual(model)
    reference, found = usual.run(forget, holdout), ours(model, forget, holdout)
    difference = {name: float(np.abs(np.array(reference[name]) - np.array(found[name])).max()) for name in reference}
    best = alternating(
        {"a loop a metric": lambda: usual.run(forget, holdout), "one record pass": lambda: ours(model, forget, holdout)},
        repeats=3,
    )
    sizes = [len(item.input_ids) for item in both]
    groups = list(length_sorted(both, VOCABULARY))
    scored = sum(label != -100 for item in both for label in item.labels)
    block, head = 13 * WIDTH**2, VOCABULARY * WIDTH
    floor = sum(sizes) * LAYERS * block + scored * head
    usual_operations = usual.tokens * (LAYERS * block + head)
    result = {
        "cpu_seconds": {name: round(value, 3) for name, value in best.items()},
        "forwards": {"a loop a metric": usual.forwards, "one record pass": len(groups)},
        "padded_tokens": {
            "a loop a metric": usual.tokens,
            "one record pass": sum(len(group) * max(sizes[index] for index in group) for group in groups),
            "true tokens": sum(sizes),
        },
        "largest_value_difference": difference,
        "floor": {
            "multiplications": floor,
            "multiplications_usual": usual_operations,
            "ratio_of_multiplications": round(usual_operations / floor, 2),
        },
    }
    ratio = best["a loop a metric"] / best["one record pass"]
    report(
        "seven likelihood metrics, one record pass against a loop a metric",
        [Bar("CPU-seconds, a loop a metric / one record pass", ratio, at_least=6.0)],
        result,
    )


if __name__ == "__main__":
    main()
