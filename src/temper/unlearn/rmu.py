"""Representation misdirection (RMU) on the trunk.

    L = γ mean_b ⟨(1/d)‖h_θ^ℓ(t) - c·u‖²⟩_{D_f} + α mean_b ⟨(1/d)‖h_θ^ℓ(t) - h_0^ℓ(t)‖²⟩_{D_r}

| symbol | here | meaning |
| --- | --- | --- |
| ℓ | layer | the block whose output is read; nothing above it runs |
| u | from (seed, topic) | direction of norm 1; `uniform` on [0, 1) as published, or `normal` |
| c | steering_coefficient | its length: a number, `auto:k` = k times the median token norm of the model on D_f, or one for each topic |
| α | retain_weight | weight of the anchor |

Which tokens are steered decides what is forgotten. With `answer`, the answer is gone and a reasoning trace may still state the fact;
with `nonpad` the model learns to fire on the question's words too; with `final`, on rows that think, the trace is left alone and only what
follows it is steered. The mask is stated in every record of a run.

Sources of the forget role that name a `topic` have a direction and a length of their own. Rows about all topics share a step, or
topics take turns (`topic_order: alternate`, the published loop: step i is about topic i mod n).

Train few tensors: pass `selection` (e.g. `{layers: {layers: [5, 6, 7], module: mlp.down_proj}}`, the published choice).

Source: Li et al., The WMDP Benchmark (2024); the official code for the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from temper.draws import torch_generator
from temper.errors import DataError
from temper.unlearn.objective import Context, Objective, RetainTerm, TokenMask

if TYPE_CHECKING:
    import torch

    from temper.train.losses.activation import Steer
    from temper.train.losses.term import LossTerm

__all__ = ["RMU", "Steering", "control_direction"]


def control_direction(width: int, seed: int, topic: str, distribution: Literal["uniform", "normal"]) -> torch.Tensor:
    """Return a direction of norm 1, shape (D,), that depends on seed and topic alone.

    With `uniform` all coordinates are positive, so two topics' directions have a cosine near 0.75.
    """
    import torch

    draw = torch_generator(seed, "control direction", topic)
    drawn = torch.rand if distribution == "uniform" else torch.randn
    vector = drawn(width, generator=draw, dtype=torch.float32)
    direction_D: torch.Tensor = vector / vector.norm()
    return direction_D


def _split(length: float | str) -> tuple[str, float]:
    """Return how a length is meant (number, auto, adaptive) and its number."""
    if isinstance(length, str):
        kind, _, number = length.partition(":")
        return kind, float(number)
    return "number", length


class Steering:
    """Where the rows of each topic are steered to.

    Args:
        context: What the objective may ask.
        layer: ℓ, from 0.
        lengths: c, or one for each topic.
        distribution: Of the directions.

    Attributes:
        topics: Of the forget rows, sorted.
        control_KD: c·u of each.
        factor: k where the length follows the token, else None.
    """

    def __init__(
        self,
        context: Context,
        layer: int,
        lengths: float | str | dict[str, float | str],
        distribution: Literal["uniform", "normal"],
    ) -> None:
        import torch

        self.topics = sorted(set(context.topics_of("forget")))
        if isinstance(lengths, dict) and (unknown := sorted(set(lengths) ^ set(self.topics))):
            raise DataError(
                f"method.steering_coefficient: {unknown[0]!r} is "
                + (
                    f"no topic of a forget source (topics: {', '.join(self.topics)})."
                    if unknown[0] in lengths
                    else "a topic without a length. Give each topic of data.forget one."
                )
            )
        asked = {topic: lengths[topic] if isinstance(lengths, dict) else lengths for topic in self.topics}
        norms = {
            topic: context.median_token_norm(layer, "forget", topic)
            for topic, length in asked.items()
            if _split(length)[0] != "number"
        }
        kinds = {_split(length) for length in asked.values() if _split(length)[0] == "adaptive"}
        self.factor = next(iter(kinds))[1] if kinds else None
        length_of = {topic: _split(length)[1] * norms.get(topic, 1.0) for topic, length in asked.items()}
        directions = {topic: control_direction(context.hidden_size, context.seed, topic, distribution) for topic in self.topics}
        self.control_KD = torch.stack([length_of[topic] * directions[topic] for topic in self.topics])
        self._context = context
        one = len(self.topics) == 1
        if norms:
            context.facts["median_token_norm"] = norms[self.topics[0]] if one else norms
        context.facts["steering_length"] = length_of[self.topics[0]] if one else length_of
        if not one:
            context.facts["topics"] = self.topics
            context.facts["cosine_between_topics"] = {
                f"{a} {b}": round(float(directions[a] @ directions[b]), 4) for a in self.topics for b in self.topics if a < b
            }

    def term(self, role: str, weight: float, layer: int, mask: TokenMask) -> Steer:
        """Return the term that steers the rows of a role, each to the vector of its topic.

        Raises:
            DataError: The role has rows about none of the topics that are forgotten.
        """
        import torch

        from temper.train.losses.activation import Steer

        closing = self._context.closing_of(mask, role)
        self._check(role, sorted(set(self._context.topics_of(role))))
        if len(self.topics) == 1:
            control_D = self.control_KD[0]
            return Steer(role, weight, layer=layer, control_D=control_D, mask=mask, factor=self.factor, closing=closing)
        places = torch.tensor([self.topics.index(topic) for topic in self._context.topics_of(role)])
        return Steer(
            role,
            weight,
            layer=layer,
            control_D=self.control_KD,
            mask=mask,
            factor=self.factor,
            topic_of=places,
            closing=closing,
        )

    def _check(self, role: str, topics: list[str]) -> None:
        """Refuse a role that is not about what is forgotten.

        Raises:
            DataError: It has rows about other topics, or none about one of them.
        """
        if len(self.topics) == 1 and topics == ["default"]:
            return  # with one topic there is nothing to tell apart
        if unknown := [topic for topic in topics if topic not in self.topics]:
            raise DataError(
                f"data.{role}: has rows about the topic {unknown[0]!r}, and data.forget has none. Give its sources one of the topics: "
                f"{', '.join(self.topics)}."
            )
        if missing := [topic for topic in self.topics if topic not in topics]:
            raise DataError(
                f"data.{role}: has no rows about the topic {missing[0]!r}, which data.forget has. Give it a source with that topic."
            )


class RMU(Objective):
    """Settings of RMU."""

    name: ClassVar[str] = "rmu"
    family: ClassVar[str] = "representation"
    layer: int = Field(7, description="ℓ, the block whose output is steered, from 0; negative counts from the end.")
    steering_coefficient: float | str | dict[str, float | str] = Field(
        "auto:2",
        description="c: a number; auto:k, k times the median token norm; adaptive:k, k times each token's own; or one for each topic.",
    )
    retain_weight: float = Field(100.0, ge=0, description="α, the weight of the anchor.")
    retain_term: RetainTerm = Field(
        "embed", description="What holds the retain rows; with anything but embed or none all blocks run."
    )
    mask: TokenMask = Field("nonpad", description="Which forget tokens are steered.")
    direction: Literal["uniform", "normal"] = "uniform"
    topic_order: Literal["mixed", "alternate"] = Field(
        "mixed", description="Whether rows about all topics share a step, or topics take turns."
    )

    @field_validator("steering_coefficient")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        given = list(value.values()) if isinstance(value, dict) else [value]
        for length in given:
            try:
                kind, number = _split(length)
                good = 0 < number < float("inf") and kind in ("number", "auto", "adaptive")
            except ValueError:
                good = False
            if not good:
                raise ValueError("must be a number above 0, auto:k such as auto:2, or adaptive:k; or one of these for each topic")
        if len({_split(length) if _split(length)[0] == "adaptive" else "fixed" for length in given}) > 1:
            raise ValueError("adaptive:k must be the same for all topics")
        return value

    def layers_read(self) -> dict[str, int]:
        """Return the block that is steered, and the one that is held where it is another."""
        return {"method.layer": self.layer, **super().layers_read()}

    def held_layer(self) -> int | None:
        """Return the layer of the anchor: the one that is steered, unless another is given."""
        return self.layer if self.retain_layer is None else self.retain_layer

    def trunk_depth(self) -> int | None:
        """Return the block at which the pass stops; None where the retain term reads logits."""
        if self.retain_term == "none":
            return self.layer
        held = self.held_layer()
        return self.layer if self.retain_term == "embed" and held == self.layer else None

    def turns(self, topics: Sequence[str]) -> Sequence[str]:
        """Return the topics in the order in which they take turns."""
        return sorted(set(topics)) if self.topic_order == "alternate" else ()

    def steering(self, context: Context) -> tuple[Steering, int]:
        """Return where each topic is steered to, and ℓ counted from 0; the record of the run says both."""
        layer = context.check_layer(self.layer, "method.layer")
        found = Steering(context, layer, self.steering_coefficient, self.direction)
        context.facts.update(layer=layer, mask=self.mask, retain_mask=self.retain_mask)
        return found, layer

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return steering on forget."""
        steering, layer = self.steering(context)
        return [steering.term("forget", self.forget_weight, layer, self.mask)]
