"""The trunk: a forward pass that stops at the layer that is read.

A loss on the output of block ℓ needs blocks 0..ℓ and nothing above them, neither later blocks nor the vocabulary
projection. `run_trunk` runs just those. The frozen branch (the same blocks with the weights from before training) shares
the part below the first trained block, where both are the same function, and keeps copies of the trained tensors only:
there is no second model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from temper.errors import ModelError
from temper.models.heads import inner_model
from temper.models.original import OriginalWeights
from temper.models.selection import decoder_layers

__all__ = ["Entry", "FrozenBranch", "capture_hidden", "check_layer", "run_trunk"]


class _Stop(Exception):
    """Ends a forward pass at the block that is read."""

    def __init__(self, hidden_BLD: torch.Tensor) -> None:
        self.hidden_BLD = hidden_BLD


@dataclass
class Entry:
    """What a block was called with; its hidden states carry no graph where everything below is frozen."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def check_layer(model: Any, layer: int, what: str) -> int:
    """Return the layer index counted from 0; negative ones count from the end.

    Raises:
        ModelError: The model has no such layer.
    """
    count = len(decoder_layers(model))
    if not -count <= layer < count:
        raise ModelError(
            f"{what} = {layer}, but {type(inner_model(model)).__name__} has {count} layers (0 to {count - 1}). Set a layer in that range."
        )
    return layer % count


def _tensor(output: Any) -> torch.Tensor:
    """Return the hidden states of a block's output: a tensor in transformers 5, a tuple in some custom models."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def run_trunk(
    model: Any, layer: int, input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor, *, entry_of: int | None = None
) -> tuple[torch.Tensor, Entry | None]:
    """Return the output of block `layer`, shape (B, L, D), before any final norm.

    Args:
        model: A causal language model.
        layer: The block that is read, counted from 0.
        input_ids_BL: Token ids.
        attention_mask_BL: 1 where there is a token.
        entry_of: Also return what this block was called with, for `FrozenBranch`.
    """
    blocks = decoder_layers(model)
    caught: list[Entry] = []

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Stop(_tensor(output))

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(Entry(args, kwargs))

    handles = [blocks[layer].register_forward_hook(stop)]
    if entry_of is not None:
        handles.append(blocks[entry_of].register_forward_pre_hook(catch, with_kwargs=True))
    try:
        inner_model(model).base_model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False)
    except _Stop as reached:
        return reached.hidden_BLD, caught[0] if caught else None
    finally:
        for handle in handles:
            handle.remove()
    raise ModelError(f"block {layer} of {type(inner_model(model)).__name__} was not reached by its forward pass")


def _rows_of(value: Any, rows: slice, batch: int) -> Any:
    """Cut the batch dimension of whatever a block was called with; shared tensors (first dimension 1) stay."""
    if isinstance(value, torch.Tensor):
        return value[rows] if value.dim() > 0 and value.shape[0] == batch else value
    if isinstance(value, tuple):
        return tuple(_rows_of(item, rows, batch) for item in value)
    return value


class FrozenBranch:
    """The output of block ℓ under the weights from before training.

    Runs only the blocks from the first trained one up to ℓ; what lies below is shared with the trained branch's pass.

    Args:
        model: The model, its selection applied and not yet trained.
        layer: The block that is read.
    """

    def __init__(self, model: Any, layer: int) -> None:
        self._model = model
        self._layer = layer
        self.original = OriginalWeights(model, up_to_layer=layer)
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        blocks = list(decoder_layers(model))
        touched = [index for index, block in enumerate(blocks) if any(id(p) in trained for p in block.parameters())]
        embedding = inner_model(model).get_input_embeddings()
        if any(id(parameter) in trained for parameter in embedding.parameters()):
            self.first: int | None = None  # the input of every block differs: nothing can be shared
        else:
            self.first = min((index for index in touched if index <= layer), default=layer)

    def hidden(
        self, input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor, entry: Entry | None, rows: slice
    ) -> torch.Tensor:
        """Return the frozen hidden states of some rows of a batch, shape (rows, L, D), without gradient.

        Args:
            input_ids_BL: Token ids of the whole batch.
            attention_mask_BL: Its mask.
            entry: What block `first` was called with in the trained branch's pass over the same batch.
            rows: The rows wanted.
        """
        with self.original.active():
            if self.first is None or entry is None:
                hidden_BLD, _ = run_trunk(self._model, self._layer, input_ids_BL[rows], attention_mask_BL[rows])
                return hidden_BLD
            batch = input_ids_BL.shape[0]
            args = _rows_of(entry.args, rows, batch)
            kwargs = {key: _rows_of(value, rows, batch) for key, value in entry.kwargs.items()}
            for block in list(decoder_layers(self._model))[self.first : self._layer + 1]:
                hidden = _tensor(block(*args, **kwargs))
                if args:
                    args = (hidden, *args[1:])
                else:
                    kwargs["hidden_states"] = hidden
            return hidden


@contextlib.contextmanager
def capture_hidden(model: Any, layers: frozenset[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the outputs of some blocks, each (B, L, D), from a full forward pass made inside the block."""
    found: dict[int, torch.Tensor] = {}
    blocks = decoder_layers(model)

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[index] = _tensor(output)

        return hook

    handles = [blocks[index].register_forward_hook(keep(index)) for index in sorted(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
