"""`temper demo`: the tour, in a few minutes and without network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, say, shown_progress, verb
from temper.cli.world import Size

__all__ = ["demo"]


@verb
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs and the report are written.")] = Path("runs/demo"),
    size: Annotated[
        Size, typer.Option(help="Size of the embedded world; small is quicker, and too small for traces to leak.")
    ] = Size.default,
    seed: Annotated[int, typer.Option(min=0, help="Seed of world and runs.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work side by side.")] = 2,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Build the world, make its model forget by RMU, R2MU without preservation and R2MU, judge each, write the report.

    Example: temper demo --size small --out runs/demo-small
    """
    from temper.report.tour import tour

    with shown_progress() as progress:
        result = tour(out, size=size.value, seed=seed, workers=workers, progress=progress)
    if json:
        emit(result.facts())
        return
    from temper.display.terminal import print_evidence

    print_evidence(result.evidences)
    typer.echo()
    for line in result.headlines:
        typer.echo(line)
    typer.echo()
    say(f"{result.wall_s:.0f} s")
    typer.echo(f"report  {result.page}")
