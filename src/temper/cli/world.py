"""`temper world`: the embedded world, its models and its data as ordinary files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, shown_progress, verb

__all__ = ["app"]

app = typer.Typer(help="Build the embedded world: a tiny model that knows and reasons, with data by role.", no_args_is_help=True)


class Size(StrEnum):
    """Sizes of the world."""

    small = "small"
    default = "default"


@app.command()
@verb
def build(
    out: Annotated[Path | None, typer.Option(help="Also copy the world into this folder.")] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Also train the model that never saw the forget entities.")] = False,
    size: Annotated[Size, typer.Option(help="small trains in less than half the time and knows less well.")] = Size.default,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the world and of its models.")] = 0,
    exam: Annotated[bool, typer.Option("--exam", help="Measure what the models know, against the world's targets.")] = False,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Train the original (and with --gold the retrained) model of a world; kept in the cache by content.

    Example: temper world build --out world --gold --size small --exam
    """
    from temper.assess.world import examine
    from temper.world import build as build_world
    from temper.world import world_spec

    spec = world_spec(size.value, seed)
    with shown_progress() as progress:
        folder = build_world(spec, out, gold=gold, progress=progress)
        models = ["original", *(["gold"] if gold else [])]
        results = {name: examine(folder / name, spec, progress=progress) for name in models} if exam else {}
    if json:
        emit(
            {
                "folder": str(folder),
                "size": size.value,
                "seed": seed,
                "exam": {name: result.facts() for name, result in results.items()},
            }
        )
        return
    typer.echo(f"{folder}")
    for name, result in results.items():
        typer.echo(f"\n{name}")
        for line in result.lines():
            typer.echo(f"  {line}")
