"""How large the inputs of linear layers are over the tokens of some rows, for Wanda."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from temper.data import Item
from temper.data.batching import length_sorted
from temper.data.padding import pad_items
from temper.errors import ModelError
from temper.models.heads import inner_model
from temper.models.selection import decoder_layers

__all__ = ["input_norms", "linear_weights"]


def linear_weights(model: Any) -> dict[str, nn.Module]:
    """Return the weights of the linear layers inside decoder blocks, with their modules."""
    inside = {id(module) for block in decoder_layers(model) for module in block.modules()}
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D)
    }


@torch.no_grad()
def input_norms(model: Any, items: Sequence[Item], names: Collection[str], pad_id: int) -> dict[str, torch.Tensor]:
    """Return for each weight ‖X_j‖₂ of its inputs over the tokens of the rows, in the shape that multiplies it.

    Args:
        model: In evaluation mode.
        items: The rows; padding does not count.
        names: Weights of linear layers inside blocks.
        pad_id: The id that fills.

    Raises:
        ModelError: A layer does not see every token.
    """
    modules = {name: module for name, module in linear_weights(model).items() if name in set(names)}
    device = next(iter(model.parameters())).device
    squares = {name: torch.zeros(_inputs(module), dtype=torch.float64, device=device) for name, module in modules.items()}
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...]) -> None:
            hidden, mask_BL = args[0], seen["mask_BL"]
            # some layers get the tokens of all rows in one line
            counted = mask_BL if hidden.dim() == 3 else mask_BL.reshape(-1)
            if hidden.shape[:-1] != counted.shape:
                raise ModelError(
                    f"{name}: reads {list(hidden.shape[:-1])} tokens of {list(mask_BL.shape)}, as an expert that only some reach does, so its inputs "
                    "cannot be told apart. Exclude it, or use another score."
                )
            squares[name] += hidden[counted].double().square().sum(dim=0)

        return add

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        for places in length_sorted(items, int(inner_model(model).config.get_text_config().vocab_size)):
            batch = pad_items([items[place] for place in places], pad_id)
            ids_BL, mask_BL = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            seen["mask_BL"] = mask_BL == 1
            inner_model(model).base_model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    norms = {name: total.sqrt().float().cpu() for name, total in squares.items()}
    return {name: norm[:, None] if isinstance(modules[name], Conv1D) else norm[None, :] for name, norm in norms.items()}


def _inputs(module: nn.Module) -> int:
    weight: Any = module.weight
    return int(weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1])
