"""What an unlearning run needs before the model's weights are loaded: rows, their checks, and the plan of the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import DataError, ModelError, RecipeError
from temper.recipe import DataSource, Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from temper.data import Encoded
    from temper.unlearn.objective import Objective, Substitution

__all__ = ["Plan", "Prepared", "objective_of", "plan", "prepare"]


@dataclass
class Prepared:
    """Everything that is known before the weights are there.

    Attributes:
        rows: Role to its encoded rows.
        substitution: Other responses for the forget rows, where the objective wants them.
        overlap: What the overlap check found.
    """

    objective: Objective
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    rows: dict[str, Encoded]
    substitution: Substitution | None
    overlap: dict[str, Any]


def objective_of(recipe: Recipe) -> Objective:
    """Return the objective of a recipe for unlearning, after checking that the recipe is complete.

    Raises:
        RecipeError: Every section that is missing, at once.
    """
    from temper import registry
    from temper.unlearn.objective import Objective

    problems: list[str] = []
    objective = recipe.method
    if objective is None:
        problems.append(f"method: missing; unlearning needs an objective, one of: {', '.join(registry.names('objective'))}.")
    elif not isinstance(objective, Objective):
        problems.append(f"method: {objective.name} is not an objective for unlearning.")
    else:
        read = ", ".join(objective.roles)
        for role in objective.roles:
            if role not in recipe.data:
                problems.append(f"data.{role}: missing; objective {objective.name} reads the roles {read}.")
        for role in recipe.data:
            if role not in objective.roles:
                problems.append(
                    f"data.{role}: objective {objective.name} does not read it. Remove it, or move it to evaluate.data."
                )
        if recipe.train is not None and recipe.train.anchor not in objective.roles:
            problems.append(f"train.anchor: {recipe.train.anchor!r} is not a role of objective {objective.name} ({read}).")
    if recipe.train is None:
        problems.append("train: missing; give at least steps or epochs.")
    if problems or not isinstance(objective, Objective):
        raise RecipeError(problems, f"recipe {recipe.name}")
    return objective


def prepare(recipe: Recipe) -> Prepared:
    """Read and check the data and the model's configuration; loads no weights.

    Raises:
        RecipeError: A section or a role is missing.
        DataError: A file, row or column is wrong, or forget rows stand in the retain data.
        ModelError: The model cannot be found, or a length or layer does not fit it.
    """
    from temper.data import check_overlap, load_role
    from temper.models.load import load_config, load_tokenizer, row_limit

    objective = objective_of(recipe)
    assert recipe.train is not None
    config = load_config(recipe.model.path, section=recipe.model, world=recipe.world)
    objective.check(int(config.num_hidden_layers))
    max_length = row_limit(config, recipe.train.max_length, "train.max_length")
    tokenizer = load_tokenizer(recipe.model.path, section=recipe.model, world=recipe.world)
    rows = {
        role: load_role(
            role,
            recipe.data[role],
            tokenizer,
            world=recipe.world,
            max_length=max_length,
            overflow=recipe.train.overflow,
        )
        for role in objective.roles
    }
    overlap: dict[str, Any] = {}
    if "forget" in rows and "retain" in rows:
        report = check_overlap(rows["forget"], rows["retain"], recipe.train.allow_overlap)
        overlap = {"exact": report.exact, "ngram_share": report.ngram_share}
    substitution = objective.substitute(
        rows["forget"], _encoder(recipe, tokenizer, rows["forget"], max_length), recipe.seed, Path()
    )
    return Prepared(objective, config, tokenizer, rows, substitution, overlap)


def _with_response(row: dict[str, Any], source: DataSource, response: str) -> dict[str, Any]:
    """Return a row with another answer.

    Raises:
        DataError: The row is text without an answer of its own.
    """
    if source.messages in row:
        return {**row, source.messages: [*row[source.messages][:-1], {"role": "assistant", "content": response}]}
    if source.prompt in row:
        return {**row, source.response: response}
    raise DataError(
        f"data.forget: {source.path}: the objective replaces answers, and row {row['id']!r} is text without one. Give {source.prompt!r} and "
        f"{source.response!r} columns, or messages."
    )


def _encoder(recipe: Recipe, tokenizer: Any, forget: Encoded, max_length: int) -> Callable[[Sequence[tuple[int, str]]], Encoded]:
    """Return a function that encodes other responses to the prompts of given forget items, each in its place."""

    def encode_responses(variants: Sequence[tuple[int, str]]) -> Encoded:
        from temper.data import encode, join

        parts = []
        for number, source in enumerate(recipe.data["forget"]):
            changed = [
                {**_with_response(forget.items[item].row, source, response), "id": f"{forget.items[item].id}~{count}"}
                for count, (item, response) in enumerate(variants)
                if forget.source_of[item] == number
            ]
            if changed:
                where = f"{source.path} with substituted responses"
                # a variant that was dropped would put another one in its place: too long is an error here
                parts.append(encode(changed, tokenizer, source, max_length=max_length, overflow="error", where=where))
        encoded = join(parts)
        if [item.response for item in encoded.items] != [response for _, response in variants]:
            raise DataError("data.forget: a substituted response leaves nothing to score. Give refusals that are not empty.")
        return encoded

    return encode_responses


def _refuse_unbuilt_world(recipe: Recipe) -> None:
    """Refuse to plan on a model of the embedded world that would have to be trained first."""
    if recipe.model.path.startswith("world:"):
        from temper.world import entry, world_spec

        world = recipe.world
        if not (entry(world_spec(world.size, world.seed)) / recipe.model.path.removeprefix("world:")).is_dir():
            raise ModelError(
                f"{recipe.model.path}: is not built yet, and a plan trains nothing. Build it first: temper world build --size {world.size} "
                f"--seed {world.seed}"
            )


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
    from transformers import AutoModelForCausalLM

    from temper.models.selection import selection_of
    from temper.models.trunk import check_layer, freeze_above
    from temper.train.engine import plan_of
    from temper.train.trainer import total_steps
    from temper.unlearn.objective import Context

    _refuse_unbuilt_world(recipe)
    prepared = prepare(recipe)
    assert recipe.train is not None
    selection = selection_of(recipe)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(prepared.config, trust_remote_code=recipe.model.trust_remote_code)
    total = sum(p.numel() for p in model.parameters())
    model = selection.apply(model)
    context = Context(
        recipe.seed, int(prepared.config.hidden_size), lambda layer, what: check_layer(model, layer, what), lambda *_: 1.0, {}
    )
    passes = plan_of(prepared.objective.terms(context))
    if passes.trunk_layer is not None:
        freeze_above(model, passes.trunk_layer)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    steps = total_steps(recipe.train, len(prepared.rows[recipe.train.anchor].items))
    copies = trained if (passes.original_logits or passes.frozen_layer is not None) and not selection.is_adapter else 0
    if not trained:
        raise ModelError(
            f"selection {selection.name}: trains nothing that the loss reads, so nothing could change. Select other weights."
        )
    width = 2 if recipe.model.dtype in ("bfloat16", "float16") else 4
    megabytes = (width * total + 4 * 3 * trained + 4 * copies) / 2**20
    facts = {
        "method": prepared.objective.name,
        "parameters": total,
        "trained_parameters": trained,
        "steps": steps,
        "rows_per_step": recipe.train.batch_size * recipe.train.accumulation,
        "rows": {role: len(rows.items) for role, rows in prepared.rows.items()},
        "dropped": {role: len(rows.dropped) for role, rows in prepared.rows.items()},
        "passes": passes.describe(),
        "memory_mib_without_activations": round(megabytes, 1),
        "overlap": prepared.overlap,
    }
    lines = [
        f"objective    {prepared.objective.name} ({', '.join(f'{key}={value}' for key, value in prepared.objective.model_dump().items())})",
        f"model        {recipe.model.path}: {total:,} parameters, {trained:,} train ({100 * trained / total:.1f} %)",
        *(f"data         {role}: {len(rows.items)} rows, {len(rows.dropped)} dropped" for role, rows in prepared.rows.items()),
        f"steps        {steps} x {recipe.train.batch_size * recipe.train.accumulation} rows of each role, lr {recipe.train.learning_rate:g}",
        *(f"passes       {line}" for line in passes.describe()),
        f"memory       {megabytes:,.1f} MiB and activations",
    ]
    return Plan(lines, facts)
