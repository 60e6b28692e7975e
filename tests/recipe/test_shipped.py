"""The recipes that come with the project: every one loads, says where it is from, and asks for what can be combined."""

from pathlib import Path

import pytest

from temper import registry
from temper.recipe import load
from temper.unlearn.checks import _check_combination, objective_of

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
TINY = [file for file in RECIPES if file.parent.name == "tiny"]
LARGE = [file for file in RECIPES if file not in TINY]

every = pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(FOLDER)))
large = pytest.mark.parametrize("file", LARGE, ids=lambda file: str(file.relative_to(FOLDER)))


@every
def test_a_shipped_recipe_asks_for_what_can_be_combined(file):
    recipe = load(file)
    _check_combination(recipe, objective_of(recipe))


@every
def test_a_shipped_recipe_gives_data_for_the_roles_that_its_objective_reads_and_no_others(file):
    recipe = load(file)
    assert set(recipe.data) == set(objective_of(recipe).roles)


@large
def test_a_recipe_for_a_real_model_says_where_its_settings_are_from(file):
    text = file.read_text(encoding="utf-8")
    assert "\n# Settings: " in text
    assert "Published figures: " in text


def test_names_of_shipped_recipes_are_their_own():
    names = [load(file).name for file in RECIPES]
    assert len(names) == len(set(names))


def test_every_objective_has_a_tiny_recipe():
    assert {load(file).method.name for file in TINY} == set(registry.names("objective"))


@pytest.mark.parametrize("file", TINY, ids=lambda file: file.stem)
def test_a_tiny_recipe_reads_the_embedded_world_alone(file):
    recipe = load(file)
    sources = [source for found in (recipe.data, recipe.evaluate.data) for role in found.values() for source in role]
    assert all(source.path.startswith("world:") for source in sources)
    assert recipe.model.path.startswith("world:")
