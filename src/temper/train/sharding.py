"""Weights, gradients and optimiser state sharded over processes, by torch's own `fully_shard` (FSDP2).

Each decoder block is a unit that is gathered when it runs and dropped after it; the engine is the root and holds what is left
(embeddings, final norm, head, shared ones once). Through accelerate the same settings are silently plain DDP on a CPU
(accelerate 1.15, state.py), so this calls torch directly: it is sharded wherever it runs, gloo on a CPU included.

A sharded tensor holds this process's rows. Reading one whole is a collective: every process must do it, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from temper import processes
from temper.models.places import Place
from temper.models.selection import decoder_layers

__all__ = [
    "as_shard_of",
    "copy_whole",
    "is_sharded",
    "joined",
    "joined_mask",
    "like",
    "local",
    "local_gradient",
    "local_numel",
    "shard",
    "whole",
    "whole_trained",
]


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is spread over processes."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor; every process must call it."""
    return cast(torch.Tensor, cast(Any, tensor).full_tensor()) if is_sharded(tensor) else tensor


def local_numel(tensor: torch.Tensor) -> int:
    """Return the entries that this process holds."""
    return int(cast(Any, tensor).to_local().numel()) if is_sharded(tensor) else tensor.numel()


def shard(engine: nn.Module, model: Any) -> None:
    """Shard an engine and its model in place.

    Args:
        engine: The root: its forward is what the trainer calls.
        model: The model inside, adapter wrapper included.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (processes.count(),))
    for block in decoder_layers(model):
        fully_shard(block, mesh=mesh)
    fully_shard(engine, mesh=mesh)


def whole_trained(model: nn.Module, places: Mapping[str, Place] | None = None) -> dict[str, torch.Tensor]:
    """Return the whole tensors of what trains, on the CPU; every process must call it.

    Args:
        model: With what trains.
        places: Parameter name to where its selected entries lie; of those only the entries are returned.
    """
    return {
        name: (places[name].gather(p.detach()) if places and name in places else whole(p.detach())).contiguous().cpu()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor, which every process holds, sharded as a parameter is; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    return distribute_tensor(value.to(parameter.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


@torch.no_grad()
def copy_whole(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Put a whole tensor, which every process holds, into a parameter that may be sharded."""
    parameter.copy_(like(parameter, value.to(parameter.dtype)) if is_sharded(parameter) else value)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process holds."""
    return cast(torch.Tensor, cast(Any, tensor).to_local()) if is_sharded(tensor) else tensor


def local_gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Return the part of a parameter's gradient that belongs to this process's part of the parameter."""
    gradient = cast(torch.Tensor, parameter.grad)
    if is_sharded(gradient):
        sharded: Any = gradient
        placements = cast(Any, parameter).placements
        gradient = sharded if sharded.placements == placements else sharded.redistribute(placements=placements)
    return local(gradient)


def as_shard_of(parameter: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor as the sharded tensor that a parameter is; storage is shared, nothing is sent."""
    from torch.distributed.tensor import DTensor

    sharded: Any = parameter
    return DTensor.from_local(
        part, sharded.device_mesh, sharded.placements, run_check=False, shape=sharded.shape, stride=sharded.stride()
    )


def joined(parameter: torch.Tensor, place: Place, values: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor whose selected entries are the values of all processes, zero elsewhere; a collective."""
    part = torch.zeros(place.shape, dtype=values.dtype, device=values.device)
    place.scatter(part, values)
    return whole(as_shard_of(parameter, part))


def joined_mask(parameter: torch.Tensor, place: Place) -> torch.Tensor:
    """Return the whole mask of which each process holds the place of its part; a collective."""
    ones = torch.ones(place.gathered, dtype=torch.uint8, device=local(parameter.detach()).device)
    return joined(parameter, place, ones).bool()
