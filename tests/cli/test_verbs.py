import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from temper.cli.app import app
from temper.recipe import dump
from tests.unlearn.models import recipe_for, write_world


def call(*arguments):
    """Run the command line in this process; returns exit code, standard output, standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path, make_llama):
    write_world(tmp_path, make_llama)
    (tmp_path / "recipe.yaml").write_text(dump(recipe_for(tmp_path)))
    return tmp_path


def test_recipe_show_prints_every_default_and_the_overrides():
    code, out, _ = call("recipe", "show", "tiny/npo.yaml", "method.beta=0.5")
    assert code == 0 and "beta: 0.5" in out and "adam_beta1: 0.9" in out


def test_recipe_validate_lists_all_problems_on_standard_error(tmp_path):
    (tmp_path / "r.yaml").write_text("modle: {}\ntrain: {stepz: 1}\n")
    code, out, err = call("recipe", "validate", tmp_path / "r.yaml")
    assert code == 2 and out == ""
    assert "did you mean 'model'?" in err and "did you mean 'steps'?" in err and "Traceback" not in err


def test_recipe_validate_as_json_lists_the_problems_on_standard_output(tmp_path):
    (tmp_path / "r.yaml").write_text("modle: {}\n")
    code, out, _ = call("recipe", "validate", tmp_path / "r.yaml", "--json")
    assert code == 2 and len(json.loads(out)["problems"]) == 2


def test_recipe_schema_is_a_json_schema():
    code, out, _ = call("recipe", "schema")
    assert code == 0 and "properties" in json.loads(out)


def test_methods_lists_the_ten_systems_and_the_names():
    code, out, _ = call("methods", "--json")
    found = json.loads(out)
    assert code == 0 and len(found["systems"]) == 10 and "npo" in found["names"]["objective"]


def test_doctor_tells_versions_devices_memory_and_cache():
    code, out, _ = call("doctor", "--json")
    found = json.loads(out)
    assert (
        code == 0
        and found["versions"]["torch"]
        and found["devices"]
        and found["memory_gib"]["total"] > 0
        and found["cache"]["folder"]
    )


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder):
    code, out, _ = call("unlearn", folder / "recipe.yaml", "--dry-run", "--out", folder / "run")
    assert code == 0 and "passes" in out and not (folder / "run").exists()


def test_a_delta_is_applied_to_its_base_and_to_no_other(folder):
    from safetensors.torch import load_file

    assert call("unlearn", folder / "recipe.yaml", "save=delta", "--out", folder / "run")[0] == 0
    code, out, _ = call("apply", folder / "run" / "delta", folder / "model", "--out", folder / "again")
    assert code == 0 and str(folder / "again") in out
    again, model = (load_file(folder / place / "model.safetensors") for place in ("again", "run/model"))
    assert again.keys() == model.keys() and all(again[name].equal(model[name]) for name in model)
    code, _, err = call("apply", folder / "run" / "delta", folder / "run" / "model", "--out", folder / "other")
    assert code == 2 and "Traceback" not in err and not (folder / "other").exists()


def test_unlearn_prints_where_the_model_is(folder):
    code, out, err = call("unlearn", folder / "recipe.yaml", "train.steps=2", "--out", folder / "run")
    assert code == 0 and str(folder / "run" / "model") in out and "train: 2/2" in err


def test_unlearn_prints_what_changed_in_the_weights(folder):
    code, out, _ = call(
        "unlearn", folder / "recipe.yaml", "train.steps=2", "selection={pattern: down_proj}", "--out", folder / "run"
    )
    (line,) = [line for line in out.splitlines() if line.startswith("weights ")]
    assert code == 0 and " changed, by " in line and line.endswith("moved, of all others none")


def test_unlearn_as_json_has_nothing_but_json_on_standard_output(folder):
    code, out, _ = call("unlearn", folder / "recipe.yaml", "--out", folder / "run", "--json")
    assert code == 0 and json.loads(out)["model"] == str(folder / "run" / "model")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz: unknown key (did you mean 'steps'?)"),
        ("data.forget.0.path=nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("data.forget.0.prompt=question", "has no column 'question'"),
        ("method.name=npoo", "is not known (did you mean 'npo'?)"),
        ("model.path=./nothing", "./nothing: no such folder"),
        ("selection={layers: [9]}", "selection.layers = [9], but the model has 3 layers (0 to 2)"),
        ("train.max_length=9999", "but the model's context is 128"),
        ("world.size=huge", "world.size"),
    ],
)
def test_wrong_input_is_code_two_with_one_clear_message(folder, override, message):
    code, out, err = call("unlearn", folder / "recipe.yaml", override, "--out", folder / "run")
    assert code == 2 and message in err and out == "" and "Traceback" not in err


def test_a_second_recipe_in_a_run_folder_is_refused(folder):
    call("unlearn", folder / "recipe.yaml", "--out", folder / "run")
    code, _, err = call("unlearn", folder / "recipe.yaml", "seed=9", "--out", folder / "run")
    assert code == 2 and "seed: 0 there, 9 here" in err


def test_a_failure_while_running_is_code_three(folder):
    code, _, err = call(
        "unlearn",
        folder / "recipe.yaml",
        "method.name=graddiff",
        "train.learning_rate=1e30",
        "train.max_grad_norm=0.0",
        "train.steps=9",
        "--out",
        folder / "r",
    )
    assert code == 2 and "method.beta: unknown key" in err
    document = dump(recipe_for(folder, method="graddiff", train={"learning_rate": 1.0e30, "max_grad_norm": 0.0, "steps": 9}))
    (folder / "wild.yaml").write_text(document)
    code, _, err = call("unlearn", folder / "wild.yaml", "--out", folder / "r")
    assert code == 3 and "the loss became" in err


def test_traces_writes_the_file_and_shows_what_the_traces_look_like(folder):
    given = [folder / "forget.jsonl", "until=end", "max_new_tokens=8", "--model", folder / "model", "--out", folder / "t.jsonl"]
    code, out, err = call("traces", *given)
    rows = [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]
    assert code == 0 and "4 of 4 documents" in out and str(folder / "t.jsonl") in out and "traces: 4/4" in err
    assert [row["document"] for row in rows] == [f"forget{n}" for n in range(4)]
    code, out, _ = call("traces", *given, "--json")
    assert code == 0 and json.loads(out)["traces"] == 4 and json.loads(out)["file"] == str(folder / "t.jsonl")


def test_traces_say_how_many_closed_and_that_none_did(folder):
    given = [folder / "forget.jsonl", "max_new_tokens=3", "--model", folder / "model", "--out", folder / "t.jsonl"]
    code, out, err = call("traces", *given)
    assert code == 0 and "closed      0\N{NO-BREAK SPACE}%" in out and "note        none of the 4 traces closes" in out
    assert "none closed, all were cut" in err


@pytest.mark.parametrize("out", ["forget.jsonl/t.jsonl", "forget.jsonl"])
def test_traces_to_a_place_that_cannot_be_or_over_their_data_are_code_two_and_name_it(folder, out):
    before = (folder / "forget.jsonl").read_bytes()
    code, _, err = call("traces", folder / "forget.jsonl", "--model", folder / "model", "--out", folder / out)
    assert code == 2 and str(folder / out) in err and "not foreseen" not in err
    assert (folder / "forget.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["max_new_tokens=4", "min_trace_tokens=9", "--model", "model"],
            "max_new_tokens = 4: must be at least min_trace_tokens = 9",
        ),
        (["overlap=600", "--model", "model"], "overlap = 600: must be below segment_tokens = 512"),
        (["--segments-per-doc", "2", "--model", "model"], "is a question, which is not cut into segments"),
        (["temprature=1", "--model", "model"], "did you mean 'temperature'?"),
        (["--provider", "trace_column", "column=chain", "--model", "model"], "column 'chain' is not there"),
        (["--model", "modle"], "did you mean 'model'?"),
        ([], "--model is missing"),
    ],
)
def test_traces_of_wrong_input_are_code_two_with_one_clear_message(folder, monkeypatch, given, message):
    monkeypatch.chdir(folder)
    code, out, err = call("traces", "forget.jsonl", *given)
    assert code == 2 and message in err and out == "" and "Traceback" not in err and not (folder / "traces.jsonl").exists()


def test_an_unforeseen_error_shows_no_traceback_unless_asked(folder, monkeypatch):
    import temper.unlearn.planning as planning

    def broken(recipe):
        raise KeyError("surprise")

    monkeypatch.setattr(planning, "plan", broken)
    code, _, err = call("unlearn", folder / "recipe.yaml", "--dry-run")
    assert code == 3 and "--debug" in err and "Traceback" not in err


def test_every_verb_has_help_with_an_example():
    verbs = [
        "demo",
        "world build",
        "traces",
        "weigh",
        "mask score",
        "mask inspect",
        "mask combine",
        "unlearn",
        "assess",
        "compare",
        "report",
        "recipe show",
        "recipe validate",
        "recipe schema",
        "methods",
        "doctor",
    ]
    for verb in verbs:
        code, out, _ = call(*verb.split(), "--help")
        assert code == 0 and "Example: temper" in out, verb


def test_the_module_can_stand_for_the_command():
    shown = subprocess.run([sys.executable, "-m", "temper.cli", "--version"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and shown.stdout.startswith("temper ")
