"""Models on disk for the tests of merging: a base, and models, deltas and adapters made from it."""

import shutil

import torch
from safetensors.torch import load_file

from temper.merge.folder import write_merge
from temper.merge.opening import open_deltas
from temper.models.writeback import write_changed

DOWN = "model.layers.0.mlp.down_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


def changes(model, seed, names=(DOWN, UP, NORM), size=0.01):
    """Return new values of some parameters."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name in names:
        value = model.get_parameter(name).detach()
        found[name] = (value.float() + size * torch.randn(value.shape, generator=draw)).to(value.dtype)
    return found


def family(folder, model, count=3, **more):
    """Save a base and some models trained from it; returns the base's folder, theirs, and all their tensors."""
    model.save_pretrained(folder / "base")
    (folder / "base" / "tokenizer_config.json").write_text("{}")
    paths = [write_changed(folder / "base", changes(model, seed, **more), folder / f"split{seed}") for seed in range(count)]
    return folder / "base", paths, [tensors(path) for path in paths]


def tensors(folder):
    """Return all tensors of a model folder."""
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def write(folder, base, models, method, out="merged", **more):
    """Merge into a folder and return it with its record."""
    record = write_merge(open_deltas(base, models), method, folder / out, **more)
    return folder / out, record


def reshard(model, base, out, size):
    """Save a model again, in other files."""
    shutil.copytree(base, out)
    for file in out.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(out, max_shard_size=size)
    return out


def same(one, other):
    """Return whether two sets of tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)) for name in one
    )
