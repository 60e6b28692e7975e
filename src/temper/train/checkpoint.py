"""Checkpoints of a training run: trained tensors, optimiser, schedule, random state, as safetensors and JSON.

`transformers.Trainer` writes some of these with pickle and straight into their final place. Here a checkpoint is written
aside and renamed, so a killed process leaves whole checkpoints only, and opening one runs no code.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from temper import processes
from temper.errors import RunError
from temper.files import folder_aside, read_json, write_json
from temper.models.places import Place
from temper.train.masked import MaskedOptimizer
from temper.train.sharding import copy_whole

__all__ = [
    "latest",
    "load_extra",
    "load_optimizer",
    "load_random_state",
    "load_spent",
    "load_trained",
    "prune",
    "random_states",
    "save",
    "sweep",
    "whole_state",
]

_NAME = re.compile(r"^checkpoint-(\d+)$")


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, or None."""
    found = (
        [(int(match.group(1)), item) for item in folder.glob("checkpoint-*") if (match := _NAME.match(item.name))]
        if folder.is_dir()
        else []
    )
    return max(found)[1] if found else None


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written; call it under the lock of the run."""
    if folder.is_dir():
        for item in folder.glob(".checkpoint-*"):
            shutil.rmtree(item)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    found = sorted((int(match.group(1)), item) for item in folder.glob("checkpoint-*") if (match := _NAME.match(item.name)))
    for _, item in found[: -keep or None]:
        shutil.rmtree(item)


def whole_state(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimiser with shards read whole; every process must call it."""
    found: dict[str, Any] = own(optimizer).whole_state_dict()
    return found


def own(optimizer: Any) -> MaskedOptimizer:
    """Return the optimiser inside what accelerate puts around it."""
    inner: MaskedOptimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def save(
    path: Path,
    trained: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    scheduler: Any,
    trainer_state: str,
    spent: dict[str, float],
    random: Mapping[str, torch.Tensor],
    extra: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint whole.

    Args:
        path: Its folder, named checkpoint-STEP.
        trained: The whole tensors of what trains.
        state: Of the optimiser, whole; its tensors are written by parameter index.
        scheduler: Learning rate schedule.
        trainer_state: The trainer's own state as JSON text.
        spent: Seconds and tokens used so far.
        random: What `random_states` returned.
        extra: Tensors of whoever else keeps state: a smoother, a moving weight.
    """
    with folder_aside(path) as folder:
        save_file(dict(trained), folder / "trained.safetensors")
        if extra:
            save_file({name: value.contiguous().cpu() for name, value in extra.items()}, folder / "extra.safetensors")
        tensors: dict[str, torch.Tensor] = {}
        for index, entry in state["state"].items():
            for name, value in entry.items():
                tensors[f"{index}.{name}"] = (
                    value.detach().contiguous().cpu() if isinstance(value, torch.Tensor) else torch.tensor(value)
                )
        save_file(tensors, folder / "optimizer.safetensors")
        write_json(folder / "optimizer.json", {"param_groups": state["param_groups"]})
        write_json(folder / "scheduler.json", scheduler.state_dict())
        save_file(dict(random), folder / "random.safetensors")
        write_json(folder / "spent.json", spent)
        (folder / "trainer_state.json").write_text(trainer_state, encoding="utf-8")


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        found: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{file}: is damaged ({error}). Remove the folder {file.parent.name} to resume from the checkpoint before it."
        ) from error
    return found


def load_trained(path: Path, model: torch.nn.Module, places: Mapping[str, Place] | None = None) -> None:
    """Put the trained tensors of a checkpoint into a model.

    Args:
        path: The checkpoint.
        model: With the weights from before.
        places: Parameter name to where its selected entries lie: of those the checkpoint has no others.

    Raises:
        RunError: The checkpoint holds other parameters than those that train.
    """
    stored = _tensors(path / "trained.safetensors")
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if stored.keys() != expected.keys():
        raise RunError(f"{path}: holds other parameters than the selection trains. Remove the run folder and start again.")
    with torch.no_grad():
        for name, parameter in expected.items():
            place = (places or {}).get(name)
            if place is None or stored[name].shape == parameter.shape:
                copy_whole(parameter, stored[name])
            elif tuple(stored[name].shape) == place.gathered:
                place.scatter(parameter, stored[name].to(parameter.device))
            else:
                raise RunError(f"{path}: holds other entries of {name} than are selected. Remove the run folder and start again.")


def load_extra(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of whoever else keeps state."""
    file = path / "extra.safetensors"
    return _tensors(file) if file.exists() else {}


def load_optimizer(path: Path, optimizer: Any, scheduler: Any) -> None:
    """Put optimiser moments and learning rate schedule back."""
    tensors = _tensors(path / "optimizer.safetensors")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = read_json(path / "optimizer.json")["param_groups"]
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    own(optimizer).load_whole_state_dict({"state": state, "param_groups": groups})
    scheduler.load_state_dict(read_json(path / "scheduler.json"))


def random_states() -> dict[str, torch.Tensor]:
    """Return torch's random state, which dropout uses, of every process; every process must call it."""
    own_states = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        own_states["cuda"] = torch.cuda.get_rng_state()
    if processes.count() == 1:
        return {f"{name}.0": state for name, state in own_states.items()}
    found: dict[str, torch.Tensor] = {}
    for name, state in own_states.items():
        states = [torch.empty_like(state) for _ in range(processes.count())]
        torch.distributed.all_gather(states, state)
        found |= {f"{name}.{rank}": one for rank, one in enumerate(states)}
    return found


def load_random_state(path: Path) -> None:
    """Put this process's random state back."""
    stored = _tensors(path / "random.safetensors")
    rank = processes.rank()
    if f"cpu.{rank}" in stored:
        torch.random.set_rng_state(stored[f"cpu.{rank}"])
    if f"cuda.{rank}" in stored and torch.cuda.is_available():
        torch.cuda.set_rng_state(stored[f"cuda.{rank}"])


def load_spent(path: Path) -> dict[str, float]:
    """Return the seconds and tokens used before a checkpoint."""
    return dict(json.loads((path / "spent.json").read_text(encoding="utf-8")))
