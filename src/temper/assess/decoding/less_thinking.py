"""Less thinking: the thought is opened, says in one sentence that little of it is needed, and is closed.

    <think> TEXT </think>      blanks as the row's own reference answer writes them

Unlike an empty thought it is one that a reasoning model has seen the like of in training.

Source: R2MU, "LessThink"; the sentence is our own.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from temper.assess.decoding.mode import Decoding, blanks_of
from temper.assess.metrics.thoughts import CLOSE, OPEN, opening_of

__all__ = ["LessThinking"]


class LessThinking(Decoding):
    """Settings of less thinking."""

    name: ClassVar[str] = "less_thinking"
    shorthand: ClassVar[str] = "text"
    text: str = Field("This needs little thinking.", min_length=1, description="What the thought says, without tags.")

    @field_validator("text")
    @classmethod
    def _is_one_thought(cls, value: str) -> str:
        if OPEN in value or CLOSE in value:
            raise ValueError(f"must hold neither {OPEN} nor {CLOSE}, which are written around it")
        return value

    def forced(self, prompt: str, response: str) -> str:
        """Return a thought of one sentence."""
        before, after = blanks_of(prompt, response)
        return opening_of(prompt, response) + before + self.text.strip() + after + CLOSE
