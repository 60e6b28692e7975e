"""The parts of a continuation that thinks: its trace, and its answer read strictly or leniently."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from temper.assess.metrics.words import borders

if TYPE_CHECKING:
    from temper.data import Item

__all__ = [
    "CLOSE",
    "OPEN",
    "is_closed",
    "leaves_thought_open",
    "lenient_answer_is",
    "opening_of",
    "strict_answer",
    "thinks",
    "trace_of",
]

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


def leaves_thought_open(prompt: str) -> bool:
    """Return whether a prompt ends inside a thought, so that the continuation starts with a trace."""
    return prompt.rfind(OPEN) > prompt.rfind(CLOSE)


def thinks(item: Item) -> bool:
    """Return whether a row's reference answer thinks: its response ends a thought."""
    return CLOSE in item.response


def opening_of(prompt: str, response: str) -> str:
    r"""Return what must stand behind a prompt for a thought to be open: nothing if it is, else the tag as the row's response writes it.

    Example:
        >>> opening_of("Q <think>", " well</think> A"), opening_of("Q", "<think>\nwell</think> A"), opening_of("Q", "A")
        ('', '<think>', '<think>')
    """
    if leaves_thought_open(prompt):
        return ""
    before, tag, _ = response.partition(OPEN)
    return before + tag if tag and not before.strip() else OPEN


def is_closed(continuation: str) -> bool:
    """Return whether a continuation ends its thought."""
    return CLOSE in continuation


def trace_of(continuation: str) -> tuple[int, int]:
    """Return the character span of the trace: all before the last ``</think>``, or everything where there is none."""
    end = continuation.rfind(CLOSE)
    begin = continuation.find(OPEN)
    end = len(continuation) if end < 0 else end
    return (begin + len(OPEN) if 0 <= begin < end and not continuation[:begin].strip() else 0), end


def strict_answer(continuation: str) -> str:
    """Return everything after the last ``</think>``, or the whole continuation, without outer blanks.

    Example:
        >>> strict_answer(" So the answer is 7.</think> 7")
        '7'
    """
    return continuation.rpartition(CLOSE)[2].strip()


def lenient_answer_is(prompt: str, continuation: str, answer: str) -> bool:
    """Return whether the answer is strictly right, or the text right after the first ``</think>`` starts with it, as words of its own.

    A model that answers and then runs on is right here and wrong strictly; nothing is right strictly and wrong here. A thought that was
    opened and never closed has no answer to start with.
    """
    if not answer:
        return False
    if strict_answer(continuation) == answer:
        return True
    _, close, after = continuation.partition(CLOSE)
    if not close:
        if leaves_thought_open(prompt + continuation):
            return False
        after = continuation
    return re.match(re.escape(answer) + borders(answer[0], answer[-1])[1], after.strip()) is not None
