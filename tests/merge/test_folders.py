"""Merging from disk to disk: acceptance checks A9 and A10, deltas of every form, sweeps, and bad input."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from temper.errors import DiskFull, InputError, ModelError
from temper.merge import DareTies, Linear, NormMatchedMean, Slerp, TaskArithmetic, Ties
from temper.merge.folder import bytes_in, write_merge
from temper.merge.memory import held
from temper.merge.opening import Given, open_deltas
from temper.models.delta import apply_delta, write_delta
from temper.models.load import weights_hash
from temper.models.tensorfile import TensorWriter
from temper.models.writeback import write_changed
from tests.merge.folders import DOWN, NORM, UP, changes, family, reshard, same, tensors, write
from tests.merge.test_methods import ALL
from tests.models.architectures import saved

# ---- from disk to disk is as in memory ----


FLOAT32 = [(method, torch.float32) for method in [*ALL, Slerp(position=0.3)]]
HALF = [(method, torch.bfloat16) for method in (Ties(), DareTies(density=0.5), Ties(trim="model"))]


@pytest.mark.parametrize(("method", "dtype"), FLOAT32 + HALF, ids=lambda value: getattr(value, "name", str(value)))
def test_a_merge_of_files_equals_that_in_memory_bit_for_bit(tmp_path, make_llama, method, dtype):
    base, models, values = family(tmp_path, make_llama(vocab=32, width=16).to(dtype), 2 if isinstance(method, Slerp) else 3)
    keys = [str(number) for number in range(len(models))]
    given = [Given(path, key=key) for path, key in zip(models, keys, strict=True)]
    out, _ = write(tmp_path, base, given, method, seed=5)
    in_memory, _ = held(tensors(base), values, keys=keys).merge(method, seed=5)
    assert same(tensors(out), in_memory) and not same(in_memory, tensors(base))


def test_what_is_written_opens_with_transformers_and_says_what_it_is(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama())
    out, record = write(tmp_path, base, models, Ties(), weights=[1.0, 2.0, 0.5])
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert torch.equal(loaded[DOWN], tensors(out)[DOWN]) and (out / "tokenizer_config.json").is_file()
    assert record == json.loads((out / "merge.json").read_text())
    assert record["base"]["weights"] == weights_hash(base)
    assert [model["weight"] for model in record["models"]] == [1.0, 2.0, 0.5]
    assert len({model["content"] for model in record["models"]}) == 3
    assert record["method"]["convention"] == "peft" and set(record["tensors"]) == {DOWN, UP, NORM}
    assert 0.15 < record["tensors"][DOWN]["kept"][0] <= 0.2


def test_a_tensor_that_no_model_changed_is_copied(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama(), names=(DOWN,))
    before, after = tensors(base), tensors(write(tmp_path, base, models, Ties())[0])
    assert [name for name in before if not torch.equal(before[name], after[name])] == [DOWN]


# ---- neither order, names nor files matter ----


@pytest.mark.parametrize("method", [Ties(), DareTies(density=0.5)], ids=lambda method: method.name)
def test_order_names_and_shards_of_the_models_change_no_bit(tmp_path, make_llama, method):
    model = make_llama()
    base, models, _ = family(tmp_path, model)
    one = tensors(write(tmp_path, base, models, method)[0])
    changed = AutoModelForCausalLM.from_pretrained(models[0])
    moved = reshard(changed, models[0], tmp_path / "renamed", "10KB")
    assert len(list(moved.glob("*.safetensors"))) > 2
    other = tensors(write(tmp_path, base, [models[2], moved, models[1]], method, "other", shard_size="12KB")[0])
    assert same(one, other)


def test_the_result_can_be_sharded(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama(), 2)
    out, _ = write(tmp_path, base, models, Ties(), shard_size="20kB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in out.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert set(index["weight_map"]) == set(tensors(base)) and set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(base).values())
    assert same(
        AutoModelForCausalLM.from_pretrained(out).state_dict(),
        AutoModelForCausalLM.from_pretrained(write(tmp_path, base, models, Ties(), "whole")[0]).state_dict(),
    )


# ---- deltas, ties, other layouts ----


@pytest.mark.parametrize(("share", "dtype"), [(0.01, torch.float32), (0.3, torch.bfloat16), (1.0, torch.float32)])
def test_a_delta_enters_as_the_model_it_makes(tmp_path, make_llama, dtype, share):
    model = make_llama(vocab=32, width=16).to(dtype)
    base, models, _ = family(tmp_path, model, 2)
    new = changes(model, 7)
    mask = torch.rand(new[DOWN].shape, generator=torch.Generator().manual_seed(0)) < share
    new[DOWN] = torch.where(mask, new[DOWN], model.get_parameter(DOWN).detach())
    delta = write_delta(base, new, tmp_path / "delta")
    whole = apply_delta(delta, base, tmp_path / "applied")
    one, record = write(tmp_path, base, [*models, delta], Ties(density=0.5))
    assert record["models"][2]["form"] == "delta"
    assert same(tensors(one), tensors(write(tmp_path, base, [*models, whole], Ties(density=0.5), "other")[0]))
    assert same(tensors(write(tmp_path, base, [delta], Ties(), "alone")[0]), tensors(whole))


def test_one_model_alone_is_written_byte_for_byte(tmp_path, make_llama):
    base, models, values = family(tmp_path, make_llama().to(torch.bfloat16), 1)
    out, record = write(tmp_path, base, models, Ties(scale=3.0))
    assert same(tensors(out), values[0]) and record["bypassed"] and "not merged" in record["warnings"][0]


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_other_architectures_are_merged_in_the_layout_of_their_files(tmp_path, kind):
    model = saved(kind, tmp_path / "base", layers=1)
    name = next(name for name, value in model.named_parameters() if value.dim() >= 2)
    paths = []
    for seed in range(2):
        paths.append(write_changed(tmp_path / "base", changes(model, seed, names=(name,)), tmp_path / f"split{seed}"))
    out, record = write(tmp_path, tmp_path / "base", paths, Linear())
    expected, _ = held(tensors(tmp_path / "base"), [tensors(path) for path in paths]).merge(Linear())
    assert same(tensors(out), expected) and record["total"]["merged_norm"] > 0


def test_a_model_that_stores_the_other_name_of_a_tied_matrix_fits(tmp_path, make_llama):
    base, models, values = family(tmp_path, make_llama(tie=True), 2, names=("model.embed_tokens.weight",))
    assert "lm_head.weight" not in values[1]
    values[1]["lm_head.weight"] = values[1].pop("model.embed_tokens.weight")
    save_file(values[1], models[1] / "model.safetensors", {"format": "pt"})
    out, _ = write(tmp_path, base, models, Linear())
    expected = (values[0]["model.embed_tokens.weight"] + values[1]["lm_head.weight"]) / 2
    assert torch.allclose(tensors(out)["model.embed_tokens.weight"], expected, atol=1e-6)


def test_a_tied_matrix_that_is_stored_twice_is_merged_once(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama(tie=True), 2, names=("model.embed_tokens.weight",))
    for folder in (base, *models):
        stored = tensors(folder)
        save_file(
            stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
    out, record = write(tmp_path, base, models, Ties())
    assert list(record["tensors"]) == ["model.embed_tokens.weight"]
    assert torch.equal(tensors(out)["lm_head.weight"], tensors(out)["model.embed_tokens.weight"])


# ---- opened once, merged often ----


def test_deltas_are_merged_at_several_settings_and_with_a_model_more_or_less(tmp_path, make_llama):
    base, models, values = family(tmp_path, make_llama())
    deltas = open_deltas(base, models[:2])
    for method in (Ties(), Ties(density=0.5, scale=2.0), TaskArithmetic(), NormMatchedMean()):
        assert same(deltas.merge(method)[0], held(tensors(base), values[:2]).merge(method)[0])
    more = deltas.add(models[2])
    assert same(more.merge(Ties())[0], held(tensors(base), values).merge(Ties())[0])
    fewer = more.without(str(models[0]))
    assert same(fewer.merge(Ties())[0], held(tensors(base), values[1:]).merge(Ties())[0])
    record = write_merge(fewer, Ties(), tmp_path / "fewer")
    assert [model["path"] for model in record["models"]] == [str(path) for path in models[1:]]
    assert same(tensors(tmp_path / "fewer"), fewer.merge(Ties())[0])
    assert len(deltas.sources) == 2
    with pytest.raises(ModelError, match="is no model of these"):
        more.without("split9")
    with pytest.raises(ModelError, match="only model"):
        deltas.without(0).without(0)


def test_what_a_model_brings_back_when_it_is_left_out(tmp_path, make_llama):
    model = make_llama()
    base, models, values = family(tmp_path, model, 2, names=(DOWN,))
    models.append(write_changed(base, changes(model, 9, names=(UP,)), tmp_path / "apart"))
    deltas = open_deltas(base, models)
    returned = deltas.what_returns(2, TaskArithmetic())
    assert returned.model == str(tmp_path / "apart")
    assert returned.norms == {UP: pytest.approx(float((tensors(models[2])[UP] - tensors(base)[UP]).norm()), rel=1e-6)}
    assert 0 < returned.relative < 1
    with_it, without, start = held(tensors(base), values).merge(Ties())[0], values[0], tensors(base)
    found = open_deltas(base, models[:2]).what_returns(str(models[1]), Ties())  # the other one alone is itself
    change = (with_it[DOWN] - start[DOWN]) - (without[DOWN] - start[DOWN])
    assert found.norms[DOWN] == pytest.approx(float(change.norm()), rel=1e-4)


# ---- bad input ----


def test_models_of_another_base_are_refused(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama())
    other = make_llama(seed=1)
    other.save_pretrained(tmp_path / "other")
    delta = write_delta(tmp_path / "other", changes(other, 0), tmp_path / "delta")
    with pytest.raises(ModelError, match="was made for a base with weights"):
        open_deltas(base, [models[0], delta])
    with pytest.raises(ModelError, match="was made for a base with weights abcdef"):
        open_deltas(base, [models[0], Given(models[1], base_weights="abcdef")])
    assert open_deltas(base, [models[0], Given(models[1], base_weights=weights_hash(base))])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vocab": 72}, "vocabularies differ"),
        ({"layers": 1}, "lacks model.layers.1"),
        ({"layers": 3}, "holds model.layers.2"),
        ({"tie": True}, "ties its embeddings"),
    ],
)
def test_a_model_of_another_shape_is_refused(tmp_path, make_llama, changed, words):
    base, models, _ = family(tmp_path, make_llama())
    make_llama(**changed).save_pretrained(tmp_path / "odd")
    with pytest.raises(ModelError, match=words):
        open_deltas(base, [models[0], tmp_path / "odd"])


def test_a_model_of_another_dtype_is_refused(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama())
    make_llama().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    with pytest.raises(ModelError, match="bfloat16 .*saved in its dtype"):
        open_deltas(base, [models[0], tmp_path / "half"])


def test_a_nan_is_named_and_nothing_is_written(tmp_path, make_llama):
    base, models, values = family(tmp_path, make_llama())
    values[1][UP][3, 2] = float("nan")
    save_file(values[1], models[1] / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"split1: model.layers.1.mlp.up_proj.weight has 1 entries that are NaN"):
        write(tmp_path, base, models, Ties())
    assert not [item for item in tmp_path.iterdir() if "merged" in item.name]


def test_a_disk_that_fills_up_leaves_nothing_and_what_was_there_stays(tmp_path, make_llama, monkeypatch):
    base, models, _ = family(tmp_path, make_llama())
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").write_text("mine")
    plain = TensorWriter.write

    def full(self, name, tensor):
        if name == UP:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, name, tensor)

    monkeypatch.setattr(TensorWriter, "write", full)
    with pytest.raises(DiskFull, match="no space left"):
        write(tmp_path, base, models, Ties())
    assert [item.name for item in (tmp_path / "merged").iterdir()] == ["mine"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["base", "merged", "split0", "split1", "split2"]


def test_the_result_goes_neither_into_the_base_nor_into_a_model(tmp_path, make_llama):
    base, models, _ = family(tmp_path, make_llama())
    for out in (base, models[1], models[1] / "inside"):
        with pytest.raises(ModelError, match="Name another folder"):
            write_merge(open_deltas(base, models), Ties(), out)


def test_a_size_that_is_none_is_refused():
    assert bytes_in("100MB") == 10**8
    for text in ("", "0GB", "five", "5XB"):
        with pytest.raises(InputError, match="shard size"):
            bytes_in(text)


# ---- memory ----

_PEAK = """
import sys, pathlib, temper.merge.folder as folder, temper.merge.opening as opening
from temper.merge import Ties
base, *models, out = map(pathlib.Path, sys.argv[1:])
folder.write_merge(opening.open_deltas(base, models), Ties(), out)
status = pathlib.Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is read from /proc")
def test_the_peak_of_memory_is_that_of_a_few_rows_of_the_largest_tensor(tmp_path, make_llama):
    peaks = []
    for vocab in (32, 125_000):
        folder = tmp_path / str(vocab)
        base, models, _ = family(
            folder, make_llama(layers=1, vocab=vocab, width=64, tie=True), names=("model.embed_tokens.weight",)
        )
        command = [sys.executable, "-c", _PEAK, *map(str, (base, *models, folder / "merged"))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stdout.split()[-1]))
    largest = 4 * 64 * 125_000
    assert peaks[1] - peaks[0] < (3 + 2) * largest + 2**25
