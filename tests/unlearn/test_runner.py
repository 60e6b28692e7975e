import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper import registry, unlearn
from temper.errors import DataError, DiskFull, ModelError, RecipeError, RunError
from temper.recipe import dump, from_dict
from temper.unlearn.planning import plan
from tests.unlearn.models import recipe_for, write_world


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama)


def weights(run_folder):
    return load_file(run_folder / "model" / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", registry.names("objective"))
def test_every_objective_trains_and_saves_a_model_that_opens(folder, method):
    run = unlearn.run(recipe_for(folder, method=method), folder / "run")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert model(**tokenizer("Where", return_tensors="pt")).logits.isfinite().all()
    assert not same(weights(run), load_file(folder / "model" / "model.safetensors"))
    assert "temper" in (run / "model" / "README.md").read_text()


@pytest.mark.parametrize("method", ["npo", "rmu"])
def test_weights_outside_the_selection_are_bit_identical(folder, method):
    run = unlearn.run(
        recipe_for(
            folder, method=method, selection={"layers": {"layers": [1], "module": "mlp.down_proj"}}, train={"weight_decay": 0.1}
        ),
        folder / "run",
    )
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["model.layers.1.mlp.down_proj.weight"]


def test_an_adapter_is_saved_and_merged(folder):
    run = unlearn.run(recipe_for(folder, selection={"lora": 2}), folder / "run")
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    assert before.keys() == after.keys() and not same(before, after)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(folder):
    runs = [unlearn.run(recipe_for(folder, seed=seed), folder / name) for seed, name in ((0, "a"), (0, "b"), (1, "c"))]
    assert same(weights(runs[0]), weights(runs[1])) and not same(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("method", ["npo", "graddiff", "rmu", "r2mu", "klmin"])
def test_four_micro_batches_of_one_train_like_one_of_four(folder, method):
    # plain descent would show it too; with Adam a wrong scale of the gradient would not show after one step
    one = unlearn.run(
        recipe_for(folder, method=method, train={"batch_size": 4, "accumulation": 1, "max_grad_norm": 0.0}), folder / "a"
    )
    four = unlearn.run(
        recipe_for(folder, method=method, train={"batch_size": 1, "accumulation": 4, "max_grad_norm": 0.0}), folder / "b"
    )
    lines = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, four)]
    losses, norms = ([[line[key] for line in run if line["event"] == "train"] for run in lines] for key in ("loss", "grad_norm"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-4) and norms[0] == pytest.approx(norms[1], rel=1e-2, abs=1e-4)


def test_npo_makes_the_forget_answers_less_likely_and_keeps_the_retain_ones(folder):
    from temper.train.reference import reference_of
    from temper.unlearn.prepare import prepare

    recipe = recipe_for(folder, method={"name": "npo", "beta": 0.1}, train={"steps": 30, "learning_rate": 0.003, "batch_size": 4})
    rows = prepare(recipe).rows
    run = unlearn.run(recipe, folder / "run")

    def nll(path, role):
        model, items = AutoModelForCausalLM.from_pretrained(path).eval(), rows[role].items
        store = folder / f"ref-{role}-{path.parent.name}"
        found = reference_of(model, items, range(len(items)), frozenset({"ref_row_nll"}), pad_id=0, identity={}, folder=store)
        return found.row_nll.mean().item()

    assert nll(run / "model", "forget") > nll(folder / "model", "forget") + 2
    assert nll(run / "model", "retain") < nll(folder / "model", "retain")


def test_a_finished_run_is_returned_without_training_again(folder):
    recipe = recipe_for(folder)
    run = unlearn.run(recipe, folder / "run")
    stamp = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert unlearn.run(recipe, folder / "run") == run
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == stamp


def _start(folder, out, method):
    train = {"steps": 60, "checkpoint_every": 5, "batch_size": 2}
    (folder / "recipe.yaml").write_text(dump(recipe_for(folder, method=method, train=train)))
    command = [sys.executable, "-m", "temper.cli", "unlearn", str(folder / "recipe.yaml"), "--out", str(out)]
    return command, {**os.environ, "TEMPER_CACHE": str(folder / "cache")}


@pytest.mark.parametrize(
    ("stop", "code", "method"),
    [
        (signal.SIGKILL, -signal.SIGKILL, "npo"),
        pytest.param(signal.SIGINT, 130, "npo", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "r2mu", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(folder, stop, code, method):
    command, environment = _start(folder, folder / "stopped", method)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / "stopped" / "checkpoints" / "checkpoint-10").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(stop)
    assert process.wait(60) == code
    assert not (folder / "stopped" / "model").exists(), "it was stopped before its end"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert any(json.loads(line)["event"] == "resume" for line in (folder / "stopped" / "log.jsonl").read_text().splitlines())
    whole = unlearn.run(
        recipe_for(folder, method=method, train={"steps": 60, "checkpoint_every": 5, "batch_size": 2}), folder / "whole"
    )
    assert same(weights(folder / "stopped"), weights(whole))
    spent = [json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]["spent"] for run in (folder / "stopped", whole)]
    assert spent[0]["tokens"] == spent[1]["tokens"] and spent[0]["steps"] == spent[1]["steps"] == 60


def test_no_space_in_the_run_folder_is_named_and_the_run_resumes(folder, monkeypatch):
    recipe = recipe_for(folder, train={"checkpoint_every": 2})
    import temper.train.checkpoint as checkpoint

    def full(tensors, path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(DiskFull, match="no space left on the device"):
            unlearn.run(recipe, folder / "run")
    assert not list((folder / "run" / "checkpoints").iterdir())
    unlearn.run(recipe, folder / "run")
    assert same(weights(folder / "run"), weights(unlearn.run(recipe, folder / "whole")))


def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(folder):
    with pytest.raises(RunError, match="became (nan|inf|infinite or NaN) at step"):
        unlearn.run(
            recipe_for(folder, method="graddiff", train={"learning_rate": 1.0e30, "max_grad_norm": 0.0, "steps": 9}),
            folder / "run",
        )
    assert not (folder / "run" / "model").exists()


def test_no_checkpoint_file_is_a_pickle(folder):
    run = unlearn.run(recipe_for(folder, train={"checkpoint_every": 2}), folder / "run")
    endings = {file.suffix for file in (run / "checkpoints").rglob("*") if file.is_file()}
    assert endings == {".safetensors", ".json"}


def test_data_that_changed_since_the_run_began_is_refused(folder):
    recipe = recipe_for(folder, train={"learning_rate": 1.0e30, "max_grad_norm": 0.0})
    with pytest.raises(RunError):
        unlearn.run(recipe, folder / "run")
    text = (folder / "forget.jsonl").read_text()
    (folder / "forget.jsonl").write_text(text.replace("London", "Dublin"))
    with pytest.raises(DataError, match=r"the data\.forget changed since this run was started"):
        unlearn.run(recipe, folder / "run")


def test_roles_that_are_missing_or_not_read_are_listed_together_before_anything_is_written(folder):
    recipe = recipe_for(folder)
    document = {**recipe.model_dump(mode="json"), "data": {"holdout": {"path": "x"}}, "train": None}
    with pytest.raises(RecipeError) as caught:
        unlearn.run(from_dict(document), folder / "run")
    assert len(caught.value.problems) == 4 and not (folder / "run").exists()


def test_forget_rows_inside_retain_are_refused(folder):
    (folder / "retain.jsonl").write_text((folder / "forget.jsonl").read_text())
    with pytest.raises(DataError, match="4 of 4 forget rows stand in the retain data too"):
        unlearn.run(recipe_for(folder), folder / "run")


def test_a_layer_out_of_range_is_refused_before_the_weights_are_read(folder):
    (folder / "model" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"method.layer = 40, but the model has 3 layers \(0 to 2\)"):
        unlearn.run(recipe_for(folder, method={"name": "rmu", "layer": 40}), folder / "run")


def test_a_length_beyond_the_context_is_refused(folder):
    with pytest.raises(ModelError, match=r"train.max_length = 4000 tokens, but the model's context is 128"):
        unlearn.run(recipe_for(folder, train={"max_length": 4000}), folder / "run")


def test_a_folder_with_pickled_weights_only_is_refused(folder):
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelError, match=r"holds only pickled weights \(pytorch_model.bin\), which can run code"):
        unlearn.run(recipe_for(folder), folder / "run")


def test_a_model_folder_that_does_not_exist_is_named(folder):
    with pytest.raises(ModelError, match="no such folder"):
        unlearn.run(recipe_for(folder, model={"path": str(folder / "modle")}), folder / "run")


def test_the_plan_counts_without_reading_weights(folder):
    (folder / "model" / "model.safetensors").write_bytes(b"not weights")
    facts = plan(recipe_for(folder, method="rmu", selection={"layers": [0, 1]}, train={"steps": None, "epochs": 3.0})).facts
    assert facts["steps"] == 6 and facts["rows"] == {"forget": 4, "retain": 4}
    assert 0 < facts["trained_parameters"] < facts["parameters"]
    assert not (folder / "run").exists()


def test_refusals_are_drawn_by_item_and_epoch(folder):
    from temper.unlearn.prepare import prepare

    prepared = prepare(recipe_for(folder, method="po", train={"steps": 12}))
    found = prepared.substitutions["forget"]
    drawn = {prepared.pairs.draw("forget", index) for index in range(len(prepared.pairs))}
    texts = {(item, epoch): found.rows.items[found.derived.remap(item, epoch)] for item, epoch in drawn}
    assert len(texts) == 4 * 6
    assert all(texts[item, epoch].prompt == prepared.rows["forget"].items[item].prompt for item, epoch in texts)
    assert len({texts[0, epoch].response for epoch in range(6)}) > 1


def test_an_empty_list_of_refusals_is_refused(folder):
    (folder / "none.txt").write_text("\n")
    with pytest.raises(DataError, match=r"none.txt: holds no refusal"):
        unlearn.run(
            recipe_for(folder, method={"name": "po", "alternatives": {"refusals": str(folder / "none.txt")}}), folder / "run"
        )


def test_a_step_that_destroys_the_weights_saves_nothing(folder):
    with pytest.raises(RunError, match="nothing was saved"):
        unlearn.run(recipe_for(folder, method="ga", train={"steps": 1, "learning_rate": 1.0e38}), folder / "run")
    assert not (folder / "run" / "model").exists()


def test_a_mended_recipe_can_use_the_folder_of_a_run_that_never_began(folder):
    with pytest.raises(DataError):
        unlearn.run(recipe_for(folder, data={"forget": {"path": str(folder / "forgot.jsonl")}}), folder / "run")
    assert unlearn.run(recipe_for(folder), folder / "run") == folder / "run"


def test_a_finished_run_whose_model_was_removed_is_trained_again(folder):
    import shutil

    run = unlearn.run(recipe_for(folder), folder / "run")
    before = weights(run)
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints")
    assert same(weights(unlearn.run(recipe_for(folder), folder / "run")), before)


def test_what_a_killed_process_left_half_written_is_swept(folder):
    (folder / "run" / "checkpoints" / ".checkpoint-2.abcd").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "other" / "checkpoints").mkdir()
    from temper.train import checkpoint

    checkpoint.sweep(folder / "run" / "checkpoints")
    assert not list((folder / "run" / "checkpoints").iterdir())


def test_half_precision_is_trained_on_float32_masters(folder):
    """Steps of 1e-4 on weights near 0.2 are far below half a unit of bfloat16 and would round away one by one."""
    from safetensors import safe_open

    model = {"path": str(folder / "model"), "dtype": "bfloat16"}
    train = {"steps": 24, "learning_rate": 1.0e-4, "checkpoint_every": 12}
    run = unlearn.run(recipe_for(folder, model=model, train=train), folder / "run")
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    moved = [(before[name].bfloat16() != after[name]).float().mean().item() for name in after if "proj" in name]
    assert all(value.dtype == torch.bfloat16 for value in after.values())
    assert sum(moved) / len(moved) > 0.5
    with safe_open(run / "checkpoints" / "checkpoint-24" / "optimizer.safetensors", "pt") as stored:
        masters = [stored.get_tensor(name) for name in stored.keys() if name.endswith("master")]  # noqa: SIM118
    assert masters and all(master.dtype == torch.float32 for master in masters)


def test_float16_weights_are_refused_before_loading(folder):
    with pytest.raises(RecipeError, match="trains in float16, whose gradients overflow"):
        unlearn.run(recipe_for(folder, model={"path": str(folder / "model"), "dtype": "float16"}), folder / "run")


def test_refusals_that_change_between_stop_and_resume_are_noticed(folder):
    refusals = folder / "no.txt"
    refusals.write_text("No.\n")
    recipe = recipe_for(
        folder, method={"name": "po", "alternatives": {"refusals": str(refusals)}}, train={"learning_rate": 1.0e38}
    )
    with pytest.raises(RunError):
        unlearn.run(recipe, folder / "run")
    refusals.write_text("The answer is London.\n")
    with pytest.raises(DataError, match=r"data\.forget\.other changed"):
        unlearn.run(recipe, folder / "run")


def test_refusals_replace_the_last_turn_of_a_conversation(folder):
    from temper.unlearn.prepare import prepare

    rows = [{"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In London."}]}]
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    variants = prepare(recipe_for(folder, method="po")).substitutions["forget"].rows.items
    assert len(variants) > 3 and not [item for item in variants if "London" in item.response]


def test_text_without_an_answer_cannot_be_answered_by_a_refusal(folder):
    (folder / "forget.jsonl").write_text('{"text": "Ada was born in London."}\n')
    with pytest.raises(DataError, match="is text without one"):
        unlearn.run(recipe_for(folder, method="po"), folder / "run")


def test_a_refusal_that_is_too_long_is_an_error_not_another_row(folder):
    (folder / "no.txt").write_text("No.\n" + "no " * 300 + "\n")
    with pytest.raises(DataError, match="with other responses row"):
        unlearn.run(
            recipe_for(
                folder, method={"name": "po", "alternatives": {"refusals": str(folder / "no.txt")}}, train={"overflow": "drop"}
            ),
            folder / "run",
        )


def test_a_selection_above_the_block_that_is_read_is_refused(folder):
    with pytest.raises(ModelError, match="trains nothing at or below it"):
        unlearn.run(recipe_for(folder, method={"name": "rmu", "layer": 0}, selection={"layers": [2]}), folder / "run")


def test_an_output_that_cannot_be_a_folder_is_refused(folder):
    from temper.errors import InputError

    with pytest.raises(InputError, match="cannot be used as a run folder"):
        unlearn.run(recipe_for(folder), folder / "forget.jsonl" / "run")


def test_a_plan_on_a_world_that_is_not_built_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "empty"))
    from temper.recipe import load

    with pytest.raises(ModelError, match="temper world build --size default --seed 0"):
        plan(load("tiny/npo.yaml"))
    assert not (tmp_path / "empty").exists()
