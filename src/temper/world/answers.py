"""The one form of every answer: a prefill that chooses the mode, and a response."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIRECT", "THINK", "Answered"]

DIRECT = " <think> </think>"
"""The prefill of a direct answer: the trace is already closed."""

THINK = " <think>"
"""The prefill of an answer with a trace."""


@dataclass(frozen=True)
class Answered:
    """A question with its mode, its whole response and the value alone."""

    prompt: str
    prefill: str
    response: str
    answer: str
