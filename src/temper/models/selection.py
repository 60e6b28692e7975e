"""Which weights may change. A weight outside the selection is bit-identical afterwards.

A selection only says which parameters train; it is settings (checked with the recipe, without torch) and one method.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from temper.errors import ModelError
from temper.recipe import NamedSettings, Recipe

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SelectAll", "SelectLayers", "SelectLora", "SelectPattern", "Selection", "decoder_layers", "selection_of"]


def selection_of(recipe: Recipe) -> Selection:
    """Return the selection of a recipe."""
    if not isinstance(recipe.selection, Selection):
        raise ModelError(f"selection {recipe.selection.name}: a plug-in must derive from temper.models.selection.Selection")
    return recipe.selection


def decoder_layers(model: Any) -> Any:
    """Return the list of decoder blocks of a causal language model, adapters included.

    Raises:
        ModelError: The layout is not known.
    """
    for path in ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers"):
        here = model.get_base_model() if hasattr(model, "get_base_model") else model
        for part in path.split("."):
            here = getattr(here, part, None)
            if here is None:
                break
        if here is not None:
            return here
    raise ModelError(
        f"{type(model).__name__}: the list of its decoder blocks was not found (looked for model.layers, transformer.h, gpt_neox.layers)"
    )


class Selection(NamedSettings):
    """Base of all selections.

    Attributes:
        is_adapter: Whether the model's own weights stay and new ones are trained beside them.
    """

    is_adapter: ClassVar[bool] = False

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all but the selected parameters and return the model to train (wrapped, for an adapter).

        Raises:
            ModelError: The selection matches nothing in this model.
        """
        chosen = 0
        for name, parameter in model.named_parameters():
            selected = self.covers(name, model)
            parameter.requires_grad_(selected)
            chosen += selected
        if not chosen:
            examples = ", ".join(name for name, _ in list(model.named_parameters())[:3])
            raise ModelError(
                f"selection {self.name} {self.model_dump()} matches no parameter of {type(model).__name__}. Parameters look like: {examples}, ..."
            )
        return model

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return whether the parameter of this name is selected."""
        raise ModelError(f"selection {self.name} does not say which parameters it covers")


class SelectAll(Selection):
    """Every parameter trains."""

    name: ClassVar[str] = "all"

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return True."""
        return True


class SelectLayers(Selection):
    """Whole decoder blocks by their index, counted from 0; negative numbers count from the end."""

    name: ClassVar[str] = "layers"
    shorthand: ClassVar[str] = "layers"
    layers: list[int] = Field(min_length=1, description="Block indices.")
    module: str | None = Field(None, description="Only parameters whose name contains this, e.g. mlp.down_proj.")

    def apply(self, model: nn.Module) -> nn.Module:
        """Check the indices against the model, then select."""
        count = len(decoder_layers(model))
        wrong = [layer for layer in self.layers if not -count <= layer < count]
        if wrong:
            raise ModelError(f"selection.layers = {wrong}, but the model has {count} layers (0 to {count - 1})")
        return super().apply(model)

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return whether the parameter lies in one of the blocks."""
        match = re.search(r"(?:^|\.)(?:layers|h)\.(\d+)\.", name)
        if match is None or (self.module is not None and self.module not in name):
            return False
        count = len(decoder_layers(model))
        return int(match.group(1)) in {layer % count for layer in self.layers}


class SelectPattern(Selection):
    """Parameters whose name a regular expression finds."""

    name: ClassVar[str] = "pattern"
    shorthand: ClassVar[str] = "pattern"
    pattern: str = Field(min_length=1)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return value

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return whether the pattern is found in the name."""
        return re.search(self.pattern, name) is not None


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

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap the model with a fresh adapter whose effect is zero until it is trained."""
        import peft

        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha if self.alpha is not None else 2 * self.rank,
            lora_dropout=self.dropout,
            target_modules=self.target,
            use_dora=self.dora,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # refused below
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
