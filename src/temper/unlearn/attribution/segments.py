"""The passes of a model in pieces: cut between the blocks, each piece run backwards when its turn comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from temper.errors import ModelError
from temper.models.selection import decoder_layers
from temper.models.trunk import Entry
from temper.unlearn.attribution.waiting import Spill

__all__ = ["Segments"]


def _hollow(tensor: torch.Tensor) -> None:
    """Free the memory of a tensor of which only its place in the graph is needed."""
    tensor.data = tensor.data.new_zeros(1).expand(tensor.shape)


class Segments:
    """Cuts the passes of a model between its blocks and keeps the pieces of each batch.

    Args:
        model: In evaluation mode.
        spill: Where activations wait.
        recompute: Keep only what each block was called with.
    """

    def __init__(self, model: Any, spill: Spill, recompute: bool) -> None:
        self._blocks = list(decoder_layers(model))
        self._spill = spill
        self._recompute = recompute
        self.begins: list[list[Any]] = []
        self.ends: list[list[torch.Tensor]] = []
        self.entries: list[list[Entry]] = []

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Cut every pass while the block lasts."""
        handles = []
        for index, block in enumerate(self._blocks):
            handles.append(block.register_forward_pre_hook(self._entering(index), with_kwargs=True))
            handles.append(block.register_forward_hook(self._leaving(index)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def new_batch(self) -> None:
        """Begin the pass of a batch."""
        self.begins.append([])
        self.ends.append([])
        self.entries.append([])

    def _entering(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            entry = Entry(args, kwargs)
            others = (*args[1:], *(value for name, value in kwargs.items() if name != "hidden_states"))
            if any(_needs_gradient(value) for value in others):
                raise ModelError(
                    f"block {index} ({type(module).__name__}) reads more than the output of the block before, so gradients cannot be taken block by "
                    "block. Score another model, or make the mask elsewhere and give it as {mask: FILE}."
                )
            before = entry.hidden_BLD
            self.ends[-1].append(before)  # what ends the part below: the embedding, or the block before and what lies between
            begin = before.detach().requires_grad_()
            self._spill.forget_addresses()
            if self._recompute:
                self.entries[-1].append(entry.without_hidden())
                self.begins[-1].append(self._spill.pack(begin))
                torch.set_grad_enabled(False)
            else:
                self.begins[-1].append(begin)
            called = _with_hidden(entry, begin)
            return called.args, called.kwargs

        return hook

    def _leaving(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            torch.set_grad_enabled(True)
            if index < len(self._blocks) - 1:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            self.ends[-1].append(hidden)
            begin = hidden.detach().requires_grad_()
            self.begins[-1].append(begin)
            return (begin, *output[1:]) if isinstance(output, tuple) else begin

        return hook

    def hollow(self) -> None:
        """Free what the pass of a batch left in memory and the file has."""
        self._spill.forget_addresses()
        for end in self.ends[-1]:
            _hollow(end)
        for begin in self.begins[-1]:
            # where blocks run again, a begin that is small waits as it is
            if isinstance(begin, torch.Tensor) and begin.requires_grad:
                _hollow(begin)

    def backward(self, index: int, batch: int, gradient_BLD: torch.Tensor) -> torch.Tensor:
        """Run a block backwards for a batch, given the gradient at its end; return that at its beginning."""
        begin, end = self.begins[batch][index], self.ends[batch][index + 1]
        if self._recompute:
            begin = self._spill.unpack(begin).detach().requires_grad_()
            with torch.enable_grad():
                called = _with_hidden(self.entries[batch][index], begin)
                output = self._blocks[index](*called.args, **called.kwargs)
                end = output[0] if isinstance(output, tuple) else output
        torch.autograd.backward(end, gradient_BLD)
        found: torch.Tensor = begin.grad
        self.begins[batch][index] = None
        self.ends[batch][index + 1] = gradient_BLD.new_zeros(())
        return found

    def clear(self) -> None:
        """Let go of all batches."""
        self.begins, self.ends, self.entries = [], [], []
        self._spill.empty()


def _needs_gradient(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.requires_grad
    return any(_needs_gradient(item) for item in value) if isinstance(value, tuple | list) else False


def _with_hidden(entry: Entry, hidden_BLD: torch.Tensor) -> Entry:
    if entry.args:
        return Entry((hidden_BLD, *entry.args[1:]), entry.kwargs)
    return Entry((), {**entry.kwargs, "hidden_states": hidden_BLD})
