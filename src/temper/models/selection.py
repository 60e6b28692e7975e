"""Which weights may change. A weight outside the selection is bit-identical afterwards.

A selection says which parameters train (`apply`) and, where single weights are chosen, which of their entries (`masks`). It
is settings, checked with the recipe, without torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from temper.errors import ModelError
from temper.recipe import NamedSettings, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from temper.models.maskset import PackedMasks

__all__ = [
    "SelectAll",
    "SelectLayers",
    "SelectMaskFile",
    "SelectModules",
    "SelectPattern",
    "SelectRows",
    "Selection",
    "decoder_layers",
    "full_layers",
    "selection_of",
]


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


def _in_blocks(model: Any, layers: Iterable[int], field: str) -> set[int]:
    """Return the identities of the parameters of some decoder blocks.

    By identity, not by name: a model with a second tower has other blocks whose names look the same.

    Raises:
        ModelError: The model has no such block.
    """
    blocks = decoder_layers(model)
    count = full_layers(model)
    wrong = [layer for layer in layers if not -count <= layer < count]
    if wrong:
        raise ModelError(f"{field} = {wrong}, but the model has {count} layers (0 to {count - 1})")
    # of a model that was cut, the blocks above the cut are not there and do not train
    kept = {layer % count for layer in layers} & set(range(len(blocks)))
    return {id(parameter) for layer in kept for parameter in blocks[layer].parameters()}


def _aliased(model: nn.Module, aliases: Iterable[str]) -> set[str]:
    """Return the names of the parameters that aliases mean.

    Raises:
        ModelError: No such alias, or nothing of the kind in this model.
    """
    from temper.models.aliases import module_pattern

    patterns = [re.compile(module_pattern(alias, model)) for alias in aliases]
    return {name for name, _ in model.named_parameters() if any(pattern.search(name) for pattern in patterns)}


def _examples(model: nn.Module) -> str:
    return f"Parameters look like: {', '.join(name for name, _ in list(model.named_parameters())[:3])}, ..."


def full_layers(model: Any) -> int:
    """Return how many decoder blocks the whole model has, also where this one was cut."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return int(getattr(inner.config, "temper_full_layers", None) or len(decoder_layers(model)))


class Selection(NamedSettings):
    """Base of all selections. A subclass overrides `covers` or `covered`.

    Attributes:
        is_adapter: Whether the model's own weights stay and new ones are trained beside them.
        has_masks: Whether single entries of parameters are selected, so that `masks` returns some.
        needs_gradients: Whether `masks` reads gradients.
        is_score: Whether it gives every weight a number, from which masks are made before training.
    """

    is_adapter: ClassVar[bool] = False
    has_masks: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    is_score: ClassVar[bool] = False

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles whose rows are read to choose weights, before training."""
        return ()

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all but the selected parameters and return the model to train (wrapped, for an adapter).

        Raises:
            ModelError: The selection matches nothing in this model.
        """
        covered = self.covered(model)
        if not covered:
            raise ModelError(
                f"selection {self.name} {self.model_dump()} matches no parameter of {type(model).__name__}. {_examples(model)}"
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in covered)
        return model

    def covered(self, model: nn.Module) -> set[str]:
        """Return the names of the selected parameters."""
        return {name for name, _ in model.named_parameters() if self.covers(name, model)}

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return whether the parameter of this name is selected."""
        raise ModelError(f"selection {self.name} does not say which parameters it covers")

    def masks(self, model: nn.Module, gradients: Callable[[], Iterator[tuple[str, Tensor]]]) -> Mapping[str, Tensor]:
        """Return which entries train, parameter name to a boolean tensor of its shape; one without an entry trains whole.

        Called once after `apply`, on the weights from before training; it freezes parameters of which no entry is selected.

        Args:
            model: What `apply` returned.
            gradients: Gives the gradient of the forget loss of every parameter that trains, one after the other.
        """
        return {}


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
    module: str | None = Field(
        None,
        description="Only these parameters of the blocks: an alias, e.g. down_proj, or a part of the name, e.g. mlp.down_proj.",
    )

    def covered(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters that lie in the blocks."""
        inside = _in_blocks(model, self.layers, "selection.layers")
        names = {name for name, parameter in model.named_parameters() if id(parameter) in inside}
        if self.module is None:
            return names
        from temper.models.aliases import ALIASES

        if self.module in ALIASES:
            return names & _aliased(model, [self.module])
        return {name for name in names if self.module in name}


class SelectModules(Selection):
    """Modules by alias, e.g. down_proj, whatever this architecture calls them."""

    name: ClassVar[str] = "modules"
    shorthand: ClassVar[str] = "modules"
    modules: list[str] = Field(min_length=1, description="Aliases, e.g. down_proj, attention, norms.")
    layers: list[int] | None = Field(None, min_length=1, description="Only in these decoder blocks; all when left out.")

    def covered(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters of the modules."""
        names = _aliased(model, self.modules)
        if self.layers is None:
            return names
        inside = _in_blocks(model, self.layers, "selection.layers")
        return {name for name, parameter in model.named_parameters() if name in names and id(parameter) in inside}


def _regular_expression(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


class SelectPattern(Selection):
    """Parameters whose name a regular expression finds."""

    name: ClassVar[str] = "pattern"
    shorthand: ClassVar[str] = "pattern"
    pattern: str = Field(min_length=1)

    _compiles = field_validator("pattern")(_regular_expression)

    def covers(self, name: str, model: nn.Module) -> bool:
        """Return whether the pattern is found in the name."""
        return re.search(self.pattern, name) is not None


class SelectRows(Selection):
    """Output rows of weight matrices whose forget gradient is largest (SURE)."""

    name: ClassVar[str] = "rows"
    shorthand: ClassVar[str] = "percentile"
    has_masks: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    percentile: float = Field(90.0, ge=0, lt=100, description="Share of rows that stay as they are, in per cent.")
    scope: Literal["global", "tensor"] = Field("global", description="Rows compete with those of all matrices, or of their own.")
    pattern: str | None = Field(None, min_length=1, description="Only parameters whose name this regular expression finds.")

    _compiles = field_validator("pattern")(_regular_expression)

    def covered(self, model: nn.Module) -> set[str]:
        """Return the names of the matrices that compete."""
        return {
            name
            for name, parameter in model.named_parameters()
            if parameter.dim() == 2 and (self.pattern is None or re.search(self.pattern, name))
        }

    def masks(self, model: nn.Module, gradients: Callable[[], Iterator[tuple[str, Tensor]]]) -> Mapping[str, Tensor]:
        """Return the rows with the largest gradient norms; matrices without one are frozen.

        Raises:
            ModelError: No row has a gradient.
        """
        from temper.models.rows import row_masks, transposed_weights

        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        competing = ((name, gradient) for name, gradient in gradients() if name in trained)
        masks = row_masks(competing, self.percentile, self.scope, transposed=transposed_weights(model))
        kept = {name: mask for name, mask in masks.items() if bool(mask.any())}
        if not kept:
            raise ModelError(
                f"selection {self.name} {self.model_dump()}: no row of the selected matrices has a gradient, so nothing could change. "
                "Select matrices that the forget loss depends on."
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in kept)
        return kept


class SelectMaskFile(Selection):
    """The weights that a mask file names, bit by bit."""

    name: ClassVar[str] = "mask"
    shorthand: ClassVar[str] = "path"
    has_masks: ClassVar[bool] = True
    path: str = Field(min_length=1, description="A mask file made for this model.")
    any_weights: bool = Field(False, description="Accept a file that was made from other weights of the same shapes.")
    drop_unread: bool = Field(
        False, description="Leave as they are the weights that the objective gives no gradient, instead of refusing the file."
    )

    def opened(self, model: nn.Module) -> PackedMasks:
        """Return the masks of the file that select something; each is unpacked when it is asked for.

        Raises:
            ModelError: The file is damaged, or was made for another model.
        """
        from temper.models.masks import load_masks

        return load_masks(Path(self.path), model).selecting()

    def covered(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters of which the file selects an entry."""
        return set(self.opened(model))

    def masks(self, model: nn.Module, gradients: Callable[[], Iterator[tuple[str, Tensor]]]) -> Mapping[str, Tensor]:
        """Return the masks of the file."""
        return self.opened(model)
