"""`temper merge`: one model of several that were trained apart from the same base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, say, shown_progress, verb

if TYPE_CHECKING:
    from temper.merge import MergeMethod

__all__ = ["merge"]

_NAMED = 30
"""Characters of the name of a part."""


@verb
def merge(
    model: Annotated[
        list[str],
        typer.Option(help="A model trained from the base: its folder, a delta, or a LoRA adapter. Give it again for each."),
    ],
    out: Annotated[Path, typer.Option(help="The folder that is written, whole or not at all.")],
    base: Annotated[
        str | None, typer.Option(help="What all models were trained from: a local folder, a hub name, or world:original.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How: ties, linear, task_arithmetic, magnitude_prune, dare_linear, dare_ties, slerp, norm_matched_mean or negation."
        ),
    ] = "ties",
    density: Annotated[
        float | None, typer.Option(help="Share of the entries of each task vector that is kept, above 0 to 1. [0.2]")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="What the merged change is multiplied by. [1]")] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="Weight of a model; again for each, in the order of --model.")
    ] = None,
    convention: Annotated[str | None, typer.Option(help="Whose form of TIES: peft, mergekit, reference. [peft]")] = None,
    trim: Annotated[str | None, typer.Option(help="Entries compete within a tensor or the model.")] = None,
    rescale: Annotated[str | None, typer.Option(help="DARE: unbiased or l1. [unbiased]")] = None,
    position: Annotated[float | None, typer.Option(help="slerp: from the first model (0) to the second (1). [0.5]")] = None,
    to: Annotated[str | None, typer.Option(help="norm_matched_mean: the length of ties or of the task_vectors. [ties]")] = None,
    adapter_rank: Annotated[int | None, typer.Option(help="Write one LoRA adapter of this rank instead of full weights.")] = None,
    seed: Annotated[int, typer.Option(help="For methods that draw.")] = 0,
    shard_size: Annotated[str, typer.Option(help="The most a file of weights holds.")] = "5GB",
    json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Merge models that were trained apart from one base, tensor by tensor from disk to disk; merge.json says what it did.

    A LoRA or IA3 adapter that is negated alone, without --base, stays an adapter.

    Example: temper merge --base world:original --model runs/a/model --model runs/b/model --method ties --density 0.2 --out merged
    """
    given = {
        "density": density,
        "scale": scale,
        "convention": convention,
        "trim": trim,
        "rescale": rescale,
        "position": position,
        "to": to,
    }
    settings = _settings(method, {name: value for name, value in given.items() if value is not None})
    if base is None:
        folder = _negated(settings, model, out, weight, adapter_rank)
        emit({"adapter": str(folder)}) if json else typer.echo(f"adapter  {folder}")
        return
    from temper.merge.adapterfiles import write_adapter
    from temper.merge.folder import write_merge
    from temper.merge.opening import open_deltas

    deltas = open_deltas(base, model)
    with shown_progress() as progress:
        if adapter_rank is not None:
            record = write_adapter(deltas, settings, out, rank=adapter_rank, weights=weight or None, seed=seed, progress=progress)
        else:
            record = write_merge(
                deltas, settings, out, weights=weight or None, seed=seed, shard_size=shard_size, progress=progress
            )
    for warning in record["warnings"]:
        say(f"warning: {warning}")
    if json:
        emit({"folder": str(out), **record})
        return
    _print(record)
    typer.echo(f"{'adapter' if adapter_rank is not None else 'model':<8} {out}")


def _settings(method: str, given: dict[str, Any]) -> MergeMethod:
    """Return the checked settings of a method."""
    from typing import cast

    from temper.errors import InputError
    from temper.recipe.named import NamedSettingsError, named_settings

    try:
        return cast("MergeMethod", named_settings("merge", {"name": method, **given}))
    except NamedSettingsError as error:
        lines = []
        for problem in error.error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else method
            if problem["type"] == "extra_forbidden":
                takes = ", ".join(f"--{field}" for field in error.settings.model_fields if field in _OPTIONS) or "none"
                lines.append(f"--{name}: {method} does not use it. Of the settings of methods it takes: {takes}")
            else:
                option = f"--{name} = {problem['input']}" if problem["loc"] else method
                lines.append(f"{option}: {problem['msg'].removeprefix('Value error, ')}")
        raise InputError("; ".join(lines)) from None
    except ValueError as error:
        raise InputError(f"--method: {error}") from None


_OPTIONS = ("density", "scale", "convention", "trim", "rescale", "position", "to")


def _negated(settings: MergeMethod, models: list[str], out: Path, weights: list[float] | None, rank: int | None) -> Path:
    from temper.errors import InputError
    from temper.merge.negation import Negation

    if not isinstance(settings, Negation) or len(models) != 1 or weights or rank is not None:
        raise InputError(
            "--base is missing. Give the model that all others were trained from; only a single adapter that is negated (--method negation), "
            "without weights and rank, needs none."
        )
    from temper.merge.adapterfiles import negate_adapter

    return negate_adapter(Path(models[0]).expanduser(), out, settings.scale)


def _print(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from temper.display.numbers import compact, percent
    from temper.display.text import squeezed
    from temper.models.kinds import kind_of

    settings = ", ".join(f"{name} {value}" for name, value in record["method"].items() if name not in ("name", "trim_unit"))
    typer.echo(f"method   {record['method']['name']}" + (f" ({settings})" if settings else ""))
    for number, model in enumerate(record["models"], 1):
        typer.echo(f"model {number}  {model['path']} ({model['form']}, weight {model['weight']:g})")
    table = Table(title="what was merged", caption="norm: merged change over the mean of the models'; cosine: of pairs of models")
    table.add_column("part", min_width=_NAMED, no_wrap=True)
    for name in ("entries", "kept", "norm", "cosine", "conflicts"):
        table.add_column(name, justify="right", no_wrap=True)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for name, facts in record["tensors"].items():
        kinds.setdefault(kind_of(name), []).append(facts)

    def row(name: str, parts: list[dict[str, Any]]) -> None:
        kept = [share for part in parts for share in part["kept"] if share is not None]
        cosines = [pair["cosine"] for part in parts for pair in part["cosines"] if pair["cosine"] is not None]
        conflicts = [part["sign_conflicts"] for part in parts if part["sign_conflicts"] is not None]
        before = sum(sum(part["norms"]) / len(part["norms"]) for part in parts)
        table.add_row(
            squeezed(name, _NAMED),
            compact(sum(part["entries"] for part in parts)),
            percent(sum(kept) / len(kept)) if kept else "–",
            f"{sum(part['merged_norm'] for part in parts) / before:.2f}" if before else "–",
            f"{min(cosines):.2f} to {max(cosines):.2f}" if cosines else "–",
            percent(sum(conflicts) / len(conflicts)) if conflicts else "–",
        )

    for kind, parts in kinds.items():
        row(kind, parts)
    table.add_section()
    row("all that changed", [record["total"]])
    Console().print(table)
    typer.echo(f"as it was {compact(record['total']['unchanged_entries'])} entries that no model changed")
    if "adapter" in record:
        energies = record["adapter"]["energy_kept"]
        typer.echo(
            f"energy   rank {record['adapter']['rank']} keeps {percent(min(energies.values()))} to {percent(max(energies.values()))} of a layer's change"
        )
