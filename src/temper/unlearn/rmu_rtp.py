"""RMU with the reflection-token penalty (RTP), a baseline for reasoning models.

    L = F(D_f) + α R(D_r) + λ P(D_f)

P is the mean probability of words that begin or renew a thought, on the forget texts: see `temper.train.losses.reflection`. The head runs,
so this costs a full pass where RMU costs the blocks up to ℓ.

λ as published is not known; the released script has 0 as its default. 1 is the default here. A word counts as it stands and after a
blank, where that is one token; words that no token is are named in the record of the run.

Source: released script of R2MU (2025), its baseline "RMU w/ RTP" and list of 15 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field

from temper.errors import DataError
from temper.unlearn.objective import Context
from temper.unlearn.rmu import RMU

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["REFLECTION_WORDS", "RMURTP"]

REFLECTION_WORDS: Final = (
    "<think>", "Wait", "wait", "but", "Okay", "Hmm", "Albeit", "However", "But", "Yet", "Still", "Nevertheless", "Though", "Meanwhile",
    "Whereas",
)  # fmt: skip
"""The list of the released script."""


class RMURTP(RMU):
    """Settings of RMU with the penalty."""

    name: ClassVar[str] = "rmu_rtp"
    penalty_weight: float = Field(1.0, ge=0, description="λ, the weight of the penalty; the published one is not known.")
    words: list[str] = Field(list(REFLECTION_WORDS), min_length=1, description="Words that begin or renew a thought.")

    def trunk_depth(self) -> int | None:
        """Return None: the penalty reads the head."""
        return None

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return steering and the penalty, both on forget."""
        from temper.train.losses.reflection import ReflectionPenalty

        found = context.token_ids(self.words)
        tokens = tuple(sorted({token for ids in found.values() for token in ids}))
        if not tokens:
            raise DataError(
                "method.words: none of them is one token of this model, so there is nothing to penalise. Give other words."
            )
        context.facts["reflection_words"] = [word for word, ids in found.items() if ids]
        context.facts["reflection_words_without_token"] = [word for word, ids in found.items() if not ids]
        return [*super().forget_terms(context), ReflectionPenalty("forget", self.penalty_weight, tokens=tokens)]
