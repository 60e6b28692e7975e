import json
import os
import subprocess
import sys

import pytest

from temper.errors import DataError, InputError, RunLocked
from temper.recipe import from_dict
from temper.run import open_run

RECIPE = from_dict({"model": {"path": "m"}})


def test_a_run_folder_holds_recipe_and_manifest(tmp_path):
    with open_run(RECIPE, tmp_path / "r") as run:
        run.log("hello", value=1)
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["recipe_hash"] and manifest["seed"] == 0 and "torch" in manifest["environment"]["versions"]
    assert (tmp_path / "r" / "recipe.yaml").exists()
    assert json.loads((tmp_path / "r" / "log.jsonl").read_text())["event"] == "hello"


def test_a_finished_stage_is_known_when_the_run_is_opened_again(tmp_path):
    with open_run(RECIPE, tmp_path / "r") as run:
        run.finish_stage("train", loss=1.0)
    with open_run(RECIPE, tmp_path / "r") as run:
        assert run.stage_done("train") and run.stage("train")["loss"] == 1.0


def test_another_recipe_in_the_folder_is_refused_and_the_difference_named(tmp_path):
    with open_run(RECIPE, tmp_path / "r") as run:
        run.note_inputs(model="aaaa")
    with (
        pytest.raises(InputError, match="seed: 0 there, 5 here"),
        open_run(from_dict({"model": {"path": "m"}, "seed": 5}), tmp_path / "r"),
    ):
        pass


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"not empty and not a run folder \(holds thesis.tex\)"), open_run(RECIPE, tmp_path):
        pass


def test_two_runs_on_one_folder_are_refused(tmp_path):
    with open_run(RECIPE, tmp_path / "r"), pytest.raises(RunLocked, match="another process"), open_run(RECIPE, tmp_path / "r"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = f"""
import os, signal
from temper.recipe import from_dict
from temper.run import open_run
with open_run(from_dict({{"model": {{"path": "m"}}}}), __import__("pathlib").Path({str(tmp_path / "r")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    with open_run(RECIPE, tmp_path / "r") as run:
        assert not run.stage_done("train")


def test_inputs_that_changed_since_the_run_began_are_refused(tmp_path):
    with open_run(RECIPE, tmp_path / "r") as run:
        run.note_inputs(model="aaaa")
    with open_run(RECIPE, tmp_path / "r") as run:
        run.note_inputs(model="aaaa")
        with pytest.raises(DataError, match="the model changed since this run was started"):
            run.note_inputs(model="bbbb")


def test_the_run_folder_of_a_recipe_is_named_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run(from_dict({"model": {"path": "m"}, "name": "mine"})) as run:
        assert str(run.folder) == os.path.join("runs", "mine")


def test_a_kill_between_recipe_and_manifest_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.yaml").write_text("model: {path: m}")
    with open_run(RECIPE, tmp_path / "r") as run:
        assert run.manifest["name"] == "run"


def test_a_refused_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError), open_run(RECIPE, tmp_path):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
