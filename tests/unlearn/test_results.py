"""What a run leaves: a model, a delta, an adapter, two models that answer together, and what each of them opens with."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper import unlearn
from temper.errors import RecipeError
from temper.models.delta import apply_delta
from temper.models.load import load_model
from temper.models.offset import LogitOffsetModel
from temper.recipe import WorldSection
from temper.unlearn.prepare import prepare
from tests.unlearn.models import recipe_for, write_world

DOWN = {"pattern": r"layers\.[01]\.mlp\.down_proj"}
RMU = {"name": "rmu", "layer": 1}
OFFSET = {"name": "logit_offset"}


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def changed(before, after):
    return [name for name in before if not torch.equal(before[name], after[name])]


def stage(run):
    return json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]


def question(folder):
    return AutoTokenizer.from_pretrained(folder)("Where was Ada born?", return_tensors="pt")


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


# ---- delta ----


def test_an_adapter_on_the_embedding_is_in_the_delta_and_in_the_result_of_a_trunk(folder):
    lora = {"lora": {"rank": 2, "target": ["embed_tokens", "q_proj"]}}
    run = unlearn.run(recipe_for(folder, selection=lora, save="delta"), folder / "run")
    assert "model.embed_tokens.weight" in changed(weights(folder / "model"), weights(run / "model"))
    made = apply_delta(run / "delta", folder / "model", folder / "made")
    assert same(weights(made), weights(run / "model"))
    trunk = unlearn.run(recipe_for(folder, method=RMU, selection=lora), folder / "trunk")
    assert "model.embed_tokens.weight" in changed(weights(folder / "model"), weights(trunk / "model"))


def test_the_same_weights_under_another_configuration_have_references_of_their_own(folder):
    """A corrected rotary base makes another function of the same weights: at the start NPO must be (2/β) ln 2 again."""
    path = folder / "model" / "config.json"

    def first_nats_lost(name):
        run = unlearn.run(recipe_for(folder, method={"name": "npo", "beta": 0.1}, train={"steps": 1}), folder / name)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return next(line["forget.nats_lost"] for line in lines if line["event"] == "train")

    assert first_nats_lost("one") == pytest.approx(0.0, abs=1e-4)
    config = json.loads(path.read_text())
    config["rms_norm_eps"] = 0.5
    path.write_text(json.dumps(config))
    assert first_nats_lost("two") == pytest.approx(0.0, abs=1e-4)


def test_a_float16_checkpoint_is_refused_under_auto_too(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "model").half()
    model.save_pretrained(folder / "model")
    with pytest.raises(RecipeError, match="auto trains in float16"):
        unlearn.run(recipe_for(folder, model={"path": str(folder / "model"), "dtype": "auto"}), folder / "run")


@pytest.mark.parametrize(
    ("method", "selection"),
    [("npo", "all"), ("npo", DOWN), ("npo", {"lora": 2}), (RMU, DOWN), (RMU, {"lora": 2}), ("task_vector", DOWN)],
)
def test_a_delta_on_its_base_is_the_model_of_the_run(folder, method, selection):
    run = unlearn.run(recipe_for(folder, method=method, selection=selection, save="delta", train={"steps": 2}), folder / "run")
    out = apply_delta(run / "delta", folder / "model", folder / "applied")
    assert same(weights(out), weights(run / "model"))
    assert changed(weights(folder / "model"), weights(out))


def test_a_delta_holds_the_selected_tensors_alone(folder):
    run = unlearn.run(recipe_for(folder, selection=DOWN, save="delta", train={"steps": 2}), folder / "run")
    assert sorted(load_file(run / "delta" / "delta.safetensors")) == [
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)
    ]


def test_a_delta_of_two_models_that_answer_together_is_refused(folder):
    with pytest.raises(RecipeError, match="save: delta, but the logit offset leaves two models"):
        unlearn.run(recipe_for(folder, method=OFFSET, save="delta"), folder / "run")


# ---- adapters and cut models ----


def test_an_adapter_trained_on_a_cut_model_opens_on_the_full_one(folder):
    run = unlearn.run(recipe_for(folder, method=RMU, selection={"lora": 2}), folder / "run")
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    with_adapter = PeftModel.from_pretrained(base, run / "adapter").eval()
    merged, inputs = AutoModelForCausalLM.from_pretrained(run / "model"), question(run / "model")
    torch.testing.assert_close(logits(with_adapter, inputs), logits(merged, inputs), rtol=1e-5, atol=1e-5)
    # opened, it adds nothing to the blocks that training never saw
    assert not [name for name, _ in with_adapter.named_parameters() if "lora_" in name and "layers.2" in name]


def test_an_adapter_of_the_whole_model_opens_too(folder):
    run = unlearn.run(recipe_for(folder, selection={"lora": {"rank": 2, "dora": True}}), folder / "run")
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "model"), run / "adapter").eval()
    inputs = question(run / "model")
    merged = AutoModelForCausalLM.from_pretrained(run / "model")
    torch.testing.assert_close(logits(with_adapter, inputs), logits(merged, inputs), rtol=1e-5, atol=1e-5)


def test_a_model_that_was_trained_cut_is_saved_whole(folder):
    run = unlearn.run(recipe_for(folder, method=RMU, selection=DOWN), folder / "run")
    before, after = weights(folder / "model"), weights(run / "model")
    assert changed(before, after) == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.config.num_hidden_layers == 3 and not hasattr(model.config, "temper_full_layers")
    assert logits(model, question(run / "model")).isfinite().all()
    assert "temper" in (run / "model" / "README.md").read_text()
    assert not any(p.is_meta for p in model.parameters())


def test_the_record_of_a_cut_run_counts_the_parameters_of_the_whole_model(folder):
    run = unlearn.run(recipe_for(folder, method=RMU, selection=DOWN), folder / "run")
    facts = stage(run)
    assert facts["parameters"] == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder / "model").parameters())
    assert facts["trained_parameters"] == 2 * 32 * 64


def test_a_shared_embedding_stays_shared_in_what_is_saved(folder, make_llama):
    (folder / "tied").mkdir()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    make_llama(layers=2, vocab=len(tokenizer), tie=True).save_pretrained(folder / "tied")
    tokenizer.save_pretrained(folder / "tied")
    for save in ("full", "delta"):
        run = unlearn.run(recipe_for(folder, model={"path": str(folder / "tied")}, save=save), folder / save)
        model = AutoModelForCausalLM.from_pretrained(run / "model")
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert not torch.equal(
            model.get_input_embeddings().weight, weights(folder / "tied")["model.embed_tokens.weight"].to(torch.float32)
        )
    assert same(weights(apply_delta(run / "delta", folder / "tied", folder / "applied")), weights(run / "model"))


# ---- arithmetic ----


def reinforced(folder, **method):
    """Return the folder of a model that learned the forget rows, and the run that made it."""
    run = unlearn.run(recipe_for(folder, method={"name": "task_vector", **method}, train={"steps": 6}), folder / "task")
    return run / "reinforced", run


def test_a_task_vector_run_moves_the_weights_against_the_vector(folder):
    learned, run = reinforced(folder, strength=2.0)
    before, up, after = weights(folder / "model"), weights(learned), weights(run / "model")
    for name in before:
        torch.testing.assert_close(after[name], before[name] - 2.0 * (up[name] - before[name]), rtol=1e-6, atol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(run / "model")


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_no_step_is_the_model_before_and_a_step_back_the_reinforced_one(folder, strength):
    learned, _ = reinforced(folder)
    method = {"name": "task_vector", "strength": strength, "reinforced": str(learned)}
    run = unlearn.run(recipe_for(folder, method=method), folder / "run")
    wanted, found = weights(folder / "model" if strength == 0 else learned), weights(run / "model")
    if strength == 0:
        assert same(wanted, found)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-7)


def test_a_reinforced_model_that_is_given_is_not_trained_again(folder):
    learned, _ = reinforced(folder)
    run = unlearn.run(recipe_for(folder, method={**OFFSET, "reinforced": str(learned)}), folder / "run")
    assert not (run / "reinforced").exists() and not (run / "checkpoints").exists()
    assert stage(run)["spent"]["steps"] == 0


# ---- two models that answer together ----


def test_a_logit_offset_run_leaves_two_models_that_answer_as_one(folder):
    run = unlearn.run(recipe_for(folder, method={**OFFSET, "strength": 0.5}), folder / "run")
    model = load_model(str(run / "model"), world=WorldSection())
    assert isinstance(model, LogitOffsetModel)
    inputs = question(folder / "model")
    before = logits(AutoModelForCausalLM.from_pretrained(folder / "model"), inputs)
    up = logits(AutoModelForCausalLM.from_pretrained(run / "reinforced"), inputs)
    found = logits(model, inputs)
    torch.testing.assert_close(found, before - 0.5 * torch.relu(up - before))
    assert (found <= before).all() and (found < before).any()
    assert (run / "model" / "README.md").exists()


def test_without_strength_the_logits_are_those_before(folder):
    run = unlearn.run(recipe_for(folder, method={**OFFSET, "strength": 0.0}), folder / "run")
    inputs = question(folder / "model")
    before = logits(AutoModelForCausalLM.from_pretrained(folder / "model"), inputs)
    assert torch.equal(logits(load_model(str(run / "model"), world=WorldSection()), inputs), before)


@torch.no_grad()
def distance(teacher, student, items):
    """Return the mean over rows of the mean KL from teacher to student at each token."""
    found = []
    for item in items:
        ids = torch.tensor([item.input_ids])
        ours, theirs = (F.log_softmax(model(input_ids=ids).logits, dim=-1) for model in (student, teacher))
        found.append(F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1).mean().item())
    return sum(found) / len(found)


def test_a_distilled_offset_is_one_model_close_to_the_two(folder):
    learned, _ = reinforced(folder)
    method = {**OFFSET, "distil": True, "reinforced": str(learned), "strength": 5.0}
    recipe = recipe_for(folder, method=method, train={"steps": 40, "learning_rate": 0.001, "batch_size": 4})
    run = unlearn.run(recipe, folder / "run")
    original, distilled, up = (AutoModelForCausalLM.from_pretrained(path) for path in (folder / "model", run / "model", learned))
    teacher = LogitOffsetModel(original, up, 5.0).eval()
    for items in (rows.items for rows in prepare(recipe).rows.values()):
        assert distance(teacher, distilled, items) < 0.7 * distance(teacher, original, items)


def test_a_distilled_offset_trains_the_selected_weights_alone(folder):
    run = unlearn.run(recipe_for(folder, method={**OFFSET, "distil": True}, selection=DOWN), folder / "run")
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]
    assert changed(weights(folder / "model"), weights(run / "model")) == names
    assert changed(weights(folder / "model"), weights(run / "reinforced")) == names


def test_a_run_of_two_trainings_counts_both(folder):
    run = unlearn.run(recipe_for(folder, method={**OFFSET, "distil": True}), folder / "run")
    assert stage(run)["spent"]["steps"] == 8 and stage(run)["distil_steps"] == 4
