import pytest
import torch
from safetensors.torch import save_file

from temper.errors import ModelError
from temper.models.cut import load_cut
from temper.models.delta import apply_delta, write_delta
from temper.models.load import weights_hash
from temper.models.loadeddelta import load_delta
from temper.recipe import ModelSection, WorldSection
from tests.models.architectures import attentions, saved
from tests.models.test_delta import DOWN, UP, moved, some_names


def opened(folder, kind="llama", dtype="auto"):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attentions(kind)[-1])


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.fixture
def made(tmp_path):
    model = saved("llama", tmp_path / "base", layers=2, dtype=torch.bfloat16)
    write_delta(tmp_path / "base", moved(model, [DOWN, UP], 0.1), tmp_path / "delta")
    return tmp_path


@pytest.mark.parametrize(("kind", "tie"), [("llama", True), ("gpt2", True), ("gpt2", False), ("mixtral", False), ("phi3", False)])
@pytest.mark.parametrize("share", [0.05, 1.1])
def test_a_delta_on_the_loaded_base_is_the_applied_checkpoint_and_comes_off_again(tmp_path, kind, tie, share):
    model = saved(kind, tmp_path / "base", layers=2, tie=tie, shard="1GB")
    write_delta(tmp_path / "base", moved(model, some_names(model), share), tmp_path / "delta")
    apply_delta(tmp_path / "delta", tmp_path / "base", tmp_path / "out")
    base = opened(tmp_path / "base", kind)
    before = copied(base)
    loaded = load_delta(base, tmp_path / "delta")
    assert same(base, opened(tmp_path / "out", kind).state_dict()) and not same(base, before)
    loaded.remove()
    assert same(base, before)


def test_the_model_from_before_is_there_for_a_moment(made):
    model = opened(made / "base")
    before = copied(model)
    loaded = load_delta(model, made / "delta")
    after = copied(model)
    with pytest.raises(RuntimeError, match="stop"), loaded.active():
        assert same(model, before) and not torch.is_grad_enabled()
        raise RuntimeError("stop")
    assert same(model, after)
    loaded.remove()
    with loaded.active():
        assert same(model, before)
    assert same(model, before)
    loaded.restore()
    loaded.restore()
    assert same(model, after)


def test_it_keeps_no_more_than_the_entries_that_changed_and_their_places(made):
    model = opened(made / "base")
    loaded = load_delta(model, made / "delta")
    changed = sum(int((value != opened(made / "base").state_dict()[name]).sum()) for name, value in model.state_dict().items())
    assert 0 < loaded.stored_bytes == changed * (2 + 8)  # bfloat16 and int64


def test_a_base_in_a_wider_dtype_takes_it_too(made):
    apply_delta(made / "delta", made / "base", made / "out")
    model = opened(made / "base", dtype=torch.float32)
    load_delta(model, made / "delta")
    assert same(model, opened(made / "out", dtype=torch.float32).state_dict())


def test_a_narrower_dtype_is_refused_since_it_cannot_be_checked(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    write_delta(tmp_path / "base", moved(model, [DOWN], 0.1), tmp_path / "delta")
    with pytest.raises(
        ModelError, match=r"stored as torch.float32, the model was loaded in torch.bfloat16.*Load it with dtype 'auto'"
    ):
        load_delta(opened(tmp_path / "base", dtype=torch.bfloat16), tmp_path / "delta")


def test_a_cut_model_takes_the_tensors_it_has(made):
    section = ModelSection(path="unused", dtype="bfloat16")
    cut = load_cut(str(made / "base"), 0, section=section, world=WorldSection())
    load_delta(cut, made / "delta")
    apply_delta(made / "delta", made / "base", made / "out")
    assert torch.equal(cut.get_parameter(DOWN), opened(made / "out").get_parameter(DOWN))


def test_a_delta_of_an_earlier_version_which_cannot_be_compared_in_memory_is_refused(made):
    import json

    model = opened(made / "base")
    save_file(moved(model, [DOWN], 0.5), made / "delta/delta.safetensors", {"format": "pt"})
    said = {"schema": 1, "base": "base", "revision": None, "base_weights": weights_hash(made / "base"), "names": [DOWN]}
    (made / "delta/delta.json").write_text(json.dumps(said))
    before = copied(model)
    with pytest.raises(ModelError, match=r"schema 1 has no hash .*temper apply"):
        load_delta(model, made / "delta")
    assert same(model, before)


@pytest.mark.parametrize("change", ["other weights", "already changed", "other shape", "other architecture"])
def test_what_is_not_the_base_is_refused_and_left_as_it_was(made, change):
    if change == "already changed":
        model = opened(made / "base")
        load_delta(model, made / "delta")
    elif change == "other weights":
        model = opened(made / "base")
        with torch.no_grad():
            model.get_parameter(UP)[0, 0] += 1  # the second of two tensors: the first must not be touched either
    else:
        kind = "llama" if change == "other shape" else "gpt2"
        model = saved(kind, made / change, layers=1, dtype=torch.bfloat16)
    before = copied(model)
    with pytest.raises(ModelError, match=r"is not the model's|does not have|has shape"):
        load_delta(model, made / "delta")
    assert same(model, before)


def test_a_model_with_an_adapter_is_refused(made):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(opened(made / "base"), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="wears an adapter"):
        load_delta(model, made / "delta")
