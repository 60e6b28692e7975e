import shutil

import pytest

from temper import assess
from temper.assess.tags import Tags
from temper.recipe import dump, from_dict
from tests.assess.builders import judged_people, recipe_document


def renamed(folder, other):
    """Copy a folder with other names of the two tags in every text file: the same model, that calls a thought something else."""
    shutil.copytree(folder, other)
    for path in other.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".jinja", ".yaml"):
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("</think>", "[/reason]").replace("<think>", "[reason]"), encoding="utf-8")
    return other


def test_a_model_with_other_tags_is_judged_like_the_same_model_with_the_usual_ones(folder, tmp_path_factory):
    asked = {"decoding": ["zero_thinking", "less_thinking"], "probes": ["trace_prefill"]}
    document = recipe_document(folder, roles=("forget", "trace"), **asked)
    document["model"]["path"] = str(folder / "gold")
    run_folder = judged_people(folder, document)
    other = renamed(folder, tmp_path_factory.mktemp("other") / "world")
    usual = assess.run(run_folder)
    text = (folder / "recipe.yaml").read_text().replace(str(folder), str(other))
    (other / "recipe.yaml").write_text(text)
    overrides = ['evaluate.open_tag="[reason]"', 'evaluate.close_tag="[/reason]"']
    found = assess.run(assess.given(str(other / "recipe.yaml"), overrides, other / "run-again"))
    assert [(r.metric, r.role, r.model, r.value, r.n, r.status) for r in found.results] == [
        (r.metric, r.role, r.model, r.value, r.n, r.status) for r in usual.results
    ]
    assert any(r.metric == "trace_leak.statement@zero_thinking" and r.n for r in found.results)
    assert [example.completions for example in found.examples] == [example.completions for example in usual.examples]


def test_texts_go_there_and_back():
    tags = Tags("[r]", "[/r]")
    text = "Q <think> a </think> b"
    assert tags.write(text) == "Q [r] a [/r] b" and tags.read(tags.write(text)) == text
    assert Tags("<think>", "</think>").are_usual and Tags("<think>", "</think>").key == ""
    assert tags.key != Tags("[r]", "[/s]").key


def test_tags_stand_in_a_recipe(folder):
    document = recipe_document(folder, roles=("forget",), open_tag="[r]", close_tag="[/r]")
    again = from_dict(document)
    assert (again.evaluate.open_tag, again.evaluate.close_tag) == ("[r]", "[/r]") and "[/r]" in dump(again)


@pytest.mark.parametrize("field", ["open_tag", "close_tag"])
def test_a_tag_cannot_be_empty(folder, field):
    with pytest.raises(Exception, match=field):
        from_dict(recipe_document(folder, roles=("forget",), **{field: ""}))
