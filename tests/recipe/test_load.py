import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import RecipeError
from temper.recipe import apply_overrides, dump, from_dict, json_schema, load, recipe_hash
from temper.recipe.load import parse_yaml

GOOD = {
    "model": {"path": "somewhere/model"},
    "data": {"forget": {"path": "f.jsonl"}, "retain": {"path": "r.jsonl"}},
    "method": {"name": "npo", "beta": 0.5},
    "train": {"steps": 3},
}


def problems(document):
    with pytest.raises(RecipeError) as caught:
        from_dict(document)
    return caught.value.problems


def test_all_problems_are_reported_at_once_with_their_paths():
    found = problems({"modle": {}, "train": {"steps": "5", "learning_rat": 1.0}, "method": {"name": "npo", "bta": 1.0}})
    assert len(found) == 5
    assert any(line.startswith("modle: unknown key (did you mean 'model'?)") for line in found)
    assert any(line.startswith("model: missing") for line in found)
    assert any(line.startswith("train.steps: ") and "seen: '5'" in line for line in found)
    assert any(line.startswith("train.learning_rat: unknown key (did you mean 'learning_rate'?)") for line in found)
    assert any(line.startswith("method.bta: unknown key (did you mean 'beta'?)") for line in found)


def test_an_unknown_objective_is_named_with_the_nearest():
    (line,) = problems({**GOOD, "method": "simpno"})
    assert "objective 'simpno' is not known (did you mean 'simnpo'?)" in line


def test_an_unknown_role_is_named_with_the_nearest():
    (line,) = problems({**GOOD, "data": {"forgit": {"path": "f"}}})
    assert line.startswith("data: ") and "did you mean 'forget'" in line


def test_a_wrong_type_deep_in_a_list_has_its_path():
    (line,) = problems({**GOOD, "data": {"forget": [{"path": "f"}, {"path": 3}]}})
    assert line.startswith("data.forget.1.path: ") and "seen: 3" in line


def test_steps_and_epochs_exclude_each_other():
    (line,) = problems({**GOOD, "train": {"steps": 1, "epochs": 2.0}})
    assert "either steps or epochs" in line


def test_a_bare_method_name_means_its_defaults():
    recipe = from_dict({**GOOD, "method": "npo"})
    assert recipe.method.name == "npo" and recipe.method.beta == 0.1


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("all", "all"),
        ({"layers": [0, 1]}, "layers"),
        ({"lora": {"rank": 2}}, "lora"),
        ({"lora": 4}, "lora"),
        ({"name": "pattern", "pattern": "x"}, "pattern"),
    ],
)
def test_a_selection_has_a_short_and_a_long_form(given, name):
    assert from_dict({**GOOD, "selection": given}).selection.name == name


def test_a_wrong_selection_setting_has_its_path():
    (line,) = problems({**GOOD, "selection": {"layers": ["one"]}})
    assert line.startswith("selection.layers.0: ")


def test_scientific_notation_without_a_dot_is_a_number():
    assert parse_yaml("x: 1e-5", "t") == {"x": 1e-5}


def test_no_is_text_and_only_true_and_false_are_booleans():
    assert parse_yaml("[no, yes, on, true, false]", "t") == ["no", "yes", "on", True, False]


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: &x 1\nb: *x", "a: [1", "!!python/object:os.system x", "1: x"])
def test_hostile_or_broken_yaml_is_refused_with_its_line(text):
    with pytest.raises(RecipeError, match=r"line \d+"):
        parse_yaml(text, "t.yaml")


def test_overrides_reach_nested_fields_and_lists():
    document = {**GOOD, "data": {"forget": [{"path": "f"}]}}
    recipe = from_dict(
        apply_overrides(document, ["train.learning_rate=2e-5", "data.forget.0.limit=7", "method.beta=1.0", "seed=3"])
    )
    assert (recipe.train.learning_rate, recipe.data["forget"][0].limit, recipe.method.beta, recipe.seed) == (2e-5, 7, 1.0, 3)


def test_an_override_leaves_the_document_as_it_was():
    apply_overrides(GOOD, ["train.steps=9"])
    assert GOOD["train"]["steps"] == 3


@pytest.mark.parametrize("override", ["train.steps", "=3", "data.forget.5.limit=1", "model.path.x=1"])
def test_an_override_that_leads_nowhere_is_refused(override):
    with pytest.raises(RecipeError, match="override"):
        from_dict(apply_overrides({**GOOD, "data": {"forget": [{"path": "f"}]}}, [override]))


def test_a_method_named_by_text_can_be_overridden():
    assert from_dict(apply_overrides({**GOOD, "method": "npo"}, ["method.beta=2.0"])).method.beta == 2.0


def test_a_dumped_recipe_loads_to_the_same_recipe(tmp_path):
    recipe = from_dict({**GOOD, "selection": {"lora": {"rank": 2}}})
    (tmp_path / "r.yaml").write_text(dump(recipe))
    assert load(tmp_path / "r.yaml") == recipe


def test_the_hash_ignores_the_output_folder_and_nothing_else():
    base = from_dict(GOOD)
    assert recipe_hash(from_dict({**GOOD, "output": "elsewhere"})) == recipe_hash(base)
    assert recipe_hash(from_dict({**GOOD, "seed": 1})) != recipe_hash(base)


def test_a_missing_recipe_says_what_to_give():
    with pytest.raises(RecipeError, match=r"no such file: nowhere.yaml.*shipped recipe"):
        load("nowhere.yaml")


def test_a_name_that_climbs_out_of_the_shipped_recipes_is_not_found():
    with pytest.raises(RecipeError, match="no such file"):
        load("tiny/../../pyproject.toml")


def test_every_shipped_recipe_is_valid_and_described():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "recipes"
    files = sorted(folder.rglob("*.yaml"))
    assert len(files) >= 7
    for file in files:
        load(file)
        assert file.read_text().startswith("# "), file


def test_the_schema_knows_every_objective_and_selection():
    schema = json_schema()
    names = {
        option["properties"]["name"]["const"] for option in schema["properties"]["method"]["anyOf"] if "properties" in option
    }
    assert {"npo", "rmu", "ga"} <= names
    assert any(option.get("title") == "lora" for option in schema["properties"]["selection"]["anyOf"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "path", "data", "forget", "train", "steps", "method", "name", "npo", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_any_document_is_a_recipe_or_a_recipe_error(document):
    try:
        from_dict(document)
    except RecipeError as error:
        assert error.problems


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_yaml_or_a_recipe_error(text):
    try:
        parse_yaml(text, "t")
    except RecipeError as error:
        assert error.problems
