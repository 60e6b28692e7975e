"""`temper unlearn`: from a recipe to a model that has forgotten, its evidence and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, shown_progress, verb
from temper.cli.recipe import OverridesArgument, RecipeArgument

__all__ = ["unlearn"]


@verb
def unlearn(
    path: RecipeArgument,
    overrides: OverridesArgument = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; else runs/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; loads no weights and makes no run folder.")] = False,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Unlearn as a recipe says; with an evaluate section also assess the result and write its report.

    A stopped run goes on where it was when the same command is given again.

    Example: temper unlearn tiny/npo.yaml train.steps=50 --out runs/try
    """
    from temper.recipe import load

    recipe = load(path, overrides or [])
    if dry_run:
        from temper.unlearn.planning import plan

        planned = plan(recipe)
        emit(planned.facts) if json else typer.echo("\n".join(planned.lines))
        return
    from temper import assess, processes, report
    from temper import unlearn as room
    from temper.files import read_json

    if recipe.evaluate is not None:
        assess.check(recipe)  # a fault in the evaluation must not show only after the training
    with shown_progress() as progress:
        folder = room.run(recipe, out, progress=progress)
        if not processes.is_first():
            return  # the first process assesses and reports
        evidence = assess.run(folder, progress=progress) if recipe.evaluate is not None else None
        page = report.run(folder) if evidence is not None else None
    stage = read_json(folder / "manifest.json")["stages"]["unlearn"]
    stopped, damage = stage.get("stopped"), stage.get("damage")
    if json:
        emit(
            {
                "folder": str(folder),
                "stopped": stopped,
                "damage": damage,
                "model": str(folder / "model"),
                "report": str(page) if page else None,
                "evidence": evidence.model_dump(mode="json") if evidence else None,
            }
        )
        return
    if evidence is not None:
        from temper.display.terminal import print_evidence
        from temper.report.beside import beside_lines

        print_evidence([evidence])
        for line in beside_lines([evidence]):
            typer.echo(line)
    if stopped is not None:
        typer.echo(f"note    training {stopped['sentence']}")
    if damage is not None:
        from temper.report.weights import damage_in, one_line

        typer.echo(f"weights {one_line(damage_in(folder))}")
    typer.echo(f"model   {folder / 'model'}")
    if (folder / "delta").is_dir():
        typer.echo(f"delta   {folder / 'delta'}  (temper apply makes the model of it and its base)")
    if page is not None:
        typer.echo(f"report  {page}")
