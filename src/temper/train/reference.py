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
from temper.data.batching import length_sorted
from temper.data.padding import pad_items
from temper.files import folder_aside, hash_json
from temper.run import Progress
from temper.train.losses.term import Batch, predicting_BL, token_nll_BL

if TYPE_CHECKING:
    from temper.models.heads import ScoredHead

__all__ = ["reference_row_nll"]


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
    done = 0
    with torch.no_grad():
        for rows in length_sorted(items, head.vocabulary):
            result[rows] = _row_nll(head, [items[index] for index in rows], pad_id)
            done += len(rows)
            if progress is not None:
                progress("reference", done, len(items), "")
    with folder_aside(stored) as aside:
        save_file({"row_nll": result}, aside / "row_nll.safetensors")
    return result


def _row_nll(head: ScoredHead, items: Sequence[Item], pad_id: int) -> torch.Tensor:
    padded = {name: tensor.to(head.device) for name, tensor in pad_items(items, pad_id).items()}
    batch = Batch(**padded, index=torch.arange(len(items)))
    wanted_BL = predicting_BL(batch)
    log_probs_NV = head.log_probs(batch.input_ids, batch.attention_mask, wanted_BL)
    return token_nll_BL(batch, wanted_BL, log_probs_NV).sum(dim=1).cpu()
