import json
import re

import pytest
import torch

from temper.errors import ModelError
from temper.models import checkpoint as checkpoints
from temper.models import cut as cuts
from temper.models.cut import load_cut
from temper.models.lora import SelectLora
from temper.models.selection import SelectLayers, decoder_layers
from temper.models.trunk import FrozenBranch, run_trunk
from temper.recipe import ModelSection, WorldSection
from tests.models.architectures import KINDS, TIED, attentions, configuration, saved

WORLD = WorldSection()
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 0, 0, 0], [0, 0, 16, 17, 18, 19, 20]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
LAYER = 1


def _section(attention="sdpa", **settings):
    return ModelSection(path="unused", attention=attention, **settings)


def _load(kind, folder, layer=LAYER, **settings):
    settings.setdefault("attention", attentions(kind)[-1])
    return load_cut(str(folder), layer, section=_section(**settings), world=WORLD)


def _hooked(model, layer):
    seen = []
    handle = decoder_layers(model)[layer].register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("kind", "attention"), [(kind, attention) for kind in KINDS for attention in attentions(kind)])
def test_the_base_of_a_cut_model_gives_the_output_of_the_block_in_the_full_pass(tmp_path, kind, attention):
    full = saved(kind, tmp_path)
    full.set_attn_implementation(attention)
    model = _load(kind, tmp_path, attention=attention)
    with torch.no_grad():
        hidden = model.base_model(input_ids=IDS, attention_mask=MASK, use_cache=False).last_hidden_state
    assert torch.equal(hidden, _hooked(full, LAYER))


@pytest.mark.parametrize("kind", KINDS)
def test_the_trunk_of_a_cut_model_is_that_of_the_full_model(tmp_path, kind):
    full = saved(kind, tmp_path)
    hidden, _ = run_trunk(_load(kind, tmp_path), LAYER, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, LAYER, IDS, MASK)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tie", [True, False])
def test_names_and_values_are_those_of_the_full_model(tmp_path, kind, tie):
    full = dict(saved(kind, tmp_path, tie=tie).named_parameters())
    model = _load(kind, tmp_path)
    assert all(torch.equal(parameter, full[name]) for name, parameter in model.named_parameters())
    blocks = {name for name in full if (match := re.search(r"\.(?:layers|h)\.(\d+)\.", name)) and int(match[1]) <= LAYER}
    assert blocks == {name for name, _ in model.named_parameters() if ".layers." in name or ".h." in name}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_holds_blocks_up_to_the_layer_and_no_head_or_final_norm(tmp_path, kind):
    saved(kind, tmp_path)
    model = _load(kind, tmp_path)
    outside = {name for name, _ in model.named_parameters() if not any(f".{part}." in name for part in ("layers", "h"))}
    assert len(decoder_layers(model)) == LAYER + 1
    assert all("embed" in name or name.endswith(("wte.weight", "wpe.weight")) for name in outside)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_of_upper_blocks_head_and_final_norm_need_not_be_there(tmp_path, kind):
    full = saved(kind, tmp_path, tie=False, shard="1KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    kept = (".0.", ".1.", "embed_tokens", "embed_in", "wte", "wpe")
    above = ("layers.2.", "layers.3.", ".h.2.", ".h.3.")
    needed = {
        file for name, file in index.items() if any(part in name for part in kept) and not any(part in name for part in above)
    }
    for file in set(index.values()) - needed:
        (tmp_path / file).unlink()
    assert len(set(index.values()) - needed) > 5
    hidden, _ = run_trunk(_load(kind, tmp_path), LAYER, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, LAYER, IDS, MASK)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_tensors_are_read_as_the_cut_model_is_stored_in(tmp_path, kind, monkeypatch):
    saved(kind, tmp_path, shard="1GB")
    read = []

    class Counting:
        def __init__(self, path, **settings):
            self._opened = real(path, **settings)

        def __enter__(self):
            self._inner = self._opened.__enter__()
            return self

        def __exit__(self, *error):
            return self._opened.__exit__(*error)

        def get_slice(self, name):
            read.append(name)
            return self._inner.get_slice(name)

    real = cuts.safe_open
    monkeypatch.setattr(cuts, "safe_open", Counting)
    model = _load(kind, tmp_path)
    stored = len(model.state_dict())
    if kind == "mixtral":
        stored += (LAYER + 1) * (4 * 3 - 2)  # three matrices for each of four experts, two tensors in memory
    assert len(read) == len(set(read)) == stored
    assert not any(
        part in name for name in read for part in ("layers.2", "layers.3", "h.2.", "h.3.", "lm_head", "embed_out", "ln_f")
    )


def test_only_the_shards_that_are_needed_are_fetched_from_the_hub(tmp_path, monkeypatch):
    full = saved("llama", tmp_path, shard="1KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    asked = []

    def fetch(name, file, **settings):
        asked.append((name, file, settings["revision"]))
        return str(tmp_path / file) if (tmp_path / file).is_file() else None

    monkeypatch.setattr("transformers.utils.cached_file", fetch)
    monkeypatch.setattr(cuts, "load_config", lambda *_, **__: full.config)
    monkeypatch.setattr(cuts, "resolve_path", lambda path, world: path)
    model = load_cut("owner/name", LAYER, section=_section(revision="v2"), world=WORLD)
    files = {file for _, file, _ in asked if file.startswith("model-")}
    assert {(name, revision) for name, _, revision in asked} == {("owner/name", "v2")}
    assert files == {index[name] for name, _ in model.named_parameters()}
    assert index["lm_head.weight"] not in files


def test_a_gpt2_checkpoint_without_the_prefix_of_the_base_is_read(tmp_path):
    from safetensors.torch import load_file, save_file

    full = saved("gpt2", tmp_path, shard="1GB")
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {f"h.{block}.attn.bias": torch.ones(1, 1, 64, 64) for block in range(4)}  # the masks old files carry
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    model = _load("gpt2", tmp_path)
    assert torch.equal(run_trunk(model, LAYER, IDS, MASK)[0], run_trunk(full, LAYER, IDS, MASK)[0])


def test_a_mixtral_checkpoint_of_the_base_alone_is_read(tmp_path):
    full = saved("mixtral", tmp_path)
    full.model.save_pretrained(tmp_path / "base")
    hidden, _ = run_trunk(_load("mixtral", tmp_path / "base"), LAYER, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, LAYER, IDS, MASK)[0])


def test_a_shared_matrix_stored_under_the_name_of_the_head_is_read(tmp_path):
    from safetensors.torch import load_file, save_file

    full = saved("llama", tmp_path, tie=True, shard="1GB")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(_load("llama", tmp_path).model.embed_tokens.weight, full.model.embed_tokens.weight)


def test_a_cut_model_remembers_how_many_blocks_the_full_one_has(tmp_path):
    saved("llama", tmp_path)
    model = _load("llama", tmp_path)
    assert (model.config.temper_full_layers, model.config.num_hidden_layers) == (4, LAYER + 1)


def test_lists_with_an_entry_a_block_are_cut(tmp_path):
    saved("gemma3_text", tmp_path)
    kept = _load("gemma3_text", tmp_path, layer=2).config.layer_types
    assert kept == ["sliding_attention", "full_attention", "sliding_attention"]


def test_a_cut_model_is_of_the_class_of_the_full_one(tmp_path):
    full = saved("llama", tmp_path)
    model = _load("llama", tmp_path)
    assert type(model) is type(full) and not model.training


def test_a_negative_layer_counts_from_the_end_of_the_full_model(tmp_path):
    saved("llama", tmp_path)
    assert len(decoder_layers(_load("llama", tmp_path, layer=-2))) == 3


def test_the_last_block_can_be_kept_without_norm_and_head(tmp_path):
    full = saved("llama", tmp_path)
    hidden, _ = run_trunk(_load("llama", tmp_path, layer=3), 3, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, 3, IDS, MASK)[0])


def test_a_layer_out_of_range_is_named_with_the_range(tmp_path):
    saved("llama", tmp_path)
    with pytest.raises(ModelError, match=r"layer = 4, but .* has 4 layers \(0 to 3\)"):
        _load("llama", tmp_path, layer=4)


def test_a_cut_model_refuses_to_give_logits(tmp_path):
    saved("llama", tmp_path)
    with pytest.raises(ModelError, match="was cut after block 1 of 4 and has no head"):
        _load("llama", tmp_path)(input_ids=IDS)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.bfloat16)]
)
def test_the_dtype_is_the_one_of_the_recipe_or_of_the_checkpoint(tmp_path, dtype, expected):
    saved("llama", tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in _load("llama", tmp_path, dtype=dtype).parameters()} == {expected}


def test_the_attention_is_the_one_of_the_recipe(tmp_path):
    saved("llama", tmp_path)
    assert _load("llama", tmp_path, attention="eager").config._attn_implementation == "eager"


def test_without_a_section_a_cut_model_is_float32_with_sdpa(tmp_path):
    saved("llama", tmp_path, dtype=torch.bfloat16)
    model = load_cut(str(tmp_path), LAYER, world=WORLD)
    assert model.dtype is torch.float32 and model.config._attn_implementation == "sdpa"


def test_loading_draws_nothing_from_the_global_generator(tmp_path):
    saved("llama", tmp_path)
    before = torch.get_rng_state()
    _load("llama", tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_a_missing_shard_is_named(tmp_path):
    saved("llama", tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    file = index["model.layers.0.mlp.down_proj.weight"]
    (tmp_path / file).unlink()
    with pytest.raises(ModelError, match=f"the file {file}.* is missing"):
        _load("llama", tmp_path)


def test_a_missing_tensor_is_named_and_never_made_up(tmp_path):
    saved("llama", tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.layers.0.mlp.down_proj.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks 1 tensors .* model.layers.0.mlp.down_proj.weight"):
        _load("llama", tmp_path)


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    saved("llama", tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match="leaves the folder"):
        _load("llama", tmp_path)


def test_an_index_of_pickles_is_refused(tmp_path):
    saved("llama", tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = "weights.bin"
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names weights.bin, which is no safetensors file"):
        _load("llama", tmp_path)


def test_a_damaged_index_is_named(tmp_path):
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match="is no index of a sharded checkpoint"):
        _load("llama", tmp_path)


def test_quantised_weights_are_refused(tmp_path):
    saved("llama", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ModelError, match="holds quantised weights"):
        _load("llama", tmp_path)


def test_a_model_that_works_on_the_last_output_is_refused(tmp_path, monkeypatch):
    from transformers import LlamaModel

    saved("llama", tmp_path)
    forward = LlamaModel.forward

    def scaled(self, *args, **settings):
        output = forward(self, *args, **settings)
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    monkeypatch.setattr(LlamaModel, "forward", scaled)
    with pytest.raises(ModelError, match="cannot be cut, it works on the output of its last block"):
        _load("llama", tmp_path)


def _gradients(model, entry_of=None):
    hidden, _ = run_trunk(model, LAYER, IDS, MASK, entry_of=entry_of)
    hidden.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "mixtral"])
def test_checkpointed_gradients_of_a_cut_model_are_those_of_the_full_model(tmp_path, kind):
    full = saved(kind, tmp_path)
    model = _load(kind, tmp_path)
    # the second name is that of transformers 5.19
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model.train()
    passes = []
    next(decoder_layers(model)[0].children()).register_forward_pre_hook(lambda *_: passes.append(0))
    expected, found = _gradients(full), _gradients(model, entry_of=0)
    assert len(passes) == 2  # once more in the backward pass
    assert all(torch.allclose(grad, expected[name], rtol=1e-5, atol=1e-6) for name, grad in found.items())
    assert not any(grad is None for grad in found.values())


def test_the_pass_through_a_cut_model_ends_by_itself(tmp_path):
    saved("llama", tmp_path)
    model = _load("llama", tmp_path)
    ended = []
    model.base_model.register_forward_hook(lambda *_: ended.append(True))
    run_trunk(model, LAYER, IDS, MASK)
    assert ended == [True]


def test_a_block_below_the_cut_is_read_too(tmp_path):
    full = saved("llama", tmp_path)
    hidden, _ = run_trunk(_load("llama", tmp_path, layer=2), 0, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, 0, IDS, MASK)[0])


def test_a_frozen_branch_can_be_made_of_a_cut_model(tmp_path):
    saved("llama", tmp_path)
    model = SelectLayers(layers=[1], module="mlp.down_proj").apply(_load("llama", tmp_path))
    assert FrozenBranch(model, LAYER).first == 1


@pytest.mark.parametrize("tie", [True, False])
def test_an_adapter_fits_on_a_cut_model(tmp_path, tie):
    full = saved("llama", tmp_path, tie=tie)
    model = SelectLora(rank=2, target=["down_proj"]).apply(_load("llama", tmp_path))
    hidden, _ = run_trunk(model, LAYER, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, LAYER, IDS, MASK)[0])


def test_tying_again_does_nothing_to_a_cut_model(tmp_path):
    saved("llama", tmp_path, tie=True)
    model = _load("llama", tmp_path)
    names = list(model.state_dict())
    model.tie_weights()
    assert list(model.state_dict()) == names


def test_a_world_model_can_be_cut(tmp_path, monkeypatch):
    full = saved("llama", tmp_path)
    monkeypatch.setattr("temper.world.locate", lambda path, spec: tmp_path)
    hidden, _ = run_trunk(load_cut("world:original", LAYER, world=WORLD), LAYER, IDS, MASK)
    assert torch.equal(hidden, run_trunk(full, LAYER, IDS, MASK)[0])


def test_the_tied_architectures_of_the_tests_are_tied():
    assert all(configuration(kind).tie_word_embeddings for kind in TIED)


def test_a_logit_offset_model_is_answered_with_its_members(tmp_path):
    (tmp_path / "offset.json").write_text("{}")
    with pytest.raises(ModelError, match=r"logit-offset model of two checkpoints.*original, reinforced"):
        checkpoints.open_checkpoint(str(tmp_path))


def test_a_folder_without_weights_says_which_files_it_looked_for(tmp_path):
    with pytest.raises(ModelError, match="holds neither model.safetensors nor model.safetensors.index.json"):
        checkpoints.open_checkpoint(str(tmp_path))
