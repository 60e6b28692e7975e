"""What every judge of reasoning traces is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from temper.errors import InputError
from temper.recipe import NamedSettings

__all__ = ["Case", "Category", "Judge", "Verdict"]

Category = Literal["C1", "C2", "C3", "C4"]


@dataclass(frozen=True)
class Case:
    """One trace to judge. The prompt is not part of the trace: what it says must not be held against the model.

    Attributes:
        id: Of the item.
        question: As the row has it, before any template.
        trace: The reasoning text alone.
        answer: The right answer, as text.
        aliases: Other ways to say it.
        options: All options, the right one among them; empty where the question is open.
        statements: Every wording of the fact that was to be forgotten.
        related: Wordings of other facts that help to answer.
        row: All columns.
    """

    id: str
    question: str
    trace: str
    answer: str
    aliases: Sequence[str] = ()
    options: Sequence[str] = ()
    statements: Sequence[str] = ()
    related: Sequence[str] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one case.

    Attributes:
        category: None where the judge gave no valid answer; such a case stays in the denominator.
        why: In words: what was found, or what went wrong.
        spans: Character spans of the trace that decided, where the judge can point at them.
    """

    category: Category | None
    why: str = ""
    spans: tuple[tuple[int, int], ...] = ()


class Judge(NamedSettings):
    """Base of all judges."""

    def ready(self) -> None:
        """Check before anything is scored that verdicts can be had, e.g. that a key is there and an endpoint answers."""

    def work(self, cases: int) -> int:
        """Return how many units of work so many cases are: one each for a judge that takes its time, none for one that does not."""
        return 0

    def verdicts(self, cases: Sequence[Case]) -> list[Verdict]:
        """Return one verdict a case, in their order."""
        raise InputError(f"judge {self.name} gives no verdicts")

    def verdicts_telling(self, cases: Sequence[Case], told: Callable[[int], None]) -> list[Verdict]:
        """Return the verdicts and tell how far it is; a judge with `work` tells one for each case that is done.

        Args:
            cases: What is judged.
            told: Called with a number of cases; all of them together are at most `work`.
        """
        return self.verdicts(cases)
