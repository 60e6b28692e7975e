import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from temper.errors import ModelError
from temper.models.aliases import module_pattern
from temper.models.cut import load_cut
from temper.models.load import weights_hash
from temper.models.writeback import write_changed
from temper.recipe import ModelSection, WorldSection
from tests.models.architectures import KINDS, attentions, saved

TIES = [(kind, tie) for kind in KINDS for tie in (True, False)]


def _opened(folder, kind="llama"):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", attn_implementation=attentions(kind)[-1], use_safetensors=True, trust_remote_code=False
    )


def _moved(model, names):
    generator = torch.Generator().manual_seed(1)
    parameters = dict(model.named_parameters())
    return {name: torch.randn(parameters[name].shape, generator=generator) for name in names}


def _replaced(model, changed):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in changed:
                parameter.copy_(changed[name])
    return model.state_dict()


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _down(model):
    pattern = module_pattern("down_proj", model)
    return [name for name, _ in model.named_parameters() if re.search(pattern, name)][:2]


@pytest.mark.parametrize(("kind", "tie"), TIES)
def test_the_copy_is_the_full_model_with_the_tensors_replaced(tmp_path, kind, tie):
    model = saved(kind, tmp_path / "base", tie=tie)
    changed = _moved(model, _down(model))
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert _same(_opened(tmp_path / "out", kind).state_dict(), _replaced(model, changed))


@pytest.mark.parametrize(("kind", "tie"), TIES)
def test_every_parameter_can_be_written_back(tmp_path, kind, tie):
    model = saved(kind, tmp_path / "base", tie=tie)
    changed = _moved(model, [name for name, _ in model.named_parameters()])
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert _same(_opened(tmp_path / "out", kind).state_dict(), _replaced(model, changed))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_on_a_cut_model_fits_the_full_checkpoint(tmp_path, kind):
    model = saved(kind, tmp_path / "base")
    section = ModelSection(path="unused", attention=attentions(kind)[-1])
    cut = load_cut(str(tmp_path / "base"), 1, section=section, world=WorldSection())
    changed = _moved(cut, [name for name, _ in cut.named_parameters()])
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert _same(_opened(tmp_path / "out", kind).state_dict(), _replaced(model, changed))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_checkpoint_in_one_file_is_written_back_into(tmp_path, kind):
    model = saved(kind, tmp_path / "base", shard="1GB")
    changed = _moved(model, _down(model))
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert sorted(item.name for item in (tmp_path / "out").glob("*.safetensors*")) == ["model.safetensors"]
    assert _same(_opened(tmp_path / "out", kind).state_dict(), _replaced(model, changed))


def test_shards_without_changes_are_the_same_bytes_in_files_of_their_own(tmp_path):
    model = saved("llama", tmp_path / "base")
    write_changed(tmp_path / "base", _moved(model, _down(model)[:1]), tmp_path / "out")
    differing = []
    for file in (tmp_path / "base").glob("*.safetensors"):
        copy = tmp_path / "out" / file.name
        assert not file.samefile(copy)
        if file.read_bytes() != copy.read_bytes():
            differing.append(file.name)
    index = json.loads((tmp_path / "base/model.safetensors.index.json").read_text())["weight_map"]
    assert differing == [index["model.layers.0.mlp.down_proj.weight"]]


def test_a_rewritten_shard_differs_in_the_changed_tensor_alone(tmp_path):
    model = saved("llama", tmp_path / "base", shard="1GB")
    write_changed(tmp_path / "base", _moved(model, ["model.layers.0.mlp.down_proj.weight"]), tmp_path / "out")
    before, after = load_file(tmp_path / "base/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["model.layers.0.mlp.down_proj.weight"]
    assert (tmp_path / "base/model.safetensors").stat().st_size == (tmp_path / "out/model.safetensors").stat().st_size


def test_the_base_stays_as_it_was(tmp_path):
    model = saved("llama", tmp_path / "base")
    before = weights_hash(tmp_path / "base")
    write_changed(tmp_path / "base", _moved(model, _down(model)), tmp_path / "out")
    assert weights_hash(tmp_path / "base") == before


def test_a_float32_master_is_rounded_to_the_dtype_that_is_stored(tmp_path):
    model = saved("llama", tmp_path / "base", dtype=torch.bfloat16)
    changed = _moved(model, _down(model))
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    found = dict(_opened(tmp_path / "out").named_parameters())
    assert all(torch.equal(found[name], value.to(torch.bfloat16)) for name, value in changed.items())


def test_what_lies_beside_the_weights_is_copied_but_no_pickle_and_no_second_copy_of_the_weights(tmp_path):
    model = saved("llama", tmp_path / "base")
    beside = ["tokenizer.json", "merges.txt", "tokenizer.model", "chat_template.jinja"]
    left = ["pytorch_model.bin", "training_args.pt", "consolidated.safetensors", "code.py", "pytorch_model.bin.index.json"]
    for name in beside + left:
        (tmp_path / "base" / name).write_text("{}")
    write_changed(tmp_path / "base", _moved(model, _down(model)), tmp_path / "out")
    names = {item.name for item in (tmp_path / "out").iterdir()}
    assert {*beside, "config.json", "generation_config.json", "model.safetensors.index.json"} <= names
    assert not names & set(left)


def test_code_that_a_configuration_names_is_copied(tmp_path):
    model = saved("llama", tmp_path / "base")
    config = tmp_path / "base/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "code.Model"}}))
    (tmp_path / "base/code.py").write_text("")
    write_changed(tmp_path / "base", _moved(model, _down(model)), tmp_path / "out")
    assert (tmp_path / "out/code.py").is_file()


def test_a_gpt2_checkpoint_without_the_prefix_keeps_its_names(tmp_path):
    model = saved("gpt2", tmp_path / "base", shard="1GB")
    stored = load_file(tmp_path / "base/model.safetensors")
    save_file(
        {name.removeprefix("transformer."): value for name, value in stored.items()},
        tmp_path / "base/model.safetensors",
        {"format": "pt"},
    )
    changed = _moved(model, ["transformer.h.1.mlp.c_proj.weight", "transformer.wte.weight"])
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert set(load_file(tmp_path / "out/model.safetensors")) == {name.removeprefix("transformer.") for name in stored}
    assert _same(_opened(tmp_path / "out").state_dict(), _replaced(model, changed))


def test_a_mixtral_checkpoint_keeps_its_experts_apart(tmp_path):
    model = saved("mixtral", tmp_path / "base", shard="1GB")
    changed = _moved(model, ["model.layers.1.mlp.experts.down_proj", "model.layers.0.mlp.experts.gate_up_proj"])
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    down, both = changed.values()
    assert torch.equal(found["model.layers.1.block_sparse_moe.experts.3.w2.weight"], down[3])
    assert torch.equal(found["model.layers.0.block_sparse_moe.experts.2.w3.weight"], both[2, 48:])


def test_a_mixtral_checkpoint_without_the_prefix_keeps_its_names(tmp_path):
    model = saved("mixtral", tmp_path / "base", shard="1GB")
    stored = load_file(tmp_path / "base/model.safetensors")
    bare = {name.removeprefix("model."): value for name, value in stored.items()}
    save_file(bare, tmp_path / "base/model.safetensors", {"format": "pt"})
    changed = _moved(model, _down(model))
    write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert set(load_file(tmp_path / "out/model.safetensors")) == set(bare)
    assert _same(_opened(tmp_path / "out", "mixtral").state_dict(), _replaced(model, changed))


def test_a_mixtral_checkpoint_that_stores_its_experts_fused_is_written_back_into(tmp_path):
    model = saved("mixtral", tmp_path / "base")
    model.save_pretrained(tmp_path / "fused", save_original_format=False, max_shard_size="12KB")
    changed = _moved(model, _down(model))
    write_changed(tmp_path / "fused", changed, tmp_path / "out")
    assert _same(_opened(tmp_path / "out", "mixtral").state_dict(), _replaced(model, changed))


@pytest.mark.parametrize("given", ["lm_head.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize(
    "stored", [("lm_head.weight",), ("model.embed_tokens.weight",), ("lm_head.weight", "model.embed_tokens.weight")]
)
def test_a_shared_matrix_changes_under_every_name_it_is_stored_by(tmp_path, given, stored):
    saved("llama", tmp_path / "base", tie=True, shard="1GB")
    tensors = load_file(tmp_path / "base/model.safetensors")
    shared = tensors.pop("model.embed_tokens.weight")
    save_file({**tensors, **{name: shared.clone() for name in stored}}, tmp_path / "base/model.safetensors", {"format": "pt"})
    value = torch.randn(shared.shape, generator=torch.Generator().manual_seed(1))
    write_changed(tmp_path / "base", {given: value}, tmp_path / "out")
    found = _opened(tmp_path / "out")
    assert torch.equal(found.lm_head.weight, value) and torch.equal(found.model.embed_tokens.weight, value)


def test_matrices_that_only_the_configuration_shares_are_kept_apart(tmp_path):
    saved("llama", tmp_path / "base", tie=True, shard="1GB")
    tensors = load_file(tmp_path / "base/model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, tmp_path / "base/model.safetensors", {"format": "pt"})
    write_changed(tmp_path / "base", {"model.embed_tokens.weight": torch.zeros(48, 32)}, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["lm_head.weight"], tensors["lm_head.weight"])


def test_two_values_for_a_shared_matrix_are_refused(tmp_path):
    saved("llama", tmp_path / "base", tie=True)
    changed = {"lm_head.weight": torch.zeros(48, 32), "model.embed_tokens.weight": torch.ones(48, 32)}
    with pytest.raises(ModelError, match="which are one matrix"):
        write_changed(tmp_path / "base", changed, tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "changed is empty"),
        (
            {"model.layers.0.mlp.down_prj.weight": torch.ones(32, 48)},
            r"holds no such parameter \(did you mean 'model.layers.0.mlp.down_proj",
        ),
        ({"model.layers.0.mlp.down_proj.weight": torch.ones(48, 32)}, r"has shape \[48, 32\].* with shape \[32, 48\]"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_and_nothing_is_left(tmp_path, changed, message):
    saved("llama", tmp_path / "base")
    with pytest.raises(ModelError, match=message):
        write_changed(tmp_path / "base", changed, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["base"]


def test_a_stack_of_experts_of_another_number_is_refused(tmp_path):
    saved("mixtral", tmp_path / "base")
    with pytest.raises(ModelError, match="cannot be made from this tensor alone"):
        write_changed(tmp_path / "base", {"model.layers.0.mlp.experts.down_proj": torch.ones(3, 32, 48)}, tmp_path / "out")


@pytest.mark.parametrize("out", ["base", "base/inside", "."])
def test_the_copy_may_not_overlap_the_base(tmp_path, out):
    model = saved("llama", tmp_path / "base")
    with pytest.raises(ModelError, match="lies in, around or on the base"):
        write_changed(tmp_path / "base", _moved(model, _down(model)), tmp_path / out)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model = saved("llama", tmp_path / "base")

    def fail(tensor):
        raise OSError("the disk is gone")

    monkeypatch.setattr("temper.models.writeback.bytes_of", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_changed(tmp_path / "base", _moved(model, _down(model)), tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["base"]


def test_quantised_weights_are_refused(tmp_path):
    model = saved("llama", tmp_path / "base")
    config = tmp_path / "base/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ModelError, match="holds quantised weights"):
        write_changed(tmp_path / "base", _moved(model, _down(model)), tmp_path / "out")


def test_a_model_of_the_hub_is_written_back_into(tmp_path, monkeypatch):
    model = saved("llama", tmp_path / "hub")
    asked = []

    def snapshot(name, revision, allow_patterns):
        assert not any("safetensors" in pattern for pattern in allow_patterns)
        return str(tmp_path / "hub")

    def fetch(name, file, revision, **_):
        asked.append((name, revision))
        return str(tmp_path / "hub" / file) if (tmp_path / "hub" / file).is_file() else None

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("transformers.utils.cached_file", fetch)
    changed = _moved(model, _down(model))
    write_changed("owner/name", changed, tmp_path / "out", section=ModelSection(path="owner/name", revision="v2"))
    assert set(asked) == {("owner/name", "v2")}
    assert _same(_opened(tmp_path / "out").state_dict(), _replaced(model, changed))


def test_an_entry_that_is_as_it_was_loaded_in_a_narrower_dtype_keeps_its_stored_bits(tmp_path):
    model = saved("llama", tmp_path / "base")
    name = "model.layers.0.mlp.down_proj.weight"
    before = model.get_parameter(name).detach()
    trained = before.to(torch.bfloat16)
    trained[0] += 1
    write_changed(tmp_path / "base", {name: trained}, tmp_path / "out")
    found = dict(_opened(tmp_path / "out").named_parameters())[name]
    assert torch.equal(found[1:], before[1:]) and torch.equal(found[0], trained[0].float())
