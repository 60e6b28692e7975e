"""What the model from before gave to every row: computed once, stored by item, read from a memory map.

Log-probabilities of rows (S_0), distributions at the positions of a row and activations of a block depend on the original weights and
the item alone. They are computed before training in length-sorted batches, written under a hash of the model and of the rows, and
shared by all runs on the same model and data: a sweep, a resumed run whose model has moved, every process of a data parallel run.

Stored distributions are exact (float32 log-probabilities); activations keep the dtype of the model.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file, save_file

from temper.data import Item
from temper.data.batching import length_sorted
from temper.data.padding import pad_items
from temper.errors import DiskFull, RunError
from temper.files import folder_aside, hash_json
from temper.models.heads import ScoredHead
from temper.models.original import without_adapter
from temper.models.tensorfile import TensorWriter, mapped
from temper.models.trunk import run_trunk
from temper.run import Progress
from temper.train.losses.term import Batch, LossTerm, Positions, positions_BL, predicting_BL, token_nll_BL

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RoleReference", "can_be_stored", "reference_of", "stored_bytes"]

_ROW_NLL: Final = "ref_row_nll"


@dataclass
class RoleReference:
    """What the weights from before gave to the rows of one role.

    Attributes:
        row_nll: (items,) summed -log p of each row's labelled tokens; NaN where it was not computed.
        flat: Need (`ref_log_probs:nonpad`, `ref_hidden:7`) to all its vectors, (N, V) or (N, D).
        start: Need to the first vector of each item, (items,); -1 where the item is not stored.
        count: Need to the number of vectors of each item, (items,).
    """

    row_nll: torch.Tensor | None = None
    flat: dict[str, torch.Tensor] = field(default_factory=dict)
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    count: dict[str, torch.Tensor] = field(default_factory=dict)

    def holds(self, need: str) -> bool:
        """Return whether vectors of this need are stored."""
        return need in self.flat

    def _vectors(self, need: str, item: int) -> torch.Tensor:
        start = int(self.start[need][item])
        if start < 0:
            raise RunError(f"{need}: item {item} was not expected in this run and is not stored")
        return self.flat[need][start : start + int(self.count[need][item])]

    def log_probs(self, kind: Positions, index_B: torch.Tensor) -> torch.Tensor:
        """Return log p_0 at the positions of some items, row by row, shape (N, V)."""
        return torch.cat([self._vectors(f"ref_log_probs:{kind}", item) for item in index_B.tolist()])

    def hidden(self, layer: int, index_B: torch.Tensor, width: int) -> torch.Tensor:
        """Return the stored activations of some items, shape (B, width, D), 0 at padding."""
        rows = [self._vectors(f"ref_hidden:{layer}", item) for item in index_B.tolist()]
        hidden_BLD = rows[0].new_zeros(len(rows), width, rows[0].shape[1])
        for number, row in enumerate(rows):
            hidden_BLD[number, : len(row)] = row
        return hidden_BLD


def can_be_stored(need: str, role: str, terms: Sequence[LossTerm]) -> bool:
    """Return whether what a need names depends on the item alone, so that it can be kept by item."""
    counts_padding = any(term.role == role and getattr(term, "mask", None) == "all" for term in terms)
    return need.startswith(("ref_log_probs:", "ref_hidden:")) and not need.endswith(":all") and not counts_padding


def _vectors_of(item: Item, need: str) -> int:
    """Return how many vectors a need stores for an item."""
    if need.startswith("ref_hidden:"):
        return len(item.input_ids)
    return sum(label != -100 for label in item.labels[1:]) if need.endswith(":labelled") else len(item.input_ids) - 1


def stored_bytes(items: Sequence[Item], needs: frozenset[str], *, vocabulary: int, width: int, itemsize: int) -> int:
    """Return the bytes that storing what the needs name takes for some items.

    Args:
        items: The rows that the run reads.
        needs: Only `ref_log_probs:` and `ref_hidden:` take room worth counting.
        vocabulary: Number of tokens V.
        width: Width D.
        itemsize: Bytes of one activation.
    """
    total = 0
    for need in needs:
        if need.startswith("ref_log_probs:"):
            total += 4 * vocabulary * sum(_vectors_of(item, need) for item in items)
        elif need.startswith("ref_hidden:"):
            total += itemsize * width * sum(_vectors_of(item, need) for item in items)
    return total


def reference_of(
    model: Any,
    items: Sequence[Item],
    used: Sequence[int],
    needs: frozenset[str],
    *,
    pad_id: int,
    identity: Mapping[str, Any],
    folder: Path,
    progress: Progress | None = None,
) -> RoleReference:
    """Return what the model as it is now gives to some items, from the store where it is there already.

    Args:
        model: With the weights from before; an adapter is switched off.
        items: All rows of a role.
        used: The places of the items that the run reads.
        needs: `ref_row_nll`, `ref_log_probs:labelled|nonpad`, `ref_hidden:ℓ`.
        pad_id: The id that fills.
        identity: What the values depend on beside the rows: weights, dtype, versions.
        folder: Where stores lie; each has its own folder below.
        progress: Called after each batch.
    """
    chosen = sorted(set(used))
    content = [[list(items[place].input_ids), list(items[place].labels)] for place in chosen]
    result = RoleReference()
    for need in sorted(needs):
        key = hash_json({"model": dict(identity), "need": need, "rows": content})[:40]
        stored = folder / key
        if not stored.is_dir():
            _check_room(folder, model, [items[place] for place in chosen], need)
            try:
                with folder_aside(stored) as aside, _before(model):
                    _compute(model, [items[place] for place in chosen], need, aside, pad_id, progress)
            except OSError:
                if not stored.is_dir():  # else another run has put the same store in place meanwhile
                    raise
        _read(result, stored, need, chosen, len(items))
    return result


def _check_room(folder: Path, model: Any, items: Sequence[Item], need: str) -> None:
    """Refuse to fill a disk with what the model before gives.

    Raises:
        DiskFull: There is less room than that, with a tenth to spare.
    """
    config = model.config.get_text_config()
    itemsize = next(iter(model.parameters())).element_size()
    size = stored_bytes(items, frozenset({need}), vocabulary=config.vocab_size, width=config.hidden_size, itemsize=itemsize)
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if size * 1.1 > free:
        raise DiskFull(
            f"what the model before gives to the rows takes {size / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} GiB are free. Set "
            "train.reference=recompute, give fewer rows (limit), or another cache folder (TEMPER_CACHE)."
        )


@contextlib.contextmanager
def _before(model: Any) -> Iterator[None]:
    """Give the model as it was before: no adapter, no dropout, no gradient."""
    was_training = model.training
    model.eval()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if hasattr(model, "disable_adapter"):
            stack.enter_context(without_adapter(model))
        try:
            yield
        finally:
            model.train(was_training)


def _read(result: RoleReference, stored: Path, need: str, chosen: Sequence[int], size: int) -> None:
    places = torch.tensor(chosen)
    index = load_file(stored / "index.safetensors")
    if need == _ROW_NLL:
        result.row_nll = torch.full((size,), float("nan"), dtype=index["row_nll"].dtype)
        result.row_nll[places] = index["row_nll"]
        return
    result.flat[need] = mapped(stored / "vectors.safetensors")["vectors"]
    for name, kept in (("start", result.start), ("count", result.count)):
        kept[need] = torch.full((size,), -1, dtype=torch.long)
        kept[need][places] = index[name]


def _compute(model: Any, items: Sequence[Item], need: str, folder: Path, pad_id: int, progress: Progress | None) -> None:
    """Run the items through the model and write one need to a folder; items lie in the order in which they ran."""
    device = next(iter(model.parameters())).device
    vocabulary = int(model.config.get_text_config().vocab_size)
    head = None if need.startswith("ref_hidden:") else ScoredHead(model)
    count_I = torch.tensor([_vectors_of(item, need) for item in items])
    start_I = torch.zeros(len(items), dtype=torch.long)
    row_nll_I: torch.Tensor | None = None
    writer: TensorWriter | None = None
    done = total = 0
    with contextlib.ExitStack() as stack:
        for places in length_sorted(items, vocabulary):
            rows = [items[place] for place in places]
            batch = Batch.of({name: tensor.to(device) for name, tensor in pad_items(rows, pad_id).items()})
            if need == _ROW_NLL:
                assert head is not None
                wanted_BL = predicting_BL(batch)
                log_probs_NV = head.log_probs(batch.input_ids, batch.attention_mask, wanted_BL)
                values_B = token_nll_BL(batch, wanted_BL, log_probs_NV).sum(dim=1).cpu()
                row_nll_I = torch.zeros(len(items), dtype=values_B.dtype) if row_nll_I is None else row_nll_I
                row_nll_I[torch.tensor(places)] = values_B
            else:
                vectors_NX = _vectors(model, head, batch, need).contiguous().cpu()
                if writer is None:
                    shape = (int(count_I.sum()), vectors_NX.shape[1])
                    writer = stack.enter_context(
                        TensorWriter(folder / "vectors.safetensors", {"vectors": (vectors_NX.dtype, shape)})
                    )
                writer.write_rows("vectors", vectors_NX)
                for place in places:
                    start_I[place] = total
                    total += int(count_I[place])
            done += len(places)
            if progress is not None:
                progress("reference", done, len(items), need)
    index = {"row_nll": row_nll_I} if row_nll_I is not None else {"start": start_I, "count": count_I}
    save_file(index, folder / "index.safetensors")


def _vectors(model: Any, head: ScoredHead | None, batch: Batch, need: str) -> torch.Tensor:
    """Return the vectors of a batch, row by row, shape (N, V) or (N, D)."""
    if head is not None:
        kind: Positions = "labelled" if need.endswith(":labelled") else "nonpad"
        return head.log_probs(batch.input_ids, batch.attention_mask, positions_BL(batch, kind))
    layer = int(need.removeprefix("ref_hidden:"))
    hidden_BLD, _ = run_trunk(model, layer, batch.input_ids, batch.attention_mask)
    return hidden_BLD[batch.attention_mask == 1]
