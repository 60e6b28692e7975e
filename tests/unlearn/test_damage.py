"""What a run did to the weights, read from its files: every way to train and to save, whether masks are given or read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from temper import unlearn
from temper.models.delta import apply_delta
from temper.models.loadeddelta import load_delta
from temper.models.masks import load_masks
from temper.models.selection import SelectAll
from temper.run import open_run
from temper.unlearn.damage import damage_of
from temper.unlearn.prepare import prepare
from tests.unlearn.models import recipe_for, write_world

DOWN = {"pattern": r"layers\.[01]\.mlp\.down_proj"}
STEPS = {"steps": 2}


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama, layers=2)


def trained(recipe, folder, masks=None):
    """Run a recipe and return what it did, which must be JSON."""
    unlearn.run(recipe, folder)
    with open_run(recipe, folder) as opened:
        facts = damage_of(opened, prepare(recipe), masks)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    return facts


def weights(folder):
    return load_file(folder / "model.safetensors")


def counted(folder):
    """Return how many entries of a run's model differ from those of its base, by loading both."""
    before, after = weights(folder / "model"), weights(folder / "run" / "model")
    return sum(int((before[name] != after[name]).sum()) for name in after), sum(value.numel() for value in after.values())


def test_a_run_that_trains_everything(folder):
    facts = trained(recipe_for(folder, train=STEPS), folder / "run")
    assert (facts["changed"], facts["parameters"]) == counted(folder)
    assert facts["selected"] == facts["parameters"] and facts["others"] == 0
    assert facts["relative_change"] > 0


def test_a_run_that_trains_some_parameters_leaves_the_others(folder):
    facts = trained(recipe_for(folder, selection=DOWN, train=STEPS), folder / "run")
    assert facts["selected"] == facts["moved"] == facts["changed"] == 2 * 32 * 64
    assert (facts["others_moved"], facts["strays"]) == (0, [])
    assert [row["kind"] for row in facts["kinds"] if row["changed"]] == ["mlp.down_proj"]


def test_a_run_with_masks_moves_what_they_select_and_nothing_else(folder):
    facts = trained(recipe_for(folder, selection={"rows": 80}, train=STEPS), folder / "run")
    assert 0 < facts["selected"] < facts["parameters"] / 2
    assert facts["share_moved"] == 1.0 and facts["others_moved"] == 0
    assert facts["changed"] == counted(folder)[0]


@pytest.mark.parametrize("storage", ["packed", "delta"])
def test_the_delta_of_a_run_with_masks_holds_what_moved_and_makes_its_model_on_disk_and_in_memory(folder, storage):
    train = {**STEPS, "storage": storage}
    facts = trained(recipe_for(folder, selection={"rows": 80}, save="delta", train=train), folder / "run")
    said = json.loads((folder / "run/delta/delta.json").read_text())
    assert sum(entry["changed"] for entry in said["tensors"].values()) == facts["changed"] == facts["selected"]
    assert (folder / "run/delta/delta.safetensors").stat().st_size < 0.5 * (folder / "model/model.safetensors").stat().st_size
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    load_delta(model, folder / "run/delta")
    applied = weights(apply_delta(folder / "run/delta", folder / "model", folder / "applied"))
    for name, value in weights(folder / "run/model").items():
        assert torch.equal(value, applied[name]) and torch.equal(value, model.get_parameter(name))


def test_masks_that_are_given_are_those_that_are_read(folder):
    recipe = recipe_for(folder, selection={"rows": 80}, train=STEPS)
    read = trained(recipe, folder / "run")
    masks = load_masks(folder / "run/mask.safetensors", AutoModelForCausalLM.from_pretrained(folder / "model"))
    with open_run(recipe, folder / "run") as opened:
        assert damage_of(opened, prepare(recipe), masks) == read
        (folder / "run/mask.safetensors").unlink()
        unknown = damage_of(opened, prepare(recipe))
    assert unknown["selection_reason"] == "the masks of the run were not kept" and "selected" not in unknown
    assert unknown["changed"] == read["changed"]


def test_a_mask_file_that_the_recipe_names_is_read(folder):
    unlearn.run(recipe_for(folder, selection={"rows": 80}, train=STEPS), folder / "first")
    facts = trained(recipe_for(folder, selection={"mask": str(folder / "first/mask.safetensors")}, train=STEPS), folder / "run")
    assert facts["share_moved"] == 1.0 and facts["others_moved"] == 0 and facts["selected"] > 0


def test_a_weight_that_was_changed_behind_its_back_is_named(folder):
    recipe = recipe_for(folder, selection=DOWN, train=STEPS)
    run = unlearn.run(recipe, folder / "run")
    after = weights(run / "model")
    after["model.layers.1.self_attn.q_proj.weight"][0, 0] += 1
    save_file(after, run / "model/model.safetensors", {"format": "pt"})
    with open_run(recipe, run) as opened:
        facts = damage_of(opened, prepare(recipe))
    assert (facts["others_moved"], facts["strays"]) == (1, ["model.layers.1.self_attn.q_proj.weight"])


def test_an_adapter_is_judged_as_it_was_merged(folder):
    facts = trained(recipe_for(folder, selection={"lora": 2}, train=STEPS), folder / "run")
    assert facts["changed"] == counted(folder)[0] > 0
    assert "selected" not in facts and "an adapter trained beside" in facts["selection_reason"]


def test_a_shared_matrix_is_counted_once(tmp_path, make_llama):
    folder = write_world(tmp_path, lambda **of: make_llama(**of, tie=True), layers=2)
    facts = trained(recipe_for(folder, train=STEPS), folder / "run")
    assert facts["parameters"] == counted(folder)[1] == sum(row["parameters"] for row in facts["layers"])
    assert "lm_head" not in [row["kind"] for row in facts["kinds"]]


def test_a_task_vector_moves_only_what_its_fine_tuning_selected(folder):
    facts = trained(recipe_for(folder, method="task_vector", selection=DOWN, train=STEPS), folder / "run")
    assert facts["selected"] == 2 * 32 * 64 and facts["share_moved"] > 0.99 and facts["others_moved"] == 0


@pytest.mark.slow
def test_a_task_vector_of_a_model_from_elsewhere_has_no_selection(folder, make_llama):
    make_llama(layers=2, vocab=len(weights(folder / "model")["lm_head.weight"]), seed=1).save_pretrained(folder / "other")
    method = {"name": "task_vector", "reinforced": str(folder / "other")}
    facts = trained(recipe_for(folder, method=method, train=STEPS), folder / "run")
    assert "trained elsewhere" in facts["selection_reason"] and facts["changed"] == counted(folder)[0]


def test_what_lies_above_the_block_that_is_read_was_not_selected(folder):
    method = {"name": "rmu", "layer": 0}
    facts = trained(recipe_for(folder, method=method, selection={"pattern": "down_proj"}, train=STEPS), folder / "run")
    assert facts["selected"] == facts["moved"] == 32 * 64
    assert [row["selected"] for row in facts["layers"]] == [32 * 64, 0, 0]


def test_two_models_that_answer_together_have_no_damage_but_a_reason(folder):
    method = {"name": "logit_offset", "distil": False}
    facts = trained(recipe_for(folder, method=method, train=STEPS), folder / "run")
    assert facts == {"reason": "two models answer together, and the weights of the original are as they were"}


def test_weights_that_cannot_be_compared_give_the_reason(folder, make_llama):
    recipe = recipe_for(folder, train=STEPS)
    run = unlearn.run(recipe, folder / "run")
    make_llama(layers=1).save_pretrained(run / "model")
    with open_run(recipe, run) as opened:
        facts = damage_of(opened, prepare(recipe))
    assert list(facts) == ["reason"] and "one model" in facts["reason"]


@pytest.mark.parametrize(
    ("dtype", "rate", "moved"),
    [
        ("bfloat16", 1e-6, 0.0),
        pytest.param("float32", 1e-6, 1.0, marks=pytest.mark.slow),
        pytest.param("bfloat16", 0.1, 1.0, marks=pytest.mark.slow),
    ],
)
def test_steps_smaller_than_the_dtype_can_hold_move_nothing(folder, dtype, rate, moved):
    """What is saved in bfloat16 does not show steps below half a unit in the last place, and rounding on loading is not counted."""
    train = {**STEPS, "learning_rate": rate}
    model = {"path": str(folder / "model"), "dtype": dtype}
    facts = trained(recipe_for(folder, selection=DOWN, model=model, train=train), folder / "run")
    assert facts["share_moved"] == pytest.approx(moved, abs=0.05) and facts["others_moved"] == 0


@pytest.mark.parametrize("save", [pytest.param("full", marks=pytest.mark.slow), "delta"])
def test_weights_loaded_in_half_precision_leave_no_trace_where_nothing_was_selected(folder, save):
    model = {"path": str(folder / "model"), "dtype": "bfloat16"}
    facts = trained(recipe_for(folder, selection={"rows": 80}, model=model, save=save, train=STEPS), folder / "run")
    assert facts["others_moved"] == 0 and facts["share_moved"] > 0.9
    assert facts["dtype"]["after"] == ("float32" if save == "delta" else "bfloat16")


def test_all_selected_weights_move_in_float32_fewer_with_masters_of_bfloat16_and_few_in_pure_bfloat16(folder):
    """Steps add up in a master until a weight moves; without one, each is rounded away by itself."""
    shares = {}
    for dtype, precision in (("float32", "master"), ("bfloat16", "master"), ("bfloat16", "bf16_pure")):
        train = {"steps": 8, "learning_rate": 1e-4, "precision": precision}
        model = {"path": str(folder / "model"), "dtype": dtype}
        facts = trained(recipe_for(folder, selection=DOWN, model=model, train=train), folder / f"{dtype}-{precision}")
        assert facts["others_moved"] == 0
        shares[dtype, precision] = facts["share_moved"]
    whole, master, pure = shares.values()
    assert whole == 1.0 and pure < 0.3 and 2 * pure < master < 1.0, shares


def test_a_selection_that_needs_the_weights_themselves_gives_the_reason(folder):
    class Largest(SelectAll):
        """A plug-in that reads the weights."""

        def covers(self, name, model):
            return bool(model.get_parameter(name).abs().max() > 0)

    recipe = recipe_for(folder, train=STEPS)
    run = unlearn.run(recipe, folder / "run")
    prepared = prepare(recipe)
    prepared.selection = Largest()
    with open_run(recipe, run) as opened:
        facts = damage_of(opened, prepared)
    assert "cannot be told without the weights" in facts["selection_reason"] and facts["changed"] > 0
