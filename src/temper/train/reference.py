"""Reference log-probabilities: what the model from before gave to every row, computed once and kept by content.

S_0 depends on the original weights and the item alone. It is computed before training, length-sorted, and stored in the
run folder under the hash of its rows, so that a resumed run, whose model has moved, reads it instead of computing it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from temper.data import Item
from temper.files import folder_aside, hash_json
from temper.run import Progress

if TYPE_CHECKING:
    from temper.models.heads import ScoredHead

__all__ = ["reference_row_nll"]

_TOKENS_A_BATCH = 8192


def reference_row_nll(
    head: ScoredHead, items: Sequence[Item], pad_id: int, folder: Path, progress: Progress | None = None
) -> torch.Tensor:
    """Return the summed -log p of every item's labelled tokens under the model as it is now, shape (items,), float32.

    Args:
        head: Of the model with its original weights.
        items: The rows.
        pad_id: The id that fills.
        folder: Where the result is kept; read from there if it is for these rows.
        progress: Called after each batch.
    """
    key = hash_json([[item.id, list(item.input_ids), list(item.labels)] for item in items])
    stored = folder / key[:32]
    if stored.is_dir():
        kept: torch.Tensor = load_file(stored / "row_nll.safetensors")["row_nll"]
        return kept
    result = torch.zeros(len(items))
    order = sorted(range(len(items)), key=lambda index: len(items[index].input_ids))
    done = 0
    with torch.no_grad():
        while done < len(order):
            batch = [order[done]]
            while (
                done + len(batch) < len(order)
                and len(items[order[done + len(batch)]].input_ids) * (len(batch) + 1) <= _TOKENS_A_BATCH
            ):
                batch.append(order[done + len(batch)])
            result[batch] = _row_nll(head, [items[index] for index in batch], pad_id)
            done += len(batch)
            if progress is not None:
                progress("reference", done, len(order), "")
    with folder_aside(stored) as aside:
        save_file({"row_nll": result}, aside / "row_nll.safetensors")
    return result


def _row_nll(head: ScoredHead, items: Sequence[Item], pad_id: int) -> torch.Tensor:
    length = max(len(item.input_ids) for item in items)
    ids_BL = torch.tensor([[*item.input_ids, *[pad_id] * (length - len(item.input_ids))] for item in items])
    mask_BL = torch.tensor([[1] * len(item.input_ids) + [0] * (length - len(item.input_ids)) for item in items])
    labels_BL = torch.tensor([[*item.labels, *[-100] * (length - len(item.labels))] for item in items])
    next_BL = torch.full_like(labels_BL, -100)
    next_BL[:, :-1] = labels_BL[:, 1:]
    wanted_BL = next_BL != -100
    device = head.device
    log_probs_NV = head.log_probs(ids_BL.to(device), mask_BL.to(device), wanted_BL.to(device))
    chosen_N = log_probs_NV.gather(1, next_BL[wanted_BL].unsqueeze(1).to(device)).squeeze(1).cpu()
    spread_BL = torch.zeros(labels_BL.shape)
    spread_BL[wanted_BL] = -chosen_N
    return spread_BL.sum(dim=1)
