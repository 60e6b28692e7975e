"""The JSON schema of recipes, for editors: every form that the loader accepts, with the settings of every registered name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from temper import registry
from temper.recipe.schema import Recipe
from temper.recipe.sources import ROLES

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, for editors, with the settings of every registered method and selection.

    It accepts what the loader accepts in shape: a role is one mapping or a list of them; a method or a selection is a bare
    name where all its settings have defaults.
    """
    schema = Recipe.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    source = {"$ref": "#/$defs/DataSource"}
    definitions["Sources"] = {"title": "Sources", "anyOf": [source, {"type": "array", "items": source}]}
    for fields in (schema["properties"], definitions["EvaluateSection"]["properties"]):
        roles = {role: {"$ref": "#/$defs/Sources"} for role in ROLES}
        fields["data"] = {**fields["data"], "properties": roles, "additionalProperties": False}
    for kind, field in (("objective", "method"), ("selection", "selection"), ("smoother", "smoother")):
        options = [] if field == "selection" else [{"type": "null"}]
        schema["properties"][field] = _named_field(schema["properties"][field], kind, options, definitions)
    provided = definitions["DataSource"]["properties"]
    provided["provider"] = _named_field(provided["provider"], "provider", [{"type": "null"}], definitions)
    judged = definitions["EvaluateSection"]["properties"]
    for kind, field in (("judge", "judges"), ("decoding", "decoding"), ("probe", "probes")):
        one = _named_field({}, kind, [], definitions)
        kept = {key: value for key, value in judged[field].items() if key in ("description", "default")}
        judged[field] = {**kept, "anyOf": [{"type": "array", "items": one}, one]}
    return schema


def _named_field(
    given: dict[str, Any],
    kind: str,
    options: list[dict[str, Any]],
    definitions: dict[str, Any],
    only: Callable[[Any], bool] = lambda settings: True,
) -> dict[str, Any]:
    """Return the schema of a field that holds the settings of a kind, in every form the loader accepts; of some of its names with `only`."""
    bare: list[str] = []
    for name in registry.names(kind):
        settings = registry.resolve(kind, name)
        if not only(settings):
            continue
        own = settings.model_json_schema()
        for title, definition in own.pop("$defs", {}).items():
            definitions.setdefault(title, definition)
        properties, required = own.get("properties", {}), own.get("required", [])
        if kind == "probe" and "data" in properties:
            given_data = {key: value for key, value in properties["data"].items() if key in ("description", "default")}
            properties["data"] = {**given_data, "anyOf": [{"$ref": "#/$defs/Sources"}, {"type": "null"}]}
        if kind == "selection" and "by" in properties:
            scores = _named_field(
                properties["by"], kind, [{"type": "null"}], definitions, lambda settings: bool(settings.is_score)
            )
            properties["by"] = scores
        if "alternatives" in properties:
            properties["alternatives"] = _named_field(properties["alternatives"], "alternatives", [], definitions)
        if not required:
            bare.append(name)
        options.append({"title": name, **_closed({"name": {"const": name}, **properties}, ["name", *required])})
        if kind != "objective":
            inner = [_closed(properties, required)]
            if settings.shorthand:
                inner.append(properties[settings.shorthand])
            options.append(_closed({name: {"anyOf": inner}}, [name]))
    if bare:
        options.append({"type": "string", "enum": bare})
    kept = {key: value for key, value in given.items() if key in ("description", "default")}
    return {**kept, "anyOf": options}


def _closed(properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
