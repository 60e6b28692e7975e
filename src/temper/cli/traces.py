"""`temper traces`: reasoning traces about a data set, made and looked at on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, shown_progress, verb

__all__ = ["traces"]

_SHOWN = 3


@verb
def traces(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Documents or questions: a file, a data set, or world:NAME.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings of the traces (temperature=0.7), of the data (source.limit=20), seed=1, model.dtype=bfloat16.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="The model that reasons: a folder, a hub name, world:original.")] = "",
    out: Annotated[Path, typer.Option(help="The file to write, JSON Lines.")] = Path("traces.jsonl"),
    segments_per_doc: Annotated[int | None, typer.Option(min=1, help="Segments that are cut from a document.")] = None,
    provider: Annotated[str, typer.Option(help="traces, trace_column or trace_callable.")] = "traces",
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Let a model write a reasoning trace about each row, keep them in a file, and show whether they look like reasoning.

    Example: temper traces world:forget_direct --model world:original --out traces.jsonl
    """
    from temper import processes
    from temper.display.numbers import percent
    from temper.display.text import shortened
    from temper.errors import InputError
    from temper.reason import make_traces

    if not model:
        raise InputError("--model is missing. Give the model that reasons, e.g. --model world:original.")
    given = [*(settings or []), *([f"segments_per_doc={segments_per_doc}"] if segments_per_doc is not None else [])]
    with shown_progress() as progress:
        made = make_traces(data, out, model=model, provider=provider, settings=given, progress=progress)
    if not processes.is_first():
        return
    if json:
        emit(made.facts())
        return
    health = made.health
    stopped = ", ".join(f"{count} {reason}" for reason, count in health["stopped_by"].items() if count)
    repeats = health["distinct_3"]
    lines = {
        "traces": f"{health['traces']} of {made.documents} documents",
        "tokens": f"{health['mean_tokens']:.1f} a trace",
        "closed": percent(health["closed_rate"]),
        "stopped": stopped,
        "distinct-3": "too short to tell" if repeats is None else f"{repeats:.2f}",
        "rows": f"{made.rows} for training",
    }
    for name, value in lines.items():
        typer.echo(f"{name:<11} {value}")
    if made.note is not None:
        typer.echo(f"{'note':<11} {made.note}")
    for drop in made.dropped[:_SHOWN]:
        typer.echo(f"{'dropped':<11} {shortened(drop.id, 60)}: {drop.reason}")
    if len(made.dropped) > _SHOWN:
        typer.echo(f"{'dropped':<11} {len(made.dropped) - _SHOWN} more")
    for trace in made.traces[:_SHOWN]:
        typer.echo(f"{'e.g.':<11} {shortened(trace.text, 160)}")
    typer.echo(f"{'file':<11} {made.path}")
