"""Building, caching, resuming and finding a world."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from temper.errors import DataError, InputError, RunError
from temper.files import hash_file, write_json
from temper.world import building
from temper.world.building import build, entry, locate, names, read_world
from temper.world.datafiles import DATA_FILES
from temper.world.examination import exam, shortfalls
from temper.world.people import World
from temper.world.spec import WorldSpec, world_spec
from tests.world.greedy import greedy


def _hashes(folder: Path) -> dict[str, str]:
    """Every file of a built world but the seconds it took."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in ("training.json", ".lock")]
    return {str(f.relative_to(folder)): hash_file(f) for f in sorted(files)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, micro_spec: WorldSpec) -> Path:
    """A micro world with both models, built with two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return build(micro_spec, workers=2)


def test_a_built_world_has_the_documented_layout(built: Path) -> None:
    assert {p.name for p in built.iterdir()} == {"world.json", "data", "original", "gold", ".lock"}
    assert {p.stem for p in (built / "data").iterdir()} == set(DATA_FILES)
    for model in ("original", "gold"):
        assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "training.json"} <= {
            p.name for p in (built / model).iterdir()
        }


def test_the_world_file_makes_the_same_spec(built: Path, micro_spec: WorldSpec) -> None:
    assert WorldSpec(**json.loads((built / "world.json").read_text())["spec"]) == micro_spec


def test_a_built_folder_gives_its_world_back(built: Path, micro_spec: WorldSpec) -> None:
    assert read_world(built).to_json() == World(micro_spec).to_json()


def test_a_world_of_another_version_is_refused(built: Path, tmp_path: Path) -> None:
    recorded = json.loads((built / "world.json").read_text())
    write_json(tmp_path / "world.json", recorded | {"version": 0, "content_hash": "0" * 64})
    with pytest.raises(DataError, match=r"another version of the world \(0\)"):
        read_world(tmp_path)


def test_a_folder_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_world(tmp_path)
    write_json(tmp_path / "world.json", {"spec": {"size": "small"}})
    with pytest.raises(DataError, match="not the description of a world"):
        read_world(tmp_path)


@pytest.mark.parametrize("name", ["original", "gold"])
def test_a_model_opens_with_transformers_and_fits_its_tokenizer(built: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(built / name), AutoTokenizer.from_pretrained(built / name)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert max(tokenizer.get_vocab().values()) < len(tokenizer) == model.config.vocab_size
    assert model.config.max_position_embeddings == tokenizer.model_max_length
    assert (model.config.pad_token_id, model.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_original_and_gold_differ_in_weights_and_share_the_tokenizer(built: Path) -> None:
    assert hash_file(built / "original" / "model.safetensors") != hash_file(built / "gold" / "model.safetensors")
    assert hash_file(built / "original" / "tokenizer.json") == hash_file(built / "gold" / "tokenizer.json")


def test_training_facts_are_recorded(built: Path) -> None:
    facts = json.loads((built / "original" / "training.json").read_text())
    assert facts["steps"] == 20
    assert facts["tokens"] > 0
    assert facts["cpu_seconds"] > 0


def test_one_worker_after_a_kill_between_stages_gives_the_same_bytes(
    built: Path, micro_spec: WorldSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = building._train

    def killed_before_gold(folder: Path, models: list[str], progress: object) -> None:
        if "gold" in models:
            (folder / ".gold.torn").mkdir()  # what a process killed in the middle of writing leaves
            raise KeyboardInterrupt
        real(folder, models, None)

    monkeypatch.setattr(building, "_train", killed_before_gold)
    with pytest.raises(KeyboardInterrupt):
        build(micro_spec, workers=1)
    folder = entry(micro_spec)
    assert (folder / "original").is_dir()
    assert not (folder / "gold").exists()
    before = (folder / "original" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(building, "_train", real)
    assert build(micro_spec, workers=1) == folder
    assert (folder / "original" / "model.safetensors").stat().st_mtime_ns == before
    assert _hashes(folder) == _hashes(built)


def test_a_built_world_is_not_built_again(built: Path, micro_spec: WorldSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(built.parents[1]))
    monkeypatch.setattr(building, "_train", None)
    assert build(micro_spec) == built
    assert locate("world:gold", micro_spec) == built / "gold"


def test_a_copy_goes_where_it_is_wanted(
    built: Path, micro_spec: WorldSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(built.parents[1]))
    assert build(micro_spec, tmp_path / "copy", gold=False) == tmp_path / "copy"
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {"world.json", "data", "original"}
    build(micro_spec, tmp_path / "copy")
    copied, original = _hashes(tmp_path / "copy"), _hashes(built)
    assert copied == original


def test_a_folder_with_other_things_is_not_overwritten(micro_spec: WorldSpec, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not a world"):
        build(micro_spec, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_no_workers_is_refused(micro_spec: WorldSpec) -> None:
    with pytest.raises(InputError, match="workers = 0"):
        build(micro_spec, workers=0)


def test_data_files_need_no_training(micro_spec: WorldSpec, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_train", None)
    path = locate("world:forget_direct", micro_spec)
    assert path == entry(micro_spec) / "data" / "forget_direct.jsonl"
    assert path.read_text().count("\n") == len(DATA_FILES["forget_direct"](World(micro_spec)))


def test_locating_a_model_trains_that_one_alone(micro_spec: WorldSpec, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(building, "_train", lambda folder, models, progress: asked.append(list(models)))
    locate("world:gold", micro_spec)
    assert asked == [["gold"]]


def test_progress_is_told_of_every_stage(micro_spec: WorldSpec, cache: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    build(micro_spec.shortened(2), gold=False, progress=lambda *call: calls.append(call))
    assert calls[0] == ("data", 1, 1)
    assert calls[-1] == ("original", 2, 2)


def test_every_exported_name_is_what_its_home_defines() -> None:
    import importlib

    import temper.world

    homes = temper.world._HOMES
    assert sorted(name for held in homes.values() for name in held) == sorted(temper.world.__all__)
    for module, held in homes.items():
        home = importlib.import_module(f"temper.world.{module}")
        assert [n for n in held if getattr(temper.world, n) is not getattr(home, n)] == []


def test_every_known_name_starts_with_world() -> None:
    assert {"world:original", "world:gold", "world:eval_forget"} <= set(names())


@pytest.mark.parametrize(("name", "near"), [("world:orignal", "world:original"), ("world:forget_drect", "world:forget_direct")])
def test_an_unknown_name_is_refused_with_the_nearest(micro_spec: WorldSpec, name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{near}'"):
        locate(name, micro_spec)


def test_a_failing_training_says_what_happened(micro_spec: WorldSpec, cache: Path) -> None:
    from dataclasses import replace

    with pytest.raises(RunError, match=r"(?s)original model.*Error"):
        locate("world:original", replace(micro_spec, n_heads=5))
    assert not (entry(replace(micro_spec, n_heads=5)) / "original").exists()


def _hold(folder: str, held: object, release: object) -> None:
    with building._alone(Path(folder)):
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_a_second_build_waits_for_the_first(micro_spec: WorldSpec, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(str(entry(micro_spec)), held, release))
    first.start()
    assert held.wait(60)
    found: list[Path] = []
    second = threading.Thread(target=lambda: found.append(locate("world:stories", micro_spec)))
    second.start()
    time.sleep(0.4)
    assert not found
    release.set()
    second.join(30)
    first.join(30)
    assert found[0].is_file()


def test_the_package_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, temper.world as w; w.world_spec('small', 0); w.World; w.exam; w.locate; w.DATA_FILES; w.value_of;"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert out.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    import os

    import temper

    return dict(os.environ, PYTHONPATH=str(Path(temper.__file__).parents[1]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_default_world_clears_every_bar(cache: Path, seed: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = world_spec("default", seed)
    folder = locate("world:original", spec)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert shortfalls(exam(World(spec), greedy(model, tokenizer))) == []
