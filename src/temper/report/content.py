"""What a report holds, computed once and shown three ways: page, markdown, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from temper.assess.evidence import Evidence
from temper.report.columns import Columns, columns, number_names
from temper.report.completions import Shown, completions
from temper.report.document import Document, Place, Said
from temper.report.forgetting import Position, measure, position
from temper.report.headlines import Headline, judge
from temper.report.limits import limits, mismatches
from temper.report.metrics import describe
from temper.report.weights import Damage

__all__ = ["Content", "content"]


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report says; `damages` has what each run did to the weights, the reason why it is not known, or None."""

    title: str
    subtitle: str
    evidences: tuple[Evidence, ...]
    models: Columns
    headlines: tuple[Headline, ...]
    warnings: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    measure: str | None
    why_no_measure: str
    positions: tuple[Position, ...]
    completions: tuple[Shown, ...]
    limits: tuple[str, ...]
    damages: tuple[Damage | str | None, ...]

    @property
    def plane_caption(self) -> str:
        """The exact definition of both axes."""
        label = describe(self.measure).label if self.measure else ""
        return (
            f"Forgetting is (original − model) / (original − gold) in the {label} on the forget set: 0 is the original, 1 is gold, above 1 is "
            "beyond gold, which is not better. Utility is that of the model divided by that of the original. Whiskers: the model's own 95 % "
            "intervals, original and gold held at their measured values. The place to be is beside gold."
        )

    def document(self) -> Document:
        """Return the report as data."""
        places = []
        for p in self.positions:
            u, f = p.utility_span or (None, None), p.forgetting_span or (None, None)
            places.append(
                Place(
                    name=p.name,
                    utility=p.utility,
                    utility_low=u[0],
                    utility_high=u[1],
                    forgetting=p.forgetting,
                    forgetting_low=f[0],
                    forgetting_high=f[1],
                    why=p.why,
                )
            )
        return Document(
            title=self.title,
            headlines=[
                Said(name=h.name, verdict=h.verdict, sentence=h.sentence, details=list(h.details)) for h in self.headlines
            ],
            forgetting_measure=self.measure,
            positions=places,
            limits=list(self.limits),
            weights=list(self.damages),
            evidence=list(self.evidences),
        )


def content(evidences: Sequence[Evidence], title: str, damages: Sequence[Damage | str | None] = ()) -> Content:
    """Return what the report of some runs says; `damages` is one for each run, or empty where none is known."""
    models = columns(evidences)
    chosen, why = measure(models)
    judged = [name for column in models for name in [column.name] if column.facts is not None]
    return Content(
        title=title,
        subtitle="Judged: " + ", ".join(judged) + ".",
        evidences=tuple(evidences),
        models=models,
        headlines=tuple(judge(models)),
        warnings=tuple(mismatches(evidences)),
        keys=tuple(number_names(evidences)),
        measure=chosen,
        why_no_measure=why,
        positions=tuple(position(column, models) for column in models if column.facts is not None),
        completions=tuple(completions(models)),
        limits=tuple(limits(models, evidences)),
        damages=tuple(damages) or (None,) * len(evidences),
    )
