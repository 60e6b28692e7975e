"""Recipes: the typed document that decides a run.

The command line, the Python API and a saved run all use the same one. What a method's own settings mean belongs to the
method; reading data and models belongs to `temper.data` and `temper.models`.
"""

from temper.recipe.jsonschema import json_schema
from temper.recipe.load import apply_overrides, dump, from_dict, load, recipe_hash, shipped
from temper.recipe.schema import (
    ROLES,
    DataSource,
    EvaluateSection,
    ModelSection,
    Named,
    NamedSettings,
    Recipe,
    ReportSection,
    Section,
    StopSection,
    TrainSection,
    WorldSection,
    named_settings,
)

__all__ = [
    "ROLES",
    "DataSource",
    "EvaluateSection",
    "ModelSection",
    "Named",
    "NamedSettings",
    "Recipe",
    "ReportSection",
    "Section",
    "StopSection",
    "TrainSection",
    "WorldSection",
    "apply_overrides",
    "dump",
    "from_dict",
    "json_schema",
    "load",
    "named_settings",
    "recipe_hash",
    "shipped",
]
