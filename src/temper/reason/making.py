"""Traces alone: made by a model or taken from data, written to a file, and looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper import processes
from temper.data.readers import read
from temper.data.tokenise import Dropped
from temper.errors import DataError, InputError
from temper.reason.health import closing_note, trace_health
from temper.reason.source import TraceSource
from temper.reason.tracefile import Trace, write_traces
from temper.recipe import Recipe, apply_overrides, from_dict

if TYPE_CHECKING:
    from temper.run import Progress

__all__ = ["MadeTraces", "make_traces"]


@dataclass(frozen=True)
class MadeTraces:
    """Traces in a file, and what they look like.

    Attributes:
        path: The file.
        traces: All of them.
        documents: How many rows were asked about.
        rows: How many training rows they give.
        dropped: Rows of which no training row comes, each with the reason.
        health: Counts, lengths, repetition.
        note: What a user should know of them; None where nothing stands out.
    """

    path: Path
    traces: list[Trace]
    documents: int
    rows: int
    dropped: list[Dropped]
    health: dict[str, Any]
    note: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return everything but the traces as plain values."""
        return {
            "file": str(self.path),
            "documents": self.documents,
            **self.health,
            "rows": self.rows,
            "dropped": [{"id": drop.id, "reason": drop.reason} for drop in self.dropped],
            **({} if self.note is None else {"note": self.note}),
        }


def _recipe(data: str, model: str, provider: str, settings: Sequence[str]) -> Recipe:
    """Return what is asked as a recipe: a bare name is a setting of the provider, `source.X` one of the data, others are paths of a recipe."""
    document = {
        "name": "traces",
        "model": {"path": model},
        "data": {"trace": [{"path": data, "provider": {"name": provider}}]},
    }
    placed = []
    for setting in settings:
        name, _, _ = setting.partition("=")
        if name.startswith("source."):
            setting = "data.trace.0." + setting.removeprefix("source.")
        elif "." not in name and name != "seed":
            setting = "data.trace.0.provider." + setting
        placed.append(setting)
    return from_dict(apply_overrides(document, placed), "traces")


def _check_out(out: Path, read_from: Sequence[str]) -> None:
    """Refuse a place that cannot be written, or that holds what is read, before anything is made.

    Raises:
        DataError: It is so.
    """
    if out.is_dir():
        raise DataError(f"{out}: is a folder. Give the name of a file.")
    there = next(place for place in out.absolute().parents if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is a file" if not there.is_dir() else "cannot be written to"
        raise DataError(f"{out}: {there} {what}. Name a file in a folder that can be made or written to.")
    for path in read_from:
        if Path(path).expanduser().resolve() == out.resolve():
            raise DataError(f"{out}: is what is read, and would be replaced by the traces. Give another file to write.")


def make_traces(
    data: str,
    out: Path,
    *,
    model: str,
    provider: str = "traces",
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> MadeTraces:
    """Write the traces of all rows of a data set to a file; a generation that was stopped goes on where it was.

    Args:
        data: A file, a folder saved by datasets, a hub data set, or world:NAME.
        out: The file, JSON Lines.
        model: The model that reasons, and whose tokenizer counts.
        provider: `traces`, `trace_column` or `trace_callable`.
        settings: `key=value` of the provider, `source.X=value` of the data, `seed=1`, `model.dtype=bfloat16`, `world.size=small`.
        progress: Called as traces are written.

    Raises:
        RecipeError: A setting is wrong.
        DataError: The data hold nothing to ask about, or no trace is long enough.
        ModelError: The model cannot be loaded, or does not use the tags.
    """
    from temper.models.load import load_config, load_tokenizer, row_limit
    from temper.models.workshop import Workshop

    recipe = _recipe(data, model, provider, settings)
    source = recipe.data["trace"][0]
    if not isinstance(source.provider, TraceSource):
        raise InputError(f"provider {provider!r} makes no traces. Give traces, trace_column or trace_callable.")
    _check_out(out, [source.path, *filter(None, [getattr(source.provider, "path", None)])])
    rows = read(source, recipe.world)
    config = load_config(recipe.model.path, section=recipe.model, world=recipe.world)
    tokenizer = load_tokenizer(recipe.model.path, section=recipe.model, world=recipe.world)
    processes.start()
    workshop = Workshop(recipe, out.parent, progress)
    request = workshop.request("trace", source, rows, tokenizer, row_limit(config, None, "train.max_length"))
    collected = source.provider.collect(request)
    assert collected.traces is not None
    if processes.is_first():
        write_traces(out, collected.traces)
    made = source.provider.rows_of(request, collected)
    health = trace_health(collected.traces, source.provider.close_tag)
    note = closing_note(collected.traces, source.provider.until)
    return MadeTraces(out, collected.traces, len(rows), len(made.rows), made.dropped, health, note)
