import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from temper.errors import ModelError
from temper.files import hash_file
from temper.models.aliases import module_pattern
from temper.models.delta import apply_delta, read_delta, write_delta
from temper.models.load import weights_hash
from temper.models.writeback import write_changed
from tests.models.architectures import KINDS, saved

DOWN = "model.layers.0.mlp.down_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def moved(model, names, share):
    """Return new values of some parameters, of which about this share of entries is another number."""
    generator = torch.Generator().manual_seed(1)
    result = {}
    for name in names:
        value = model.get_parameter(name).detach()
        mask = torch.rand(value.shape, generator=generator) < share
        result[name] = torch.where(mask, torch.randn(value.shape, generator=generator).to(value.dtype), value)
    return result


def some_names(model):
    """Return a projection of two blocks, the embedding and a norm."""
    pattern = module_pattern("down_proj", model)
    names = [name for name, _ in model.named_parameters()]
    return [names[0], *[name for name in names if re.search(pattern, name)][:2], names[-1]]


def record(folder):
    return json.loads((folder / "delta.json").read_text())


def forms(folder):
    return {name: entry["form"] for name, entry in record(folder)["tensors"].items()}


# ---- base and delta together are the checkpoint that was saved ----


@pytest.mark.parametrize(("kind", "tie"), [(kind, number % 2 == 0) for number, kind in enumerate(KINDS)])
def test_a_sparse_delta_applied_is_the_copy_bit_for_bit(tmp_path, kind, tie):
    model = saved(kind, tmp_path / "base", layers=2, tie=tie, dtype=torch.bfloat16 if tie else torch.float32)
    changed = moved(model, some_names(model), 0.05)
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    write_delta(tmp_path / "base", changed, tmp_path / "delta")
    apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "applied")
    assert weights_hash(tmp_path / "applied") == weights_hash(tmp_path / "out") != weights_hash(tmp_path / "base")
    assert set(forms(tmp_path / "delta").values()) <= {"bits", "index"}


@pytest.mark.parametrize(("share", "form"), [(0.005, "index"), (0.3, "bits"), (1.1, "whole")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_comes_back(tmp_path, share, form, dtype):
    model = saved("llama", tmp_path / "base", layers=1, dtype=dtype)
    changed = moved(model, [DOWN], share)
    write_delta(tmp_path / "base", changed, tmp_path / "delta")
    assert forms(tmp_path / "delta") == {DOWN: form}
    apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    write_changed(tmp_path / "base", changed, tmp_path / "copy")
    assert weights_hash(tmp_path / "out") == weights_hash(tmp_path / "copy")


def test_every_bit_counts(tmp_path):
    saved("llama", tmp_path / "base", layers=1, shard="1GB")
    before = load_file(tmp_path / "base/model.safetensors")
    before[DOWN].view(-1)[0] = 0.0
    save_file(before, tmp_path / "base/model.safetensors", {"format": "pt"})
    value = before[DOWN].clone()
    value.view(-1)[:2] = torch.tensor([-0.0, float("nan")])
    write_delta(tmp_path / "base", {DOWN: value}, tmp_path / "delta")
    assert record(tmp_path / "delta")["tensors"][DOWN]["changed"] == 2
    apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")[DOWN]
    assert torch.equal(found.view(torch.int32), value.view(torch.int32))


def test_experts_that_are_stored_apart_are_kept_apart(tmp_path):
    model = saved("mixtral", tmp_path / "base", layers=1)
    name = "model.layers.0.mlp.experts.down_proj"
    value = model.get_parameter(name).detach().clone()
    value[2, 0, 0] += 1
    write_delta(tmp_path / "base", {name: value}, tmp_path / "delta")
    assert forms(tmp_path / "delta") == {"model.layers.0.block_sparse_moe.experts.2.w2.weight": "index"}


def test_a_shared_matrix_is_kept_under_every_name_it_is_stored_by(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1, tie=True, shard="1GB")
    tensors = load_file(tmp_path / "base/model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "base/model.safetensors", {"format": "pt"})  # fmt: skip
    write_delta(tmp_path / "base", moved(model, ["model.embed_tokens.weight"], 0.1), tmp_path / "delta")
    assert sorted(forms(tmp_path / "delta")) == ["lm_head.weight", "model.embed_tokens.weight"]


def test_what_did_not_change_is_not_kept(tmp_path):
    model = saved("llama", tmp_path / "base", layers=2)
    changed = moved(model, [DOWN], 0.1) | moved(model, [UP], 0.0)
    write_delta(tmp_path / "base", changed, tmp_path / "delta")
    assert list(forms(tmp_path / "delta")) == [DOWN]


def test_a_delta_without_changes_gives_the_base(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.0), tmp_path / "delta")
    apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    assert weights_hash(tmp_path / "out") == weights_hash(tmp_path / "base")


def test_a_tenth_of_the_entries_takes_a_fraction_of_the_bytes(tmp_path):
    model = saved("llama", tmp_path / "base", layers=2)
    names = [name for name, p in model.named_parameters() if p.dim() == 2]
    write_delta(tmp_path / "base", moved(model, names, 0.1), tmp_path / "delta")
    whole = sum(model.get_parameter(name).nbytes for name in names)
    data = load_file(tmp_path / "delta/delta.safetensors").values()
    assert sum(tensor.nbytes for tensor in data) < 0.16 * whole  # 0.1 of the values and one bit in 32


def test_a_float32_master_is_kept_in_the_dtype_of_the_base(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1, dtype=torch.bfloat16)
    value = torch.randn(model.get_parameter(DOWN).shape, generator=torch.Generator().manual_seed(1))
    write_delta(tmp_path / "base", {DOWN: value}, tmp_path / "delta")
    assert torch.equal(load_file(tmp_path / "delta/delta.safetensors")[DOWN], value.to(torch.bfloat16))


def test_a_model_trained_in_a_narrower_dtype_changes_only_what_moved(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    value = model.get_parameter(DOWN).detach().to(torch.bfloat16)
    value[0, :3] += 1
    write_delta(tmp_path / "base", {DOWN: value}, tmp_path / "delta")
    assert record(tmp_path / "delta")["tensors"][DOWN]["changed"] == 3


# ---- what it belongs to ----


def test_a_delta_says_what_it_belongs_to(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    said = record(tmp_path / "delta")
    assert (said["schema"], said["base"], said["revision"]) == (2, str(tmp_path / "base"), None)
    assert said["base_weights"] == weights_hash(tmp_path / "base")
    assert said["tensors"][DOWN].keys() == {"form", "dtype", "shape", "changed", "before"}


def test_a_delta_applies_to_its_base_wherever_it_lies(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    assert apply_delta(tmp_path / "delta", tmp_path / "elsewhere", tmp_path / "out").is_dir()


def test_a_delta_refuses_another_base(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    saved("llama", tmp_path / "other", layers=1, seed=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    with pytest.raises(ModelError, match=r"was made for .*base with weights \w{12}, but .*other has weights \w{12}"):
        apply_delta(tmp_path / "delta", tmp_path / "other", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_delta_does_not_write_over_its_base(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    with pytest.raises(ModelError, match="lies in, around or on the base"):
        apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "base")


def test_a_tensor_that_does_not_fit_makes_no_delta(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    with pytest.raises(ModelError, match="holds no such parameter"):
        write_delta(tmp_path / "base", {"elsewhere": torch.ones(1)}, tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


# ---- the form from before, and damage ----


def test_a_delta_of_whole_parameters_from_before_is_read(tmp_path):
    model = saved("mixtral", tmp_path / "base", layers=1)
    name = "model.layers.0.mlp.experts.down_proj"
    changed = moved(model, [name], 0.5)
    (tmp_path / "delta").mkdir()
    save_file(changed, tmp_path / "delta/delta.safetensors", {"format": "pt"})
    said = {"schema": 1, "base": "base", "revision": None, "base_weights": weights_hash(tmp_path / "base"), "names": [name]}
    (tmp_path / "delta/delta.json").write_text(json.dumps(said))
    apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    write_changed(tmp_path / "base", changed, tmp_path / "copy")
    assert weights_hash(tmp_path / "out") == weights_hash(tmp_path / "copy")
    (tmp_path / "delta/delta.json").write_text(json.dumps({**said, "names": ["other"]}))
    with pytest.raises(ModelError, match=r"names 1 tensors, delta.safetensors holds 1 others"):
        read_delta(tmp_path / "delta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "schema = 3, this version reads 1 and 2. Use a later version"),
        ({"base_weights": ...}, "lacks base_weights"),
        ({"delta_hash": "0" * 64}, "is damaged: its hash is not the one in delta.json"),
        ({"tensors": {}}, "do not hold the same tensors"),
        ({"tensors": {DOWN: {"form": "bits"}}}, "tensors.model.layers.0.mlp.down_proj.weight is not understood"),
        (
            {"tensors": {DOWN: {"form": "odd", "dtype": "float32", "shape": [1], "changed": 1, "before": ""}}},
            "is not understood",
        ),
        (
            {"tensors": {DOWN: {"form": "bits", "dtype": "load", "shape": [1], "changed": 1, "before": ""}}},
            "is not understood",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, change, message):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    said = {**record(tmp_path / "delta"), **change}
    (tmp_path / "delta/delta.json").write_text(json.dumps({name: value for name, value in said.items() if value is not ...}))
    with pytest.raises(ModelError, match=message):
        apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_is_found(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    path = tmp_path / "delta/delta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        read_delta(tmp_path / "delta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"changed": 1}, "is damaged: delta.safetensors holds torch.float32 of shape"),
        ({"shape": [48, 32]}, r"stores no .* of shape \[48, 32\]"),
        ({"dtype": "bfloat16"}, "delta.json says torch.bfloat16"),
    ],
)
def test_a_record_that_does_not_fit_its_tensors_or_its_base_is_refused(tmp_path, change, message):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    said = record(tmp_path / "delta")
    said["tensors"][DOWN] |= change
    (tmp_path / "delta/delta.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=message):
        apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_were_moved_are_refused(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.005), tmp_path / "delta")
    path = tmp_path / "delta/delta.safetensors"
    tensors = load_file(path)
    tensors[f"places/{DOWN}"] = tensors[f"places/{DOWN}"].flip(0)
    save_file(tensors, path, {"format": "pt"})
    said = record(tmp_path / "delta") | {"delta_hash": hash_file(path)}
    (tmp_path / "delta/delta.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="not in rising order"):
        apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")


def test_a_folder_that_is_no_delta_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is no delta"):
        read_delta(tmp_path)
