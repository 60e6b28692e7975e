"""The models a report speaks of, side by side: the original, gold, then each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temper.assess.evidence import Evidence, ModelFacts, Result, Which
from temper.display.firsts import first_known
from temper.display.numbers import STATUS_TEXT
from temper.display.theme import Mark, mark_of
from temper.report.metrics import order

__all__ = ["Column", "Columns", "columns", "number_names"]


@dataclass(frozen=True, slots=True)
class Column:
    """One model: its name in the report, how it is drawn, and the evidence that knows it."""

    name: str
    which: Which
    mark: Mark
    evidence: Evidence

    @property
    def is_run(self) -> bool:
        """Whether this is a model that was made to forget."""
        return self.which == "unlearned"

    @property
    def facts(self) -> ModelFacts | None:
        """The weights, or None where this model was not given."""
        return self.evidence.models.get(self.which)

    def result(self, metric: str, role: str) -> Result:
        """Return the number, or one without value whose reason says why there is none."""
        found = self.evidence.find(metric, role, self.which)
        if found is not None:
            return found
        missing: dict[Which, str] = {"gold": "no_gold", "original": "no_original"}
        status = missing.get(self.which, "skipped") if self.facts is None else "skipped"
        reason = STATUS_TEXT[status] if status != "skipped" else STATUS_TEXT["absent"]
        return Result.model_validate(
            {
                "metric": metric,
                "role": role,
                "model": self.which,
                "value": None,
                "better": "gold",
                "status": status,
                "reason": reason,
            }
        )

    def known(self, metric: str, role: str) -> Result | None:
        """Return the number if it has a value that can be used, else None."""
        found = self.result(metric, role)
        return found if found.status == "ok" and found.value is not None else None


@dataclass(frozen=True, slots=True)
class Columns:
    """All models of a report."""

    original: Column
    gold: Column
    runs: tuple[Column, ...]

    def first(self, metric: str, role: str) -> tuple[str, str]:
        """Return metric and role of the number that is shown: this one, or what was measured in its place."""
        return first_known([column.evidence for column in self.runs], metric, role)

    def __iter__(self) -> Iterator[Column]:
        yield self.original
        yield self.gold
        yield from self.runs


def _names(evidences: Sequence[Evidence]) -> list[str]:
    """Return one name a run, equal names told apart by seed and, where that is not enough, by number."""
    count = Counter(evidence.name for evidence in evidences)
    names = [f"{e.name} (seed {e.seed})" if count[e.name] > 1 else e.name for e in evidences]
    again = Counter(names)
    seen: Counter[str] = Counter()
    told_apart = []
    for name in names:
        seen[name] += 1
        told_apart.append(f"{name} #{seen[name]}" if again[name] > 1 else name)
    return told_apart


def columns(evidences: Sequence[Evidence]) -> Columns:
    """Return the models of some evidences; original and gold are read from the first evidence that holds them."""

    def holder(which: Which) -> Evidence:
        return next((e for e in evidences if which in e.models), evidences[0])

    return Columns(
        Column("original", "original", mark_of("original"), holder("original")),
        Column("gold", "gold", mark_of("gold"), holder("gold")),
        tuple(
            Column(name, "unlearned", mark_of("unlearned", number), evidence)
            for number, (name, evidence) in enumerate(zip(_names(evidences), evidences, strict=True))
        ),
    )


def number_names(evidences: Sequence[Evidence]) -> list[tuple[str, str]]:
    """Return every (metric, role) that any evidence speaks of, in the order of the report."""
    return sorted({(r.metric, r.role) for e in evidences for r in e.results}, key=lambda pair: order(*pair))
