"""LoRA adapters in weight space: acceptance check A8, what comes out as one adapter, negation of adapters, and the forms that are refused."""

import copy
import json

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from temper.errors import InputError, ModelError
from temper.merge import DareLinear, Linear, Negation, TaskArithmetic, Ties
from temper.merge.adapterfiles import factors_of, negate_adapter, write_adapter
from temper.merge.memory import held
from temper.merge.opening import open_deltas
from temper.models.writeback import write_changed
from tests.merge.folders import DOWN, NORM, changes, same, tensors, write
from tests.models.architectures import saved

TARGETS = ["q_proj", "down_proj"]


def adapter(base, folder, seed, config=None):
    """Save an adapter with random factors; returns its folder and the weights of the base with it, as peft merges them."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), copy.deepcopy(config or FORMS["plain"]))
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "ia3_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw) + ("ia3_" in name)
    model.save_pretrained(folder)
    return folder, merged_by_peft(base, folder)


def merged_by_peft(base, folder):
    """Return the weights of a base with an adapter."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return {name: value.detach().clone() for name, value in model.merge_and_unload().state_dict().items()}


def edit(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def base(tmp_path, make_llama):
    make_llama(vocab=32, width=16).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


FORMS = {
    "plain": LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS),
    "rslora": LoraConfig(r=4, lora_alpha=7, target_modules=TARGETS, use_rslora=True),
    "patterns": LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.down_proj": 1}),
    "embedding": LoraConfig(r=2, lora_alpha=3, target_modules=["embed_tokens", "lm_head"]),
    "saved whole": LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"], modules_to_save=["lm_head"]),
}  # fmt: skip


# ---- weight space ----


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.parametrize("form", FORMS)
def test_a_single_adapter_is_exact(tmp_path, base, form):
    folder, expected = adapter(base, tmp_path / "lora", 0, FORMS[form])
    result = tensors(write(tmp_path, base, [folder], Ties())[0])
    for name, value in result.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    assert not same(result, tensors(base))
    turned = tensors(write(tmp_path, base, [folder], TaskArithmetic(scale=1.0), "one", weights=[1.0])[0])
    negated = tensors(write(tmp_path, base, [folder], Negation(), "negated")[0])
    start = tensors(base)
    for name, value in negated.items():
        assert torch.allclose(value, 2 * start[name] - turned[name], atol=1e-6), name


def test_an_adapter_of_conv1d_layers_is_exact(tmp_path):
    saved("gpt2", tmp_path / "base", layers=1)
    config = LoraConfig(r=2, lora_alpha=5, target_modules=["c_attn"], fan_in_fan_out=True)
    folder, expected = adapter(tmp_path / "base", tmp_path / "lora", 0, config)
    out, _ = write(tmp_path, tmp_path / "base", [folder], Ties())
    found = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    write_adapter(open_deltas(tmp_path / "base", [folder, folder]), Linear(), tmp_path / "one", rank=2)
    again = merged_by_peft(tmp_path / "base", tmp_path / "one")
    assert all(torch.allclose(again[name], expected[name], atol=1e-5) for name in expected)


def test_adapters_merge_as_their_weight_changes_do(tmp_path, base):
    pairs = [adapter(base, tmp_path / f"lora{seed}", seed) for seed in range(3)]
    start = tensors(base)
    for method in (Ties(density=0.5), Ties(density=0.5, trim="model"), TaskArithmetic(scale=0.5)):
        result = tensors(write(tmp_path, base, [folder for folder, _ in pairs], method)[0])
        expected, _ = held(start, [{name: weights[name] for name in start} for _, weights in pairs]).merge(method)
        for name in start:
            assert torch.allclose(result[name], expected[name], atol=2e-6), name


def test_adapters_models_and_deltas_merge_together(tmp_path, base):
    folder, weights = adapter(base, tmp_path / "lora", 0)
    model = AutoModelForCausalLM.from_pretrained(base)
    whole = write_changed(base, changes(model, 1), tmp_path / "whole")
    result = tensors(write(tmp_path, base, [folder, whole], Linear())[0])
    assert torch.allclose(result[DOWN], (weights[DOWN] + tensors(whole)[DOWN]) / 2, atol=1e-6)
    assert torch.allclose(result[NORM], (tensors(base)[NORM] + tensors(whole)[NORM]) / 2, atol=1e-6)


def test_what_an_adapter_draws_depends_on_its_content_not_on_its_folder(tmp_path, base):
    folder, _ = adapter(base, tmp_path / "lora", 0)
    copy, _ = adapter(base, tmp_path / "copy", 0)
    other, _ = adapter(base, tmp_path / "other", 1)
    one = tensors(write(tmp_path, base, [folder, other], DareLinear(density=0.5))[0])
    assert same(one, tensors(write(tmp_path, base, [other, copy], DareLinear(density=0.5), "again")[0]))


# ---- one adapter comes out ----


@pytest.mark.parametrize("rank", [2, 40])
def test_one_adapter_misses_the_merged_change_by_the_tail_of_its_singular_values(tmp_path, base, rank):
    folders = [adapter(base, tmp_path / f"lora{seed}", seed)[0] for seed in range(3)]
    deltas = open_deltas(base, folders)
    record = write_adapter(deltas, Ties(density=0.5), tmp_path / "one", rank=rank)
    full, start, found = deltas.merge(Ties(density=0.5))[0], tensors(base), merged_by_peft(base, tmp_path / "one")
    for name in (DOWN, "model.layers.1.self_attn.q_proj.weight"):
        change = full[name] - start[name]
        values = torch.linalg.svdvals(change)
        tail = values[rank:].norm()
        assert float((found[name] - full[name]).norm()) == pytest.approx(float(tail), abs=2e-5)
        energy = record["adapter"]["energy_kept"][name.removesuffix(".weight")]
        assert energy == pytest.approx(1 - float(tail**2 / values.norm() ** 2), abs=1e-5)
    assert json.loads((tmp_path / "one" / "merge.json").read_text()) == record and record["adapter"]["rank"] == rank


def test_factors_of_a_matrix_of_low_rank_are_exact_and_zero_beyond_it():
    change = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 4.0))
    b, a, energy = factors_of(change, 5)
    assert b.shape == (4, 5) and a.shape == (5, 3) and energy == pytest.approx(1.0)
    assert torch.allclose(b @ a, change, atol=1e-5) and not bool(b[:, 3:].any())
    assert factors_of(torch.zeros(2, 2), 1)[2] == 1.0


def test_what_no_adapter_can_hold_is_refused(tmp_path, base):
    model = AutoModelForCausalLM.from_pretrained(base)
    paths = [write_changed(base, changes(model, seed), tmp_path / f"whole{seed}") for seed in range(2)]
    with pytest.raises(ModelError, match=r"model.norm.weight: changed, but is not the weight of a linear layer"):
        write_adapter(open_deltas(base, paths), Ties(), tmp_path / "one", rank=2)
    with pytest.raises(InputError, match="adapter rank = 0"):
        write_adapter(open_deltas(base, paths), Ties(), tmp_path / "one", rank=0)
    assert not (tmp_path / "one").exists()


# ---- negation of an adapter ----


def test_a_lora_is_negated_by_one_factor(tmp_path, base):
    folder, weights = adapter(base, tmp_path / "lora", 0)
    negate_adapter(folder, tmp_path / "negated", 0.7)
    found, start = merged_by_peft(base, tmp_path / "negated"), tensors(base)
    assert all(torch.allclose(found[name], start[name] - 0.7 * (weights[name] - start[name]), atol=1e-6) for name in start)
    before, after = (load_file(place / "adapter_model.safetensors") for place in (folder, tmp_path / "negated"))
    assert all(torch.equal(before[name], after[name]) is ("lora_B" in name) for name in before)


def test_an_ia3_is_negated_about_one(tmp_path, base):
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    folder, _ = adapter(base, tmp_path / "ia3", 0, config)
    negate_adapter(folder, tmp_path / "negated", 0.5)
    before, after = (load_file(place / "adapter_model.safetensors") for place in (folder, tmp_path / "negated"))
    assert all(torch.allclose(after[name], 1.5 - 0.5 * before[name]) for name in before) and before
    assert merged_by_peft(base, tmp_path / "negated")
    with pytest.raises(ModelError, match="IA3; LORA can be merged"):
        open_deltas(base, [folder])


def test_negation_of_what_is_no_factor_is_refused(tmp_path, base):
    folder, _ = adapter(base, tmp_path / "lora", 0, FORMS["saved whole"])
    with pytest.raises(ModelError, match="cannot be negated on its own"):
        negate_adapter(folder, tmp_path / "negated", 1.0)
    plain, _ = adapter(base, tmp_path / "plain", 0)
    edit(plain, use_dora=True)
    with pytest.raises(ModelError, match="DoRA"):
        negate_adapter(plain, tmp_path / "negated", 1.0)
    with pytest.raises(InputError, match="finite"):
        negate_adapter(plain, tmp_path / "negated", float("nan"))


# ---- refused ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"kasa_config": {"beta": 1e-4}}, "KaSA"),
        ({"bias": "all"}, "trained biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "base's own weights"),
        ({"peft_type": "LOHA"}, "LOHA; LORA can be merged"),
    ],
)
def test_forms_that_are_no_product_added_to_a_weight_are_refused(tmp_path, base, settings, words):
    folder, _ = adapter(base, tmp_path / "lora", 0)
    edit(folder, **settings)
    with pytest.raises(ModelError, match=words):
        open_deltas(base, [folder])


def test_factors_that_do_not_fit_are_refused(tmp_path, base, make_llama):
    make_llama(vocab=32, width=32).save_pretrained(tmp_path / "wide")
    folder, _ = adapter(tmp_path / "wide", tmp_path / "lora", 0)
    with pytest.raises(ModelError, match=r"do not make model.layers.0"):
        open_deltas(base, [folder])
    right, _ = adapter(base, tmp_path / "right", 0)
    stored = load_file(right / "adapter_model.safetensors")
    name = next(name for name in stored if "lora_B" in name)
    save_file({key: value for key, value in stored.items() if key != name}, right / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="but not the other factor"):
        open_deltas(base, [right])
    save_file(stored | {name: torch.full_like(stored[name], float("nan"))}, right / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="NaN or infinite"):
        open_deltas(base, [right]).merge(Negation())
