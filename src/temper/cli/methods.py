"""`temper methods`: what the library can do and what of it works today."""

from __future__ import annotations

from typing import Final

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, verb

__all__ = ["methods"]

_KINDS: Final = (
    "objective",
    "selection",
    "smoother",
    "alternatives",
    "provider",
    "schedule",
    "metric",
    "judge",
    "decoding",
    "probe",
    "merge",
)


@verb
def methods(json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """List the ten systems, and the names that recipes can use.

    Example: temper methods --json
    """
    from temper.registry import SYSTEMS, names

    kinds = {kind: names(kind) for kind in _KINDS}
    if json:
        emit({"systems": [vars(system) for system in SYSTEMS], "names": kinds})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("system", "gives", "works today", title="Systems", title_justify="left")
    for system in SYSTEMS:
        table.add_row(system.name, system.gives, system.works or "not yet")
    console = Console()
    console.print(table)
    for kind, known in kinds.items():
        typer.echo(f"{kind}: {', '.join(known)}")
