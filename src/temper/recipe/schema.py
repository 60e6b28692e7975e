"""The sections of a recipe: typed, frozen, with unknown keys refused and every default visible.

`method` and `selection` are open to new names: their settings belong to the class that the registry maps the name to.
That class must be a pydantic model that imports no torch, so that a recipe is checked without loading it.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast

from pydantic import Field, field_validator, model_validator

from temper.errors import nearest
from temper.recipe.evaluation import EvaluateSection
from temper.recipe.named import Named, NamedSettings, Section, named, named_settings
from temper.recipe.sources import MAX_SEED, ROLES, DataSource, ModelSection, WorldSection, checked_roles

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
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "adamax", "nadam", "radam", "adadelta"] = Field(
        "adamw", description="Torch's own, with its defaults where nothing else is said; matrices decay, vectors do not."
    )
    learning_rate: float = Field(1.0e-5, gt=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    momentum: float = Field(0.0, ge=0, lt=1, description="Of sgd and rmsprop.")
    max_grad_norm: float = Field(1.0, ge=0, description="0 switches clipping off.")
    clip: Literal["masked", "dense"] = Field(
        "masked",
        description="Where a mask selects single weights: masked clips by the norm of their gradient, dense by that of all, as the published code.",
    )
    storage: Literal["packed", "delta", "dense_compat"] = Field(
        "packed",
        description="What is kept of selected weights: packed, state for them alone; delta, also their old values and differences, which gives "
        "losses the model from before for nothing; dense_compat, state for all weights, as the published code.",
    )
    precision: Literal["master", "bf16_pure"] = Field(
        "master",
        description="master: half precision weights are stepped on float32 copies of what is selected; bf16_pure: as they are, so that small steps "
        "round away, as in the published code.",
    )
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
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(
                f"momentum belongs to the optimizers sgd and rmsprop; {self.optimizer} has adam_beta1 or none. Leave it out"
            )
        if self.storage == "delta" and self.precision == "bf16_pure":
            raise ValueError(
                "storage delta keeps float32 differences, so it cannot be bf16_pure. Set precision: master, or storage: packed"
            )
        if self.anchor not in ROLES:
            raise ValueError(f"anchor {self.anchor!r} is not a role{nearest(self.anchor, ROLES)}")
        return self


class ReportSection(Section):
    """What the report shows."""

    title: str | None = None
    examples: int = Field(12, ge=0, description="Completions shown side by side.")


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
    data: dict[str, list[DataSource]] = Field({})
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
        return checked_roles(value)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Any:
        return None if value is None else named("objective", value)

    @field_validator("selection", mode="before")
    @classmethod
    def _chosen(cls, value: Any) -> Any:
        return named_settings("selection", value)

    @field_validator("smoother", mode="before")
    @classmethod
    def _smoothed(cls, value: Any) -> Any:
        return None if value is None or value == "none" else named_settings("smoother", value)
