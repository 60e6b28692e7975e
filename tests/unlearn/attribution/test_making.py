"""From a recipe to mask files: which rows are scored, what stands in the header, what is refused before a weight is loaded."""

import json
import os

import pytest
import torch

from temper import unlearn
from temper.data import Encoded, Item
from temper.errors import DataError, InputError, ModelError, RecipeError
from temper.models.masks import load_masks, mask_facts
from temper.models.maskset import overlap
from temper.unlearn.attribution import keeping, making, score_masks
from temper.unlearn.attribution.rows import score_rows
from temper.unlearn.attribution.wagle import Wagle
from temper.unlearn.attribution.wanda import Wanda
from temper.unlearn.planning import plan
from temper.unlearn.prepare import prepare
from tests.unlearn.models import recipe_for, write_world


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("making")


@pytest.fixture
def folder(place, make_llama):
    """Return a folder with model and data, made once."""
    return place if (place / "model").is_dir() else write_world(place, make_llama, layers=2)


def model_of(folder, make_llama):
    return make_llama(layers=2, vocab=json.loads((folder / "model" / "config.json").read_text())["vocab_size"])


def mask_of(folder, out, ratio=0.2, selection=None, seed=0, **changes):
    """Return the mask file that a recipe gives."""
    recipe = recipe_for(folder, selection=selection or {"wagle": {"ratio": ratio}}, seed=seed, **changes)
    return score_masks(recipe, [ratio], out).files[ratio]


def encoded(count, tokens=4, name="row"):
    items = [Item(f"{name}{n}", (5,) * (tokens + 1), (-100, *[5] * tokens), {}, "", "") for n in range(count)]
    return Encoded(items, [], [0] * count, [1.0])


# ---- rows ----


def test_as_many_retain_rows_as_forget_rows_are_drawn_by_the_seed():
    rows = {"forget": encoded(5, name="f"), "retain": encoded(40, name="r")}
    first, again, other = (score_rows(Wagle(ratio=0.5), rows, rows["forget"], seed) for seed in (0, 0, 1))
    assert len(first["forget"]) == len(first["retain"]) == 5
    assert first == again and first["retain"] != other["retain"]
    assert len(score_rows(Wagle(ratio=0.5, retain_rows="all"), rows, rows["forget"], 0)["retain"]) == 40


def test_the_number_of_rows_can_be_limited_and_wanda_reads_forget_rows_alone():
    rows = {"forget": encoded(300), "retain": encoded(300)}
    limited = score_rows(Wagle(ratio=0.5, max_rows=7), rows, rows["forget"], 0)
    assert {role: len(part) for role, part in limited.items()} == {"forget": 7, "retain": 7}
    assert {role: len(part) for role, part in score_rows(Wanda(ratio=0.5), rows, rows["forget"], 0).items()} == {"forget": 128}


@pytest.mark.parametrize(("count", "tokens"), [(1, 4), (40, 1)])
def test_hardly_any_retain_text_is_refused_with_its_numbers_unless_allowed(count, tokens):
    rows = {"forget": encoded(40, tokens=20 if tokens == 1 else 4), "retain": encoded(count, tokens)}
    with pytest.raises(
        DataError,
        match=rf"data.retain: {count} rows with {count * tokens} scored tokens stand against 40 forget rows.*allow_unequal",
    ):
        score_rows(Wagle(ratio=0.5), rows, rows["forget"], 0)
    assert score_rows(Wagle(ratio=0.5, allow_unequal=True), rows, rows["forget"], 0)


# ---- files ----


def test_several_ratios_come_from_one_pass_exact_and_nested(folder, tmp_path, make_llama, monkeypatch):
    passes = []
    inner = making.mean_gradients
    monkeypatch.setattr(making, "mean_gradients", lambda *args, **kwargs: passes.append(1) or inner(*args, **kwargs))
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    made = score_masks(recipe_for(folder, selection={"wagle": 0.1}), [0.1, 0.4, 1.0], tmp_path / "masks")
    assert len(passes) == 2
    model = model_of(folder, make_llama)
    total = sum(p.numel() for p in model.parameters())
    masks = {ratio: load_masks(path, model) for ratio, path in made.files.items()}
    assert {ratio: sum(each.counts().values()) for ratio, each in masks.items()} == {
        0.1: int(0.1 * total),
        0.4: int(0.4 * total),
        1.0: total,
    }
    assert all(not bool((masks[0.1][name] & ~masks[0.4][name]).any()) for name in masks[0.1])
    score_masks(recipe_for(folder, selection={"wagle": {"ratio": 0.1, "gamma": 3.0}}), [0.2], tmp_path / "again")
    assert len(passes) == 2, "gradients of the same rows are read from the cache"
    unlearn.run(recipe_for(folder, selection={"wagle": 0.1}), tmp_path / "run")
    assert len(passes) == 2, "by a run too"


@pytest.mark.parametrize("changed", ["weights", "rows", "average", "hold", "exclude"])
def test_gradients_in_the_cache_are_read_for_the_same_model_rows_and_settings_alone(
    folder, tmp_path, make_llama, monkeypatch, changed
):
    passes = []
    inner = making.mean_gradients
    monkeypatch.setattr(making, "mean_gradients", lambda *args, **kwargs: passes.append(1) or inner(*args, **kwargs))
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    score_masks(recipe_for(folder, selection={"snip": 0.1}), [0.1], tmp_path / "first")
    assert len(passes) == 1
    where, more = folder, {}
    if changed in ("weights", "rows"):
        where = write_world(tmp_path, lambda **kwargs: make_llama(seed=int(changed == "weights"), **kwargs), layers=2)
    if changed == "rows":
        more = {"limit": 3}
    settings = {"average": "rows", "hold": "bfloat16", "exclude": ["norms"]}
    selection = {"snip": {"ratio": 0.1, **({changed: settings[changed]} if changed in settings else {})}}
    data = {"forget": {"path": str(where / "forget.jsonl"), **more}, "retain": {"path": str(where / "retain.jsonl")}}
    score_masks(recipe_for(where, selection=selection, data=data), [0.1], tmp_path / "second")
    assert len(passes) == 2


def test_two_ratios_that_are_nearly_one_have_files_of_their_own(folder, tmp_path):
    made = score_masks(recipe_for(folder, selection={"magnitude": 0.1}), [0.1234561, 0.1234564], tmp_path / "out")
    assert (
        len({path.name for path in made.files.values()})
        == 2
        == len(json.loads((tmp_path / "out" / "scores.json").read_text())["ratios"])
    )


def test_the_gradients_that_nobody_read_for_longest_leave_a_cache_that_is_full_and_none_that_is_being_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(keeping, "CACHE_LIMIT", 250)
    for age, name in enumerate(("newest", "middle", "oldest", ".oldest.writing")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gradients.safetensors").write_bytes(b"0" * 100)
        os.utime(tmp_path / name / "gradients.safetensors", ns=(10**9 * (9 - age), 10**9 * (9 - age)))
    keeping.make_room(tmp_path, 100)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [".oldest.writing", "newest"]


def test_gradients_that_are_read_again_are_not_the_oldest_any_more(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    score_masks(recipe_for(folder, selection={"snip": 0.1}), [0.1], tmp_path / "first")
    (stored,) = (tmp_path / "cache" / "attribution").glob("*/gradients.safetensors")
    os.utime(stored, ns=(10**9, 10**9))
    monkeypatch.setattr(keeping, "CACHE_LIMIT", 1)
    score_masks(recipe_for(folder, selection={"snip": 0.2}), [0.2], tmp_path / "second")
    assert stored.stat().st_mtime_ns > 10**12, "a full cache keeps what the run reads"


def test_the_header_says_how_the_mask_was_made(folder, tmp_path):
    header = mask_facts(mask_of(folder, tmp_path / "out"))
    facts = header["facts"]
    assert header["weights_hash"] and len(header["parameters"]) == 21
    assert facts["score"] == "wagle" and facts["ratio"] == 0.2 and facts["scope"] == "global" and facts["structure"] == "weights"
    assert facts["rows"] == {"forget": 4, "retain": 4} and set(facts["data"]) == {"forget", "retain"}
    assert (
        facts["gamma"]["absolute"] == 1e-6
        and 0 < facts["balance_share"] <= 1
        and facts["dtype"] == "float32"
        and facts["seed"] == 0
    )
    assert sum(facts["histogram"]["selected"]) == facts["selected"] == int(0.2 * facts["competing"])
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["ratios"]["0.2"]["selected"] == facts["selected"]


def test_the_same_seed_gives_the_same_bytes_and_another_pairing_another_mask_of_which_the_overlap_is_told(
    folder, tmp_path, make_llama
):
    changes = {"method": "graddiff"}
    with_more = {"data": {role: {"path": str(folder / f"{role}.jsonl")} for role in ("forget", "retain")}}
    one = mask_of(folder, tmp_path / "1", selection={"wagle": {"ratio": 0.2, "max_rows": 2}}, **changes, **with_more)
    again = mask_of(folder, tmp_path / "2", selection={"wagle": {"ratio": 0.2, "max_rows": 2}}, **changes, **with_more)
    other = mask_of(folder, tmp_path / "3", selection={"wagle": {"ratio": 0.2, "max_rows": 2}}, seed=1, **changes, **with_more)
    assert one.read_bytes() == again.read_bytes()
    model = model_of(folder, make_llama)
    shared = overlap(load_masks(one, model), load_masks(other, model))
    assert 0.05 < shared < 1


def test_graddiff_and_npo_share_a_mask_and_the_refusals_of_po_give_another(folder, tmp_path, make_llama):
    model = model_of(folder, make_llama)
    found = {method: load_masks(mask_of(folder, tmp_path / method, method=method), model) for method in ("graddiff", "npo", "po")}
    own = load_masks(mask_of(folder, tmp_path / "own", method="po", selection={"wagle": {"ratio": 0.2, "labels": "own"}}), model)
    assert overlap(found["graddiff"], found["npo"]) == overlap(found["graddiff"], own) == 1
    assert overlap(found["graddiff"], found["po"]) < 0.95


def test_what_is_excluded_does_not_compete(folder, tmp_path, make_llama):
    selection = {"snip": {"ratio": 0.5, "exclude": ["embedding", "norms", r"layers\.1\.mlp"]}}
    masks = load_masks(mask_of(folder, tmp_path / "out", ratio=0.5, selection=selection), model_of(folder, make_llama))
    counts = masks.selecting().counts()
    assert not any("embed" in name or "norm" in name or "layers.1.mlp" in name for name in counts)
    assert counts["lm_head.weight"] > 0


def test_an_objective_that_stops_at_a_block_lets_only_what_lies_below_compete(folder, tmp_path, make_llama):
    method = {"name": "rmu", "layer": 0}
    masks = load_masks(mask_of(folder, tmp_path / "out", method=method), model_of(folder, make_llama))
    masks = masks.selecting()
    assert masks and not any("layers.1" in name or "lm_head" in name or name == "model.norm.weight" for name in masks)


@pytest.mark.parametrize("structure", ["rows", "columns", "heads", "blocks"])
def test_structures_are_chosen_whole_within_the_budget(folder, tmp_path, make_llama, structure):
    selection = {"wagle": {"ratio": 0.6, "structure": structure}}
    masks = load_masks(mask_of(folder, tmp_path / "out", ratio=0.6, selection=selection), model_of(folder, make_llama))
    facts = mask_facts(tmp_path / "out" / "mask_0.6.safetensors")["facts"]
    assert 0 < facts["selected"] <= int(0.6 * facts["competing"])
    query = masks["model.layers.0.self_attn.q_proj.weight"]
    lines = query if structure in ("rows", "heads") else query.T
    if structure == "blocks":
        assert bool(query.all()) or not bool(query.any())
    else:
        assert torch.equal(lines, lines[:, :1].expand_as(lines))


def test_bfloat16_gradients_give_nearly_the_same_mask(folder, tmp_path, make_llama):
    model = model_of(folder, make_llama)
    wide, held = (
        load_masks(mask_of(folder, tmp_path / hold, selection={"wagle": {"ratio": 0.2, "hold": hold}}), model)
        for hold in ("float32", "bfloat16")
    )
    assert 0.97 < overlap(wide, held) < 1


# ---- what is refused ----


def refused(folder, selection, **changes):
    prepare(recipe_for(folder, selection=selection, **changes))


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan")])
def test_a_ratio_outside_0_and_1_is_refused_with_the_recipe(folder, ratio):
    with pytest.raises(RecipeError, match=r"selection.ratio"):
        recipe_for(folder, selection={"wagle": ratio})


def test_a_ratio_that_selects_nothing_is_refused_before_anything_loads(folder):
    with pytest.raises(ModelError, match=r"selection.wagle.ratio = 1e-09 of [\d,]+ weights selects none.*Raise it"):
        refused(folder, {"wagle": 1e-9})


def test_a_pattern_that_names_nothing_is_refused(folder):
    with pytest.raises(ModelError, match=r"exclude: 'lm_haed' names no parameter of LlamaForCausalLM"):
        refused(folder, {"wagle": {"ratio": 0.5, "exclude": ["lm_haed"]}})
    with pytest.raises(RecipeError, match="is not a regular expression"):
        recipe_for(folder, selection={"wagle": {"ratio": 0.5, "exclude": ["("]}})


def test_a_tied_matrix_under_its_second_name_is_refused_with_its_first(tmp_path, make_llama):
    write_world(tmp_path, lambda **kwargs: make_llama(tie=True, **kwargs), layers=2)
    with pytest.raises(
        ModelError, match=r"'lm_head' names lm_head.weight, which is tied: the same matrix as model.embed_tokens.weight"
    ):
        refused(tmp_path, {"wagle": {"ratio": 0.5, "exclude": ["lm_head"]}})
    refused(tmp_path, {"wagle": {"ratio": 0.5, "exclude": ["embedding"]}})


def test_a_score_that_needs_retain_rows_says_so_and_one_that_does_not_takes_none(folder):
    forget = {"data": {"forget": {"path": str(folder / "forget.jsonl")}}, "method": "ga"}
    with pytest.raises(RecipeError, match="data.retain: missing; selection wagle is scored on retain rows"):
        refused(folder, {"wagle": 0.5}, **forget)
    refused(folder, {"snip": 0.5}, **forget)


def test_rows_that_only_the_score_reads_are_loaded_and_checked_and_do_not_train(folder):
    both = {"data": {role: {"path": str(folder / f"{role}.jsonl")} for role in ("forget", "retain")}}
    prepared = prepare(recipe_for(folder, selection={"wagle": 0.5}, method="ga", **both))
    assert list(prepared.rows) == ["forget"] and list(prepared.score_rows) == ["retain"]
    same = {"data": {role: {"path": str(folder / "forget.jsonl")} for role in ("forget", "retain")}}
    with pytest.raises(DataError, match="retain"):
        refused(folder, {"wagle": 0.5}, method="ga", **same)


def test_score_masks_refuses_what_it_cannot_do(folder, tmp_path):
    with pytest.raises(RecipeError, match="selection: all is no score"):
        score_masks(recipe_for(folder), [0.1], tmp_path / "out")
    with pytest.raises(InputError, match=r"--ratio 2: is the share of weights that train"):
        score_masks(recipe_for(folder, selection={"wagle": 0.1}), [2], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        score_masks(recipe_for(folder, selection={"wagle": 0.1}), [0.1], tmp_path / "full")


def test_the_plan_says_what_is_ranked_and_read(folder):
    lines = plan(recipe_for(folder, selection={"wagle": 0.25})).lines
    assert any(
        line.startswith("selection    wagle: the largest 25 % of ") and "4 forget rows and 4 retain rows" in line
        for line in lines
    )
    assert any("no data are read" in line for line in plan(recipe_for(folder, selection={"magnitude": 0.25})).lines)
