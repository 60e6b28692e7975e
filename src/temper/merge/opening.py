"""Open a base and the models that were trained from it: whole folders, deltas, LoRA adapters, in any mixture.

Everything that can be known before a tensor is merged is checked here: that each model belongs to this base, has its tensors, shapes,
dtypes and ties, and can be merged at all. Files are hashed, several at a time; no tensor stays in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from temper.errors import ModelError
from temper.files import hash_bytes, hash_file
from temper.merge.adapters import ADAPTER_CONFIG, Adapter
from temper.merge.deltas import Deltas
from temper.merge.memory import matched
from temper.merge.sources import Source, SparseDelta, WholeModel
from temper.merge.stores import FileTensors, content_hash
from temper.models.checkpoint import open_checkpoint
from temper.models.delta import read_delta
from temper.models.load import load_config, resolve_path
from temper.models.writeback import StoredModel, files_hash
from temper.recipe import ModelSection, WorldSection

__all__ = ["Given", "Opened", "open_deltas"]

_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Given:
    """A model to merge.

    Attributes:
        path: A folder: a model, a delta or an adapter; of a model also a hub or `world:` name.
        key: What tells it apart for draws, wherever it lies; None: its content.
        base_weights: The hash of the base it was trained from, where that is known (a delta says so itself).
    """

    path: str | Path
    key: str | None = None
    base_weights: str | None = None


class Opened(Deltas):
    """Deltas of files, with what is needed to write a folder.

    Attributes:
        model: The base's checkpoint.
        base_weights: The hash of its files.
    """

    model: StoredModel
    base_weights: str


def open_deltas(
    base: str | Path,
    models: Sequence[str | Path | Given],
    *,
    section: ModelSection | None = None,
    world: WorldSection | None = None,
) -> Opened:
    """Return a base and the models trained from it, ready to merge.

    Args:
        base: A local folder, a hub name or a `world:` name; all models start from its weights.
        models: What was trained.
        section: Where it is given: revision and trust_remote_code of the base.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: A folder cannot be read, or a model does not belong to the base.
    """
    world = world or WorldSection()
    stored = StoredModel(base, section, world)
    store = FileTensors(stored.checkpoint, stored.name)
    units = _units(stored, store)
    given = [model if isinstance(model, Given) else Given(model) for model in models]
    with ThreadPoolExecutor(max_workers=min(len(given) + 1, os.cpu_count() or 1)) as pool:
        hashing = pool.submit(files_hash, stored.checkpoint)
        opening = [pool.submit(_open, model, stored, store, units, world, hashing.result) for model in given]
        weights = hashing.result()
        sources = []
        for model, future in zip(given, opening, strict=True):
            source, made_for = future.result()
            _check_base(source.label, model.base_weights or made_for, stored.name, weights)
            sources.append(source)

    def reopen(model: str | Path | Given) -> Source:
        model = model if isinstance(model, Given) else Given(model)
        source, made_for = _open(model, stored, store, units, world, lambda: weights)
        _check_base(source.label, model.base_weights or made_for, stored.name, weights)
        return source

    opened = Opened(store, sources, units, reopen)
    opened.model, opened.base_weights = stored, weights
    return opened


def _check_base(label: str, made_for: str | None, base: str, weights: str) -> None:
    if made_for is not None and made_for != weights:
        raise ModelError(
            f"{label}: was made for a base with weights {made_for[:12]}, but {base} has weights {weights[:12]}. Changes add up only on the base "
            "they were trained from: give that one."
        )


def _units(stored: StoredModel, store: FileTensors) -> dict[str, list[str]]:
    """Return the stored tensors that are merged, parameters of plain floats; those of one matrix together."""
    units: dict[str, list[str]] = {}
    done: set[str] = set()
    for parameter, _ in stored.skeleton.named_parameters(remove_duplicate=False):
        if parameter not in stored.parts or parameter in done:
            continue
        group = stored.targets(parameter) if parameter in stored.twins else [parameter]
        done.update(group)
        parts = [stored.parts[one] for one in group]
        is_one = len({len(part) for part in parts}) == 1
        for names in zip(*parts, strict=True) if is_one else ((name,) for part in parts for name in part):
            dtype = store.shapes[names[0]].dtype
            if not dtype.is_floating_point:
                continue
            if dtype not in _PLAIN:
                raise ModelError(
                    f"{stored.name}: stores {names[0]} as {dtype}, which is not a plain float. Use the weights it was made from."
                )
            units[names[0]] = list(names)
    return units


def _open(
    given: Given,
    base: StoredModel,
    store: FileTensors,
    units: dict[str, list[str]],
    world: WorldSection,
    base_weights: Callable[[], str],
) -> tuple[Source, str | None]:
    """Return what changed in a model, and the hash of the base it says it was made for."""
    folder = Path(given.path).expanduser()
    if (folder / "delta.json").is_file():
        delta = read_delta(folder)
        content = hash_bytes((hash_file(folder / "delta.json") + hash_file(folder / "delta.safetensors")).encode())
        # the header is compared before its tensors are: those of another base need not fit
        _check_base(str(folder), delta.base_weights, base.name, base_weights())
        sparse = SparseDelta(delta, base, content, given.key)
        _check_merged(sparse.label, sparse.names, units)
        return sparse, delta.base_weights
    if (folder / ADAPTER_CONFIG).is_file():
        adapter = Adapter(folder, base, given.key)
        _check_merged(adapter.label, adapter.names, units)
        return adapter, None
    checkpoint = open_checkpoint(resolve_path(str(given.path), world))
    config = load_config(str(given.path), world=world)
    tied = [bool(getattr(one, "tie_word_embeddings", False)) for one in (config, base.skeleton.config)]
    if tied[0] != tied[1]:
        words = ["ties its embeddings" if is_tied else "does not" for is_tied in tied]
        raise ModelError(f"{given.path}: {words[0]}, {base.name} {words[1]}. Give models that were trained from this base.")
    own = FileTensors(checkpoint, str(given.path))
    found = matched(store, own, _with_twins(base, units))
    return WholeModel(own, found, content_hash(own, found.values()), given.key), None


def _check_merged(label: str, names: set[str], units: dict[str, list[str]]) -> None:
    known = {name for names in units.values() for name in names}
    strange = sorted(names - known)
    if strange:
        raise ModelError(f"{label}: changes {strange[0]}, which is no parameter of the base. Only parameters are merged.")


def _with_twins(base: StoredModel, units: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the units with the other name of a matrix that is stored once: a model may store it under that."""
    return {
        name: names + [twin for one in names if (twin := base.twins.get(one)) and twin not in base.parts]
        for name, names in units.items()
    }
