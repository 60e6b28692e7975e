"""`temper assess`: judge the model of a run, or any model a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, shown_progress, verb
from temper.cli.recipe import OverridesArgument
from temper.errors import InputError

__all__ = ["assess"]


@verb
def assess(
    target: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="A run folder, or a recipe whose model is to be judged.")],
    overrides: OverridesArgument = None,
    out: Annotated[Path | None, typer.Option(help="For a recipe: the run folder; else runs/NAME.")] = None,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure what a model still knows, keeps and leaks, against the original and the retrained model.

    Example: temper assess runs/npo-tiny
    """
    from temper import assess as room
    from temper import report

    if not Path(target).exists() and not target.endswith((".yaml", ".yml")):
        raise InputError(
            f"{target}: no such run folder, and no recipe. Give a folder that `temper unlearn` wrote, or a YAML file."
        )
    with shown_progress() as progress:
        folder = Path(target) if Path(target).is_dir() else room.given(target, overrides or [], out, progress=progress)
        evidence = room.run(folder, overrides=overrides if Path(target).is_dir() else None, progress=progress)
        page = report.run(folder)
    if json:
        emit(evidence.model_dump(mode="json"))
        return
    from temper.display.terminal import print_evidence
    from temper.report.beside import beside_lines

    print_evidence([evidence])
    for line in beside_lines([evidence]):
        typer.echo(line)
    typer.echo(f"report  {page}")
