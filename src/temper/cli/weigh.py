"""`temper weigh`: try weights of the retain anchor with short runs and two probes, before a run is spent on one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, shown_progress, verb
from temper.cli.recipe import OverridesArgument, RecipeArgument

__all__ = ["weigh"]


def _shown(probed: Any) -> str:
    """Return the cosine, that of the source that moved most where it differs, and the norm."""
    lowest = f" ({probed.lowest:.3f})" if probed.lowest < probed.cosine - 0.0005 else ""
    return f"{probed.cosine:.3f}{lowest}  x{probed.norm:.2f}"


@verb
def weigh(
    path: RecipeArgument,
    overrides: OverridesArgument = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="A weight to try; give it again for each. Default: 1 10 100 1000.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each short run.")] = 40,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Try weights of the retain anchor (rmu, r2mu): a few steps each, then how far the states of each role moved.

    Example: temper weigh tiny/r2mu.yaml --weight 1 --weight 10 --weight 100
    """
    from temper.recipe import load
    from temper.unlearn.weighing import KEEP, MOVED
    from temper.unlearn.weighing import weigh as run

    recipe = load(path, overrides or [])
    with shown_progress() as progress:
        found = run(recipe, weight or [1.0, 10.0, 100.0, 1000.0], steps=steps, progress=progress)
    if json:
        facts = {"steps": found.steps, "proposed": found.proposed, "keep": KEEP, "tried": [w.facts() for w in found.tried]}
        emit({**facts, "objective": found.facts})
        return
    from rich.console import Console
    from rich.table import Table

    roles = list(found.tried[0].roles)
    table = Table(
        "retain weight",
        *(f"{role}\ncosine  norm" for role in roles),
        title=f"states after {found.steps} steps against before",
        caption="in brackets: the source that moved most",
    )
    for tried in found.tried:
        table.add_row(f"{tried.weight:g}", *(_shown(tried.roles[r]) for r in roles))
    Console().print(table)
    for name in ("median_token_norm", "steering_length"):
        if name in found.facts:
            typer.echo(f"{name.replace('_', ' ')}: {found.facts[name]}")
    if found.proposed is None:
        typer.echo(
            f"none moves forget under a cosine of {MOVED} and keeps the others at {KEEP}: try other weights, more steps, another learning rate or "
            "other tensors"
        )
    else:
        typer.echo(f"proposed: {found.proposed:g} (moves forget furthest among those that keep the others at a cosine of {KEEP})")
