import json

import pytest
import torch

from temper.models.histogram import by_size
from temper.models.masks import combine, load_masks, mask_facts, open_masks, save_masks
from temper.models.ranking import choose
from temper.recipe import dump
from temper.unlearn.attribution.maskfiles import inspect_masks
from temper.unlearn.attribution.page import mask_page
from tests.cli.test_verbs import call
from tests.unlearn.models import recipe_for, write_world

SMALL = [
    ("model.embed_tokens.weight", [16, 8]),
    *((f"model.layers.{layer}.mlp.{part}_proj.weight", [8, 8]) for layer in range(2) for part in ("up", "down")),
    ("model.norm.weight", [8]),
]


def save(folder, name, model, ratio=0.4, seed=0, **facts):
    """Save a mask of random scores for a model, or for the names and shapes of one."""
    draw = torch.Generator().manual_seed(seed)
    shapes = model if isinstance(model, list) else [(name, p.shape) for name, p in model.named_parameters()]
    scores = {name: torch.randn(list(shape), generator=draw) for name, shape in shapes}
    choice = choose(scores, [ratio])[ratio]
    header = {"score": "wagle", "ratio": ratio, "scope": "global", "structure": "weights", "histogram": by_size(scores, choice)}
    return save_masks(folder / name, choice, model, header | facts, weights_hash="ab" * 32)


@pytest.fixture
def model(make_llama):
    return make_llama(layers=2)


# ---- inspect ----


def test_inspect_prints_every_part_and_the_whole(tmp_path, model):
    code, out, err = call("mask", "inspect", save(tmp_path, "one.safetensors", model))
    assert code == 0 and err == ""
    assert "mlp.down_proj" in out and "embed_tokens" in out and "whole model" in out and "40" in out


def test_inspect_as_json_counts_what_the_masks_select(tmp_path, model):
    path = save(tmp_path, "one.safetensors", model)
    code, out, _ = call("mask", "inspect", path, "--json")
    (file,) = json.loads(out)["files"]
    assert code == 0 and file["selected"] == sum(load_masks(path, model).counts().values())
    assert file["weights"] == file["competing"] == sum(p.numel() for p in model.parameters())
    assert sum(part["selected"] for part in file["parts"]) == file["selected"]


def test_overlap_is_shown_beside_what_chance_would_give(tmp_path, model):
    files = [save(tmp_path, f"{seed}.safetensors", model, seed=seed) for seed in (0, 1)]
    code, out, _ = call("mask", "inspect", *files, "--json")
    (pair,) = json.loads(out)["overlaps"]
    assert code == 0 and abs(pair["iou"] - pair["by_chance"]) < 0.01 and abs(pair["by_chance"] - 0.25) < 1e-4


def test_masks_of_two_ratios_lie_one_in_the_other(tmp_path, model):
    files = [save(tmp_path, f"{ratio}.safetensors", model, ratio=ratio) for ratio in (0.1, 0.4)]
    code, out, _ = call("mask", "inspect", *files)
    assert code == 0 and "IoU 0.250" in out and "100" in out.split("; ")[-1]


def test_masks_of_different_models_are_shown_but_not_compared(tmp_path, model, make_llama):
    files = [save(tmp_path, "one.safetensors", model), save(tmp_path, "two.safetensors", make_llama(width=16))]
    code, out, _ = call("mask", "inspect", *files)
    assert code == 0 and "cannot tell, they were made for different models" in out
    (pair,) = inspect_masks(files)["overlaps"]
    assert pair["iou"] is None


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, model):
    files = [save(tmp_path / place, "mask.safetensors", model) for place in ("a", "b")]
    assert [file["name"] for file in inspect_masks(files)["files"]] == ["a/mask", "b/mask"]


def test_a_mask_that_selects_nothing_can_be_inspected(tmp_path):
    path = save_masks(tmp_path / "none.safetensors", {}, SMALL)
    assert call("mask", "inspect", path)[0] == 0
    inspected = inspect_masks([path, path])
    assert inspected["overlaps"][0]["why"] == "neither selects anything"
    assert "cannot tell" in mask_page(inspected)


def test_what_is_not_a_mask_file_is_code_two(tmp_path):
    (tmp_path / "text").write_text("hello")
    code, out, err = call("mask", "inspect", tmp_path / "text")
    assert code == 2 and out == "" and "is not a safetensors file" in err and "Traceback" not in err


# ---- the page ----


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    save(folder, "one.safetensors", SMALL, gamma={"mode": "absolute", "value": 1e-6, "absolute": 1e-6}, balance_share=0.94)
    save(folder, "two.safetensors", SMALL, seed=1, gamma={"mode": "relative", "value": 1.0, "absolute": 0.02})
    code, out, _ = call("mask", "inspect", *sorted(folder.glob("*.safetensors")), "--page", folder / "page.html")
    assert code == 0 and f"page     {folder / 'page.html'}" in out
    return (folder / "page.html").read_text()


def test_the_page_has_a_map_and_a_histogram_of_each_mask(page):
    assert page.count('aria-labelledby="map0-title') == page.count('aria-labelledby="scores1-title') == 1
    assert "How far the masks agree" in page and "mlp.down_proj" in page and "1e-06" in page


def test_the_page_says_when_the_ranking_is_that_of_a_product(page):
    assert "one: at this γ_H (see the balance) the ranking is close to that of |g_r·g_f| alone" in page
    assert "two: at this" not in page


def test_the_page_asks_nobody_for_anything(page):
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page


def test_the_same_masks_give_the_same_page(tmp_path):
    inspected = inspect_masks([save(tmp_path, "one.safetensors", SMALL)])
    assert mask_page(inspected) == mask_page(inspected)


def test_facts_from_a_file_are_escaped_and_a_strange_histogram_is_left_out(tmp_path):
    facts = {"score": "<script>x</script>", "gamma": "big", "rows": 7, "of": 3, "exclude": ["<b>"], "scope": 5}
    for strange in ({"log2": [0], "counts": [1], "selected": [1]}, {"log2": "a", "counts": [], "selected": []}, 7):
        path = save(tmp_path, "odd.safetensors", SMALL, **{**facts, "histogram": strange})
        found = mask_page(inspect_masks([path]))
        assert "<script>x" not in found and "<b>" not in found and "No histogram of scores in: odd" in found
        assert call("mask", "inspect", path)[0] == 0


# ---- combine ----


@pytest.mark.parametrize("by", ["union", "intersection", "majority"])
def test_combined_masks_are_written_with_where_they_came_from(tmp_path, model, by):
    files = [save(tmp_path, f"{seed}.safetensors", model, seed=seed) for seed in range(3)]
    code, out, _ = call("mask", "combine", *files, "--by", by, "--out", tmp_path / "all.safetensors")
    header, masks = open_masks(tmp_path / "all.safetensors")
    expected = combine([load_masks(file, model) for file in files], by)
    assert code == 0 and by in out and all(torch.equal(masks[name], expected[name]) for name in expected)
    assert header["facts"]["combined"] == by and [one["file"] for one in header["facts"]["of"]] == ["0", "1", "2"]
    assert header["weights_hash"] == "ab" * 32 and "histogram" not in header["facts"]["of"][0]["facts"]
    assert load_masks(tmp_path / "all.safetensors", model).keys() == dict(model.named_parameters()).keys()


def test_masks_of_different_weights_are_combined_only_where_that_is_asked_for(tmp_path, model):
    one = save(tmp_path, "one.safetensors", model)
    other = save_masks(tmp_path / "other.safetensors", load_masks(one, model), model)
    given = ["mask", "combine", one, other, "--by", "union", "--out", tmp_path / "both"]
    code, _, err = call(*given)
    assert code == 2 and "was made from other weights than" in err and not (tmp_path / "both").exists()
    assert call(*given, "--any-weights")[0] == 0
    assert mask_facts(tmp_path / "both")["weights_hash"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x"], "--by is missing. Give union, intersection or majority"),
        (["--by", "union"], "--out is missing"),
        (["--by", "unoin", "--out", "x"], "by = 'unoin': no such way (did you mean 'union'?)"),
    ],
)
def test_combine_says_what_is_missing(tmp_path, model, options, message):
    path = save(tmp_path, "one.safetensors", model)
    code, out, err = call("mask", "combine", path, path, *[tmp_path / "x" if one == "x" else one for one in options])
    assert code == 2 and message in err and out == "" and not (tmp_path / "x").exists()


def test_combine_refuses_one_file_another_model_and_a_file_that_exists(tmp_path, model, make_llama):
    one = save(tmp_path, "one.safetensors", model)
    longer = save(tmp_path, "longer.safetensors", make_llama(layers=3))
    for files, out, message in [
        ([one], "x", "combining takes at least two"),
        ([one, longer], "x", "longer.safetensors: was made for another model than"),
        ([one, one], "one.safetensors", "exists. Name another file"),
    ]:
        code, _, err = call("mask", "combine", *files, "--by", "union", "--out", tmp_path / out)
        assert code == 2 and message in err


# ---- score ----


@pytest.fixture
def folder(tmp_path, make_llama):
    write_world(tmp_path, make_llama)
    (tmp_path / "recipe.yaml").write_text(dump(recipe_for(tmp_path, selection={"wagle": 0.4})))
    return tmp_path


def test_score_writes_a_mask_for_each_ratio_and_the_page(folder):
    code, out, err = call(
        "mask", "score", folder / "recipe.yaml", "--ratio", "0.1", "--ratio", "0.4", "--out", folder / "m", "--json"
    )
    found = json.loads(out)
    assert code == 0 and "score: " in err and (folder / "m" / "masks.html").is_file()
    assert list(found["masks"]) == ["0.1", "0.4"] and found["overlaps"][0]["in_the_larger"] == 1.0
    for ratio, file in zip((0.1, 0.4), found["masks"].values(), strict=True):
        assert mask_facts(folder / file)["facts"]["ratio"] == ratio


def test_score_prints_what_decided_the_ranking(folder):
    code, out, _ = call("mask", "score", folder / "recipe.yaml", "--out", folder / "m")
    assert code == 0 and "score    wagle over 4 forget, 4 retain rows" in out and "gamma_H" in out and "balance" in out
    assert str(folder / "m" / "mask_0.4.safetensors") in out and str(folder / "m" / "masks.html") in out


def test_a_ratio_out_of_range_is_refused_before_the_model_is_loaded(folder):
    code, out, err = call("mask", "score", folder / "recipe.yaml", "--ratio", "1.5", "--out", folder / "m")
    assert code == 2 and "1.5" in err and "[0, 1]" in err and not (folder / "m").exists() and out == ""


@pytest.mark.parametrize("verb", ["score", "inspect", "combine"])
def test_every_verb_has_help_with_an_example(verb):
    code, out, _ = call("mask", verb, "--help")
    assert code == 0 and f"Example: temper mask {verb}" in out and "--json" in out
