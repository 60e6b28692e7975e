"""The selection of a low-rank adapter: which modules get one, of what rank."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from temper.errors import ModelError
from temper.models.selection import Selection
from temper.recipe import Named, named_settings

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SelectLora"]


class SelectLora(Selection):
    """A low-rank adapter (peft); the model's own weights do not change."""

    name: ClassVar[str] = "lora"
    shorthand: ClassVar[str] = "rank"
    is_adapter: ClassVar[bool] = True
    rank: int = Field(8, ge=1)
    alpha: float | None = Field(None, gt=0, description="Scale; twice the rank when left out.")
    dropout: float = Field(0.0, ge=0, lt=1)
    target: str | list[str] = Field("all-linear", description="Modules that get an adapter.")
    dora: bool = False
    by: Named | None = Field(
        None,
        description="A score, e.g. {wagle: 0.1}: adapters go where the weights it selects lie, with ranks in proportion; rank is their mean.",
    )
    keep: float = Field(0.5, gt=0, le=1, description="With by: the share of the linear layers that get an adapter.")
    ranks: dict[str, int] | None = Field(None, description="Module to its rank, in the place of target and rank.")

    @field_validator("by", mode="before")
    @classmethod
    def _is_score(cls, value: Any) -> Any:
        found = None if value is None else named_settings("selection", value)
        if found is not None and not getattr(found, "is_score", False):
            raise ValueError(f"{found.name} is no score; give e.g. {{wagle: 0.1}}")
        return found

    @model_validator(mode="after")
    def _one_way(self) -> SelectLora:
        if self.by is not None and (self.ranks is not None or self.target != "all-linear"):
            raise ValueError("by: chooses modules and ranks itself; leave out target and ranks")
        if self.ranks is not None and (not self.ranks or min(self.ranks.values()) < 1):
            raise ValueError("ranks: needs at least one module, each with a rank of at least 1")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles whose rows the score reads."""
        return self.by.roles if isinstance(self.by, Selection) else ()

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap the model with a fresh adapter whose effect is zero until it is trained.

        Raises:
            ModelError: Modules and ranks are still to be chosen by a score, or do not fit the model.
        """
        import peft

        if self.by is not None:
            raise ModelError(
                f"selection.lora.by: {self.by.name} has not been asked which modules get an adapter. Give ranks, or start with `temper unlearn`, "
                "which scores first."
            )

        width = int(getattr(getattr(model, "config", None), "hidden_size", 0) or 0)
        if width and self.rank > width:
            raise ModelError(
                f"selection.lora.rank = {self.rank}, but the model is {width} wide, and an adapter of that rank or more is no smaller than its "
                f"matrices. Set a rank up to {width}; 8 to 64 is usual."
            )
        scale = (self.alpha if self.alpha is not None else 2 * self.rank) / self.rank
        ranks = self.ranks or {}
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha if self.alpha is not None else 2 * self.rank,
            lora_dropout=self.dropout,
            target_modules=list(ranks) or self.target,
            # the same scale for every module, whatever its rank
            rank_pattern={f"^{re.escape(name)}$": rank for name, rank in ranks.items()},
            alpha_pattern={f"^{re.escape(name)}$": scale * rank for name, rank in ranks.items()},
            use_dora=self.dora,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # refused below
                warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # peft sets it right by itself
                warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys")  # peft's own, for experts
                # peft 0.21 reads the old name on transformers 5.23; gone when peft follows
                warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
                wrapped: nn.Module = peft.get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"selection.lora.target = {self.target!r}: {error}") from error
        whole: Any = model
        ends = (whole.get_input_embeddings(), whole.get_output_embeddings())
        if getattr(whole.config, "tie_word_embeddings", False) and any(hasattr(end, "lora_A") for end in ends):
            raise ModelError(
                f"selection.lora.target = {self.target!r}: puts an adapter on an embedding that input and output share; merging it would change "
                "both. Leave lm_head and the embedding out of target."
            )
        return wrapped

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return whether the parameter belongs to the adapter."""
        return "lora_" in name
