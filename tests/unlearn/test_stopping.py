"""Runs that end early, runs that are resumed, and what moves while they run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from temper import unlearn
from temper.draws import torch_generator
from temper.errors import RecipeError
from temper.models.masks import save_masks
from tests.unlearn.models import recipe_for, write_world


class Killed(Exception):
    """Ends a run from inside, as a lost machine would."""


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lines(run, event="train"):
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == event]


def stage(run):
    return json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]


def kill_after(steps, trainings=1):
    """Return a progress callback that raises once so many steps of the so-many-th training are done."""
    seen = []

    def progress(name, done, total, note=""):
        if name == "train" and done == steps:
            seen.append(done)
            if len(seen) == trainings:
                raise Killed

    return progress


def interrupted(recipe, out, steps, trainings=1):
    with pytest.raises(Killed):
        unlearn.run(recipe, out, progress=kill_after(steps, trainings))
    assert not (out / "model").exists()
    run = unlearn.run(recipe, out)
    assert lines(run, "resume")
    return run


# ---- collapse ----


def test_ascent_that_breaks_the_model_is_stopped_and_the_model_saved(folder):
    run = unlearn.run(recipe_for(folder, method="ga", train={"steps": 40, "learning_rate": 0.02}), folder / "run")
    facts = stage(run)
    stopped = facts["stopped"]
    assert stopped["reason"] == "collapse" and stopped["value"] > stopped["bound"]
    assert facts["spent"]["steps"] == stopped["step"] == stopped["kept_step"] < 40
    assert "broken rather than forgetting" in stopped["sentence"]
    assert lines(run, "stopped")[0]["step"] == stopped["step"]
    assert all(value.isfinite().all() for value in weights(run).values())
    assert "stopped at step" in (run / "model" / "README.md").read_text()


def test_the_bound_of_collapse_is_one_and_a_half_times_the_loss_of_chance(folder):
    run = unlearn.run(recipe_for(folder, method="ga", train={"steps": 40, "learning_rate": 0.02}), folder / "run")
    vocabulary = torch.tensor(float(len(weights(folder)["lm_head.weight"])))
    assert stage(run)["stopped"]["bound"] == pytest.approx(1.5 * vocabulary.log().item())
    # the mean loss of forget tokens, over all micro-batches of the step
    assert stage(run)["stopped"]["value"] == pytest.approx(-lines(run)[-1]["loss"], abs=1e-4)


def test_the_collapse_detector_can_be_switched_off(folder):
    train = {"steps": 30, "learning_rate": 0.02, "stop": {"collapse": False}, "checkpoint_every": 0}
    run = unlearn.run(recipe_for(folder, method="ga", train=train), folder / "run")
    assert "stopped" not in stage(run) and stage(run)["spent"]["steps"] == 30


def test_a_collapse_does_not_depend_on_how_a_step_is_split(folder):
    runs = [
        unlearn.run(
            recipe_for(
                folder,
                method="ga",
                train={"steps": 40, "learning_rate": 0.02, "batch_size": size, "accumulation": 4 // size, "max_grad_norm": 0.0},
            ),
            folder / str(size),
        )
        for size in (4, 1)
    ]
    assert stage(runs[0])["stopped"]["step"] == stage(runs[1])["stopped"]["step"]


# ---- retain floor ----

FLOOR = {
    "steps": 40,
    "learning_rate": 0.0003,
    "batch_size": 4,
    "length_grouping": 0,  # a window of steps is cut at the end of a run, so a shorter run would deal its rows otherwise
    "checkpoint_every": 0,
    "stop": {"retain_floor": 0.8, "every": 2, "rows": 4, "collapse": False},
}
UNHELD = {"name": "graddiff", "retain_weight": 0.0}


def test_a_retain_floor_stops_the_run_with_the_last_weights_above_it(folder):
    run = unlearn.run(recipe_for(folder, method=UNHELD, train=FLOOR), folder / "run")
    stopped = stage(run)["stopped"]
    assert stopped["reason"] == "retain_floor" and stopped["value"] < stopped["bound"]
    assert stopped["kept_step"] == stopped["step"] - 2 > 0
    short = unlearn.run(
        recipe_for(folder, method=UNHELD, train={**FLOOR, "steps": stopped["kept_step"], "stop": {"collapse": False}}),
        folder / "short",
    )
    assert same(weights(run), weights(short))


def test_a_retain_floor_is_looked_at_after_the_last_step_too(folder):
    train = {"steps": 3, "learning_rate": 0.05, "stop": {"retain_floor": 0.99, "every": 10}}
    run = unlearn.run(recipe_for(folder, method="graddiff", train=train), folder / "run")
    assert stage(run)["stopped"]["kept_step"] == 0


def test_a_run_is_not_gone_on_with_under_another_number_of_rows_a_step(folder, monkeypatch):
    from temper.errors import RunError

    recipe = recipe_for(folder, train={"steps": 6, "checkpoint_every": 2})
    with pytest.raises(Killed):
        unlearn.run(recipe, folder / "run", progress=kill_after(3))
    monkeypatch.setattr("temper.train.training.rows_per_step", lambda train: 99)
    with pytest.raises(RunError, match="as many processes as it was begun with"):
        unlearn.run(recipe, folder / "run")


def test_a_retain_floor_that_is_kept_changes_nothing(folder):
    train = {**FLOOR, "steps": 6, "stop": {"retain_floor": 0.01, "every": 2}}
    run = unlearn.run(recipe_for(folder, train=train), folder / "run")
    plain = unlearn.run(recipe_for(folder, train={**train, "stop": {}}), folder / "plain")
    assert "stopped" not in stage(run) and same(weights(run), weights(plain))


def test_a_run_that_is_resumed_stops_at_the_floor_with_the_same_weights(folder):
    recipe = recipe_for(folder, method=UNHELD, train={**FLOOR, "checkpoint_every": 1})
    whole = unlearn.run(recipe, folder / "whole")
    step = stage(whole)["stopped"]["step"]
    # the newest checkpoint then is that of the step between the last good look and the one that stops
    again = interrupted(recipe, folder / "again", step)
    assert stage(again)["stopped"] == stage(whole)["stopped"]
    assert same(weights(again), weights(whole))


@pytest.mark.parametrize("what", ["collapse", "retain_floor"])
def test_a_stopped_run_whose_model_was_lost_ends_the_same_again(folder, what):
    train = (
        {**FLOOR, "checkpoint_every": 1}
        if what == "retain_floor"
        else {"steps": 40, "learning_rate": 0.02, "checkpoint_every": 1}
    )
    recipe = recipe_for(folder, method=UNHELD if what == "retain_floor" else "ga", train=train)
    run = unlearn.run(recipe, folder / "run")
    before, stopped = weights(run), stage(run)["stopped"]
    assert stopped["reason"] == what
    shutil.rmtree(run / "model")
    assert unlearn.run(recipe, folder / "run") == run
    assert stage(run)["stopped"] == stopped and same(weights(run), before)


def test_a_retain_floor_with_an_adapter_keeps_the_adapter_of_the_last_good_look(folder):
    train = {**FLOOR, "learning_rate": 0.002}
    run = unlearn.run(recipe_for(folder, method=UNHELD, selection={"lora": 4}, train=train), folder / "run")
    stopped = stage(run)["stopped"]
    short = unlearn.run(
        recipe_for(
            folder,
            method=UNHELD,
            selection={"lora": 4},
            train={**train, "steps": max(stopped["kept_step"], 1), "stop": {"collapse": False}},
        ),
        folder / "short",
    )
    expected = weights(short) if stopped["kept_step"] else weights(folder)
    assert same(weights(run), expected)


@pytest.mark.parametrize(
    ("method", "match"),
    [("ga", "reads no retain rows"), ({"name": "rmu", "layer": 1}, "needs logits, and the trunk has none")],
)
def test_a_retain_floor_that_cannot_be_looked_at_is_refused(folder, method, match):
    with pytest.raises(RecipeError, match=match):
        unlearn.run(recipe_for(folder, method=method, train={"stop": {"retain_floor": 0.5}}), folder / "run")


# ---- the dual weight ----


def weights_of_dual(run):
    return [line["dual_weight"] for line in lines(run)]


def test_the_dual_weight_moves_as_the_formula_says(folder):
    method = {"name": "pdu", "epsilon": 1.5, "dual_step": 0.5, "warmup": 0.0, "retain_weight": 2.0}
    run = unlearn.run(recipe_for(folder, method=method, train={"steps": 8}), folder / "run")
    weight, expected = 2.0, []
    for line in lines(run):
        # what the step went down on is weighed as it stood before the step
        assert line["loss"] == pytest.approx(line["forget.margin"] + weight * line["retain.nll"], rel=1e-4, abs=1e-4)
        weight = max(0.0, weight + 0.5 * (line["retain.nll"] - 1.5))
        expected.append(weight)
    assert weights_of_dual(run) == pytest.approx(expected, abs=1e-4)
    assert stage(run)["dual_weight"] == pytest.approx(expected[-1], abs=1e-4)


def test_a_retain_loss_below_its_bound_takes_the_dual_weight_to_zero_and_not_below(folder):
    method = {"name": "pdu", "epsilon": 100.0, "dual_step": 0.01, "warmup": 0.0}
    run = unlearn.run(recipe_for(folder, method=method), folder / "run")
    assert weights_of_dual(run)[-1] == 0.0 and weights_of_dual(run)[0] < 1.0


def test_the_dual_weight_stays_while_the_warmup_lasts(folder):
    # four rows, two a step: an epoch is two steps
    method = {"name": "pdu", "epsilon": 0.5, "warmup": 1.0}
    found = weights_of_dual(unlearn.run(recipe_for(folder, method=method), folder / "run"))
    assert found[:2] == [1.0, 1.0] and found[2] > 1.0


def test_the_dual_weight_does_not_depend_on_how_a_step_is_split(folder):
    method = {"name": "pdu", "epsilon": 0.5, "warmup": 0.0}
    runs = [
        unlearn.run(
            recipe_for(folder, method=method, train={"batch_size": size, "accumulation": 4 // size, "max_grad_norm": 0.0}),
            folder / str(size),
        )
        for size in (4, 1)
    ]
    assert weights_of_dual(runs[0]) == pytest.approx(weights_of_dual(runs[1]), rel=1e-3)


# ---- resuming ----


def mask_file(folder, make_llama):
    model = make_llama(layers=3, vocab=len(weights(folder)["lm_head.weight"]))
    draw = torch_generator(0, "mask")
    masks = {name: torch.rand(p.shape, generator=draw) < 0.1 for name, p in model.named_parameters()}
    return str(save_masks(folder / "mask.safetensors", masks, model))


RESUMED = {
    "plain": {},
    "pdu": {"method": {"name": "pdu", "epsilon": 0.5, "warmup": 0.0}},
    "averaged": {"smoother": {"wa": {"start": 2, "every": 1}}},
    "sam": {"smoother": "sam"},
    "rs": {"smoother": "rs"},
    "sam on the trunk": {"smoother": "sam", "method": {"name": "rmu", "layer": 1}},
    "rows": {"selection": {"rows": 80.0}},
    "mask": {"selection": "mask"},
    "adapter": {"selection": {"lora": {"rank": 2, "dropout": 0.1}}},
    "half precision": {"dtype": "bfloat16"},
    "half precision, masked": {"dtype": "bfloat16", "selection": "mask"},
    "generated": {"method": "altpo"},
    "refusals": {"method": "dpo"},
    "stored references": {"method": "klmin", "train": {"reference": "store", "learning_rate": 0.001}},
    "references at each step": {"method": "klmin", "train": {"reference": "recompute", "learning_rate": 0.001}},
    "task vector": {"method": "task_vector"},
    "cosine": {"train": {"lr_schedule": "cosine", "warmup_steps": 2}},
    "no length grouping": {"train": {"length_grouping": 0}},
}


QUICK = ("plain", "pdu", "averaged", "sam", "mask", "adapter", "half precision, masked", "stored references", "generated")


@pytest.mark.parametrize("what", [pytest.param(what, marks=() if what in QUICK else pytest.mark.slow) for what in RESUMED])
def test_a_run_that_is_resumed_ends_with_the_same_bits(folder, make_llama, what):
    changes = dict(RESUMED[what])
    if changes.get("selection") == "mask":
        changes["selection"] = {"mask": mask_file(folder, make_llama)}
    if "dtype" in changes:
        changes["model"] = {"path": str(folder / "model"), "dtype": changes.pop("dtype")}
    # three rows a step out of four: a checkpoint lies in the middle of an epoch and of a window of like lengths
    train = {"steps": 6, "checkpoint_every": 2, "batch_size": 3, **changes.pop("train", {})}
    recipe = recipe_for(folder, train=train, **changes)
    whole = unlearn.run(recipe, folder / "whole")
    again = interrupted(recipe, folder / "again", 5)
    assert same(weights(again), weights(whole))
    seen = {line["step"]: {k: v for k, v in line.items() if k != "time"} for line in lines(again)}  # steps 5 and 6 twice
    assert list(seen.values()) == [{k: v for k, v in line.items() if k != "time"} for line in lines(whole)]
    assert {k: v for k, v in stage(again)["spent"].items() if k in ("tokens", "steps")} == {
        k: v for k, v in stage(whole)["spent"].items() if k in ("tokens", "steps")
    }


@pytest.mark.parametrize("training", [1, 2])
def test_a_distilled_offset_is_resumed_in_either_training(folder, training):
    recipe = recipe_for(folder, method={"name": "logit_offset", "distil": True}, train={"steps": 6, "checkpoint_every": 2})
    whole = unlearn.run(recipe, folder / "whole")
    again = interrupted(recipe, folder / "again", 5, training)
    assert same(weights(again), weights(whole))
    assert stage(again)["spent"]["steps"] == stage(whole)["spent"]["steps"] == 12
