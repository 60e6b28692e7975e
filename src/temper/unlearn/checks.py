"""What of a recipe for unlearning can be refused before its data are read: what is missing, and what does not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temper.errors import RecipeError
from temper.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from temper.train.smoothers.base import Smoother
    from temper.unlearn.objective import Objective

__all__ = ["dtype_of", "objective_of", "precision_problems", "smoother_of"]


def objective_of(recipe: Recipe) -> Objective:
    """Return the objective of a recipe for unlearning, after checking that the recipe is complete.

    Raises:
        RecipeError: Every section that is missing, at once.
    """
    from temper import registry
    from temper.models.selection import selection_of
    from temper.unlearn.objective import Objective

    problems: list[str] = []
    objective, scored = recipe.method, selection_of(recipe).roles
    if objective is None:
        problems.append(f"method: missing; unlearning needs an objective, one of: {', '.join(registry.names('objective'))}.")
    elif not isinstance(objective, Objective):
        problems.append(f"method: {objective.name} is not an objective for unlearning.")
    else:
        read = ", ".join(objective.roles)
        for role in objective.roles:
            if role not in recipe.data:
                problems.append(f"data.{role}: missing; objective {objective.name} reads the roles {read}.")
        for role in scored:
            if role not in recipe.data and role not in objective.roles:
                problems.append(f"data.{role}: missing; selection {recipe.selection.name} is scored on {role} rows.")
        for role in recipe.data:
            if role not in (*objective.roles, *objective.roles_unread, *scored):
                problems.append(
                    f"data.{role}: objective {objective.name} does not read it. Remove it, or move it to evaluate.data."
                )
        if recipe.train is not None and recipe.train.anchor not in objective.roles:
            problems.append(f"train.anchor: {recipe.train.anchor!r} is not a role of objective {objective.name} ({read}).")
    if recipe.train is None:
        problems.append("train: missing; give at least steps or epochs.")
    if problems or not isinstance(objective, Objective):
        raise RecipeError(problems, f"recipe {recipe.name}")
    _check_combination(recipe, objective)
    return objective


def smoother_of(recipe: Recipe) -> Smoother | None:
    """Return the smoother of a recipe."""
    from temper.train.smoothers.base import Smoother

    if recipe.smoother is None:
        return None
    if not isinstance(recipe.smoother, Smoother):
        raise RecipeError([f"smoother: {recipe.smoother.name} does not derive from Smoother"], f"recipe {recipe.name}")
    return recipe.smoother


def _unstorable(recipe: Recipe, objective: Objective) -> list[str]:
    """Return the needs under the weights from before that depend on more than the item."""
    from temper.train.plan import plan_of
    from temper.train.reference import can_be_stored
    from temper.unlearn.context import sketched_context

    terms = objective.terms(sketched_context(width=1, topics_of=lambda role: [source.topic for source in recipe.data[role]]))
    return sorted(
        need
        for role, needs in plan_of(terms).roles.items()
        for need in needs
        if need.startswith("ref_") and need != "ref_row_nll" and not can_be_stored(need, role, terms)
    )


def _check_combination(recipe: Recipe, objective: Objective) -> None:
    """Refuse what cannot be combined, with the reason.

    Raises:
        RecipeError: All that is wrong, at once.
    """
    from temper.models.selection import selection_of

    assert recipe.train is not None
    sharded = recipe.train.sharding == "fsdp2"
    problems = []
    if sharded and recipe.train.stop.retain_floor is not None:
        problems.append("train.stop.retain_floor: looks at the retain rows outside the sharded pass. Use train.sharding=none.")
    if sharded and objective.result != "weights":
        problems.append(
            f"train.sharding: fsdp2 cannot be combined with objective {objective.name}, which reads two models whole. Use none."
        )
    mode = recipe.train.reference
    if mode == "recompute" and sharded:
        problems.append(
            "train.reference: recompute swaps the original weights in, which shards cannot. Use store or auto, or train.sharding=none."
        )
    if mode == "recompute" and getattr(objective, "distil", False):
        problems.append("train.reference: recompute has no model to ask: what is distilled is stored first. Use store or auto.")
    if mode == "store" and (kept_out := _unstorable(recipe, objective)):
        problems.append(
            f"train.reference: store cannot hold {', '.join(kept_out)}, which depends on padding. Use auto or recompute."
        )
    if sharded and (needs := _unstorable(recipe, objective)):
        problems.append(
            f"train.sharding: fsdp2 reads what the model before gives from a store, which cannot hold {', '.join(needs)}. Use none, or another "
            "mask or form."
        )
    if recipe.train.stop.retain_floor is not None and "retain" not in objective.roles:
        problems.append(f"train.stop.retain_floor: objective {objective.name} reads no retain rows as it is set here.")
    if recipe.train.stop.retain_floor is not None and objective.trunk_depth() is not None:
        problems.append(
            "train.stop.retain_floor: needs logits, and the trunk has none. Leave it out, or set method.retain_term to nll or kl."
        )
    if recipe.save == "delta" and objective.result == "offset":
        problems.append("save: delta, but the logit offset leaves two models. Use full.")
    if (
        not objective.trains
        and not getattr(objective, "distil", False)
        and (selection_of(recipe).is_score or getattr(selection_of(recipe), "by", None) is not None)
    ):
        problems.append(
            f"selection: {selection_of(recipe).name} is scored before training, and objective {objective.name} trains nothing here, since method.reinforced "
            "is given. Leave the selection out."
        )
    problems += _unread_settings(recipe)
    problems += precision_problems(recipe, recipe.model.dtype)
    if problems:
        raise RecipeError(problems, f"recipe {recipe.name}")


def _unread_settings(recipe: Recipe) -> list[str]:
    """Return the settings of the optimiser that nothing would read."""
    from temper.models.selection import selection_of

    train, selection = recipe.train, selection_of(recipe)
    assert train is not None
    problems = []
    if train.clip == "dense" and not selection.has_masks:
        problems.append(
            f"train.clip: dense counts gradients outside a mask, and selection {selection.name} has none. Leave it out."
        )
    if train.clip == "dense" and train.max_grad_norm == 0:
        problems.append("train.clip: dense, but max_grad_norm = 0 switches clipping off. Leave one of them out.")
    if train.storage == "dense_compat" and not selection.has_masks:
        problems.append(
            f"train.storage: dense_compat keeps state outside a mask, and selection {selection.name} has none. Leave it out."
        )
    if train.precision == "bf16_pure" and (selection.is_adapter or recipe.model.dtype == "float32"):
        what = "an adapter" if selection.is_adapter else "model.dtype float32"
        problems.append(
            f"train.precision: bf16_pure is for weights in half precision, and {what} trains in float32. Leave it out."
        )
    return problems


def dtype_of(recipe: Recipe, config: PretrainedConfig) -> str:
    """Return the dtype that weights are loaded in; `auto` is that of the checkpoint."""
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def precision_problems(recipe: Recipe, dtype: str) -> list[str]:
    """Return what cannot be trained in a dtype."""
    from temper.models.selection import selection_of

    selection = selection_of(recipe)
    by = getattr(selection, "by", None)
    if selection.is_adapter:
        reads = by is not None and bool({"forget", "retain"} & set(by.needs))
        scored = (
            "selection.lora.by: reads gradients, which float16 loses without loss scaling. Set model.dtype=bfloat16 or float32."
        )
        return [scored] if reads and dtype == "float16" else []
    problems, smoother = [], smoother_of(recipe)
    if smoother is not None and dtype in ("bfloat16", "float16") and smoother.perturbs:
        problems.append(f"smoother: {smoother.name} moves weights by less than {dtype} can hold. Set model.dtype=float32.")
    if dtype == "float16":
        problems.append(
            f"model.dtype: {recipe.model.dtype} trains in float16, whose gradients overflow without loss scaling. Use bfloat16 (float32 masters) "
            "or float32, or an adapter."
        )
    return problems
