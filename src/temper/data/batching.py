"""Batches for passes that only read: rows of like length together, within budgets of tokens and of logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from temper.data.tokenise import Item

__all__ = ["length_sorted"]

TOKENS_A_BATCH: Final = 4096
LOGITS_A_BATCH: Final = 32_000_000
"""128 MB in float32: with a vocabulary of 128,000 it is the logits that fill the memory, not the tokens."""


def length_sorted(items: Sequence[Item], vocabulary: int, tokens: int = TOKENS_A_BATCH) -> Iterator[list[int]]:
    """Yield the places of items that go through the model together: of like length, within the budgets.

    Args:
        items: The items.
        vocabulary: Number of tokens that have a logit.
        tokens: Padded tokens of a batch; one has at least one row.
    """
    order = sorted(range(len(items)), key=lambda index: len(items[index].input_ids))
    batch: list[int] = []
    scored = 0
    for index in order:
        length = len(items[index].input_ids)
        wanted = sum(label != -100 for label in items[index].labels)
        too_wide = (len(batch) + 1) * length > tokens
        if batch and (too_wide or (scored + wanted) * vocabulary > LOGITS_A_BATCH):
            yield batch
            batch, scored = [], 0
        batch.append(index)
        scored += wanted
    if batch:
        yield batch
