"""`temper report`: write the report of a run from the evidence it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, verb

__all__ = ["report"]


@verb
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that was assessed.")],
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write report.html, report.md and report.json of a run again.

    Example: temper report runs/npo-tiny
    """
    from temper import report as room

    page = room.run(folder)
    emit({"report": str(page)}) if json else typer.echo(str(page))
