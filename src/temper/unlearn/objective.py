"""What every unlearning objective is: settings, the roles it reads, and a few weighted loss terms.

    L(θ) = γ F(θ; D_f) + α R(θ; D_r)                     γ = forget_weight, α = retain_weight

An objective is settings first, checked with the recipe without loading torch; its losses are built when the model is there. It gives the
forget terms; the retain term is chosen by the recipe, the same ones for every objective:

| retain_term | R | costs beside the merged pass |
| --- | --- | --- |
| nll | mean over scored tokens of -log p_θ | nothing |
| kl | mean over positions of KL(p_0 ‖ p_θ) | distributions from before: a store, or one pass without gradient |
| embed | mean squared move of the hidden states of block `retain_layer` | activations from before: a store, or the blocks up to it |
| ap | -(1/β) log σ(β (S_θ(refusal) - S_θ(answer))) on retain questions: answers stay likelier than refusals | the refusals' rows |
| none | 0; no retain data are read | |

Adding an objective: a file like `npo.py`, a line in the registry, a test, a paragraph in docs/objectives.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field, field_validator, model_validator

from temper.errors import InputError
from temper.recipe import Named, NamedSettings, named_settings
from temper.unlearn.alternatives import Alternatives

if TYPE_CHECKING:
    from temper.train.dual import DualSettings
    from temper.train.losses.term import LossTerm

__all__ = ["Context", "Objective", "RetainTerm", "TokenMask"]

RetainTerm = Literal["nll", "kl", "embed", "ap", "none"]
TokenMask = Literal["final", "labelled", "answer", "nonpad", "all"]


@dataclass
class Context:
    """What an objective may ask about the model and the data while it builds its terms.

    Attributes:
        seed: Seed of the run.
        hidden_size: Width D of the residual stream.
        check_layer: Returns a layer counted from 0, or raises a ModelError that names the field.
        median_token_norm: (layer, role, topic) to the median norm of that block's output over the tokens of the role's rows about it.
        topics_of: Role to the topic of each of its rows.
        closing_of: (mask, role) to the tokens of the closing tag where the mask is `final`, else none; refuses rows without it.
        token_ids: Words to the tokens that are one of them, with a blank before it or without.
        facts: What the objective found out; it goes into the run record.
    """

    seed: int
    hidden_size: int
    check_layer: Callable[[int, str], int]
    median_token_norm: Callable[[int, str, str], float]
    topics_of: Callable[[str], Sequence[str]]
    closing_of: Callable[[TokenMask, str], tuple[int, ...]]
    token_ids: Callable[[Sequence[str]], dict[str, list[int]]]
    facts: dict[str, Any] = field(default_factory=dict)


class Objective(NamedSettings):
    """Base of all unlearning objectives.

    Attributes:
        family: Word for the run record: ascent, preference, representation, substitution, distillation, arithmetic, entropy.
        reads_alternatives: Whether the forget rows meet other responses.
        replaces: Whether those stand in the place of the forget rows instead of beside them.
        result: What the run leaves: the trained weights, or what the objective makes of them at the end.
    """

    family: ClassVar[str] = "ascent"
    reads_alternatives: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    result: ClassVar[Literal["weights", "task_vector", "offset"]] = "weights"

    forget_weight: float = Field(1.0, ge=0, description="γ, the weight of the forget term.")
    retain_weight: float = Field(1.0, ge=0, description="α, the weight of the retain term.")
    retain_term: RetainTerm = Field("nll", description="What holds the retain rows: nll, kl, embed, ap or none.")
    retain_mask: TokenMask = Field("nonpad", description="Which retain positions kl and embed count.")
    close_tag: str = Field("</think>", min_length=1, description="What ends a thought, where a mask is final.")
    retain_layer: int | None = Field(None, description="The block that embed holds, from 0; negative counts from the end.")
    retain_beta: float = Field(0.1, gt=0, description="β of ap.")
    alternatives: Named = Field(
        default_factory=lambda: cast(NamedSettings, named_settings("alternatives", "refusals")),
        description="Other responses, where a loss reads them: refusals, {column: NAME}, {generate: {samples: 5}}.",
    )

    @field_validator("alternatives", mode="before")
    @classmethod
    def _named_alternatives(cls, value: Any) -> Any:
        found = named_settings("alternatives", value)
        if not isinstance(found, Alternatives):
            raise ValueError(f"{type(found).__name__} is not a source of alternatives")
        return found

    @model_validator(mode="after")
    def _retain_term_is_whole(self) -> Objective:
        if self.retain_term == "kl" and self.retain_mask in ("answer", "final"):
            raise ValueError(
                f"retain_mask: {self.retain_mask} is for retain_term embed; kl counts labelled, nonpad or all positions"
            )
        if self.retain_term == "embed" and self.held_layer() is None:
            raise ValueError("retain_layer: needed with retain_term embed; give the block to hold, counted from 0")
        return self

    # ---- what it reads ----

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that need data."""
        return ("forget",) if self.retain_term == "none" else ("forget", "retain")

    @property
    def roles_unread(self) -> tuple[str, ...]:
        """Return the roles that may have data though the settings of this run do not read them, as when a weight is 0."""
        return ()

    def turns(self, topics: Sequence[str]) -> Sequence[str]:
        """Return the topics that take turns, a step each; none where rows about all of them share a step.

        Args:
            topics: Of the forget rows.
        """
        return ()

    @property
    def alternative_roles(self) -> tuple[str, ...]:
        """Return the roles whose rows meet other responses."""
        forget = ("forget",) if self.reads_alternatives else ()
        return (*forget, "retain") if self.retain_term == "ap" else forget

    @property
    def trains(self) -> bool:
        """Return whether the run trains at all; some objectives can be given a model that was trained elsewhere."""
        return True

    def layers_read(self) -> dict[str, int]:
        """Return field to the layer it names, for a check against the model before its weights are loaded."""
        return {"method.retain_layer": layer} if self.retain_term == "embed" and (layer := self.held_layer()) is not None else {}

    def held_layer(self) -> int | None:
        """Return the layer that `embed` holds."""
        return self.retain_layer

    def trunk_depth(self) -> int | None:
        """Return the deepest block that is read, as the settings name it, where nothing above it is read; else None."""
        return None

    def check(self, n_layers: int) -> None:
        """Refuse settings that a model of so many blocks cannot meet; called before its weights are loaded.

        Raises:
            ModelError: A layer is out of range.
        """
        from temper.errors import ModelError

        for what, layer in self.layers_read().items():
            if not -n_layers <= layer < n_layers:
                raise ModelError(
                    f"{what} = {layer}, but the model has {n_layers} layers (0 to {n_layers - 1}). Set a layer in that range."
                )

    # ---- what it trains on ----

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return the weighted terms on the forget rows."""
        raise InputError(f"objective {self.name} defines no terms")

    def terms(self, context: Context) -> list[LossTerm]:
        """Return all weighted loss terms, the forget terms first."""
        return [*self.forget_terms(context), *self._retain_terms(context)]

    def _retain_terms(self, context: Context) -> list[LossTerm]:
        # a weight that moves is a factor of the trainer's; it starts at retain_weight there
        weight = self.retain_weight if self.dual() is None else 1.0
        if self.retain_term == "nll":
            from temper.train.losses.nll import NLL

            return [NLL("retain", weight)]
        if self.retain_term == "kl":
            from temper.train.losses.kl import KL

            assert self.retain_mask != "answer" and self.retain_mask != "final"
            return [KL("retain", weight, mask=self.retain_mask)]
        if self.retain_term == "embed":
            from temper.train.losses.activation import Anchor

            layer = self.held_layer()
            assert layer is not None
            place = context.check_layer(layer, "method.retain_layer")
            closing = context.closing_of(self.retain_mask, "retain")
            return [Anchor("retain", weight, layer=place, mask=self.retain_mask, closing=closing)]
        if self.retain_term == "ap":
            from temper.train.losses.preservation import AnswerPreservation

            return [AnswerPreservation("retain", weight, beta=self.retain_beta)]
        return []

    def dual(self) -> DualSettings | None:
        """Return how the retain weight moves during training; None where it stays."""
        return None
