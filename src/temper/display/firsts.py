"""Which number stands in a column: the first of some that say the same of a model and can be known.

Rows without `statements`, such as multiple choice, have no trace_leak.statement, and rows whose answer is an option no plain answer; what
was measured in their place is shown, and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

__all__ = ["INSTEAD", "first_known"]

INSTEAD: Final[dict[tuple[str, str], str]] = {
    ("answer_accuracy", "forget"): "choice_accuracy",
    ("answer_accuracy.lenient", "trace"): "final_answer",
    ("trace_leak.statement", "trace"): "trace_category.unsafe",
    ("answer_accuracy", "neighbour"): "choice_accuracy",
    ("answer_accuracy.lenient", "reasoning"): "final_answer",
    ("answer_accuracy", "general"): "choice_accuracy",
}
"""A number, by metric and role, to the metric that is read in its place."""


class _Value(Protocol):
    @property
    def value(self) -> float | None: ...

    @property
    def status(self) -> str: ...


class _Finds(Protocol):
    def find(self, metric: str, role: str, model: Literal["unlearned", "original", "gold"] = "unlearned") -> _Value | None: ...


def first_known(evidences: Sequence[_Finds], metric: str, role: str) -> tuple[str, str]:
    """Return metric and role of what is shown: the number itself, or the one in its place where only that is known.

    A number on which the original is at 0 cannot show that anything was forgotten, and gives way too. All runs show the same one.
    """
    other = INSTEAD.get((metric, role))
    if other is None or _is_known(evidences, metric, role) or not _is_known(evidences, other, role):
        return metric, role
    return other, role


def _is_known(evidences: Sequence[_Finds], metric: str, role: str) -> bool:
    runs = [evidence.find(metric, role) for evidence in evidences]
    originals = [evidence.find(metric, role, "original") for evidence in evidences]
    is_blind = any(found is not None and found.status == "ok" and found.value == 0.0 for found in originals)
    return not is_blind and any(found is not None and found.status == "ok" and found.value is not None for found in runs)
