"""What an unlearning run would do: passes, steps and memory, without loading weights or writing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temper.errors import ModelError
from temper.recipe import Recipe
from temper.unlearn.checks import dtype_of, smoother_of
from temper.unlearn.objective import Objective
from temper.unlearn.prepare import prepare, refuse_unbuilt_world

__all__ = ["Plan", "plan"]


def _each(rows: Any) -> str:
    return "each" if len(rows.source_weights) == 1 else "a row of its most read source"


def _two_models(objective: Any) -> list[str]:
    """Return what an objective does beside or instead of the training that the plan counts."""
    if objective.result == "weights":
        return []
    made = "is given, so the steps below are not taken" if not objective.trains else "is trained by the steps below"
    lines = [f"reinforced   the model that learned the forget data harder {made}; two models are in memory at the end"]
    if getattr(objective, "distil", False):
        lines.append("distil       as many steps again, to the distribution of the two models, which is stored on disk first")
    return lines


def _scoring(selection: Any, prepared: Any, competing: int) -> list[str]:
    """Return what a scored selection does before training."""
    from temper.unlearn.attribution.base import ScoredSelection
    from temper.unlearn.attribution.rows import score_rows

    if not isinstance(selection, ScoredSelection):
        return []
    forget = (prepared.rows.get("forget") or prepared.score_rows.get("forget")) if selection.roles else None
    items = score_rows(selection, {**prepared.rows, **prepared.score_rows}, forget, 0)
    read = " and ".join(f"{len(part)} {role} rows" for role, part in items.items())
    what = f"one pass, forward and back, over {read}" if set(selection.needs) & {"forget", "retain"} else f"one pass over {read}"
    ranked = {"weights": "weights", "rows": "weights, row by row", "columns": "weights, column by column"}.get(
        selection.structure, f"weights, in {selection.structure}"
    )
    return [
        f"selection    {selection.name}: the largest {100 * selection.ratio:g} % of {competing:,} {ranked} train; {what if read else 'no data are read'}"
    ]


def _expected_ranks(selection: Any, competing: Any, model: Any) -> dict[str, int]:
    """Return ranks for as many linear layers as a score will give an adapter."""
    from temper.unlearn.attribution.inputs import linear_weights

    linear = [name.removesuffix(".weight") for name in linear_weights(model) if name in set(competing)]
    return dict.fromkeys(linear[: max(1, int(selection.keep * len(linear)))], selection.rank)


def acting(objective: Objective) -> dict[str, Any]:
    """Return the settings of an objective that change what it does, for people: what nothing reads is left out."""
    given = {key: value for key, value in objective.model_dump().items() if value is not None}
    held = objective.retain_term
    masks = [field for field in given if field.endswith("mask")]
    idle = {
        "retain_weight": held == "none",
        "retain_mask": held not in ("kl", "embed"),
        "retain_layer": held != "embed",
        "retain_beta": held != "ap",
        "alternatives": not objective.alternative_roles,
        "trace_mask": given.get("trace_weight") == 0,
        "reasoning_mask": given.get("reasoning_weight") == 0,
        "preset": given.get("preset") == "none",
    }
    shown = {key: value for key, value in given.items() if not idle.get(key, False)}
    if all(shown.get(field) != "final" for field in masks):
        shown.pop("close_tag", None)
    if "alternatives" in shown:
        shown["alternatives"] = type(objective.alternatives).name
    return shown


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        lines: For people.
        facts: The same as JSON.
    """

    lines: list[str]
    facts: dict[str, Any]


def plan(recipe: Recipe) -> Plan:
    """Return what a run of this recipe would do, without loading weights or writing anything.

    The memory figure counts weights, gradients, optimiser state and kept originals; activations come on top.
    """
    import torch

    from temper.models.checkpoint import skeleton_of
    from temper.models.choice import budget
    from temper.models.lora import SelectLora
    from temper.models.selection import SelectMaskFile, SelectRows, decoder_layers, selection_of
    from temper.models.trunk import check_layer, freeze_above
    from temper.train.arguments import rows_per_step
    from temper.train.plan import plan_of
    from temper.unlearn.attribution.base import ScoredSelection
    from temper.unlearn.context import sketched_context
    from temper.unlearn.costs import Trained, bytes_beside_weights
    from temper.unlearn.references import needs_stored, used_rows
    from temper.unlearn.training import trains_cut

    refuse_unbuilt_world(recipe)
    prepared = prepare(recipe)
    assert recipe.train is not None
    selection, smoother = selection_of(recipe), smoother_of(recipe)
    model: Any = skeleton_of(prepared.config, trust_remote_code=recipe.model.trust_remote_code)
    total = sum(p.numel() for p in model.parameters())
    if isinstance(selection, SelectLora) and selection.by is not None:
        # the scores are not there: as many ranks as they will share out, over the first layers
        selection = selection.model_copy(
            update={"by": None, "ranks": _expected_ranks(selection, prepared.competing(model), model)}
        )
    with torch.device("meta"):
        model = selection.apply(model)
    context = sketched_context(
        seed=recipe.seed,
        width=int(prepared.config.get_text_config().hidden_size),
        check=lambda layer, what: check_layer(model, layer, what),
        topics_of=lambda role: [item.topic for item in prepared.rows[role].items],
        prepared=prepared,
    )
    terms = prepared.objective.terms(context)
    passes = plan_of(terms)
    waiting = [role for role in prepared.objective.alternative_roles if role not in prepared.substitutions]
    # what the model is still to write cannot be counted yet
    stored, disk = ({}, 0) if waiting else needs_stored(recipe, prepared, terms, used_rows(prepared))
    heavy = any(need != "ref_row_nll" for needs in stored.values() for need in needs)
    if passes.trunk_layer is not None:
        freeze_above(model, passes.trunk_layer)
    competing = trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if isinstance(selection, SelectMaskFile):
        counts = selection.opened(model).counts()
        trained = sum(counts[name] for name, p in model.named_parameters() if p.requires_grad)
    if isinstance(selection, ScoredSelection):
        names = set(prepared.competing(model))
        competing = sum(p.numel() for name, p in model.named_parameters() if name in names)
        trained = budget(selection.ratio, competing)
    if not trained:
        raise ModelError(
            f"selection {selection.name}: trains nothing that the loss reads, so nothing could change. Select other weights."
        )
    resident = total
    if (cut := trains_cut(recipe, prepared)) is not None:
        kept = (*list(decoder_layers(model))[: cut + 1], getattr(model, "get_base_model", lambda: model)().get_input_embeddings())
        resident = sum(p.numel() for part in kept for p in part.parameters())
    halves = dtype_of(recipe, prepared.config) in ("bfloat16", "float16")
    what = Trained(
        entries=trained,
        whole=competing,
        masked=selection.has_masks,
        lines=isinstance(selection, SelectRows) or getattr(selection, "structure", "weights") != "weights",
        width=2 if halves and not selection.is_adapter else 4,
    )
    asks = bool(passes.original_logits or passes.frozen_layers) and not heavy and not selection.is_adapter
    beside = bytes_beside_weights(recipe.train, what, keeps_original=asks)
    megabytes = ((2 if halves else 4) * resident + beside) / 2**20
    rows = rows_per_step(recipe.train)
    reads = prepared.reads()
    facts = {
        "method": prepared.objective.name,
        "parameters": total,
        "parameters_loaded": resident,
        "trained_parameters": trained,
        "steps": prepared.steps,
        "rows_per_step": rows,
        "rows": {role: len(found.items) for role, found in prepared.rows.items()},
        "dropped": {role: len(found.dropped) for role, found in prepared.rows.items()},
        "reads_of_a_row": reads,
        "made": prepared.provided,
        "passes": passes.describe(stored=heavy),
        "forget_passes": smoother.forget_passes if smoother is not None else 1,
        "memory_mib_without_activations": round(megabytes, 1),
        "disk_mib_of_references": round(disk / 2**20, 1),
        "overlap": prepared.overlap,
    }
    lines = [
        f"objective    {prepared.objective.name} ({', '.join(f'{key}={value}' for key, value in acting(prepared.objective).items())})",
        f"model        {recipe.model.path}: {total:,} parameters, {resident:,} loaded, {trained:,} train ({100 * trained / total:.1f} %)"
        + (", of which the rows are chosen at the start" if isinstance(selection, SelectRows) else ""),
        *_scoring(selection, prepared, competing),
        *(
            f"data         {role}: {len(found.items)} rows{' to be made first' if role in prepared.sketched else ''}, {len(found.dropped)} dropped"
            + (f"; {_each(found)} is read {reads[role]:.1f} times" if reads.get(role, 0) > 1 else "")
            for role, found in prepared.rows.items()
        ),
        *(
            f"made         {role}: {note}"
            for role, made in prepared.provided.items()
            for found in made
            if (note := found.get("note"))
        ),
        *_two_models(prepared.objective),
        f"steps        {prepared.steps} x {rows} rows of each role, lr {recipe.train.learning_rate:g}",
        *(f"passes       {line}" for line in passes.describe(stored=heavy)),
        *(
            [f"smoother     {smoother.name}: {smoother.forget_passes} passes over the forget rows a step"]
            if smoother is not None
            else []
        ),
        f"memory       {megabytes:,.1f} MiB and activations",
        *([f"disk         {disk / 2**20:,.1f} MiB of what the model before gives, in the cache"] if disk else []),
    ]
    return Plan(lines, facts)
