"""`temper mask`: score the weights of a model, look at masks, combine masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, shown_progress, verb
from temper.cli.recipe import OverridesArgument, RecipeArgument

__all__ = ["app"]

app = typer.Typer(help="Score the weights of a model, inspect and combine masks of those that may change.", no_args_is_help=True)

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Mask files (.safetensors).")]

_BARS = "▁▂▃▄▅▆▇█"
_NAMED = 26
"""Characters of the name of a part."""


@app.command()
@verb
def score(
    path: RecipeArgument,
    overrides: OverridesArgument = None,
    ratio: Annotated[
        list[float] | None, typer.Option(help="Share of the weights that may change; again for each mask. Default: the recipe's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder that is made: a mask a ratio, scores.json, masks.html.")] = Path("masks"),
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Score every weight once, as the selection of a recipe says, and write a mask for each ratio.

    Example: temper mask score tiny/npo.yaml "selection={wagle: 0.1}" --ratio 0.1 --ratio 0.4 --out masks
    """
    from temper.recipe import load
    from temper.unlearn.attribution import score_masks
    from temper.unlearn.attribution.maskfiles import inspect_masks
    from temper.unlearn.attribution.page import write_mask_page

    recipe = load(path, overrides or [])
    with shown_progress() as progress:
        scored = score_masks(recipe, ratio or [], out, progress=progress)
    inspected = inspect_masks(list(scored.files.values()))
    page = write_mask_page(out / "masks.html", inspected)
    if json:
        emit(
            {
                "folder": str(out),
                "masks": {f"{ratio:g}": str(file) for ratio, file in scored.files.items()},
                "page": str(page),
                "facts": scored.facts,
                **inspected,
            }
        )
        return
    _say_how(scored.facts)
    _print(inspected)
    for file in scored.files.values():
        typer.echo(f"mask     {file}")
    typer.echo(f"page     {page}")


@app.command()
@verb
def inspect(
    files: FilesArgument,
    page: Annotated[Path | None, typer.Option(help="Also write a page with figures, HTML.")] = None,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show how many weights masks select in each part of the model, and how far the masks agree.

    Example: temper mask inspect masks/mask_0.1.safetensors masks/mask_0.4.safetensors --page masks.html
    """
    from temper.unlearn.attribution.maskfiles import inspect_masks
    from temper.unlearn.attribution.page import write_mask_page

    inspected = inspect_masks(files)
    if page is not None:
        write_mask_page(page, inspected)
    if json:
        emit({**inspected, "page": str(page) if page is not None else None})
        return
    _print(inspected)
    if page is not None:
        typer.echo(f"page     {page}")


@app.command()
@verb
def combine(
    files: FilesArgument,
    by: Annotated[
        str, typer.Option(help="union: any selects; intersection: all select; majority: more than half of them select.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="The mask file to write.")] = None,
    any_weights: Annotated[
        bool, typer.Option("--any-weights", help="Accept files made from different weights; the result says nothing of weights.")
    ] = False,
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write one mask of several, e.g. of several forget sets.

    Example: temper mask combine bio.safetensors cyber.safetensors --by union --out both.safetensors
    """
    from typing import cast

    from temper.errors import InputError
    from temper.unlearn.attribution.maskfiles import combine_masks

    if not by:
        raise InputError("--by is missing. Give union, intersection or majority.")
    if out is None:
        raise InputError("--out is missing. Give the mask file to write, e.g. --out both.safetensors.")
    made = combine_masks(files, cast(Any, by), out, any_weights=any_weights)
    if json:
        emit(made)
        return
    from temper.display.numbers import compact, percent

    for part in made["of"]:
        typer.echo(f"of       {part['file']}: {compact(part['selected'])} weights")
    share = "no weights" if made["density"] is None else f"{percent(made['density'])} of the model"
    typer.echo(f"{by:<8} {compact(made['selected'])} weights, {share}")
    typer.echo(f"mask     {out}")


def _say_how(facts: dict[str, Any]) -> None:
    """Print what decided the ranking."""
    from temper.display.numbers import compact, percent, seconds

    rows = ", ".join(f"{count} {role}" for role, count in facts.get("rows", {}).items())
    gamma = facts.get("gamma")
    typer.echo(f"score    {facts['score']}" + (f" over {rows} rows" if rows else ""))
    if gamma:
        typer.echo(f"gamma_H  {gamma['absolute']:.3g} for mean gradients ({gamma['mode']} {gamma['value']:g})")
    if facts.get("balance_share") is not None:
        typer.echo(f"balance  |g_r/gamma_H| > |theta| for {percent(facts['balance_share'])} of the weights")
    typer.echo(f"compete  {compact(facts['competing'])} weights, scored in {seconds(facts['seconds'])}")


def _sparks(parts: list[dict[str, Any]], layers: int, highest: float, room: int) -> str:
    """Return bars of neighbouring blocks, full where their density reaches the highest; a dot where they have no such part."""
    bars = []
    together = -(-layers // max(room, 1))
    for first in range(0, layers, together):
        own = [part for part in parts if part["layer"] is not None and first <= part["layer"] < first + together]
        weights = sum(part["weights"] for part in own)
        height = sum(part["selected"] for part in own) / weights / (highest or 1) if weights else 0
        bars.append(_BARS[min(int(len(_BARS) * height), len(_BARS) - 1)] if weights else "·")
    return "".join(bars)


def _print(inspected: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from temper.display.numbers import compact, percent
    from temper.display.text import squeezed
    from temper.unlearn.attribution.heatmap import kinds_and_layers, scale_of

    files = inspected["files"]
    console = Console()
    table = Table(
        title="share of the weights that is selected",
        caption="bars: first block to last, full at the highest of the large parts; – did not compete",
    )
    table.add_column("part", min_width=_NAMED, no_wrap=True)
    room = (console.width - _NAMED) // max(len(files), 1) - 13
    for file in files:
        table.add_column(squeezed(file["name"], max(room + 7, 12)), no_wrap=True)
    kinds = list(dict.fromkeys(kind for file in files for group in kinds_and_layers(file["parts"])[:2] for kind in group))
    for kind in kinds:
        cells = []
        for file in files:
            own = [part for part in file["parts"] if part["kind"] == kind]
            weights, selected = sum(part["weights"] for part in own), sum(part["selected"] for part in own)
            layers = kinds_and_layers(file["parts"])[2] if own and own[0]["layer"] is not None else 0
            bars = _sparks(own, layers, scale_of(file["parts"]), room) if layers > 1 and room >= 4 else ""
            competing = weights and any(part["competing"] for part in own)
            cells.append(f"{percent(selected / weights):>6} {bars}" if competing else "     –")
        table.add_row(squeezed(kind, _NAMED), *cells)
    table.add_section()
    wholes = (f"{percent(file['density']):>6} {compact(file['selected'])}" if file["weights"] else "" for file in files)
    table.add_row("whole model", *wholes)
    console.print(table)
    for pair in inspected["overlaps"]:
        names = f"{squeezed(pair['one'], 28)}, {squeezed(pair['other'], 28)}"
        if pair["iou"] is None:
            typer.echo(f"overlap  {names}: cannot tell, {pair['why']}")
            continue
        inside = "" if pair["in_the_larger"] is None else f"; {percent(pair['in_the_larger'])} of the smaller lies in the larger"
        typer.echo(f"overlap  {names}: IoU {pair['iou']:.3f} (by chance {pair['by_chance']:.3f}){inside}")
