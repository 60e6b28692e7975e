"""The report of one run."""

from __future__ import annotations

from pathlib import Path

from temper.assess.evidence import Evidence
from temper.files import write_json, write_text
from temper.recipe import load
from temper.report.content import Content, content
from temper.report.figures import picture
from temper.report.html import page
from temper.report.text import in_markdown
from temper.report.weights import Damage, damage_in

__all__ = ["put", "run", "write"]


def put(said: Content, folder: Path) -> Path:
    """Write report.json, report.md, answer_against_trace.svg and, last, report.html; return the path of the page."""
    write_json(folder / "report.json", said.document().model_dump(mode="json"))
    write_text(folder / "answer_against_trace.svg", picture(said.models))
    write_text(folder / "report.md", in_markdown(said))
    return write_text(folder / "report.html", page(said))


def write(evidence: Evidence, folder: Path, *, title: str | None = None, damage: Damage | str | None = None) -> Path:
    """Write the report of one run.

    Args:
        evidence: What is known of the run.
        folder: Where the files are written.
        title: Heading of the report; else the name of the run.
        damage: What the run did to the weights, or why it is not known.

    Returns:
        The path of report.html.
    """
    return put(content([evidence], title or f"What {evidence.name} forgot, kept and leaks", [damage]), folder)


def run(folder: Path) -> Path:
    """Write the report of a run folder from the evidence it holds.

    Returns:
        The path of report.html; report.md, report.json and answer_against_trace.svg lie beside it.

    Raises:
        DataError: The folder holds no evidence.
    """
    stored = Path(folder) / "recipe.yaml"
    title = load(stored).report.title if stored.is_file() else None
    evidence = Evidence.read(Path(folder) / "evidence.json")
    return write(evidence, Path(folder), title=title, damage=damage_in(Path(folder)))
