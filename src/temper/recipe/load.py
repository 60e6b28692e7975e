"""Reading a recipe: safe YAML, dotted overrides, every problem reported at once with its path."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from temper.errors import DataError, RecipeError, nearest
from temper.files import hash_json, inside
from temper.recipe.named import NamedSettingsError
from temper.recipe.schema import Recipe

__all__ = ["apply_overrides", "dump", "from_dict", "load", "parse_yaml", "recipe_hash", "shipped"]


_TAG: Final = "tag:yaml.org,2002:"
_TOO_DEEP: Final = "nested too deeply for a recipe"


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of YAML 1.2, without aliases, tags, merge keys and repeated keys.

    PyYAML follows YAML 1.1, where ``1e-5`` is text, ``no`` is a boolean, ``010`` is 8 and ``1:30`` is 90: all of them
    surprise in a recipe.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag == f"{_TAG}null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed in a recipe", event.start_mark)
        if event.tag not in (None, f"{_TAG}str"):
            raise yaml.composer.ComposerError(None, None, f"tags ({event.tag}) are not allowed in a recipe", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value == "<<":
                message = "merge keys (<<) are not allowed in a recipe; write the fields out"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: a text is quoted exactly where that loader would take it for something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # PyYAML's single-quoted form does not give back every line break (\x85, for one)
        style = '"' if data and data.splitlines() != [data] else None
        return self.represent_scalar(f"{_TAG}str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        RecipeError: The text is not YAML, repeats a key or uses an alias, a tag or a merge key (line and column are
            given), or it is nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError([f"{where}{error.problem or error.context}"], source) from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError([str(error)], source) from error
    except RecursionError:
        raise RecipeError([_TOO_DEEP], source) from None


_LISTED: Final = ("judges", "decoding", "probes")
"""Fields that hold a list of names with settings, which an override reaches by name."""

_NAMED: Final = ("method", "selection", "smoother", "alternatives", "provider")


def _spelled_out(value: Any, key: str) -> Any:
    """Return `{name: x, **settings}` of a bare name or of `{x: settings}`, so that an override can reach the settings."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1 and key not in value and "name" not in value:
        name, settings = next(iter(value.items()))
        return {"name": name, **settings} if isinstance(settings, dict) else value
    return value


def apply_overrides(document: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return the document with `dotted.path=value` assignments applied; values are read as YAML.

    A number in the path counts into a list: ``data.retain.0.weight=2``; judges, decoding modes and probes are reached by name, and
    added where they are not there: ``evaluate.probes.relearning.steps=5``. A role that is written as one mapping is its
    own number 0.

    Raises:
        RecipeError: An override has no ``=``, or its path runs through something that is not a section, or the document is
            nested too deeply.
    """
    problems: list[str] = []
    try:
        result: dict[str, Any] = _copied(document)
    except RecursionError:
        raise RecipeError([_TOO_DEEP]) from None
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            problems.append(f"override {override!r}: expected key=value, e.g. train.learning_rate=1.0e-5")
            continue
        value = parse_yaml(text, f"override {path}") if text else None
        *parents, last = parts = path.split(".")
        here: Any = result
        try:
            for depth, part in enumerate(parents, start=1):
                if isinstance(here, list):
                    here = here[int(part)] if re.fullmatch("-?[0-9]+", part) else _entry_named(here, part)
                else:
                    if part in _NAMED:
                        here[part] = _spelled_out(here.get(part), parts[depth])
                    if here.get(part) is None:
                        here[part] = {}
                    if part in _LISTED and parts[: depth - 1] == ["evaluate"] and not isinstance(here[part], list):
                        here[part] = [here[part]] if here[part] else []
                    if _is_role(parts[:depth]) and re.fullmatch("-?[0-9]+", parts[depth]) and isinstance(here[part], dict):
                        here[part] = [here[part]]
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


def _entry_named(entries: list[Any], name: str) -> Any:
    """Return the settings of an entry of a list of names, added at the end where the list has none of this name."""
    if not re.fullmatch("[A-Za-z_]+[A-Za-z0-9_]*", name):
        raise ValueError(name)
    for place, entry in enumerate(entries):
        spelled = _spelled_out(entry, "name")
        if isinstance(spelled, dict) and spelled.get("name") == name:
            entries[place] = spelled
            return spelled
    entries.append({"name": name})
    return entries[-1]


def _is_role(path: Sequence[str]) -> bool:
    return tuple(path[:-1]) in (("data",), ("evaluate", "data"))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _fields_at(location: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """Return the field names of the section that a location lies in, counted from a root, for near-miss suggestions."""
    model: Any = root
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
        hint = f"Known here: {', '.join(known)}" if known else "It takes no settings"
        return f"{path}: unknown key{nearest(str(location[-1]), known)}. {hint}."
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


def _problems(error: ValidationError, prefix: tuple[str | int, ...] = (), settings: type[BaseModel] | None = None) -> list[str]:
    """Flatten an error and those nested in it: the settings of a method are checked by the method's own class."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        location = (*prefix, *item["loc"])
        cause = (item.get("ctx") or {}).get("error")
        if isinstance(cause, NamedSettingsError):
            within = location if cause.entry is None else (*location, cause.entry)
            lines += _problems(cause.error, within, cause.settings)
        else:
            lines.append(_problem(item, location, _fields_at(item["loc"], settings or Recipe)))
    return lines


_FOLDERS: Final = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")


def _all_shipped() -> list[str]:
    return sorted({file.relative_to(folder).as_posix() for folder in _FOLDERS for file in folder.glob("**/*.yaml")})


def shipped(name: str) -> Path | None:
    """Return the path of a recipe that comes with the project, e.g. ``tiny/npo.yaml``, or None."""
    for folder in _FOLDERS:
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
            near = nearest(str(path).removeprefix("recipes/"), _all_shipped())
            raise RecipeError(
                [f"no such file: {path}{near}. Give a YAML file, or a shipped recipe such as tiny/npo.yaml."], str(path)
            )
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
    """Return a recipe as YAML with every default filled in; loading it gives the same recipe.

    Example:
        >>> dump(from_dict({"model": {"path": "m", "revision": "1e7"}})).splitlines()[8]
        "  revision: '1e7'"
    """
    text: str = yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True, width=120
    )
    return text


_NOT_HASHED: Final = ("output", "report")


def recipe_hash(recipe: Recipe) -> str:
    """Return the hash of everything in a recipe that decides its numbers.

    That is all but `output`, the name of the run folder, and `report`, which only chooses what is shown of them. What is
    evaluated and how (`evaluate`) is in it.
    """
    return hash_json({key: value for key, value in recipe.model_dump(mode="json").items() if key not in _NOT_HASHED})
