"""Mask files looked at and combined: how many weights they select where, how far they agree, and what they select together.

overlap of two masks  IoU = |A ∩ B| / |A ∪ B|
by chance             ab / (a + b − ab): of two masks of the same sizes a and b, as shares of the P weights that compete, drawn at random
in the larger         |A ∩ B| / min(|A|, |B|): 1 for masks of two ratios from one scoring
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from temper.errors import InputError, ModelError
from temper.files import hash_file
from temper.models.masks import combine, densities, open_masks, save_masks
from temper.models.maskset import By, PackedMasks, shared

__all__ = ["combine_masks", "inspect_masks"]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what the files are called: the shortest end of each path that tells it from the others."""
    for depth in range(1, max((len(path.parts) for path in paths), default=0)):
        names = [str(Path(*path.parts[-depth:])).removesuffix(".safetensors") for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _competing(masks: PackedMasks) -> int:
    return sum(int(np.prod(masks.shape(name), dtype=np.int64)) for name in masks)


def inspect_masks(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what some mask files hold, as JSON values.

    Returns:
        `files`, for each: `name`, `path`, `parameters_hash`, `weights_hash`, `facts` of its header, `weights` of the model, `competing`
        (weights of the parameters that it names), `selected`, `density` (share of the model's weights) and `parts`
        (`temper.models.maskset.densities`). `overlaps`, for each pair: `one`, `other`, `iou`, `by_chance`, `in_the_larger`, and `why` where
        they cannot be compared, with None for the numbers.

    Raises:
        ModelError: A file is not a mask file, or is damaged.
    """
    found, files = [], []
    for name, path in zip(_names(paths), paths, strict=True):
        header, masks = open_masks(path)
        parts = densities(header["parameters"], masks.counts())
        weights, selected = sum(part["weights"] for part in parts), sum(part["selected"] for part in parts)
        files.append(
            {
                "name": name,
                "path": str(path),
                "parameters_hash": header["parameters_hash"],
                "weights_hash": header["weights_hash"],
                "facts": header["facts"],
                "weights": weights,
                "competing": sum(part["competing"] for part in parts),
                "selected": selected,
                "density": selected / weights if weights else None,
                "parts": parts,
            }
        )
        found.append(masks)
    pairs = itertools.combinations(zip(files, found, strict=True), 2)
    return {"files": files, "overlaps": [_overlap(one, other) for one, other in pairs]}


def _overlap(one: tuple[dict[str, Any], PackedMasks], other: tuple[dict[str, Any], PackedMasks]) -> dict[str, Any]:
    names = {"one": one[0]["name"], "other": other[0]["name"]}
    nothing = {"iou": None, "by_chance": None, "in_the_larger": None}
    if one[0]["parameters_hash"] != other[0]["parameters_hash"]:
        return {**names, **nothing, "why": "they were made for different models"}
    sizes = [file["selected"] for file, _ in (one, other)]
    if not any(sizes):
        return {**names, **nothing, "why": "neither selects anything"}
    both, either = shared(one[1], other[1])
    competing = max(_competing(one[1]), _competing(other[1]))
    a, b = (size / competing for size in sizes)
    smaller = min(sizes)
    return {
        **names,
        "iou": both / either,
        "by_chance": a * b / (a + b - a * b),
        "in_the_larger": both / smaller if smaller else None,
        "why": None,
    }


def combine_masks(paths: Sequence[Path], by: By, out: Path, *, any_weights: bool = False) -> dict[str, Any]:
    """Write what several mask files of one model select together, and return facts about the result.

    The header keeps the hash of the weights that all files were made from, and says which files were combined.

    Args:
        paths: At least two mask files.
        by: union, intersection or majority (more than half of them).
        out: The file to write; it must not exist.
        any_weights: Accept files that were made from different weights of one shape; the result then says nothing of weights.

    Raises:
        ModelError: A file is not a mask file, or was made for another model or from other weights than the first.
        InputError: The file to write exists.
    """
    if out.exists():
        raise InputError(f"--out {out}: exists. Name another file.")
    opened = [open_masks(path) for path in paths]
    masks = combine([own for _, own in opened], by)
    first = opened[0][0]
    for path, (header, _) in zip(paths, opened, strict=True):
        if header["parameters_hash"] != first["parameters_hash"]:
            raise ModelError(f"{path}: was made for another model than {paths[0]}. Combine masks of one model.")
        if header["weights_hash"] != first["weights_hash"] and not any_weights:
            raise ModelError(
                f"{path}: was made from other weights than {paths[0]}, or says nothing of them. Score both on one model, or give --any-weights."
            )
    hashes = {header["weights_hash"] for header, _ in opened}
    selected = sum(masks.counts().values())
    facts = {
        "combined": by,
        "of": [
            {"file": name, "sha256": hash_file(path), "selected": sum(own.counts().values()), "facts": _brief(header["facts"])}
            for name, path, (header, own) in zip(_names(paths), paths, opened, strict=True)
        ],
        "selected": selected,
        "competing": _competing(masks),
    }
    save_masks(out, masks, first["parameters"], facts, weights_hash=hashes.pop() if len(hashes) == 1 else None)
    weights = sum(int(np.prod(shape, dtype=np.int64)) for _, shape in first["parameters"])
    return {"path": str(out), **facts, "weights": weights, "density": selected / weights if weights else None}


def _brief(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != "histogram"}
