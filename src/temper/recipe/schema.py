"""The sections of a recipe: typed, frozen, with unknown keys refused and every default visible.

`method` and `selection` are open to new names: their settings belong to the class that the registry maps the name to.
That class must be a pydantic model that imports no torch, so that a recipe is checked without loading it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, field_validator, model_validator

from temper import registry
from temper.errors import InputError, nearest

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
    "named_settings",
]

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

    @field_validator("plain_format")
    @classmethod
    def _names_the_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("must contain {prompt}")
        return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _checked_roles(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for role in value:
        if role not in ROLES:
            raise ValueError(f"role {role!r} is not known{nearest(str(role), ROLES)}. Roles: {', '.join(ROLES)}")
    return {role: _as_list(sources) for role, sources in value.items()}


class StopSection(Section):
    """When training ends before its last step. What ended it stands in the record of the run."""

    retain_floor: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Stop when the mean probability of retain answers falls under this share of what it was; the last weights above it are kept.",
    )
    every: int = Field(10, ge=1, description="Steps between looks at the retain rows.")
    rows: int = Field(64, ge=1, description="Retain rows that are looked at, drawn by the seed.")
    collapse: bool = Field(
        True,
        description="Stop when ascent, or CE-U without a retain term, has driven the mean loss of forget tokens over 1.5 ln V: a model broken, not forgetting.",
    )


TRACKERS: Final[tuple[str, ...]] = ("tensorboard", "trackio", "wandb", "mlflow")


class TrainSection(Section):
    """How long and how fast. One step uses `batch_size` x `accumulation` rows of every active role on each process."""

    steps: int | None = Field(None, ge=1, le=10**9, description="Optimiser steps. Give this or epochs.")
    epochs: float | None = Field(None, gt=0, le=10**6, description="Passes over the anchor role. Give this or steps.")
    batch_size: int = Field(8, ge=1, le=10**6, description="Rows of each role in one forward, per process.")
    accumulation: int = Field(1, ge=1, le=10**6, description="Forwards per optimiser step.")
    anchor: str = Field("forget", description="The role whose length is an epoch.")
    learning_rate: float = Field(1.0e-5, gt=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=0, description="0 switches clipping off.")
    max_length: int | None = Field(None, ge=8, description="Tokens a row may have; the model's context up to 512 when left out.")
    overflow: Literal["error", "truncate", "drop"] = Field("error", description="What to do with a row longer than max_length.")
    allow_overlap: bool = Field(False, description="Accept forget rows that also stand in the retain data.")
    checkpoint_every: int | None = Field(
        None, ge=0, description="Optimiser steps between checkpoints; a tenth of the run when left out, 0 writes none."
    )
    log_every: int = Field(10, ge=1)
    length_grouping: int = Field(
        8,
        ge=0,
        description="Steps among whose samples rows of like length are put together; 0 or 1 takes rows as they are drawn.",
    )
    reference: Literal["auto", "store", "recompute"] = Field(
        "auto",
        description="Where a loss reads distributions or activations of the model before: store computes them once, recompute at each step; "
        "auto stores up to 1 GiB of what is read more than once.",
    )
    passes: Literal["merged", "by_role"] = Field(
        "merged",
        description="merged: roles of like length share a forward and one backward; by_role: one role at a time, forward and backward, so that "
        "only one role's activations are in memory.",
    )
    checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory, a third more time.")
    sharding: Literal["none", "fsdp2"] = Field(
        "none", description="Over processes: none copies the model to each, fsdp2 shards weights, gradients and optimiser state."
    )
    stop: StopSection = StopSection()
    trackers: list[str] = Field([], description=f"Also log to {', '.join(TRACKERS)}; each must be installed.")
    threads: int = Field(1, ge=1, description="Torch threads on a CPU. More than one is slower on a busy machine.")

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, not both and not neither")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} is longer than the run of {self.steps} steps")
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise ValueError(f"tracker {tracker!r} is not known{nearest(tracker, TRACKERS)}. Known: {', '.join(TRACKERS)}")
        if self.anchor not in ROLES:
            raise ValueError(f"anchor {self.anchor!r} is not a role{nearest(self.anchor, ROLES)}")
        return self


class EvaluateSection(Section):
    """Against what and on which data the result is judged."""

    data: dict[str, list[DataSource]] = Field(description="Evaluation data by role; rows that were not trained on.")
    original: str | None = Field(None, description="The model before; for unlearn the recipe's own model when left out.")
    gold: str | None = Field(None, description="A model retrained without the forget data.")
    metrics: list[str] | None = Field(None, description="Names of metrics; all that the data allow when left out.")
    max_new_tokens: int = Field(96, ge=1)
    batch_size: int = Field(64, ge=1)
    bootstrap: int = Field(1000, ge=100, description="Resamples for the 95 % intervals.")

    @field_validator("data", mode="before")
    @classmethod
    def _roles(cls, value: Any) -> Any:
        return _checked_roles(value)

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str] | None) -> list[str] | None:
        known = registry.names("metric")
        for name in value or []:
            if name not in known:
                raise ValueError(f"metric {name!r} is not known{nearest(name, known)}. Known: {', '.join(known)}")
        return value


class ReportSection(Section):
    """What the report shows."""

    title: str | None = None
    examples: int = Field(12, ge=0, description="Completions shown side by side.")


class NamedSettingsError(ValueError):
    """The settings of a method or a selection are wrong; carries the errors of its own class."""

    def __init__(self, error: ValidationError, settings: type[Section]) -> None:
        super().__init__(str(error))
        self.error = error
        self.settings = settings


def _named(kind: str, value: Any) -> Any:
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
        return _named(kind, value)
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


class Recipe(Section):
    """Everything that decides a result: model, data by role, method, training, evaluation, seed."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Names the run; its folder is runs/NAME unless output says otherwise.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED)
    output: str | None = Field(None, description="The run folder.")
    world: WorldSection = WorldSection()
    model: ModelSection
    data: dict[str, list[DataSource]] = {}
    method: Named | None = Field(None, description="{name: npo, beta: 0.1, ...}; see `temper methods`.")
    selection: Named = Field(
        default_factory=lambda: cast(NamedSettings, named_settings("selection", "all")),
        description="Which weights may change: all, {layers: [0, 1]}, {modules: [down_proj]}, {pattern: REGEX}, {lora: {rank: 8}}, {rows: 90}, "
        "{mask: FILE}.",
    )
    smoother: Named | None = Field(
        None, description="Makes forgetting last: sam, rs, gp, cr, wa; each with settings, e.g. {sam: {rho: 0.01}}."
    )
    schedule: Literal["sum"] = "sum"
    save: Literal["full", "delta"] = Field(
        "full",
        description="full: a model folder; delta: only the tensors that changed, with the hash of the model they belong to.",
    )
    train: TrainSection | None = None
    evaluate: EvaluateSection | None = None
    report: ReportSection = ReportSection()

    @field_validator("data", mode="before")
    @classmethod
    def _roles(cls, value: Any) -> Any:
        return _checked_roles(value)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Any:
        return None if value is None else _named("objective", value)

    @field_validator("selection", mode="before")
    @classmethod
    def _chosen(cls, value: Any) -> Any:
        return named_settings("selection", value)

    @field_validator("smoother", mode="before")
    @classmethod
    def _smoothed(cls, value: Any) -> Any:
        return None if value is None or value == "none" else named_settings("smoother", value)
