"""The report as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from temper import __version__
from temper.display.page import Page, Section, render
from temper.display.tables import absent
from temper.display.text import environment
from temper.report import figures
from temper.report.completions import SHOWN
from temper.report.content import Content
from temper.report.headlines import VERDICTS
from temper.report.metrics import describe, in_panel, is_auc
from temper.report.provenance import run_facts, weights_table
from temper.report.tables import cost_table, gaps_table, glance_table, numbers_table, plane_table
from temper.report.weights import changes_table, damages_of, places_table
from temper.report.weights import said as said_of_weights

__all__ = ["page"]

_TEMPLATES: Final = Path(__file__).parent / "templates"


def _fill(name: str, **values: Any) -> Markup:
    return Markup(environment(_TEMPLATES).get_template(name).render(**values))


def _chip(reason: str) -> Markup:
    cell = absent("unknown", reason)
    return Markup('<p><span class="chip unknown">{}</span> <span class="why">{}</span></p>').format(cell.chip, cell.reason)


def _dots(said: Content) -> Markup:
    scaled = [
        key
        for key in said.keys
        if in_panel(*key) and any((r := c.known(*key)) and r.value is not None and 0 <= r.value <= 1 for c in said.models)
    ]
    return figures.dots(said.models, scaled) if scaled else _chip("no number between 0 and 1 was taken")


def _membership(said: Content) -> Markup:
    keys = [key for key in said.keys if is_auc(key[0]) and any(c.known(*key) for c in said.models)]
    if keys:
        return figures.membership(said.models, keys)
    reasons = [r.reason for e in said.evidences for r in e.results if r.metric.startswith("membership.") and r.reason]
    return _chip(reasons[0] if reasons else "no membership score was taken; it needs a hold-out set that no model was trained on")


def _numbers(said: Content) -> Markup:
    gaps = gaps_table(said.models)
    why = "how far the runs have come from the original to gold: it needs both, and the evidence says nothing of it"
    meanings = [(describe(metric).label, describe(metric).says) for metric in dict.fromkeys(m for m, _ in said.keys)]
    return _fill(
        "numbers.html.j2",
        numbers=numbers_table(said.models, said.keys).html(),
        gaps=gaps.html() if gaps else _chip(why),
        meanings=[pair for pair in meanings if pair[1]],
    )


def _plane(said: Content) -> Markup:
    drawn = figures.plane(said.models, said.positions, said.plane_caption) if said.measure else Markup()
    return _fill(
        "plane.html.j2",
        measure=said.measure,
        why=said.why_no_measure,
        legend=figures.legend(said.models),
        figure=drawn,
        missing=plane_table(said.positions),
    )


def _weights(said: Content) -> Markup:
    """Return what each run did to the weights: sentences, a figure by layer, tables."""
    sentences = said_of_weights(said.models, said.damages)
    totals, places = changes_table(said.models, said.damages), places_table(said.models, said.damages)
    if totals is None or places is None:
        return _fill("weights.html.j2", said=sentences, legend="", figure="", totals="", places="")
    known = damages_of(said.models, said.damages)
    return _fill(
        "weights.html.j2",
        said=sentences,
        legend=figures.legend(said.models, [column.name for column, _ in known]) if len(known) > 1 else "",
        figure=figures.layers(known),
        totals=totals.html(),
        places=places.html(),
    )


def page(said: Content) -> str:
    """Return the report as HTML: one file, nothing loaded from elsewhere, the same bytes for the same evidence."""
    shown = said.completions[:SHOWN]
    roles = list(dict.fromkeys(example.role for example in shown))
    sections = (
        Section("headline", "In plain words", _fill("headline.html.j2", headlines=said.headlines, verdicts=VERDICTS, notes=said.warnings)),
        Section("trace", "Answer against trace", figures.answer_against_trace(said.models) + glance_table(said.models).html()),
        Section("plane", "Forgetting against utility", _plane(said)),
        Section("gold", "Against gold, number by number", _dots(said)),
        Section("membership", "Membership", _membership(said)),
        Section("completions", "What the models wrote", _fill("completions.html.j2", shown=shown, total=len(said.completions), roles=roles)),
        Section("numbers", "All numbers", _numbers(said)),
        Section("weights", "What changed in the weights", _weights(said)),
        Section("cost", "Cost", cost_table(said.models).html()),
        Section("limits", "What this does not show", _fill("limits.html.j2", limits=said.limits)),
        Section("provenance", "Provenance", _fill("provenance.html.j2", weights=weights_table(said.models).html(), runs=run_facts(said.models))),
    )  # fmt: skip
    return render(
        Page(said.title, said.subtitle, sections, f"Written by temper {__version__} from evidence.json and manifest.json alone.")
    )
