"""Two processes on a CPU give what one gives, copied (DDP) and sharded (FSDP2)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from temper import unlearn
from temper.errors import RecipeError
from temper.recipe import dump, from_dict
from tests.unlearn.models import recipe_for, write_world

# sums over rows are taken in another order; AdamW divides by the root of small second moments, which enlarges that a little
TOLERANCE = 5e-6


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama)


def in_two_processes(folder, recipe, name):
    """Run a recipe under torchrun and return its folder."""
    (folder / f"{name}.yaml").write_text(dump(recipe))
    out = folder / name
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--standalone", "--nproc_per_node", "2", "-m", "temper.cli", "unlearn"]
    done = subprocess.run(
        [*command, str(folder / f"{name}.yaml"), "--out", str(out)],
        env={**os.environ, "TEMPER_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


def assert_two_equal_one(folder, **settings):
    """Train with one process and twice the batch, then with two; return both folders."""
    train = {"steps": 4, "learning_rate": 0.003, "checkpoint_every": 2}
    more = settings.pop("train", {})
    single = unlearn.run(recipe_for(folder, train={**train, "batch_size": 4}, **settings), folder / "one")
    double = in_two_processes(folder, recipe_for(folder, train={**train, "batch_size": 2, **more}, **settings), "two")
    one, two, before = weights(single), weights(double), load_file(folder / "model" / "model.safetensors")
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < TOLERANCE
    assert max((one[name] - before[name]).abs().max().item() for name in one) > 1000 * TOLERANCE
    assert losses(single) == pytest.approx(losses(double), rel=1e-5)
    return single, double


def test_two_processes_with_copies_equal_one(folder):
    _, double = assert_two_equal_one(folder, method="npo")
    manifest = json.loads((double / "manifest.json").read_text())
    assert manifest["stages"]["unlearn"]["processes"] == 2 and "sharded" not in manifest["stages"]["unlearn"]


def test_two_processes_with_shards_equal_one_and_hold_half_each(folder):
    _, double = assert_two_equal_one(folder, method="npo", train={"sharding": "fsdp2"})
    sharded = json.loads((double / "manifest.json").read_text())["stages"]["unlearn"]["sharded"]
    assert 0.4 < sharded["entries_in_this_process"] / sharded["entries"] < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rmu"},
        {"method": "r2mu"},
        {"method": "klmin"},
        {"selection": {"lora": 2}},
        {"selection": {"rows": 50.0}},
        {"smoother": {"sam": {"rho": 0.01}}},
        {"smoother": {"wa": {"start": 2, "every": 1}}},
    ],
    ids=lambda settings: str(next(iter(settings.values()))),
)
def test_every_way_to_train_is_the_same_in_two_processes(folder, settings, sharding):
    assert_two_equal_one(folder, train={"sharding": sharding}, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "train", [{}, {"storage": "delta", "passes": "by_role"}, {"storage": "dense_compat"}, {"sharding": "fsdp2"}], ids=str
)
def test_single_weights_train_the_same_in_two_processes(folder, train):
    """What is packed is averaged over processes; whole rows have a gradient of their own in each linear layer."""
    import torch
    from transformers import AutoModelForCausalLM

    from temper.models.masks import save_masks

    model, draw = AutoModelForCausalLM.from_pretrained(folder / "model"), torch.Generator().manual_seed(0)
    masks = {
        name: (torch.rand(p.shape if "mlp" in name else (len(p), 1), generator=draw) < 0.2).expand_as(p).contiguous()
        for name, p in model.named_parameters()
        if p.dim() == 2
    }
    save_masks(folder / "mask.safetensors", masks, model)
    selection = {"mask": {"path": str(folder / "mask.safetensors")}}
    single, double = assert_two_equal_one(folder, method="npo", selection=selection, train=train)
    logs = [(run / "log.jsonl").read_text().splitlines() for run in (single, double)]
    norms = [[json.loads(line)["grad_norm"] for line in log if '"grad_norm"' in line] for log in logs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.slow
def test_processes_whose_rows_differ_in_length_run_the_same_passes(folder):
    """Each process would group its roles by its own widths, and with shards they would wait for each other for ever."""
    rows = [json.loads(line) for line in (folder / "forget.jsonl").read_text().splitlines()]
    rows[0]["prompt"] *= 4
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert_two_equal_one(folder, method="dpo", train={"sharding": "fsdp2"})


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_a_run_in_two_processes_resumes_from_its_checkpoint(folder, sharding):
    import shutil

    train = {"steps": 4, "learning_rate": 0.003, "checkpoint_every": 2, "batch_size": 2, "sharding": sharding}
    whole = in_two_processes(folder, recipe_for(folder, train=train), "whole")
    after = weights(whole)
    manifest = json.loads((whole / "manifest.json").read_text())
    del manifest["stages"]["unlearn"]
    (whole / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(whole / "model")
    shutil.rmtree(whole / "checkpoints" / "checkpoint-4")
    again = weights(in_two_processes(folder, recipe_for(folder, train=train), "whole"))
    assert max((after[name] - again[name]).abs().max().item() for name in after) == 0.0
    assert "checkpoint-2" in (whole / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("method", "train", "match"),
    [
        ("klmin", {"sharding": "fsdp2", "reference": "recompute"}, "which shards cannot"),
        ({"name": "logit_offset", "distil": True}, {"reference": "recompute"}, "what is distilled is stored first"),
        ({"name": "npo", "form": "npo_muse_compat"}, {"reference": "store"}, "store cannot hold ref_logits:all"),
    ],
)
def test_a_reference_mode_that_could_not_be_kept_is_refused(folder, method, train, match):
    with pytest.raises(RecipeError, match=match):
        unlearn.run(recipe_for(folder, method=method, train=train), folder / "run")


def test_what_shards_cannot_do_is_refused_with_the_reason(folder):
    document = recipe_for(folder, train={"sharding": "fsdp2", "stop": {"retain_floor": 0.5}}).model_dump(mode="json")
    with pytest.raises(RecipeError, match="looks at the retain rows outside the sharded pass"):
        unlearn.run(from_dict(document), folder / "run")
