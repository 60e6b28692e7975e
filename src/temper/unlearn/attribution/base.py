"""What every scored selection is: a number for each weight, and the share of weights with the largest ones that may change.

    |s_i| ranks;  the largest int(ρ·P) of the P weights that compete train, the others stay bit-identical

"Ratio 0.8" means that 80 % of the competing weights **train**. Scores are taken once, at the weights from before, over the rows of the
run. A subclass is settings and one formula.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from temper.errors import ModelError
from temper.models.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Given", "ScoredSelection"]

Need = Literal["forget", "retain", "inputs"]


@dataclass(frozen=True)
class Given:
    """What a formula may read about one parameter.

    Attributes:
        name: Of the parameter.
        theta: Its values, float32 (float64 of a float64 model).
        forget: Mean gradient of the forget loss, of its shape; where asked for.
        retain: Mean gradient of the retain loss, of its shape; where asked for.
        inputs: For a linear layer the root of the summed squares of each input over the tokens, in the shape that multiplies `theta`.
        seed: Of the run.
        facts: What `constants` found out.
    """

    name: str
    theta: Tensor
    forget: Tensor | None = None
    retain: Tensor | None = None
    inputs: Tensor | None = None
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


class ScoredSelection(Selection):
    """The weights with the largest scores.

    Attributes:
        needs: What the formula reads beside the weights: gradients of a role's loss, or the inputs of linear layers.
    """

    shorthand: ClassVar[str] = "ratio"
    has_masks: ClassVar[bool] = True
    is_score: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("forget",)

    ratio: float = Field(ge=0, le=1, description="ρ, the share of the competing weights that train.")
    scope: Literal["global", "per_tensor", "per_row", "per_module_type"] = Field(
        "global", description="Among which weights the share is taken: all, those of a tensor, of a row, of a kind of module."
    )
    structure: Literal["weights", "rows", "columns", "heads", "blocks"] = Field(
        "weights",
        description="What is chosen as one: single weights, output rows, input columns, attention heads or decoder blocks; by summed |s|.",
    )
    exclude: list[str] = Field(
        [],
        description="Parameters that do not compete: an alias, e.g. embedding, norms, head, or a regular expression over names.",
    )
    max_rows: int | None = Field(None, ge=1, description="Rows of each role that are read, drawn by the seed; all when left out.")
    retain_rows: Literal["paired", "all"] = Field(
        "paired", description="paired: as many retain rows as forget rows, drawn by the seed; all: every one."
    )
    average: Literal["tokens", "rows"] = Field("tokens", description="Whether every scored token counts alike, or every row.")
    labels: Literal["objective", "own"] = Field(
        "objective",
        description="Forget responses that are scored: those the objective trains on (refusals for po), or the rows' own.",
    )
    hold: Literal["float32", "bfloat16"] = Field(
        "float32", description="How gradients wait on disk until they are scored; their sums are float32 either way."
    )
    allow_unequal: bool = Field(
        False, description="Accept retain rows whose scored tokens are under a tenth of those of the forget rows."
    )

    @field_validator("exclude")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return value

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles whose rows are read."""
        return tuple(role for role in ("forget", "retain") if role in self.needs or (role == "forget" and "inputs" in self.needs))

    # ---- what a subclass defines ----

    def score(self, given: Given) -> Tensor:
        """Return s for every entry of a parameter, of its shape."""
        raise ModelError(f"selection {self.name} does not say how weights are scored")

    def constants(self, retain: Mapping[str, Tensor], theta: Mapping[str, Tensor], rows: int) -> dict[str, Any]:
        """Return what the formula needs to know about all weights at once, JSON values.

        Args:
            retain: Name to mean retain gradient.
            theta: Name to the values.
            rows: Retain rows that were read.
        """
        return {}

    # ---- which weights compete ----

    def competing(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that compete, in the order of the model.

        Raises:
            ModelError: A pattern of `exclude` names nothing, or a matrix under its second name.
        """
        left_out = self._excluded(model)
        inside = _in_any_block(model) if self.structure == "blocks" else None
        return [
            name
            for name, p in model.named_parameters()
            if p.is_floating_point() and name not in left_out and (inside is None or id(p) in inside)
        ]

    def covered(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters of which entries may be chosen."""
        return set(self.competing(model))

    def masks(self, model: nn.Module, gradients: Any) -> Mapping[str, Tensor]:
        """Refuse: scores are taken in a stage of their own, before training."""
        raise ModelError(
            f"selection {self.name}: make a mask first (temper.unlearn.attribution.score_masks) and train with {{mask: FILE}}"
        )

    def _excluded(self, model: nn.Module) -> set[str]:
        from temper.models.aliases import ALIASES, module_pattern

        names = [name for name, _ in model.named_parameters()]
        aliases = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(names)
        found: set[str] = set()
        for given in self.exclude:
            pattern = re.compile(module_pattern(given, model) if given in ALIASES else given)
            hit = {name for name in names if pattern.search(name)}
            second = sorted(name for name in aliases if pattern.search(name))
            if not hit and second:
                values = dict(model.named_parameters(remove_duplicate=False))
                first = next(name for name in names if values[name] is values[second[0]])
                raise ModelError(
                    f"selection.{self.name}.exclude: {given!r} names {second[0]}, which is tied: the same matrix as {first}. Name that one, and both "
                    "are excluded."
                )
            if not hit:
                raise ModelError(
                    f"selection.{self.name}.exclude: {given!r} names no parameter of {type(model).__name__}, e.g. {names[0]}"
                )
            found |= hit
        return found


def _in_any_block(model: nn.Module) -> set[int]:
    """Return the identities of the parameters of decoder blocks."""
    from temper.models.selection import decoder_layers

    return {id(p) for block in decoder_layers(model) for p in block.parameters()}
