"""Mean gradients of a loss over many rows, without a gradient of the whole model in memory.

    g = (1/N) Σ_rows Σ_scored tokens ∇ -log p_θ(token | before it)          N: scored tokens of all rows; or rows, each by its own mean

The graph of every batch is cut between the blocks. All batches run forward first; then the blocks are taken from the last to the first,
and each meets all batches before the next one does. So the gradient of a block is complete when its turn ends: it is written to disk in
float32 sums, and freed. Where activations wait for their turn they lie in a file, not in memory (or are computed again, which costs a
third more and is what a GPU wants, whose bus is slower than its products).

    peak memory = the model + the gradient of its largest part + the activations of one block for one batch

Sums do not depend on how rows are batched beyond rounding: every batch adds its share of the one mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from temper.data import Item
from temper.data.batching import length_sorted
from temper.data.padding import pad_items
from temper.models.heads import ScoredHead, chosen_nll
from temper.models.selection import decoder_layers
from temper.models.tensorfile import TensorReader, TensorWriter
from temper.train.losses.term import Batch, next_tokens_N, positions_BL
from temper.unlearn.attribution.segments import Segments
from temper.unlearn.attribution.waiting import Spill, Sums

__all__ = ["BATCH_TOKENS", "SPILL_LIMIT", "Average", "mean_gradients"]

Average = Literal["tokens", "rows"]
"""Whether every scored token counts alike, or every row."""

BATCH_TOKENS: Final = 2048
"""Padded tokens of a batch; a batch has at least one row."""

SPILL_LIMIT: Final = 8 * 2**30
"""Bytes of waiting activations after which their blocks are taken backwards before more rows run."""


def mean_gradients(
    model: Any,
    items: Sequence[Item],
    names: Collection[str],
    path: Path,
    *,
    pad_id: int,
    average: Average = "tokens",
    dtype: torch.dtype = torch.float32,
    recompute: bool | None = None,
    batch_tokens: int = BATCH_TOKENS,
    spill: Spill | None = None,
    spill_limit: int = SPILL_LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, torch.Tensor]:
    """Write the mean gradient of the rows' loss to a file and return it, each tensor read when it is asked for.

    Args:
        model: A causal language model; it is not changed, and is read in evaluation mode.
        items: Rows with scored tokens.
        names: Parameters whose gradient is wanted; one that no row reaches has zeros.
        path: The safetensors file, which must not exist.
        pad_id: The id that fills.
        average: Whether tokens or rows count alike.
        dtype: How the file holds gradients; sums are float32 whatever it says.
        recompute: Whether blocks run a second time instead of leaving their activations in a file; on a GPU when None.
        batch_tokens: Padded tokens of a batch.
        spill: Where activations wait, for this model; a new one beside the file when None.
        spill_limit: Bytes of activations that wait.
        progress: Called with (rows done, rows in all).

    Raises:
        RunError: A gradient is not finite.
        ModelError: The blocks of this architecture cannot be taken one by one.
    """
    wanted = {name: p for name, p in model.named_parameters() if name in set(names)}
    if recompute is None:
        recompute = next(iter(model.parameters())).is_cuda
    states = [(p, p.requires_grad) for p in model.parameters()]
    was_training = model.training
    sums = Sums(path.parent, {name: p.shape for name, p in wanted.items()})
    own = spill is None
    spill = Spill(path.parent, model) if spill is None else spill
    model.eval()
    try:
        for parameter, _ in states:
            parameter.requires_grad_(False)
        for parameter in wanted.values():
            parameter.requires_grad_(True)
        with TensorWriter(path, {name: (dtype, tuple(p.shape)) for name, p in wanted.items()}) as writer:
            _accumulate(
                model, items, wanted, sums, spill, writer, dtype, pad_id, average, recompute, batch_tokens, spill_limit, progress
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        sums.close()
        if own:
            spill.close()
        model.train(was_training)
        for parameter, wants in states:
            parameter.grad = None
            parameter.requires_grad_(wants)
    return TensorReader(path)


def _accumulate(
    model: Any,
    items: Sequence[Item],
    wanted: Mapping[str, nn.Parameter],
    sums: Sums,
    spill: Spill,
    writer: TensorWriter,
    dtype: torch.dtype,
    pad_id: int,
    average: Average,
    recompute: bool,
    batch_tokens: int,
    spill_limit: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the gradients of all rows."""
    head, device = ScoredHead(model), next(iter(model.parameters())).device
    total = sum(label != -100 for item in items for label in item.labels[1:])
    parts = _Parts(model, wanted, sums, spill)
    segments = Segments(model, spill, recompute)
    waiting: list[Any] = []
    done = 0
    for places in length_sorted(items, head.vocabulary, batch_tokens):
        rows = [items[place] for place in places]
        batch = Batch.of({name: tensor.to(device) for name, tensor in pad_items(rows, pad_id).items()})
        scored_BL = positions_BL(batch, "labelled")
        segments.new_batch()
        with segments.installed(), torch.autograd.graph.saved_tensors_hooks(spill.pack, spill.unpack):
            states_BLX = head.states(batch.input_ids, batch.attention_mask)
        nll_N = chosen_nll(head.project(states_BLX, scored_BL), next_tokens_N(batch, "labelled"))
        if average == "tokens":
            loss = nll_N.sum() / total
        else:
            each_B = scored_BL.sum(dim=1).clamp(min=1).to(nll_N.dtype)
            weight_N = (1 / each_B).repeat_interleave(scored_BL.sum(dim=1))
            loss = (nll_N * weight_N).sum() / len(items)
        loss.backward()  # type: ignore[no-untyped-call]
        parts.collect("head")
        last = segments.begins[-1][-1]
        waiting.append(parts.put_aside(torch.zeros_like(last) if last.grad is None else last.grad))
        last.grad = None
        segments.hollow()
        done += len(places)
        if spill.size > spill_limit and done < len(items):
            parts.backwards(segments, waiting)
        if progress is not None:
            progress(done, len(items))
    parts.backwards(segments, waiting, lambda name, mean: writer.write(name, mean.to(dtype)))


Write = Callable[[str, torch.Tensor], None]


class _Parts:
    """The parameters of a model by the part they lie in, and their way into the sums.

    Half-precision gradients of a batch are added up in float32: sums of them in their own precision change the ranking.
    """

    def __init__(self, model: Any, wanted: Mapping[str, nn.Parameter], sums: Sums, spill: Spill) -> None:
        self._sums, self._spill = sums, spill
        blocks = list(decoder_layers(model))
        inside = {id(p): index for index, block in enumerate(blocks) for p in block.parameters()}
        self._of: dict[int, dict[str, nn.Parameter]] = {}
        for name, parameter in wanted.items():
            self._of.setdefault(inside.get(id(parameter), -1), {})[name] = parameter
        self._n_blocks = len(blocks)
        self._lowest = -1 if -1 in self._of else min(self._of, default=0)
        self._half: dict[str, torch.Tensor] = {}

    def _members(self, part: int | Literal["head", "below"]) -> dict[str, nn.Parameter]:
        return self._of.get(part, {}) if isinstance(part, int) else self._of.get(-1, {})

    def collect(self, part: int | Literal["head", "below"]) -> None:
        """Take the gradients of one batch out of half-precision parameters; those of float32 ones add up where they are."""
        for name, parameter in self._members(part).items():
            if parameter.grad is not None and parameter.dtype != torch.float32:
                gradient = parameter.grad.float()
                self._half[name] = gradient if name not in self._half else self._half[name].add_(gradient)
                parameter.grad = None

    def flush(self, part: int | Literal["head", "below"], write: Write | None = None) -> None:
        """Put what a part has so far into the sums, or, where that is all, write it; free it either way."""
        for name, parameter in self._members(part).items():
            found = self._half.pop(name, parameter.grad)
            parameter.grad = None
            if write is not None:
                write(name, self._sums.with_rest(name, found))
            elif found is not None:
                self._sums.add(name, found)

    def put_aside(self, gradient_BLD: torch.Tensor) -> Any:
        """Let a gradient between two blocks wait for the lower one's turn; return what `Spill.unpack` takes."""
        kept = self._spill.pack(gradient_BLD)
        self._spill.forget_addresses()
        return kept

    def backwards(self, segments: Segments, waiting: list[Any], write: Write | None = None) -> None:
        """Take the blocks from the last to the first, each with all batches that wait, and empty the list of those.

        Args:
            segments: Have the pieces of the batches.
            waiting: The gradient at the end of the last block for each batch, put aside.
            write: Receives every parameter's mean gradient, where no more batches come.
        """
        self.flush("head")
        for index in reversed(range(max(self._lowest, 0), self._n_blocks)):
            for batch, kept in enumerate(waiting):
                waiting[batch] = self.put_aside(segments.backward(index, batch, self._spill.unpack(kept)))
                self.collect(index)
            self.flush(index, write)
        if self._lowest < 0:
            for batch, kept in enumerate(waiting):
                embedded = segments.ends[batch][0]
                if embedded.requires_grad:
                    torch.autograd.backward(embedded, self._spill.unpack(kept))
                    self.collect("below")
            self.flush("below", write)
        waiting.clear()
        segments.clear()
