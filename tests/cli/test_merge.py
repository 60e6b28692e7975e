import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from temper.merge import Slerp, Ties
from temper.merge.memory import held
from tests.cli.test_verbs import call
from tests.merge.folders import DOWN, family, same, tensors


@pytest.fixture
def models(tmp_path, make_llama):
    """Return the options that name a base and two models, and what the models hold."""
    base, paths, values = family(tmp_path, make_llama(vocab=32, width=16), 2)
    return ["--base", base, *(word for path in paths for word in ("--model", path))], [tensors(base), *values]


def lora(base, folder, rank=2):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=rank, target_modules=["down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return folder


def test_merge_writes_the_model_and_prints_what_it_did(tmp_path, models):
    options, (base, *values) = models
    code, out, err = call("merge", *options, "--method", "ties", "--density", 0.3, "--scale", 1.5, "--out", tmp_path / "merged")
    expected, _ = held(base, values).merge(Ties(density=0.3, scale=1.5))
    assert code == 0 and same(tensors(tmp_path / "merged"), expected)
    assert "density 0.3" in out and "convention peft" in out and "mlp.down_proj" in out and "all that changed" in out
    assert "warning" not in err


def test_merge_as_json_prints_the_record(tmp_path, models):
    options, _ = models
    arguments = ["--convention", "mergekit", "--density", 0.5, "--weight", 1, "--weight", 2, "--shard-size", "5kB", "--json"]
    code, out, _ = call("merge", *options, *arguments, "--out", tmp_path / "merged")
    printed = json.loads(out)
    assert code == 0 and printed.pop("folder") == str(tmp_path / "merged")
    assert printed == json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert [model["weight"] for model in printed["models"]] == [1, 2] and (
        tmp_path / "merged" / "model.safetensors.index.json"
    ).is_file()


def test_every_setting_of_a_method_has_its_option(tmp_path, models):
    options, (base, *values) = models
    code, *_ = call("merge", *options, "--method", "slerp", "--position", 0.25, "--out", tmp_path / "arc")
    assert code == 0 and same(tensors(tmp_path / "arc"), held(base, values).merge(Slerp(position=0.25))[0])
    for number, words in enumerate(
        (
            ["norm_matched_mean", "--to", "task_vectors"],
            ["dare_ties", "--rescale", "l1", "--seed", 4],
            ["magnitude_prune", "--trim", "model"],
        )
    ):
        assert call("merge", *options, "--method", *words, "--out", tmp_path / str(number))[0] == 0


def test_adapters_can_come_out_as_one_adapter(tmp_path, models):
    options, _ = models
    folder = lora(options[1], tmp_path / "lora")
    arguments = ["--base", options[1], "--model", folder, "--model", folder, "--method", "linear", "--adapter-rank", 2]
    code, out, _ = call("merge", *arguments, "--out", tmp_path / "one")
    assert code == 0 and "rank 2 keeps" in out and (tmp_path / "one" / "adapter_config.json").is_file()


def test_an_adapter_alone_is_negated_without_a_base(tmp_path, models):
    folder = lora(models[0][1], tmp_path / "lora")
    code, out, _ = call(
        "merge", "--model", folder, "--method", "negation", "--scale", 0.5, "--out", tmp_path / "negated", "--json"
    )
    assert code == 0 and json.loads(out) == {"adapter": str(tmp_path / "negated")}


def test_a_warning_goes_to_standard_error(tmp_path, models):
    options, (_, first, _) = models
    code, _, err = call("merge", *options[:4], "--scale", 2, "--out", tmp_path / "merged", "--json")
    assert code == 0 and "one model alone is not merged" in err and torch.equal(tensors(tmp_path / "merged")[DOWN], first[DOWN])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "tie"], "did you mean 'ties'?"),
        (["--density", 0], "--density = 0.0: Input should be greater than 0"),
        (["--density", 1.2], "less than or equal to 1"),
        (["--method", "linear", "--density", 0.5], "--density: linear does not use it"),
        (["--convention", "mergkit"], "--convention = mergkit: Input should be 'peft', 'mergekit' or 'reference'"),
        (["--convention", "reference", "--density", 1], "no threshold"),
        (["--weight", 1], "1 were given for 2 models"),
        (["--shard-size", "many"], "shard size = 'many'"),
        (["--model", "nowhere/at/all"], "nowhere/at/all: no such folder"),
    ],
)
def test_wrong_input_is_code_two_and_writes_nothing(tmp_path, models, arguments, words):
    code, out, err = call("merge", *models[0], *arguments, "--out", tmp_path / "merged")
    assert (code, out) == (2, "") and words in err and "Traceback" not in err and not (tmp_path / "merged").exists()


def test_a_missing_base_is_named(tmp_path, models):
    code, _, err = call("merge", *models[0][2:], "--out", tmp_path / "merged")
    assert code == 2 and "--base is missing" in err
