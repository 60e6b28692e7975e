"""The base of every section of a recipe, and of settings that the registry maps a name to."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, PlainSerializer, ValidationError

from temper import registry
from temper.errors import InputError

__all__ = ["Named", "NamedSettings", "NamedSettingsError", "Section", "named", "named_settings"]


class Section(BaseModel):
    """Base of every part of a recipe: strict types, finite numbers, unknown keys refused, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class NamedSettings(Section):
    """Base of settings that the registry maps a name to: objectives, selections.

    Attributes:
        name: The name in recipes.
        shorthand: The field that `{name: VALUE}` sets.
    """

    name: ClassVar[str]
    shorthand: ClassVar[str] = ""


class NamedSettingsError(ValueError):
    """The settings of a method or a selection are wrong; carries the errors of its own class, and in a list the name of the entry."""

    def __init__(self, error: ValidationError, settings: type[NamedSettings], entry: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.settings = settings
        self.entry = entry


def named(kind: str, value: Any) -> Any:
    """Build the settings object of `{name: ..., **settings}` or of a bare name."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Section):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"needs a name, one of: {', '.join(registry.names(kind))}")
    return _checked(_settings_class(kind, value["name"]), {key: item for key, item in value.items() if key != "name"})


def _settings_class(kind: str, name: str) -> type[NamedSettings]:
    try:
        return cast(type[NamedSettings], registry.resolve(kind, name))
    except InputError as error:
        raise ValueError(str(error)) from None


def _checked(settings: type[NamedSettings], values: dict[str, Any]) -> NamedSettings:
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise NamedSettingsError(error, settings) from None


def named_settings(kind: str, value: Any) -> Any:
    """Return the settings object of a kind: `all`, `{layers: [0, 1]}`, `{lora: {rank: 8}}` and `{name: lora, rank: 8}` are accepted."""
    if not isinstance(value, dict) or "name" in value or len(value) != 1:
        return named(kind, value)
    name, given = next(iter(value.items()))
    settings = _settings_class(kind, str(name))
    if isinstance(given, dict):
        return _checked(settings, given)
    if not settings.shorthand:
        raise ValueError(f"{name!r} takes no value{'' if settings.model_fields else '; write it as a bare name'}")
    return _checked(settings, {settings.shorthand: given})


def _with_name(value: Any) -> dict[str, Any] | None:
    return None if value is None else {"name": type(value).name, **value.model_dump(mode="json")}


Named = Annotated[NamedSettings, PlainSerializer(_with_name)]
