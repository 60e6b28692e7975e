"""What the smoothers do with lists of tensors: gradients are taken, added and measured, weights are moved and put back.

A gradient that is None counts as zero throughout. Tensors may be DTensors that FSDP2 shards; what is done element by element
needs nothing special there, norms are reduced over the processes that hold different shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from temper.errors import RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Gradients = list[Tensor | None]

__all__ = [
    "SMALLEST_NORM",
    "Replay",
    "add_scaled",
    "clear",
    "displace",
    "norm_of",
    "put",
    "restoring",
    "shard_like",
    "squared_norms",
    "take",
]

SMALLEST_NORM: Final = 1e-12
"""Below this a gradient has no direction worth following: dividing by its norm would turn rounding into a full step."""


# ---- gradients ----


def clear(parameters: Sequence[nn.Parameter]) -> None:
    """Drop all gradients."""
    for parameter in parameters:
        parameter.grad = None


def take(parameters: Sequence[nn.Parameter]) -> Gradients:
    """Return copies of the gradients and drop the originals, tensor by tensor.

    They are copied because data-parallel wrappers may reuse the memory of the originals in the next pass.
    """
    taken: Gradients = []
    for parameter in parameters:
        taken.append(None if parameter.grad is None else parameter.grad.detach().clone())
        parameter.grad = None
    return taken


def put(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    """Make these the gradients."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def add_scaled(into: Gradients, other: Gradients, scale: float) -> None:
    """Add scale times the others in place; a gradient that is not there is zero."""
    for index, (mine, theirs) in enumerate(zip(into, other, strict=True)):
        if theirs is not None:
            into[index] = theirs * scale if mine is None else mine.add_(theirs, alpha=scale)


def squared_norms(tensors: Sequence[Tensor | None]) -> list[float]:
    """Return ‖t‖² of every whole tensor, 0 for one that is not there.

    The shards of a DTensor are summed over the processes that hold different ones, with one reduction for all tensors that
    are sharded alike.

    Raises:
        RunError: A DTensor holds partial sums, so that its norm is not that of its parts.

    Example:
        >>> import torch
        >>> squared_norms([torch.tensor([3.0, 4.0]), None])
        [25.0, 0.0]
    """
    import torch
    from torch.distributed.tensor import DTensor

    result = [0.0] * len(tensors)
    sharded: dict[tuple[object, tuple[int, ...]], list[tuple[int, torch.Tensor]]] = {}
    whole: list[tuple[int, torch.Tensor]] = []
    with torch.no_grad():
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            if isinstance(tensor, DTensor):
                if any(placement.is_partial() for placement in tensor.placements):
                    raise RunError(
                        "a gradient holds partial sums; reduce gradients over all processes before the smoother reads them"
                    )
                dims = tuple(number for number, placement in enumerate(tensor.placements) if not placement.is_replicate())
                sharded.setdefault((tensor.device_mesh, dims), []).append((index, _local_square(tensor.to_local())))
            else:
                whole.append((index, _local_square(tensor)))
        for (mesh, dims), found in sharded.items():
            sums = torch.stack([square for _, square in found])
            for dim in dims:
                torch.distributed.all_reduce(sums, group=mesh.get_group(dim))  # type: ignore[attr-defined]
            whole += [(index, square) for (index, _), square in zip(found, sums.unbind(), strict=True)]
        if whole:
            # one transfer for all tensors of a device instead of one a tensor
            by_device: dict[torch.device, list[tuple[int, torch.Tensor]]] = {}
            for index, square in whole:
                by_device.setdefault(square.device, []).append((index, square))
            for found in by_device.values():
                for (index, _), value in zip(found, torch.stack([square for _, square in found]).tolist(), strict=True):
                    result[index] = value
    return result


def _local_square(tensor: Tensor) -> Tensor:
    import torch

    # sums of 1e8 single-precision squares lose digits; Apple's devices have nothing better
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=dtype)
    return norm.square()


def norm_of(squares: Sequence[float]) -> float:
    """Return the norm over all tensors from their squared norms.

    Raises:
        RunError: It is not finite.
    """
    norm = math.sqrt(math.fsum(squares)) if all(math.isfinite(square) for square in squares) else math.nan
    if not math.isfinite(norm):
        raise RunError(
            "the gradient of the forget terms is not finite, so the smoother has no direction to follow. Lower train.learning_rate, or raise the "
            "weight of the retain term."
        )
    return norm


# ---- weights ----


@contextmanager
def restoring(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Give copies of the weights, and put the weights back from them at the end, whatever happens in between."""
    import torch

    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, saved, strict=True):
                parameter.copy_(original)


def displace(parameters: Sequence[nn.Parameter], saved: Sequence[Tensor], direction: Gradients, scale: float) -> None:
    """Set the weights to saved + scale · direction."""
    import torch

    with torch.no_grad():
        for parameter, original, along in zip(parameters, saved, direction, strict=True):
            parameter.copy_(original)
            if along is not None:
                parameter.add_(along, alpha=scale)


def shard_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor that every process holds, moved to the parameter's device and sharded as the parameter is."""
    from torch.distributed.tensor import DTensor, Replicate

    moved = whole.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    mesh = parameter.device_mesh
    everywhere = DTensor.from_local(moved, mesh, [Replicate()] * mesh.ndim, run_check=False)
    # from replicas to shards each process cuts its own piece; nothing is sent
    return everywhere.redistribute(placements=parameter.placements)


class Replay:
    """Torch's random state at a moment, to repeat a pass with the same dropout.

    Without it the difference of two passes, divided by a small step, would be mostly the difference of two dropout masks.

    Args:
        parameters: Their devices are the ones whose state is kept.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        import torch

        self._cpu = torch.random.get_rng_state()
        devices = {parameter.device for parameter in parameters if parameter.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def rewind(self) -> None:
        """Go back to the moment."""
        import torch

        torch.random.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
