"""The sections that say what is worked on: the world that is meant, the model, and the data of a role."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator

from temper.errors import nearest
from temper.recipe.named import Named, Section, named_settings

__all__ = ["MAX_SEED", "ROLES", "DataSource", "ModelSection", "WorldSection", "checked_roles"]

ROLES: Final[tuple[str, ...]] = (
    "forget",
    "retain",
    "holdout",
    "trace",
    "reasoning",
    "retain_trace",
    "neighbour",
    "general",
    "preference",
    "demonstration",
    "labelled",
)
"""What a data set can be for. `trace`: reasoning text about the forget target; `reasoning`: general reasoning to keep."""

MAX_SEED: Final = 2**32 - 1
"""The largest seed that every random generator in use accepts."""


class WorldSection(Section):
    """Which embedded world the `world:` paths of a recipe mean."""

    size: Literal["small", "default"] = "default"
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of the world, of its tokenizer and of the models trained on it.")


class ModelSection(Section):
    """The model that is worked on."""

    path: str = Field(description="A local folder, a hub name, or world:original / world:gold.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="auto keeps the checkpoint's own.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model. Only for code you have read.")


class DataSource(Section):
    """One data set of a role, and which of its columns mean what.

    A row needs a text column, or a prompt and a response column, or a messages column.
    """

    path: str = Field(description="A file, a folder saved by datasets, a hub data set, or world:NAME.")
    format: Literal["auto", "jsonl", "json", "csv", "parquet", "text", "dataset"] = "auto"
    config: str | None = Field(None, description="Configuration name of a hub data set.")
    split: str | None = Field(None, description="Split of a data set that has several.")
    prompt: str = "prompt"
    response: str = "response"
    prefill: str = Field("prefill", description="Column with unscored text that opens the response, e.g. an empty thought.")
    text: str = "text"
    messages: str = "messages"
    id: str = Field("id", description="Column that names a row; without it a row is named by its content.")
    document: str | None = Field(
        None, description="Column that names the document a row was cut from; the rows of a document share one draw."
    )
    whole: str | None = Field(None, description="Column that is false where a response was cut: no end token follows it.")
    topic: str = Field("default", min_length=1, description="What this source is about; an objective may treat topics apart.")
    template: Literal["auto", "chat", "plain"] = Field(
        "auto", description="auto: the tokenizer's chat template where it has one."
    )
    plain_format: str = Field(
        "{prompt}", description="How a prompt is written without a chat template, e.g. 'Question: {prompt}\\nAnswer: '."
    )
    system: str | None = Field(None, description="System message put before the prompt in the chat template.")
    limit: int | None = Field(None, ge=1, description="Use the first rows only.")
    skip: int = Field(0, ge=0, description="Leave out the first rows.")
    weight: float = Field(1.0, gt=0, description="Share of this source among the sources of its role, relative to its siblings.")
    max_length: int | None = Field(
        None,
        ge=8,
        description="Tokens that are read of a row of this source; longer rows are cut there, whatever train.overflow says.",
    )
    provider: Named | None = Field(
        None, description="Makes the rows of the role from those of this source, e.g. {traces: {max_trace_tokens: 100}}."
    )

    @field_validator("provider", mode="before")
    @classmethod
    def _provided(cls, value: Any) -> Any:
        return None if value is None else named_settings("provider", value)

    @field_validator("plain_format")
    @classmethod
    def _names_the_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("must contain {prompt}")
        return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def checked_roles(value: Any) -> Any:
    """Return data by role with each role a list of sources; refuses roles that do not exist."""
    if not isinstance(value, dict):
        return value
    for role in value:
        if role not in ROLES:
            raise ValueError(f"role {role!r} is not known{nearest(str(role), ROLES)}. Roles: {', '.join(ROLES)}")
    return {role: _as_list(sources) for role, sources in value.items()}
