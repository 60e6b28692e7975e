"""Padding: from samples that name one row of each role to tensors by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from temper.data.tokenise import Encoded, Item

__all__ = ["collate", "pad_items"]


def pad_items(items: Sequence[Item], pad_id: int) -> dict[str, torch.Tensor]:
    """Return rows padded on the right, each (B, L) int64: input_ids, attention_mask, labels.

    The mask comes from true lengths: an end token that is also the pad token stays visible.
    """
    length = max(len(item.input_ids) for item in items)
    shape = (len(items), length)
    ids, mask, labels = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for number, item in enumerate(items):
        size = len(item.input_ids)
        ids[number, :size] = torch.tensor(item.input_ids)
        mask[number, :size] = 1
        labels[number, :size] = torch.tensor(item.labels)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def collate(
    samples: Sequence[Mapping[str, int]], roles: Mapping[str, Encoded], pad_id: int
) -> dict[str, dict[str, torch.Tensor]]:
    """Return role to padded tensors, with `index` (B,), the place of each row in its role.

    Args:
        samples: Role to the index of a row, for each sample.
        roles: Role to its rows.
        pad_id: The id that fills.
    """
    batch = {}
    for role in samples[0]:
        index = [sample[role] for sample in samples]
        batch[role] = {**pad_items([roles[role].items[number] for number in index], pad_id), "index": torch.tensor(index)}
    return batch
