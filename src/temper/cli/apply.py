"""`temper apply`: from a delta and the model it belongs to, the model that a run left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, verb

__all__ = ["apply"]


@verb
def apply(
    delta: Annotated[Path, typer.Argument(help="The delta folder of a run with save: delta.")],
    base: Annotated[str, typer.Argument(help="The model it was made for: a local folder, a hub name, or world:original.")],
    out: Annotated[Path, typer.Option(help="Where the model folder is written.")],
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write the model that a base and a delta make; a base with other weights is refused.

    Example: temper apply runs/try/delta world:original --out models/forgotten
    """
    from temper.models.delta import apply_delta
    from temper.recipe import WorldSection

    folder = apply_delta(delta, base, out, world=WorldSection())
    emit({"model": str(folder)}) if json else typer.echo(f"model   {folder}")
