"""Merging tensors that are in memory, and the check that a model fits its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from temper.errors import ModelError, nearest
from temper.merge.deltas import Deltas
from temper.merge.sources import Source, WholeModel
from temper.merge.stores import HeldTensors, TensorStore, content_hash, whole

__all__ = ["held", "matched"]


def held(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]] | Mapping[str, Mapping[str, Tensor]],
    *,
    keys: Sequence[str] | None = None,
) -> Deltas:
    """Return deltas of tensors in memory.

    Args:
        base: θ_init by name. Floating tensors are merged, names of one tensor (tied weights) once; others are copied.
        models: θ_t by name, in a list or by what they are called.
        keys: What tells the models apart for draws; their content where left out.

    Raises:
        ModelError: A model lacks a tensor, has another one, or one of another shape or dtype.
    """
    named = dict(models) if isinstance(models, Mapping) else {f"model {number}": model for number, model in enumerate(models)}
    if keys is not None and len(keys) != len(named):
        raise ModelError(f"keys: {len(keys)} were given for {len(named)} models")
    store = HeldTensors(base, "the base")
    units: dict[str, list[str]] = {}
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in store.tensors.items():
        if tensor.is_floating_point():
            place = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (-len(first) - 1, ())
            units.setdefault(first.setdefault(place, name), []).append(name)

    def opened(label: str, model: Mapping[str, Tensor], key: str | None = None) -> Source:
        own = HeldTensors(model, label)
        found = matched(store, own, units)
        return WholeModel(own, found, content_hash(own, found.values()), key)

    sources = [opened(label, model, keys[number] if keys else None) for number, (label, model) in enumerate(named.items())]
    return Deltas(store, sources, units, lambda model: opened(f"model {len(named)}", model))


def matched(base: TensorStore, model: TensorStore, units: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the name in a model of every tensor that is merged, after checking that the two fit.

    Raises:
        ModelError: The model lacks a tensor, has one that the base lacks, or one of another shape or dtype, or does not tie what the base ties.
    """
    found: dict[str, str] = {}
    known = set(base.shapes)
    for name, names in units.items():
        own = [other for other in dict.fromkeys([name, *names]) if other in model.shapes]
        known.update(names)
        if not own:
            raise ModelError(
                f"{model.label}: lacks {name}, which {base.label} has{nearest(name, model.shapes)}. Give a model trained from the base."
            )
        found[name] = own[0]
        expected, there = base.shapes[name], model.shapes[own[0]]
        if expected != there:
            why = (
                "the vocabularies differ"
                if expected.dtype == there.dtype and expected.sizes[1:] == there.sizes[1:]
                else "they must be the same"
            )
            raise ModelError(
                f"{model.label}: {own[0]} is {there}, in {base.label} {expected}: {why}. Give models trained from this base and saved in its dtype."
            )
        for twin in own[1:]:
            if not torch.equal(whole(model, own[0]), whole(model, twin)):
                raise ModelError(
                    f"{model.label}: {own[0]} and {twin} differ, but are one tensor in {base.label} (tied embeddings). Give a model that ties them."
                )
    strange = sorted(set(model.shapes) - known)
    if strange:
        raise ModelError(
            f"{model.label}: holds {strange[0]} ({len(strange)} such), which {base.label} does not have{nearest(strange[0], base.shapes)}. "
            "Give a model trained from the base."
        )
    return found
