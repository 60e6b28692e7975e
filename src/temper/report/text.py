"""The report as markdown: the same sentences and tables, every text from outside escaped."""

from __future__ import annotations

from temper.display.text import markdown
from temper.report.content import Content
from temper.report.headlines import VERDICTS
from temper.report.provenance import run_facts, weights_table
from temper.report.tables import cost_table, gaps_table, glance_table, numbers_table, plane_table
from temper.report.weights import changes_table, places_table
from temper.report.weights import said as said_of_weights

__all__ = ["in_markdown"]


def _plane(said: Content) -> list[str]:
    if said.measure is None:
        return [f"cannot tell: {markdown(said.why_no_measure)}.", ""]
    lines = [markdown(said.plane_caption), "", "| model | utility | forgetting |", "| --- | --- | --- |"]
    for p in said.positions:
        utility = "cannot tell" if p.utility is None else f"{100 * p.utility:.1f} %"
        forgetting = "cannot tell" if p.forgetting is None else f"{p.forgetting:.2f}"
        lines.append(f"| {markdown(p.name)} | {utility} | {forgetting} |")
    return [*lines, "", *(f"- {markdown(name)}: cannot tell ({markdown(why)})" for name, why in plane_table(said.positions)), ""]


def _weights(said: Content) -> list[str]:
    lines = []
    for one in said_of_weights(said.models, said.damages):
        chip = f"**{markdown(one.chip[0])}**: " if one.chip else ""
        lines += [f"- {chip}{markdown(one.sentence)}", *(f"  - {markdown(detail)}" for detail in one.details)]
    tables = [
        table.markdown() for make in (changes_table, places_table) if (table := make(said.models, said.damages)) is not None
    ]
    return [*lines, "", *tables]


def in_markdown(said: Content) -> str:
    """Return the report in markdown; the completions are left to the page and report.json."""
    lines = [f"# {markdown(said.title)}", "", markdown(said.subtitle), "", "## In plain words", ""]
    lines += [f"> {markdown(warning)}\n" for warning in said.warnings]
    for headline in said.headlines:
        lines.append(f"- **{VERDICTS[headline.verdict][0]}**: {markdown(headline.sentence)}")
        lines += [f"  - {markdown(detail)}" for detail in headline.details]
    lines += ["", "## Answer against trace", "", "![Answer against trace](answer_against_trace.svg)", ""]
    lines += [glance_table(said.models).markdown(), "## Forgetting against utility", "", *_plane(said)]
    lines += ["## All numbers", "", numbers_table(said.models, said.keys).markdown()]
    gaps = gaps_table(said.models)
    if gaps:
        lines += ["## The way to gold", "", gaps.markdown()]
    lines += ["## What changed in the weights", "", *_weights(said)]
    lines += ["## Cost", "", cost_table(said.models).markdown()]
    lines += ["## What this does not show", "", *(f"- {markdown(line)}" for line in said.limits), ""]
    lines += ["## Provenance", "", weights_table(said.models).markdown()]
    for run in run_facts(said.models):
        lines += [f"### {markdown(run.name)}", ""]
        lines += [f"- {markdown(key)}: {markdown(value)}" for key, value in run.facts]
        lines += [f"- {markdown(note)}" for note in run.notes]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
