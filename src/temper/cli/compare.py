"""`temper compare`: several runs against the same original and gold, in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, say, verb

__all__ = ["compare"]


@verb
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders that were assessed.")],
    out: Annotated[Path, typer.Option(help="Where the comparison is written.")] = Path("runs/comparison"),
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Compare runs that were judged on the same items.

    Example: temper compare runs/npo-tiny runs/rmu-tiny --out runs/npo-rmu
    """
    from temper import report
    from temper.assess.evidence import Evidence
    from temper.report.beside import beside_lines
    from temper.report.columns import columns
    from temper.report.limits import mismatches

    page = report.compare(folders, out, title=title)
    evidences = [Evidence.read(folder / "evidence.json") for folder in folders]
    for warning in mismatches(evidences):
        say(f"warning: {warning}")
    if json:
        emit({"report": str(page)})
        return
    from temper.display.terminal import print_evidence

    # of one name, they are told apart as in the report
    print_evidence([run.evidence.model_copy(update={"name": run.name}) for run in columns(evidences).runs])
    for line in beside_lines(evidences):
        typer.echo(line)
    typer.echo(f"report  {page}")
