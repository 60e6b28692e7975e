"""What the model from before gave: computed once, found again by content, read from a memory map."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from temper import unlearn
from temper.data.tokenise import Item
from temper.errors import RunError
from temper.models.lora import SelectLora
from temper.train import reference
from temper.train.reference import reference_of, stored_bytes
from tests.train.batches import FORGET
from tests.unlearn.models import recipe_for, write_world

NEEDS = ("ref_row_nll", "ref_log_probs:labelled", "ref_log_probs:nonpad", "ref_hidden:1")


def item(sequence, prompt=2):
    labels = (-100,) * prompt + tuple(sequence[prompt:])
    return Item(str(sequence), tuple(sequence), labels, {}, "", "")


ITEMS = [item(sequence) for sequence in FORGET]


@pytest.fixture
def store(tmp_path):
    """Return a function that gives the references of a model, stored in one folder."""

    def get(model, needs, *, items=ITEMS, used=None, identity=None):
        used = range(len(items)) if used is None else used
        return reference_of(
            model, items, used, frozenset(needs), pad_id=0, identity=identity or {"weights": "a"}, folder=tmp_path / "store"
        )

    return get


def stores(tmp_path):
    return sorted((tmp_path / "store").iterdir())


@pytest.fixture
def computed(monkeypatch):
    """Return the list of needs that were computed."""
    seen = []
    real = reference._compute

    def compute(model, items, need, *rest):
        seen.append(need)
        real(model, items, need, *rest)

    monkeypatch.setattr(reference, "_compute", compute)
    return seen


@torch.no_grad()
def plain(model, sequence):
    ids = torch.tensor([sequence])
    output = model(input_ids=ids, output_hidden_states=True)
    return torch.log_softmax(output.logits[0], dim=-1), output.hidden_states


# ---- what is stored ----


def test_stored_sums_are_those_of_the_rows_alone(store, make_llama):
    model = make_llama()
    found = store(model, ["ref_row_nll"]).row_nll
    for place, sequence in enumerate(FORGET):
        log_probs, _ = plain(model, sequence)
        expected = -sum(log_probs[t - 1, sequence[t]] for t in range(2, len(sequence)))
        torch.testing.assert_close(found[place], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "first"), [("labelled", 1), ("nonpad", 0)])
def test_stored_distributions_are_those_of_the_rows_alone(store, make_llama, kind, first):
    model = make_llama()
    found = store(model, [f"ref_log_probs:{kind}"]).log_probs(kind, torch.tensor([2, 0]))
    expected = torch.cat([plain(model, FORGET[place])[0][first:-1] for place in (2, 0)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_stored_activations_are_those_of_the_rows_alone(store, make_llama):
    model = make_llama(layers=3)
    found = store(model, ["ref_hidden:1"]).hidden(1, torch.tensor([3, 2]), 7)
    for row, place in enumerate((3, 2)):
        expected = plain(model, FORGET[place])[1][2][0]
        torch.testing.assert_close(found[row, : len(expected)], expected, rtol=1e-5, atol=1e-5)
        assert not found[row, len(expected) :].any()


def test_activations_of_half_precision_are_stored_in_it(store, make_llama):
    found = store(make_llama().bfloat16(), ["ref_hidden:1", "ref_log_probs:labelled"])
    assert found.flat["ref_hidden:1"].dtype == torch.bfloat16
    assert found.flat["ref_log_probs:labelled"].dtype == torch.float32


def test_with_an_adapter_the_store_holds_the_model_without_it(store, make_llama):
    model = SelectLora(rank=2).apply(make_llama())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    with_adapter = store(model, ["ref_row_nll"], identity={"weights": "adapter"}).row_nll
    torch.testing.assert_close(with_adapter, store(make_llama(), ["ref_row_nll"]).row_nll, rtol=1e-5, atol=1e-5)


def test_dropout_is_off_and_the_mode_of_the_model_comes_back(store, make_llama):
    model = make_llama()
    model.config.attention_dropout = 0.5
    for block in model.model.layers:
        block.self_attn.attention_dropout = 0.5
    model.train()
    found = store(model, ["ref_row_nll"]).row_nll
    assert model.training
    torch.testing.assert_close(found, store(make_llama(), ["ref_row_nll"], identity={"weights": "b"}).row_nll)


def test_rows_that_are_not_used_are_not_stored(store, make_llama):
    found = store(make_llama(), ["ref_row_nll", "ref_hidden:1"], used=[1, 3])
    assert found.row_nll.isnan().tolist() == [True, False, True, False]
    assert len(found.flat["ref_hidden:1"]) == len(FORGET[1]) + len(FORGET[3])
    with pytest.raises(RunError, match="item 0 was not expected in this run"):
        found.hidden(1, torch.tensor([0]), 5)


@pytest.mark.parametrize("need", NEEDS[1:])
def test_the_size_of_a_store_is_known_beforehand(store, make_llama, tmp_path, need):
    store(make_llama(), [need])
    (folder,) = stores(tmp_path)
    expected = stored_bytes(ITEMS, frozenset({need}), vocabulary=64, width=32, itemsize=4)
    assert sum(tensor.numel() * 4 for tensor in load_file(folder / "vectors.safetensors").values()) == expected


# ---- where it is found again ----


def test_a_second_reading_runs_no_model(store, make_llama):
    model = make_llama()
    first = store(model, NEEDS)
    model.forward = model.model.forward = None  # a pass would fail
    second = store(model, NEEDS)
    assert torch.equal(first.row_nll, second.row_nll)
    assert all(torch.equal(first.flat[need], second.flat[need]) for need in NEEDS[1:])


def test_a_second_reading_leaves_the_files_alone(store, make_llama, tmp_path):
    store(make_llama(), NEEDS)
    stamps = {file: file.stat().st_mtime_ns for folder in stores(tmp_path) for file in folder.iterdir()}
    store(make_llama(), NEEDS)
    assert stamps == {file: file.stat().st_mtime_ns for folder in stores(tmp_path) for file in folder.iterdir()}


def test_another_model_another_row_and_another_label_have_stores_of_their_own(store, make_llama, tmp_path):
    model = make_llama()
    store(model, ["ref_row_nll"])
    store(model, ["ref_row_nll"], identity={"weights": "b"})
    store(model, ["ref_row_nll"], items=[*ITEMS[:3], item([1, 14, 3, 3])])
    store(model, ["ref_row_nll"], items=[*ITEMS[:3], item(FORGET[3], prompt=3)])
    store(model, ["ref_row_nll"], used=[0, 1])
    assert len(stores(tmp_path)) == 5


def test_the_names_of_rows_do_not_matter(store, make_llama, tmp_path):
    store(make_llama(), ["ref_row_nll"])
    renamed = [Item("x" + row.id, row.input_ids, row.labels, {"other": 1}, "p", "r") for row in ITEMS]
    store(make_llama(), ["ref_row_nll"], items=renamed)
    assert len(stores(tmp_path)) == 1


def test_a_store_that_was_not_finished_is_not_there(store, make_llama, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("the machine stopped")

    with monkeypatch.context() as patch:
        patch.setattr(reference, "save_file", fail)
        with pytest.raises(OSError, match="stopped"):
            store(make_llama(), ["ref_hidden:1"])
    assert not stores(tmp_path)
    assert store(make_llama(), ["ref_hidden:1"]).holds("ref_hidden:1")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_vectors_stay_on_disk_until_they_are_read(store, make_llama, tmp_path):
    found = store(make_llama(), ["ref_log_probs:nonpad"])
    (folder,) = stores(tmp_path)
    file = str(folder / "vectors.safetensors")
    assert file in Path("/proc/self/maps").read_text()
    assert found.flat["ref_log_probs:nonpad"].shape == (sum(len(s) - 1 for s in FORGET), 64)


# ---- in a run ----

EMBED = {"retain_term": "embed", "retain_layer": 1}
RUNS = {
    "kl": ({"name": "klmin"}, {}),
    "kl of labelled positions": ({"name": "npo", "retain_term": "kl", "retain_mask": "labelled"}, {}),
    "embed": ({"name": "npo", **EMBED}, {}),
    "rmu": ({"name": "rmu", "layer": 1}, {}),
    "rmu, adaptive": ({"name": "rmu", "layer": 1, "steering_coefficient": "adaptive:2"}, {}),
    "rmu, some blocks": ({"name": "rmu", "layer": 1}, {"selection": {"layers": [1]}}),
    "undial": ({"name": "undial"}, {}),
    "undial and kl": ({"name": "undial", "retain_term": "kl"}, {}),
    "kl, adapter": ({"name": "klmin"}, {"selection": {"lora": 2}}),
    "rmu, adapter": ({"name": "rmu", "layer": 1}, {"selection": {"lora": 2}}),
    "ap": ({"name": "npo", "retain_term": "ap"}, {}),
}


@pytest.fixture
def folder(tmp_path, make_llama, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return write_world(tmp_path, make_llama)


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


def kept(folder):
    return sorted((folder / "cache" / "reference").iterdir()) if (folder / "cache" / "reference").is_dir() else []


QUICK = ("kl", "embed", "rmu", "undial", "kl, adapter")


@pytest.mark.parametrize("what", [pytest.param(what, marks=() if what in QUICK else pytest.mark.slow) for what in RUNS])
def test_a_run_on_stored_references_has_the_losses_of_one_that_computes_them(folder, what, computed):
    method, changes = RUNS[what]
    found = []
    for mode in ("recompute", "store"):
        run = unlearn.run(recipe_for(folder, method=method, train={"reference": mode, "steps": 5}, **changes), folder / mode)
        found.append(losses(run))
        if mode == "recompute":
            assert not [need for need in computed if need != "ref_row_nll"]
    assert [need for need in computed if need != "ref_row_nll"] or what == "ap"
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-5)


def test_a_second_run_reads_the_store_of_the_first(folder, computed):
    train = {"reference": "store"}
    unlearn.run(recipe_for(folder, method="klmin", train=train), folder / "a")
    assert computed == ["ref_log_probs:nonpad"]
    unlearn.run(recipe_for(folder, method="klmin", train={**train, "learning_rate": 0.02}, seed=1), folder / "b")
    assert computed == ["ref_log_probs:nonpad"] and len(kept(folder)) == 1


def test_another_model_or_another_row_is_computed_anew(folder, computed, make_llama):
    recipe = recipe_for(folder, method="npo")
    unlearn.run(recipe, folder / "a")
    text = (folder / "forget.jsonl").read_text()
    (folder / "forget.jsonl").write_text(text.replace("Rome", "Bath"))
    unlearn.run(recipe, folder / "b")
    (folder / "forget.jsonl").write_text(text)
    make_llama(layers=3, vocab=json.loads((folder / "model" / "config.json").read_text())["vocab_size"], seed=7).save_pretrained(
        folder / "model"
    )
    unlearn.run(recipe, folder / "c")
    assert computed == ["ref_row_nll"] * 3 and len(kept(folder)) == 3


def test_another_precision_is_computed_anew(folder, computed):
    for dtype in ("float32", "bfloat16"):
        unlearn.run(recipe_for(folder, model={"path": str(folder / "model"), "dtype": dtype}), folder / dtype)
    assert len(kept(folder)) == len(computed) == 2


def test_what_is_read_once_is_not_stored_without_being_asked(folder, computed):
    # two steps of two rows: each of the four retain rows is read once
    unlearn.run(recipe_for(folder, method="klmin", train={"steps": 2}), folder / "once")
    assert computed == []
    unlearn.run(recipe_for(folder, method="klmin", train={"steps": 4}), folder / "twice")
    assert computed == ["ref_log_probs:nonpad"]


def test_a_store_that_would_be_too_large_is_not_made_without_being_asked(folder, computed, monkeypatch):
    from temper.unlearn import references

    monkeypatch.setattr(references, "STORE_LIMIT", 1000)
    unlearn.run(recipe_for(folder, method="klmin"), folder / "run")
    assert computed == []


def test_the_passes_of_the_record_say_where_references_come_from(folder):
    found = []
    for mode in ("recompute", "store"):
        run = unlearn.run(recipe_for(folder, method="klmin", train={"reference": mode}), folder / mode)
        found.append(" ".join(json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]["passes"]))
    assert "one pass without gradient under the original weights" in found[0] and "read from a store" in found[1]
