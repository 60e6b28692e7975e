"""R2MU: misdirection of forget texts and of reasoning traces about them, with retain texts and other reasoning held.

    L = F(D_f) + γ R(D_r) + α U(T_f) + β C(D_CoT)

    F = mean_b ⟨(1/d)‖h_θ^ℓ(t) - c·u‖²⟩_{D_f}       misdirect the forget texts
    R = mean_b ⟨(1/d)‖h_θ^ℓ(t) - h_0^ℓ(t)‖²⟩_{D_r}  hold the retain texts
    U = mean_b ⟨(1/d)‖h_θ^ℓ(t) - c·u‖²⟩_{T_f}       misdirect traces about the forget target: same u, c and ℓ as F
    C = mean_b ⟨(1/d)‖h_θ^ℓ(t) - h_0^ℓ(t)‖²⟩_{D_CoT} hold reasoning that must go on working

| symbol | here | meaning |
| --- | --- | --- |
| γ | retain_weight | 1.4 published for R1-Distill-Llama-8B, 150 for Qwen-14B |
| α | trace_weight | 1 in the released script; 0 leaves the traces alone |
| β | reasoning_weight | 1 in the released script; 0 is R2MU-v0, which destroys reasoning |
| T_f | role `trace` | e.g. the provider `traces`: the model from before reasons about each forget text |
| D_CoT | role `reasoning` | any number of weighted sources |

With α = β = 0 this is RMU, bit for bit: rows of a role whose weight is 0 are not read at all.

Give D_CoT reasoning *of the same shape as the forget traces, about things to keep*, beside the mathematics of the publication: with
mathematics alone, traces about retained things are damaged, and the longer the run the more.

Where ours differs from the released script: padding never counts (there it does, in every term); the trace term leaves out the words
that ask for a trace (`trace_mask: answer`); tensors are named, not counted; nothing above ℓ runs. `preset: reference` sets what decides
the loss as it is there: all positions, padding too, topics in turns, γ 1.4, α 1, β 1, c 6.5, ℓ 7. The optimiser is the recipe's: AdamW
with weight decay 0.01, rate 7.5e-5, no clipping, in the released script.

Source: Wang et al., Reasoning Model Unlearning (EMNLP 2025), equations and tables of its project page, and the released script. The weight
of α and β for Qwen-14B, and the number of segments in the paper's text, were not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from temper.unlearn.objective import Context, TokenMask
from temper.unlearn.rmu import RMU

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["R2MU"]

_REFERENCE: Final[dict[str, Any]] = {
    "layer": 7,
    "steering_coefficient": 6.5,
    "retain_weight": 1.4,
    "trace_weight": 1.0,
    "reasoning_weight": 1.0,
    "mask": "all",
    "trace_mask": "all",
    "retain_mask": "all",
    "reasoning_mask": "all",
    "direction": "uniform",
    "topic_order": "alternate",
}
"""What the released script does where a recipe does not say otherwise."""


class R2MU(RMU):
    """Settings of R2MU."""

    name: ClassVar[str] = "r2mu"
    preset: Literal["none", "reference"] = Field(
        "none", description="reference: masks, weights and order of the released script, for parity; a field that is given wins."
    )
    retain_weight: float = Field(1.4, ge=0, description="γ, the weight of the retain anchor.")
    trace_weight: float = Field(1.0, ge=0, description="α, the weight of steering on traces; 0 reads none.")
    reasoning_weight: float = Field(1.0, ge=0, description="β, the weight of the anchor on reasoning; 0 reads none (R2MU-v0).")
    trace_mask: TokenMask = Field("answer", description="Which tokens of the trace rows are steered.")
    reasoning_mask: TokenMask = Field("nonpad", description="Which tokens of the reasoning rows are held.")

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any) -> Any:
        return {**_REFERENCE, **values} if isinstance(values, dict) and values.get("preset") == "reference" else values

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that need data: those whose weight is not 0."""
        return (*super().roles, *self._own(True))

    @property
    def roles_unread(self) -> tuple[str, ...]:
        """Return the roles whose weight is 0."""
        return self._own(False)

    def _own(self, read: bool) -> tuple[str, ...]:
        weights = {"trace": self.trace_weight, "reasoning": self.reasoning_weight}
        return tuple(role for role, weight in weights.items() if (weight > 0) is read)

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return steering on forget and trace, and the anchor on reasoning."""
        from temper.train.losses.activation import Anchor

        steering, layer = self.steering(context)
        terms: list[LossTerm] = [steering.term("forget", self.forget_weight, layer, self.mask)]
        if self.trace_weight > 0:
            terms.append(steering.term("trace", self.trace_weight, layer, self.trace_mask))
            context.facts["trace_mask"] = self.trace_mask
        if self.reasoning_weight > 0:
            closing = context.closing_of(self.reasoning_mask, "reasoning")
            terms.append(Anchor("reasoning", self.reasoning_weight, layer=layer, mask=self.reasoning_mask, closing=closing))
            context.facts["reasoning_mask"] = self.reasoning_mask
        return terms
