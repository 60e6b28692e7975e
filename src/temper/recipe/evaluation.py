"""The section that says how a result is judged: against which models, on which rows, by which judges, under which probes."""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field, field_validator

from temper import registry
from temper.errors import nearest
from temper.recipe.named import Named, NamedSettings, NamedSettingsError, Section, named_settings
from temper.recipe.sources import DataSource, checked_roles

__all__ = ["EvaluateSection"]


def _each(kind: str, value: Any) -> Any:
    """Return the settings objects of a list of names, or of one name; names must differ."""
    found = [_entry(kind, entry) for entry in (value if isinstance(value, list) else [value])]
    names = [type(entry).name for entry in found]
    if len(set(names)) != len(names):
        raise ValueError(f"each {kind} can stand once, seen: {', '.join(names)}")
    return found


def _entry(kind: str, value: Any) -> Any:
    try:
        return named_settings(kind, value)
    except NamedSettingsError as error:
        raise NamedSettingsError(error.error, error.settings, error.settings.name) from None


class EvaluateSection(Section):
    """Against what and on which data the result is judged."""

    data: dict[str, list[DataSource]] = Field(description="Evaluation data by role; rows that were not trained on.")
    original: str | None = Field(None, description="The model before; for unlearn the recipe's own model when left out.")
    gold: str | None = Field(None, description="A model retrained without the forget data.")
    metrics: list[str] | None = Field(None, description="Names of metrics; all that the data allow when left out.")
    judges: list[Named] = Field(
        default_factory=lambda: [cast(NamedSettings, named_settings("judge", "deterministic"))],
        description="Who puts reasoning traces into the categories C1 to C4; the first one is the headline, the others are compared with it.",
    )
    decoding: list[Named] = Field(
        [], description="Ways to decode beside the rows' own: zero_thinking, less_thinking; each asks every thinking role again."
    )
    probes: list[Named] = Field([], description="Attacks on what was forgotten: relearning, trace_prefill.")
    open_tag: str = Field("<think>", min_length=1, description="How the models judged begin a thought.")
    close_tag: str = Field("</think>", min_length=1, description="How they end it.")
    max_new_tokens: int = Field(96, ge=1)
    batch_size: int = Field(64, ge=1)
    bootstrap: int = Field(1000, ge=100, description="Resamples for the 95 % intervals.")

    @field_validator("data", mode="before")
    @classmethod
    def _roles(cls, value: Any) -> Any:
        return checked_roles(value)

    @field_validator("judges", mode="before")
    @classmethod
    def _judged(cls, value: Any) -> Any:
        return _each("judge", value)

    @field_validator("decoding", mode="before")
    @classmethod
    def _decoded(cls, value: Any) -> Any:
        return _each("decoding", value)

    @field_validator("probes", mode="before")
    @classmethod
    def _probed(cls, value: Any) -> Any:
        return _each("probe", value)

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str] | None) -> list[str] | None:
        known = registry.names("metric")
        for name in value or []:
            if name not in known:
                raise ValueError(f"metric {name!r} is not known{nearest(name, known)}. Known: {', '.join(known)}")
        return value
