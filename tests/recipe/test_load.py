import functools
import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import RecipeError
from temper.recipe import ROLES, apply_overrides, dump, from_dict, json_schema, load, recipe_hash
from temper.recipe.load import parse_yaml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))

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


def test_a_warm_up_longer_than_the_run_is_refused():
    (line,) = problems({**GOOD, "train": {"steps": 3, "warmup_steps": 1000}})
    assert "warmup_steps = 1000 is longer than the run of 3 steps" in line


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


@pytest.mark.parametrize(
    ("selection", "hint"),
    [
        ({"name": "all", "foo": 1}, "selection.foo: unknown key. It takes no settings."),
        ({"all": {"foo": 1}}, "selection.foo: unknown key. It takes no settings."),
        ({"name": "layers", "layers": [0], "modul": "x"}, "(did you mean 'module'?). Known here: layers, module."),
        ({"all": 3}, "selection: 'all' takes no value"),
        ({"lora": {"name": "all"}}, "selection.name: unknown key"),
        ({"lroa": 3}, "selection 'lroa' is not known (did you mean 'lora'?)"),
    ],
)
def test_a_wrong_selection_is_told_what_that_selection_takes(selection, hint):
    (line,) = problems({**GOOD, "selection": selection})
    assert hint in line


def test_scientific_notation_without_a_dot_is_a_number():
    assert parse_yaml("x: 1e-5", "t") == {"x": 1e-5}


def test_no_is_text_and_only_true_and_false_are_booleans():
    assert parse_yaml("[no, yes, on, true, false]", "t") == ["no", "yes", "on", True, False]


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "a: &x 1\nb: *x", "a: [1", "!!python/object:os.system x", "1: x", "!!map [a]", "!!bool x"]
)
def test_hostile_or_broken_yaml_is_refused_with_its_line(text):
    with pytest.raises(RecipeError, match=r"line \d+"):
        parse_yaml(text, "t.yaml")


@pytest.mark.parametrize("text", ["010", "1:30", "0x1f", "0b1", "0o17", "1_000", "'3'"])
def test_only_plain_decimal_integers_are_integers(text):
    assert isinstance(parse_yaml(text, "t"), str)
    with pytest.raises(RecipeError, match=r"train\.steps: "):
        from_dict(apply_overrides(GOOD, [f"train.steps={text}"]))


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("10", 10), ("-3", -3), ("+5", 5)])
def test_decimal_integers_are_read(text, value):
    assert parse_yaml(text, "t") == value and isinstance(parse_yaml(text, "t"), int)


def test_a_tag_cannot_bring_back_other_integers():
    with pytest.raises(RecipeError, match="tags .* are not allowed"):
        parse_yaml("x: !!int 010", "t")
    assert parse_yaml("x: !!str 10", "t") == {"x": "10"}


@pytest.mark.parametrize("text", ["<<: {steps: 3}", "a: 1\n<<: [{b: 1}]"])
def test_merge_keys_are_refused_by_name(text):
    with pytest.raises(RecipeError, match=r"line \d+, column \d+: merge keys \(<<\) are not allowed"):
        parse_yaml(text, "t.yaml")


@pytest.mark.parametrize("piece", ["[", '{"a":', "{a: ", "- "])
def test_deeply_nested_text_is_a_recipe_error(piece):
    with pytest.raises(RecipeError, match="nested too deeply"):
        parse_yaml(piece * 5000, "t.yaml")


def test_a_deeply_nested_override_is_a_recipe_error():
    with pytest.raises(RecipeError, match="nested too deeply"):
        apply_overrides(GOOD, ["data=" + "[" * 5000])


def test_a_deeply_nested_document_is_a_recipe_error():
    deep: object = 1
    for _ in range(sys.getrecursionlimit() * 3):
        deep = {"retain": [deep]}
    assert problems({**GOOD, "data": deep}) and problems({**GOOD, "method": {"name": "npo", "beta": deep}})
    with pytest.raises(RecipeError, match="nested too deeply"):
        apply_overrides({**GOOD, "data": deep}, ["seed=1"])


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e999"])
def test_numbers_that_are_not_finite_are_refused_everywhere(number):
    text = number if "e" in number else number.replace("inf", ".inf").replace("nan", ".nan")
    for path in ("train.learning_rate", "train.weight_decay", "data.forget.0.weight", "method.beta"):
        with pytest.raises(RecipeError, match=path.replace(".", r"\.") + ": .*finite"):
            from_dict(apply_overrides(GOOD, [f"{path}={text}"]))


@pytest.mark.parametrize("path", ["seed", "world.seed"])
def test_a_seed_fits_into_32_bits(path):
    from_dict(apply_overrides(GOOD, [f"{path}={2**32 - 1}"]))
    for seed in (2**32, -1):
        with pytest.raises(RecipeError, match=f"{path}: .*seen: {seed}"):
            from_dict(apply_overrides(GOOD, [f"{path}={seed}"]))


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


@pytest.mark.parametrize("prefix", ["data", "evaluate.data"])
def test_index_0_means_a_role_that_is_written_as_one_mapping(prefix):
    document = {**GOOD, "evaluate": {"data": {"retain": {"path": "e.jsonl"}}}}
    changed = from_dict(apply_overrides(document, [f"{prefix}.retain.0.weight=2", f"{prefix}.retain.0.limit=5"]))
    (source,) = (changed.data if prefix == "data" else changed.evaluate.data)["retain"]
    assert (source.weight, source.limit) == (2.0, 5)
    (source,) = from_dict(apply_overrides(document, ["data.retain.0={path: other}"])).data["retain"]
    assert source.path == "other"
    with pytest.raises(RecipeError, match="does not lead to a field"):
        apply_overrides(document, [f"{prefix}.retain.1.weight=2"])


def test_a_method_named_by_text_can_be_overridden():
    assert from_dict(apply_overrides({**GOOD, "method": "npo"}, ["method.beta=2.0"])).method.beta == 2.0


def test_a_dumped_recipe_loads_to_the_same_recipe(tmp_path):
    recipe = from_dict({**GOOD, "selection": {"lora": {"rank": 2}}})
    (tmp_path / "r.yaml").write_text(dump(recipe))
    assert load(tmp_path / "r.yaml") == recipe


LOOKS_LIKE_A_NUMBER = [
    "1e7",
    "1e5",
    "010",
    "10",
    "-3",
    "0x1f",
    "1:30",
    "1_000",
    "1.5",
    ".inf",
    "~",
    "",
    "null",
    "true",
    "yes",
    "<<",
    "=",
]


@pytest.mark.parametrize("text", LOOKS_LIKE_A_NUMBER)
def test_a_text_that_looks_like_a_number_is_still_text_after_dump(text, tmp_path):
    recipe = from_dict({**GOOD, "model": {"path": text, "revision": text}, "report": {"title": text}})
    (tmp_path / "r.yaml").write_text(dump(recipe))
    assert load(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize("name", ["1e5", "010", "0x1f", "10", "1.5", "2026-01-01", "true", "null"])
def test_a_name_that_looks_like_a_number_is_still_text_after_dump(name):
    recipe = from_dict({**GOOD, "name": name})
    assert from_dict(parse_yaml(dump(recipe), "t")) == recipe


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "a\nb", " a\n\n b ", "\r", "a\n", "\ufeff", "\x7f"])
def test_a_text_with_line_breaks_survives_dump(text):
    recipe = from_dict({**GOOD, "report": {"title": text}})
    assert from_dict(parse_yaml(dump(recipe), "t")) == recipe


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[-+]?[0-9._:xobe]{1,6}", fullmatch=True), st.floats(1e-300, 1e300))
def test_any_recipe_survives_dump(text, number):
    recipe = from_dict({**GOOD, "report": {"title": text}, "train": {"steps": 3, "learning_rate": number}})
    assert from_dict(parse_yaml(dump(recipe), "t")) == recipe


def test_the_hash_ignores_the_output_folder_and_the_report_and_nothing_else():
    evaluate = {"data": {"forget": {"path": "e.jsonl"}}, "bootstrap": 200}
    base = from_dict({**GOOD, "evaluate": evaluate})
    for same in ({"output": "elsewhere"}, {"report": {"title": "Mine", "examples": 3}}):
        assert recipe_hash(from_dict({**GOOD, "evaluate": evaluate, **same})) == recipe_hash(base)
    for other in ({"seed": 1}, {"name": "other"}, {"evaluate": {**evaluate, "bootstrap": 300}}):
        assert recipe_hash(from_dict({**GOOD, "evaluate": evaluate, **other})) != recipe_hash(base)


def test_a_missing_recipe_says_what_to_give():
    with pytest.raises(RecipeError, match=r"no such file: nowhere.yaml.*shipped recipe"):
        load("nowhere.yaml")


def test_a_name_that_climbs_out_of_the_shipped_recipes_is_not_found():
    with pytest.raises(RecipeError, match="no such file"):
        load("tiny/../../pyproject.toml")


def test_every_shipped_recipe_is_valid_and_described():
    assert len(RECIPES) >= 7
    for file in RECIPES:
        load(file)
        assert file.read_text().startswith("# "), file


def test_the_schema_knows_every_objective_and_selection():
    schema = json_schema()
    names = {
        option["properties"]["name"]["const"] for option in schema["properties"]["method"]["anyOf"] if "properties" in option
    }
    assert {"npo", "rmu", "ga"} <= names
    assert any(option.get("title") == "lora" for option in schema["properties"]["selection"]["anyOf"])


def fits(value, schema, root):
    """Tell whether a value fits a schema, for the keywords that the schema of recipes uses for its shape."""
    if schema is True:
        return True
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": int | float,
        "null": type(None),
    }
    if "type" in schema and (
        not isinstance(value, types[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean")
    ):
        return False
    if "anyOf" in schema and not any(fits(value, option, root) for option in schema["anyOf"]):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    if isinstance(value, list):
        return all(fits(item, schema.get("items", True), root) for item in value)
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(key in value for key in schema.get("required", ())) and all(
            fits(item, properties[key], root) if key in properties else others is not False for key, item in value.items()
        )
    return True


@functools.cache
def the_schema():
    return json_schema()  # the same in every call, and a third of a second


def accepted(document):
    schema = the_schema()
    found = fits(document, schema, schema)
    if importlib.util.find_spec("jsonschema"):
        import jsonschema

        assert jsonschema.Draft202012Validator(schema).is_valid(document) == found
    return found


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_shipped_recipe_fits_the_schema_as_written_and_as_dumped(file):
    assert accepted(parse_yaml(file.read_text(), str(file)))
    assert accepted(parse_yaml(dump(load(file)), str(file)))


@pytest.mark.parametrize(
    "part",
    [
        {"data": {"retain": {"path": "r"}}},
        {"data": {"retain": [{"path": "r", "weight": 2}, {"path": "s"}]}},
        {"evaluate": {"data": {role: {"path": "r"} for role in ROLES}}},
        {"evaluate": {"data": {"general": [{"path": "r"}]}}},
        {"method": "npo"},
        {"method": None},
        {"method": {"name": "npo", "beta": 0.5}},
        {"selection": "all"},
        {"selection": {"name": "all"}},
        {"selection": {"layers": [0, 1]}},
        {"selection": {"lora": {"rank": 2}}},
        {"selection": {"lora": 4}},
        {"selection": {"name": "pattern", "pattern": "x"}},
    ],
)
def test_the_schema_accepts_every_documented_form(part):
    from_dict({**GOOD, **part})
    assert accepted({**GOOD, **part})


@pytest.mark.parametrize(
    "part",
    [
        {"data": {"forgit": {"path": "r"}}},
        {"data": {"retain": "r.jsonl"}},
        {"data": {"retain": [{"path": "r", "wieght": 2}]}},
        {"evaluate": {"data": {"forgit": [{"path": "r"}]}}},
        {"method": "simpno"},
        {"method": {"name": "npo", "bta": 0.5}},
        {"selection": "layers"},
        {"selection": {"all": 3}},
        {"selection": {"name": "all", "foo": 1}},
        {"selection": {"layers": ["one"]}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(part):
    assert problems({**GOOD, **part})
    assert not accepted({**GOOD, **part})


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


EVALUATED = {"model": {"path": "m"}, "evaluate": {"data": {"forget": {"path": "x.jsonl"}}}}


@pytest.mark.parametrize(
    ("field", "value", "start"),
    [
        ("judges", [{"prompt": {"url": "https://x/v1"}}], "evaluate.judges.prompt.model: missing"),
        ("judges", ["deterministic", {"name": "prompt", "url": "https://x/v1"}], "evaluate.judges.prompt.model: missing"),
        ("probes", [{"relearning": {"stepz": 3}}], "evaluate.probes.relearning.stepz: unknown key (did you mean 'steps'?)"),
    ],
)
def test_a_fault_in_a_list_of_names_is_said_with_the_name(field, value, start):
    document = EVALUATED | {"evaluate": EVALUATED["evaluate"] | {field: value}}
    with pytest.raises(RecipeError) as error:
        from_dict(document)
    assert any(line.startswith(start) for line in error.value.problems)


@pytest.mark.parametrize(
    "there", [None, [], "relearning", ["relearning"], [{"relearning": {"batch_size": 3}}], ["trace_prefill"]]
)
def test_an_override_reaches_a_probe_by_its_name(there):
    evaluate = EVALUATED["evaluate"] | ({} if there is None else {"probes": there})
    changed = apply_overrides(EVALUATED | {"evaluate": evaluate}, ["evaluate.probes.relearning.steps=5"])
    probes = {type(probe).name: probe for probe in from_dict(changed).evaluate.probes}
    assert probes["relearning"].steps == 5
    assert set(probes) == {"relearning"} | ({"trace_prefill"} if there == ["trace_prefill"] else set())
    assert probes["relearning"].batch_size == 3 or not isinstance(there, list) or there[:1] != [{"relearning": {"batch_size": 3}}]


def test_a_recipe_name_that_is_nearly_right_is_suggested():
    with pytest.raises(RecipeError, match=r"did you mean 'tiny/rmu-rtp.yaml'"):
        load("tiny/rmu_rtp.yaml")
