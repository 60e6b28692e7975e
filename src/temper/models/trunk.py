"""The trunk: a forward pass that stops at the layer that is read.

A loss on the output of block ℓ needs blocks 0..ℓ and nothing above them, neither later blocks nor the vocabulary
projection. `run_trunk` runs just those. The frozen branch (the same blocks with the weights from before training) shares
the part below the first trained block, where both are the same function, and keeps copies of the trained tensors only:
there is no second model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from temper.errors import ModelError
from temper.models.heads import inner_model
from temper.models.original import OriginalWeights
from temper.models.places import Place
from temper.models.selection import decoder_layers, full_layers

__all__ = ["Entry", "FrozenBranch", "capture_hidden", "check_layer", "freeze_above", "reached", "run_trunk"]


class _Stop(Exception):
    """Ends a forward pass at the block that is read."""

    def __init__(self, hidden_BLD: torch.Tensor) -> None:
        self.hidden_BLD = hidden_BLD


@dataclass
class Entry:
    """What a block was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden_BLD(self) -> torch.Tensor:
        """The hidden states the block was called with."""
        hidden: torch.Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return hidden

    def without_hidden(self) -> Entry:
        """Return the same call without its hidden states, so that no graph is kept alive."""
        kwargs = {name: value for name, value in self.kwargs.items() if name != "hidden_states"}
        return Entry((None, *self.args[1:]) if self.args else (), kwargs)

    def of_rows(self, rows: slice, batch: int, hidden_BLD: torch.Tensor) -> Entry:
        """Return the call for some rows of the batch, on other hidden states."""
        kwargs = {name: _rows_of(value, rows, batch) for name, value in self.kwargs.items()}
        if self.args:
            return Entry((hidden_BLD, *_rows_of(self.args[1:], rows, batch)), kwargs)
        return Entry((), {**kwargs, "hidden_states": hidden_BLD})

    def can_be_cut(self, batch: int) -> bool:
        """Return whether rows can be cut out of the call (not where heads are folded into the batch)."""
        return _can_be_cut((*self.args, *self.kwargs.values()), batch)


def _rows_of(value: Any, rows: slice, batch: int) -> Any:
    """Cut the batch dimension of whatever a block was called with; shared tensors (first dimension 1) stay."""
    if isinstance(value, torch.Tensor):
        return value[rows] if value.dim() > 0 and value.shape[0] == batch else value
    if isinstance(value, tuple):
        return tuple(_rows_of(item, rows, batch) for item in value)
    return value


def _can_be_cut(value: Any, batch: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() == 0 or value.shape[0] in (1, batch)
    return all(_can_be_cut(item, batch) for item in value) if isinstance(value, tuple) else True


def check_layer(model: Any, layer: int, what: str) -> int:
    """Return the layer index counted from 0; negative ones count from the end.

    Raises:
        ModelError: The model has no such layer.
    """
    count = full_layers(model)
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
) -> tuple[torch.Tensor, dict[int, Entry]]:
    """Return the output of block `layer`, shape (B, L, D), before any final norm.

    Args:
        model: A causal language model.
        layer: The block that is read, counted from 0.
        input_ids_BL: Token ids.
        attention_mask_BL: 1 where there is a token.
        entry_of: Also return what the blocks from this one on were called with, for `FrozenBranch`: masks and positions
            can differ from block to block (sliding windows, several rotary bases).
    """
    blocks = decoder_layers(model)
    inner = inner_model(model)
    caught: dict[int, Entry] = {}
    # an exception that leaves a pass half-way cannot be run again, which activation checkpointing does; a cut model ends here anyway
    ends_here = getattr(inner.config, "temper_full_layers", None) is not None and layer == len(blocks) - 1

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Stop(_tensor(output))

    def catch(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entry = Entry(args, kwargs)
            caught[index] = entry if index == entry_of else entry.without_hidden()

        return hook

    handles = [] if ends_here else [blocks[layer].register_forward_hook(stop)]
    if entry_of is not None:
        handles += [
            blocks[index].register_forward_pre_hook(catch(index), with_kwargs=True) for index in range(entry_of, layer + 1)
        ]
    try:
        output = inner.base_model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False)
    except _Stop as reached:
        return reached.hidden_BLD, caught
    finally:
        for handle in handles:
            handle.remove()
    if ends_here:
        hidden_BLD: torch.Tensor = output.last_hidden_state
        return hidden_BLD, caught
    raise ModelError(f"block {layer} of {type(inner_model(model)).__name__} was not reached by its forward pass")


def freeze_above(model: Any, layer: int) -> None:
    """Freeze what the output of a block cannot depend on: later blocks, the final norm, a head of its own.

    Such parameters would never get a gradient; frozen, they are not counted as trained either.
    """
    read = reached(model, layer)
    for name, parameter in model.named_parameters():
        if name not in read:
            parameter.requires_grad_(False)


def reached(model: Any, layer: int) -> set[str]:
    """Return the names of the parameters that the output of a block can depend on."""
    inner = inner_model(model)
    blocks = list(decoder_layers(model))
    below = {id(p) for part in (*blocks[: layer + 1], inner.get_input_embeddings()) for p in part.parameters()}
    above = {id(p) for block in blocks[layer + 1 :] for p in block.parameters()}
    positions = {id(p) for name, p in inner.named_parameters() if "embed" in name or ".wpe" in name} - above
    return {name for name, p in model.named_parameters() if id(p) in below | positions}


def _drops(model: nn.Module) -> bool:
    """Return whether the model has any dropout, as a module or as a number that attention reads."""
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    return any(isinstance(rate := getattr(module, "attention_dropout", 0.0), float) and rate > 0 for module in model.modules())


class FrozenBranch:
    """The output of block ℓ under the weights from before training, in evaluation mode.

    Runs only the blocks from the first trained one up to ℓ; what lies below is shared with the trained branch's pass. With
    dropout in the model, or a trained embedding, nothing can be shared and all blocks up to ℓ run.

    Args:
        model: The model, its selection applied and not yet trained.
        layer: The block that is read.
        places: Where the selected entries of parameters lie, of which some are selected.
    """

    def __init__(self, model: Any, layer: int, places: Mapping[str, Place] | None = None) -> None:
        self._model = model
        self._layer = layer
        self.original = OriginalWeights(model, up_to_layer=layer, places=places)
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        blocks = list(decoder_layers(model))
        touched = [index for index, block in enumerate(blocks) if any(id(p) in trained for p in block.parameters())]
        inner = inner_model(model)
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        head, embedding = inner.get_output_embeddings(), inner.get_input_embeddings()
        behind = {id(p) for p in head.parameters()} - {id(p) for p in embedding.parameters()} if head is not None else set()
        self.first: int | None = None
        # what trains outside of the blocks (token or position embeddings) moves what every block is called with
        if not (trained - inside - behind) and not _drops(model):
            self.first = min((index for index in touched if index <= layer), default=layer)

    def hidden(
        self,
        input_ids_BL: torch.Tensor,
        attention_mask_BL: torch.Tensor,
        entries: dict[int, Entry],
        rows: slice,
        layers: frozenset[int],
    ) -> dict[int, torch.Tensor]:
        """Return block index to the frozen hidden states of some rows of a batch, each (rows, L, D), without gradient.

        Args:
            input_ids_BL: Token ids of the whole batch.
            attention_mask_BL: Its mask.
            entries: What the blocks from `first` on were called with in the trained branch's pass over the same batch.
            rows: The rows wanted.
            layers: The blocks wanted, none above the one this branch was made for.
        """
        batch = input_ids_BL.shape[0]
        was_training = self._model.training
        self._model.eval()
        try:
            with self.original.active():
                top = max(layers)
                can_share = (
                    self.first is not None
                    and min(layers) >= self.first
                    and all(index in entries for index in range(self.first, top + 1))
                    and all(entry.can_be_cut(batch) for entry in entries.values())
                )
                if self.first is None or not can_share:
                    with capture_hidden(self._model, layers - {top}) as found:
                        hidden_BLD, _ = run_trunk(self._model, top, input_ids_BL[rows], attention_mask_BL[rows])
                    return {**found, top: hidden_BLD}
                hidden_BLD = entries[self.first].hidden_BLD[rows]
                found = {}
                for index in range(self.first, top + 1):
                    call = entries[index].of_rows(rows, batch, hidden_BLD)
                    hidden_BLD = _tensor(decoder_layers(self._model)[index](*call.args, **call.kwargs))
                    found[index] = hidden_BLD
                return {layer: found[layer] for layer in layers}
        finally:
            self._model.train(was_training)


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
