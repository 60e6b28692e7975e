"""Masks held one bit a weight: unpacked when asked for, counted, combined and compared without being unpacked.

Bits lie as `numpy.packbits` puts them: in row order, eight a byte, the first in the highest bit, zeros after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from temper.errors import ModelError, nearest
from temper.models.kinds import kind_of, layer_of

__all__ = ["By", "PackedMasks", "combine", "densities", "overlap", "packed_bits", "shared"]

By = Literal["union", "intersection", "majority"]


class PackedMasks(Mapping[str, Tensor]):
    """Parameter name to a boolean tensor of its shape, made from its bits each time it is asked for.

    Args:
        shapes: Parameter name to its shape.
        bits: Returns the bits of a parameter, uint8, one an entry and padded to whole bytes.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], bits: Callable[[str], np.ndarray]) -> None:
        self._shapes = dict(shapes)
        self._bits = bits
        self._counted: dict[str, int] | None = None

    def bits(self, name: str) -> np.ndarray:
        """Return the bits of a parameter's mask."""
        return self._bits(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a parameter's mask; reads no bits."""
        return self._shapes[name]

    def counts(self) -> dict[str, int]:
        """Return how many entries of each parameter are selected; the bits are read once and not unpacked."""
        if self._counted is None:
            self._counted = {name: _ones(self._bits(name)) for name in self._shapes}
        return dict(self._counted)

    def selecting(self) -> PackedMasks:
        """Return the masks that select something."""
        counts = self.counts()
        kept = PackedMasks({name: shape for name, shape in self._shapes.items() if counts[name]}, self._bits)
        kept._counted = {name: count for name, count in counts.items() if count}
        return kept

    def __getitem__(self, name: str) -> Tensor:
        """Return the mask of a parameter."""
        shape = self._shapes[name]
        count = int(np.prod(shape, dtype=np.int64))
        # unpacked bits are bytes of 0 or 1, which is what a boolean is
        return torch.from_numpy(np.unpackbits(self._bits(name), count=count).view(np.bool_).reshape(shape))

    def __contains__(self, name: object) -> bool:
        """Return whether there is a mask of this parameter."""
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _ones(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def packed_bits(masks: Mapping[str, Tensor], name: str) -> np.ndarray:
    """Return the bits of one mask of a mapping, without unpacking it where it is packed."""
    if isinstance(masks, PackedMasks):
        return masks.bits(name)
    return np.packbits(masks[name].detach().cpu().numpy().reshape(-1))


def _shape(masks: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return masks.shape(name) if isinstance(masks, PackedMasks) else tuple(masks[name].shape)


def _shapes(sets: Sequence[Mapping[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all masks of some sets, by name.

    Raises:
        ModelError: Two sets have masks of different shapes for one parameter.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for masks in sets:
        for name in masks:
            shape = _shape(masks, name)
            if shapes.setdefault(name, shape) != shape:
                raise ModelError(
                    f"masks of different models: {name} has the shape {list(shapes[name])} in one and {list(shape)} in another"
                )
    return dict(sorted(shapes.items()))


def combine(sets: Sequence[Mapping[str, Tensor]], by: By) -> PackedMasks:
    """Return what several sets of masks select together; computed when asked for, one parameter at a time.

    A parameter that a set does not name is not selected by it.

    Args:
        sets: Masks of one model, at least two.
        by: `union` takes what any selects, `intersection` what all select, `majority` what more than half of them select.

    Raises:
        ModelError: Fewer than two sets, masks of different shapes, or another word.

    Example:
        >>> one, two = {"a": torch.tensor([True, True, False])}, {"a": torch.tensor([False, True, False])}
        >>> [combine([one, two], by)["a"].tolist() for by in ("union", "intersection")]
        [[True, True, False], [False, True, False]]
    """
    if by not in get_args(By):
        raise ModelError(f"by = {by!r}: no such way{nearest(by, get_args(By))}. Use one of {', '.join(get_args(By))}.")
    if len(sets) < 2:
        raise ModelError(f"{len(sets)} set of masks: combining takes at least two")
    shapes = _shapes(sets)

    def bits(name: str) -> np.ndarray:
        found = [packed_bits(masks, name) for masks in sets if name in masks]
        if by != "majority":
            together = (np.bitwise_or if by == "union" else np.bitwise_and).reduce(found)
            return together if by == "union" or len(found) == len(sets) else np.zeros_like(together)
        votes = np.zeros(8 * len(found[0]), np.int32)
        for own in found:
            votes += np.unpackbits(own)
        return np.packbits(votes * 2 > len(sets))

    return PackedMasks(shapes, bits)


def shared(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return how many weights both sets of masks select, and how many either does: |A ∩ B|, |A ∪ B|.

    Raises:
        ModelError: They have masks of different shapes for one parameter.
    """
    both = either = 0
    for name in _shapes([one, other]):
        found = [packed_bits(masks, name) for masks in (one, other) if name in masks]
        either += _ones(np.bitwise_or.reduce(found))
        both += _ones(np.bitwise_and.reduce(found)) if len(found) == 2 else 0
    return both, either


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float | None:
    """Return how far two sets of masks select the same weights, |A ∩ B| / |A ∪ B|; None where neither selects anything.

    Raises:
        ModelError: They have masks of different shapes for one parameter.
    """
    both, either = shared(one, other)
    return both / either if either else None


def densities(parameters: Iterable[tuple[str, Sequence[int]]], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return how many weights are selected in each part of a model, by kind and decoder block, as JSON values.

    Args:
        parameters: Names and shapes of all parameters of the model, in their order.
        counts: Parameter name to how many of its entries are selected; none where it is missing.

    Returns:
        One cell for each pair that occurs: `kind`, `layer` (None outside the blocks), `weights`, `competing` (those of parameters that
        `counts` names), `selected` and its share `density` of the weights (None of no weights).
    """
    cells: dict[tuple[str, int | None], list[int]] = {}
    for name, shape in parameters:
        cell = cells.setdefault((kind_of(name), layer_of(name)), [0, 0, 0])
        size = int(np.prod(shape, dtype=np.int64))
        cell[0] += size
        cell[1] += size if name in counts else 0
        cell[2] += counts.get(name, 0)
    return [
        {
            "kind": kind,
            "layer": layer,
            "weights": weights,
            "competing": competing,
            "selected": selected,
            "density": selected / weights if weights else None,
        }
        for (kind, layer), (weights, competing, selected) in cells.items()
    ]
