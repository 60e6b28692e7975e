"""Reading a recipe: safe YAML, dotted overrides, every problem reported at once with its path."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from temper.errors import DataError, RecipeError, nearest
from temper.files import hash_json, inside
from temper.recipe.schema import NamedSettingsError, Recipe

__all__ = ["apply_overrides", "dump", "from_dict", "json_schema", "load", "parse_yaml", "recipe_hash", "shipped"]


class _Loader(yaml.SafeLoader):
    """Safe YAML with the floats and booleans of YAML 1.2, without aliases and without repeated keys.

    PyYAML follows YAML 1.1, where ``1e-5`` is text and ``no`` is a boolean: both surprise in a recipe.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed in a recipe", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        RecipeError: The text is not YAML, repeats a key or uses an alias; line and column are given.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError([f"{where}{error.problem or error.context}"], source) from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError([str(error)], source) from error


def apply_overrides(document: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return the document with `dotted.path=value` assignments applied; values are read as YAML.

    A number in the path counts into a list: ``data.retain.0.weight=2``.

    Raises:
        RecipeError: An override has no ``=``, or its path runs through something that is not a section.
    """
    problems: list[str] = []
    result: dict[str, Any] = _copied(document)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            problems.append(f"override {override!r}: expected key=value, e.g. train.learning_rate=1.0e-5")
            continue
        value = parse_yaml(text, f"override {path}") if text else None
        *parents, last = path.split(".")
        here: Any = result
        try:
            for part in parents:
                if isinstance(here, list):
                    here = here[int(part)]
                else:
                    if isinstance(here.get(part), str) and part in ("method", "selection"):
                        here[part] = {"name": here[part]}
                    if here.get(part) is None:
                        here[part] = {}
                    here = here[part]
            if isinstance(here, list):
                here[int(last)] = value
            else:
                here[last] = value
        except (ValueError, IndexError, AttributeError, TypeError):
            problems.append(f"override {override!r}: {path!r} does not lead to a field of this recipe")
    if problems:
        raise RecipeError(problems, "overrides")
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _fields_at(location: Sequence[str | int]) -> list[str]:
    """Return the field names of the section a location lies in, for near-miss suggestions."""
    model: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        field = model.model_fields.get(part)
        model = _section_in(field.annotation) if field else model
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _section_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section_in(inner)) is not None:
            return found
    return None


def _problem(error: Any, location: Sequence[str | int], known: Sequence[str]) -> str:
    path = ".".join(str(part) for part in location) or "recipe"
    seen = error.get("input")
    shown = f" (seen: {seen!r:.80})" if not isinstance(seen, dict | list) else ""
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{nearest(str(location[-1]), known)}. Known here: {', '.join(known)}."
    if error["type"] == "missing":
        return f"{path}: missing; it is required."
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}{shown if error['type'] != 'value_error' else ''}"


def from_dict(document: Any, source: str = "recipe") -> Recipe:
    """Return the checked recipe of a plain document.

    Raises:
        RecipeError: With every problem found, one line each.
    """
    if not isinstance(document, dict):
        raise RecipeError([f"expected a mapping with model, data, method, ...; seen: {type(document).__name__}"], source)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(_problems(error), source) from None


def _problems(error: ValidationError, prefix: tuple[str | int, ...] = (), known: Sequence[str] = ()) -> list[str]:
    """Flatten an error and those nested in it: the settings of a method are checked by the method's own class."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        location = (*prefix, *item["loc"])
        cause = (item.get("ctx") or {}).get("error")
        if isinstance(cause, NamedSettingsError):
            lines += _problems(cause.error, location, list(cause.settings.model_fields))
        else:
            lines.append(_problem(item, location, known or _fields_at(item["loc"])))
    return lines


def shipped(name: str) -> Path | None:
    """Return the path of a recipe that comes with the project, e.g. ``tiny/npo.yaml``, or None."""
    for folder in (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes"):
        with contextlib.suppress(DataError):  # a name that climbs out of the folder is no shipped recipe
            path = inside(folder, name.removeprefix("recipes/"))
            if path.is_file():
                return path
    return None


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file (or one that ships with the project, by its name) and check it.

    Relative paths inside a recipe are taken from the working folder.

    Raises:
        RecipeError: The file is missing or wrong.

    Example:
        >>> load("recipes/tiny/npo.yaml", ["train.steps=3"]).train.steps
        3
    """
    file = Path(path)
    if not file.is_file():
        found = shipped(str(path))
        if found is None:
            raise RecipeError([f"no such file: {path}. Give a YAML file, or a shipped recipe such as tiny/npo.yaml."], str(path))
        file = found
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise RecipeError([f"cannot be read as text ({error})"], str(path)) from error
    return from_dict(apply_overrides(_mapping(parse_yaml(text, str(path)), str(path)), overrides), str(path))


def _mapping(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError([f"expected a mapping with model, data, method, ...; seen: {type(value).__name__}"], source)
    return value


def dump(recipe: Recipe) -> str:
    """Return a recipe as YAML with every default filled in; loading it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def recipe_hash(recipe: Recipe) -> str:
    """Return the hash of everything in a recipe that decides its result: all but the name of the output folder."""
    return hash_json({key: value for key, value in recipe.model_dump(mode="json").items() if key != "output"})


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, for editors, with the settings of every registered method and selection."""
    from temper import registry

    schema = Recipe.model_json_schema()
    for kind, field in (("objective", "method"), ("selection", "selection")):
        options: list[dict[str, Any]] = [{"type": "string", "enum": registry.names(kind)}]
        if field == "method":
            options = [{"type": "null"}]
        for name in registry.names(kind):
            settings = registry.resolve(kind, name).model_json_schema()
            schema.setdefault("$defs", {}).update(settings.pop("$defs", {}))
            properties = {"name": {"const": name}, **settings.get("properties", {})}
            options.append(
                {
                    "type": "object",
                    "title": name,
                    "properties": properties,
                    "required": ["name", *settings.get("required", [])],
                    "additionalProperties": False,
                }
            )
            if field == "selection":
                options.append({"type": "object", "properties": {name: True}, "required": [name], "additionalProperties": False})
        schema["properties"][field] = {"anyOf": options, "description": schema["properties"][field].get("description", "")}
    return schema
