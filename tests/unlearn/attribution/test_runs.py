"""Runs whose weights are chosen by scores: what trains, what is kept, what a second start does, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from temper import unlearn
from temper.errors import ModelError, RecipeError
from temper.models.delta import apply_delta
from temper.models.masks import load_masks, save_masks
from temper.unlearn import masking, runner
from temper.unlearn.attribution import score_masks
from temper.unlearn.attribution.ranks import ranks_of
from tests.unlearn.models import recipe_for, write_world


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("scored")


@pytest.fixture
def folder(place, make_llama):
    """Return a folder with model and data, made once."""
    return place if (place / "model").is_dir() else write_world(place, make_llama, layers=2)


def model_of(folder, make_llama, **changes):
    return make_llama(
        **{"layers": 2, "vocab": json.loads((folder / "model" / "config.json").read_text())["vocab_size"], **changes}
    )


def weights(path):
    return load_file(path / "model" / "model.safetensors")


def record(run):
    return json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]


def test_a_scored_run_changes_selected_weights_alone_and_says_what_it_did(folder, tmp_path, make_llama):
    run = unlearn.run(recipe_for(folder, selection={"wagle": 0.1}, train={"weight_decay": 0.1}), tmp_path / "run")
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    masks = load_masks(run / "mask.safetensors", model_of(folder, make_llama))
    moved = 0
    for name, value in before.items():
        changed = value != after[name]
        assert not bool((changed & ~masks[name]).any())
        moved += int(changed.sum())
    stage = record(run)
    selected = sum(masks.counts().values())
    assert stage["trained_parameters"] == stage["weight_mask"]["selected"] == selected
    assert 0.9 * selected < moved <= selected
    damage = stage["damage"]
    assert damage["selected"] == selected and damage["moved"] == moved and damage["others_moved"] == 0


def test_a_mask_that_was_scored_before_trains_to_the_same_bits(folder, tmp_path):
    scored = unlearn.run(recipe_for(folder, selection={"wagle": 0.1}), tmp_path / "scored")
    files = score_masks(recipe_for(folder, selection={"wagle": 0.1}), [0.1], tmp_path / "masks").files
    given = unlearn.run(recipe_for(folder, selection={"mask": str(files[0.1])}), tmp_path / "given")
    assert all(torch.equal(value, weights(given)[name]) for name, value in weights(scored).items())


def test_a_run_that_was_stopped_goes_on_with_the_mask_it_made(folder, tmp_path, monkeypatch):
    recipe = recipe_for(folder, selection={"wagle": 0.1})
    whole = unlearn.run(recipe, tmp_path / "whole")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(runner, "load_to_train", killed)
        with pytest.raises(KeyboardInterrupt):
            unlearn.run(recipe, tmp_path / "run")
    made = (tmp_path / "run" / "mask.safetensors").read_bytes()
    with monkeypatch.context() as context:
        context.setattr(masking, "make_masks", lambda *args, **kwargs: pytest.fail("scored a second time"))
        run = unlearn.run(recipe, tmp_path / "run")
    assert (run / "mask.safetensors").read_bytes() == made
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize("selection", [{"wagle": 0.2}, {"lora": {"rank": 2, "by": {"wagle": 0.2}}}])
def test_a_distilled_run_that_is_resumed_or_given_its_second_model_keeps_to_what_was_scored(
    folder, tmp_path, monkeypatch, selection
):
    recipe = recipe_for(folder, method="logit_offset", selection=selection, train={"steps": 2})
    whole = unlearn.run(recipe, tmp_path / "whole")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(runner, "_distil", killed)
        with pytest.raises(KeyboardInterrupt):
            unlearn.run(recipe, tmp_path / "run")
    run = unlearn.run(recipe, tmp_path / "run")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())
    method = {"name": "logit_offset", "distil": True, "reinforced": str(whole / "reinforced")}
    given = unlearn.run(recipe_for(folder, method=method, selection=selection, train={"steps": 2}), tmp_path / "given")
    assert all(torch.equal(value, weights(given)[name]) for name, value in weights(whole).items())


def test_a_score_for_a_run_that_trains_nothing_is_refused(folder, tmp_path):
    method = {"name": "task_vector", "reinforced": str(folder / "model")}
    with pytest.raises(
        RecipeError, match=r"selection: snip is scored before training, and objective task_vector trains nothing here"
    ):
        unlearn.run(recipe_for(folder, method=method, selection={"snip": 0.2}), tmp_path / "run")


def test_an_adapter_whose_modules_no_score_has_chosen_is_never_applied(folder, make_llama):
    from temper.models.selection import selection_of
    from temper.unlearn.planning import plan

    recipe = recipe_for(folder, selection={"lora": {"rank": 2, "by": {"wagle": 0.2}}})
    with pytest.raises(ModelError, match="wagle has not been asked which modules get an adapter"):
        selection_of(recipe).apply(model_of(folder, make_llama))
    assert (
        0 < plan(recipe).facts["trained_parameters"] < plan(recipe_for(folder, selection={"lora": 2})).facts["trained_parameters"]
    )


def test_scores_choose_the_modules_and_ranks_of_an_adapter(folder, tmp_path):
    recipe = recipe_for(folder, selection={"lora": {"rank": 3, "keep": 0.5, "by": {"wagle": 0.1}}})
    run = unlearn.run(recipe, tmp_path / "run")
    made = json.loads((run / "adapter_ranks.json").read_text())
    ranks, densities = made["ranks"], made["densities"]
    assert len(ranks) == 7 and sum(ranks.values()) == 21 and record(run)["adapter_ranks"] == ranks
    assert min(densities[name] for name in ranks) >= max(share for name, share in densities.items() if name not in ranks)
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    sides = {
        name.split("base_model.model.")[1].split(".lora_A")[0]: value.shape[0]
        for name, value in adapter.items()
        if "lora_A" in name
    }
    assert sides == ranks
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    assert {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])} <= set(ranks)


def test_ranks_fill_the_budget_in_proportion_and_never_exceed_a_matrix():
    assert ranks_of({"a": 0.9, "b": 0.1}, {"a": 4, "b": 64}, rank=8, keep=1.0) == {"a": 4, "b": 12}
    assert ranks_of({"a": 0.5, "b": 0.5, "c": 0.0}, dict.fromkeys("abc", 8), rank=2, keep=1.0) == {"a": 2, "b": 2}
    assert ranks_of({"a": 0.0}, {"a": 8}, rank=2, keep=1.0) == {}
    assert ranks_of({"a": 0.999, "b": 0.001}, {"a": 64, "b": 64}, rank=2, keep=1.0) == {"a": 4, "b": 1}


def test_an_adapter_by_something_that_is_no_score_is_refused(folder):
    with pytest.raises(RecipeError, match="all is no score; give e.g."):
        recipe_for(folder, selection={"lora": {"rank": 2, "by": "all"}})
    with pytest.raises(RecipeError, match="chooses modules and ranks itself"):
        recipe_for(folder, selection={"lora": {"rank": 2, "by": {"wagle": 0.1}, "target": ["q_proj"]}})


def given(folder, path, masks, model, **changes):
    save_masks(path, masks, model, weights_hash=changes.pop("weights_hash", None))
    return recipe_for(folder, selection={"mask": {"path": str(path), **changes.pop("mask", {})}}, **changes)


def whole_masks(model):
    return {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}


def test_a_mask_of_other_weights_is_refused_before_anything_loads_unless_it_is_allowed(folder, tmp_path, make_llama, monkeypatch):
    model = model_of(folder, make_llama)
    recipe = given(folder, tmp_path / "m.safetensors", whole_masks(model), model, weights_hash="0" * 64)
    with monkeypatch.context() as context:
        context.setattr(runner, "load_to_train", lambda *args: pytest.fail("weights were loaded"))
        with pytest.raises(ModelError, match=r"was made from weights with the hash 000000000000, those of .*any_weights=true"):
            unlearn.run(recipe, tmp_path / "run")
    allowed = given(
        folder, tmp_path / "m.safetensors", whole_masks(model), model, weights_hash="0" * 64, mask={"any_weights": True}
    )
    assert unlearn.run(allowed, tmp_path / "allowed").is_dir()


@pytest.mark.parametrize(("changes", "says"), [({"layers": 3}, "layers"), ({"vocab": 90}, "has the shape .* there and .* here")])
def test_a_mask_of_another_model_or_vocabulary_is_refused_with_the_first_difference(folder, tmp_path, make_llama, changes, says):
    other = model_of(folder, make_llama, **changes)
    recipe = given(folder, tmp_path / "m.safetensors", whole_masks(other), other)
    with pytest.raises(ModelError, match=f"was made for another model: .*{says}"):
        unlearn.run(recipe, tmp_path / "run")


def test_a_mask_of_what_the_objective_gives_no_gradient_is_refused_before_anything_loads(
    folder, tmp_path, make_llama, monkeypatch
):
    model, method = model_of(folder, make_llama), {"name": "rmu", "layer": 0}
    recipe = given(folder, tmp_path / "m.safetensors", whole_masks(model), model, method=method)
    with monkeypatch.context() as context:
        context.setattr(runner, "load_to_train", lambda *args: pytest.fail("weights were loaded"))
        with pytest.raises(
            ModelError,
            match=r"selects [\d,]+ weights in \d+ parameters that rmu gives no gradient, first model.layers.1.*drop_unread=true",
        ):
            unlearn.run(recipe, tmp_path / "run")
    dropped = given(folder, tmp_path / "m.safetensors", whole_masks(model), model, method=method, mask={"drop_unread": True})
    before, after = load_file(folder / "model" / "model.safetensors"), weights(unlearn.run(dropped, tmp_path / "dropped"))
    assert [name for name in before if "layers.1" in name and not torch.equal(before[name], after[name])] == []


def test_a_structure_of_which_no_unit_fits_is_refused(folder, tmp_path):
    recipe = recipe_for(folder, selection={"wagle": {"ratio": 0.05, "structure": "blocks"}})
    with pytest.raises(ModelError, match=r"has no room for one of the blocks.*Raise the ratio"):
        unlearn.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "mask.safetensors").exists()


def test_a_library_loop_trains_nothing_that_a_mask_file_leaves_out(folder, tmp_path, make_llama):
    from temper.train.masked import MaskedOptimizer

    selection = {"wagle": {"ratio": 0.2, "exclude": ["embedding", "norms"]}}
    path = score_masks(recipe_for(folder, selection=selection), [0.2], tmp_path / "out").files[0.2]
    model = model_of(folder, make_llama)
    masks = load_masks(path, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = MaskedOptimizer(torch.optim.AdamW(model.named_parameters(), lr=0.1, weight_decay=0.1), masks)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert not bool(((p != before[name]) & ~masks[name]).any()), name
    assert optimizer.selected == sum(masks.counts().values())


@pytest.mark.parametrize("selection", [{"random": 0.1}, {"wagle": {"ratio": 0.2, "structure": "rows"}}])
def test_checkpoints_hold_what_is_selected_alone_and_resume_to_the_same_bits(folder, tmp_path, monkeypatch, selection):
    from temper.train import training

    train = {"steps": 4, "checkpoint_every": 2, "stop": {"retain_floor": 0.01, "every": 1}}
    recipe = recipe_for(folder, method="graddiff", selection=selection, train=train)
    whole = unlearn.run(recipe, tmp_path / "whole")
    inner = training._Follow.on_step_end

    def killed(self, args, state, control, **kwargs):
        inner(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(training._Follow, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            unlearn.run(recipe, tmp_path / "run")
    stored = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    selected = record(whole)["weight_mask"]["selected"]
    assert sum(value.numel() for value in load_file(stored / "trained.safetensors").values()) == selected
    kept = {name: value for name, value in load_file(stored / "extra.safetensors").items() if "kept." in name}
    assert sum(value.numel() for value in kept.values()) == selected
    run = unlearn.run(recipe, tmp_path / "run")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())


def test_dense_clipping_counts_the_gradients_of_all_weights_whatever_is_selected(folder, tmp_path, make_llama):
    model = model_of(folder, make_llama)
    name = "model.layers.1.mlp.down_proj.weight"
    half = {name: torch.arange(model.get_parameter(name).numel()).view(model.get_parameter(name).shape) % 2 == 0}

    def norm(out, **changes):
        run = unlearn.run(recipe_for(folder, method="graddiff", **changes), tmp_path / out)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return next(line["grad_norm"] for line in lines if line["event"] == "train"), run

    train = {"steps": 1}
    save_masks(tmp_path / "half.safetensors", half, model)
    selection = {"mask": str(tmp_path / "half.safetensors")}
    of_all, _ = norm("all", train=train)
    dense, run = norm("dense", train={**train, "clip": "dense"}, selection=selection)
    masked, _ = norm("masked", train=train, selection=selection)
    assert dense == pytest.approx(of_all, rel=1e-4) and masked < 0.9 * dense
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    changed = {key: before[key] != after[key] for key in before}
    assert bool(changed[name].any()) and not bool((changed[name] & ~half[name]).any())
    assert [key for key in changed if key != name and bool(changed[key].any())] == []


def test_a_scored_run_saved_as_a_delta_makes_the_same_model_from_its_base(folder, tmp_path):
    run = unlearn.run(recipe_for(folder, selection={"wagle": 0.1}, save="delta"), tmp_path / "run")
    made = apply_delta(run / "delta", folder / "model", tmp_path / "made")
    after = load_file(made / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in weights(run).items())
    size = (run / "delta" / "delta.safetensors").stat().st_size
    assert size < 0.5 * (folder / "model" / "model.safetensors").stat().st_size


def test_a_reference_that_is_recomputed_costs_the_selected_weights_alone_and_gives_the_same(folder, tmp_path):
    train = {"steps": 3}
    runs = [
        unlearn.run(
            recipe_for(folder, method={"name": "klmin"}, selection={"random": 0.1}, train={**train, "reference": mode}),
            tmp_path / mode,
        )
        for mode in ("store", "recompute")
    ]
    first, second = (weights(run) for run in runs)
    assert all(torch.allclose(value, second[name], atol=1e-5) for name, value in first.items())
