"""Zero thinking: the response begins with an empty thought, so the model answers at once (ZeroThink).

| form | what is forced |
| --- | --- |
| plain | an empty thought as the row's own reference answer writes tags and blanks, e.g. `<think> </think>` |
| published | a line break and `<think> </think>` |
| final_answer | `.<think></think>`, an empty line and `**Final Answer:**` |

The last two are the suffixes in the code of R2MU. Where the prompt has opened the thought already, none of them opens a second one.

A model that only leaves out facts when it thinks, or only when it does not, is told from one that has lost them by this mode beside the
rows' own. It is also a baseline of R2MU: a defence by decoding, which leaves the knowledge where it was.

Source: R2MU, "ZeroThink", and the two suffixes of its evaluation code.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field, field_validator

from temper.assess.decoding.mode import Decoding, blanks_of, without_opening
from temper.assess.metrics.thoughts import CLOSE, OPEN, opening_of

__all__ = ["ZeroThinking"]

_FORMS: Final = {"published": f"\n{OPEN} {CLOSE}", "final_answer": f".{OPEN}{CLOSE}\n\n**Final Answer:**"}


class ZeroThinking(Decoding):
    """Settings of zero thinking."""

    name: ClassVar[str] = "zero_thinking"
    shorthand: ClassVar[str] = "form"
    form: Literal["plain", "published", "final_answer"] = Field("plain", description="How the empty thought is written.")
    text: str | None = Field(None, description="The forced text itself, with both tags; in place of a form.")

    @field_validator("text")
    @classmethod
    def _holds_a_thought(cls, value: str | None) -> str | None:
        if value is not None and not 0 <= value.find(OPEN) < value.find(CLOSE):
            raise ValueError(f"must hold {OPEN} and then {CLOSE}")
        return value

    def forced(self, prompt: str, response: str) -> str:
        """Return an empty thought."""
        text = self.text if self.text is not None else _FORMS.get(self.form)
        if text is not None:
            return without_opening(prompt, text)
        return opening_of(prompt, response) + blanks_of(prompt, response)[1] + CLOSE
