"""What an unlearning run needs before the model's weights are loaded: rows, their checks, and the plan of the work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from temper.errors import ModelError, RecipeError
from temper.models.workshop import Workshop
from temper.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from temper.data import Encoded, RolePairs
    from temper.models.selection import Selection
    from temper.train.dataset import RoleDataset
    from temper.train.smoothers.base import Smoother
    from temper.unlearn.attribution.base import ScoredSelection
    from temper.unlearn.objective import Objective
    from temper.unlearn.substitution import Substitution

__all__ = ["Prepared", "dtype_of", "identity_of", "objective_of", "prepare", "refuse_unbuilt_world", "smoother_of"]


@dataclass
class Prepared:
    """Everything that is known before the weights are there.

    Attributes:
        rows: Role to its encoded rows.
        pairs: Which row of each role a sample draws.
        steps: Optimiser steps.
        max_length: Tokens a row may have.
        substitutions: Role to rows with other responses, where the objective reads some.
        overlap: What the overlap check found.
        provided: Role to what the providers of its sources made.
        selection: Which weights may change; of a scored one, the mask file that was made by it, once it is there.
        sketched: Roles whose rows are still to be made; in a plan only.
        score_rows: Role to rows that only the score of a selection reads.
    """

    objective: Objective
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    rows: dict[str, Encoded]
    pairs: RolePairs
    steps: int
    max_length: int
    substitutions: dict[str, Substitution]
    overlap: dict[str, Any]
    selection: Selection
    provided: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sketched: frozenset[str] = frozenset()
    score_rows: dict[str, Encoded] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Return how many blocks the model has."""
        return int(self.config.get_text_config().num_hidden_layers)

    def reads(self) -> dict[str, float]:
        """Return role to how often a row of its most read source is read, on average; above 1 rows recycle. An anchor with epochs is left out."""
        found = {}
        for role, rows in self.rows.items():
            if role == self.pairs.roles[0] and self.pairs.has_epochs:
                continue
            drawn = Counter(rows.source_of[self.pairs.draw(role, index)[0]] for index in range(len(self.pairs)))
            size = Counter(rows.source_of)
            found[role] = round(max(drawn[source] / size[source] for source in drawn), 2)
        return found

    @property
    def score(self) -> ScoredSelection | None:
        """Return what gives every weight a number before training, where the selection asks for that."""
        from temper.models.selection import SelectLora
        from temper.unlearn.attribution.base import ScoredSelection

        found = self.selection.by if isinstance(self.selection, SelectLora) else self.selection
        return found if isinstance(found, ScoredSelection) else None

    def competing(self, model: Any) -> list[str]:
        """Return the parameters of the whole model of which a scored selection may choose entries: those that the loss can change."""
        from temper.models.trunk import check_layer, reached

        score = self.score
        assert score is not None
        names = score.competing(model)
        depth = self.objective.trunk_depth()
        if depth is None:
            return names
        read = reached(model, check_layer(model, depth, "method.layer"))
        kept = [name for name in names if name in read]
        if not kept:
            raise ModelError(
                f"selection {score.name}: nothing that competes lies at or below block {depth}, where {self.objective.name} stops reading, so "
                "nothing could change. Exclude less, or read a later block."
            )
        return kept

    def name_of(self, role: str) -> str:
        """Return under which name the other responses of a role run: in its place, or beside it."""
        from temper.train.plan import ALTERNATIVE

        return role if role == "forget" and self.objective.replaces else role + ALTERNATIVE

    def all_rows(self) -> dict[str, Encoded]:
        """Return the rows by the names that batches have, other responses included."""
        return {**self.rows, **{self.name_of(role): found.rows for role, found in self.substitutions.items()}}

    def dataset(self) -> RoleDataset:
        """Return which rows each sample holds."""
        from temper.train.dataset import RoleDataset

        return RoleDataset(self.pairs, {self.name_of(role): found.derived for role, found in self.substitutions.items()})


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
    problems += _precision_problems(recipe, recipe.model.dtype)
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


def identity_of(recipe: Recipe, config: PretrainedConfig, weights: str | None) -> dict[str, Any]:
    """Return what numbers that a model gives depend on beside the rows: weights, configuration, precision, software, kind of device.

    Args:
        recipe: Says how the model is loaded.
        config: Of the model.
        weights: Hash or commit of its weights; None where nothing tells them apart.
    """
    import torch

    from temper.models.load import config_hash

    return {
        "weights": weights,
        "config": config_hash(config),
        "dtype": recipe.model.dtype,
        "attention": recipe.model.attention,
        "torch": torch.__version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def dtype_of(recipe: Recipe, config: PretrainedConfig) -> str:
    """Return the dtype that weights are loaded in; `auto` is that of the checkpoint."""
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def _precision_problems(recipe: Recipe, dtype: str) -> list[str]:
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


def prepare(recipe: Recipe, workshop: Workshop | None = None) -> Prepared:
    """Read and check the data and the model's configuration; loads no weights but those that make rows.

    Args:
        recipe: The recipe.
        workshop: Makes the rows of sources that name a provider; without one they are sketched where a model would write them.

    Raises:
        RecipeError: A section or a role is missing.
        DataError: A file, row or column is wrong, or forget rows stand in the retain data.
        ModelError: The model cannot be found, or a length or layer does not fit it.
    """
    from temper.data import RolePairs, check_overlap, load_role
    from temper.models.load import load_config, load_tokenizer, resolve_path, row_limit
    from temper.models.offsetfolder import is_offset_folder
    from temper.models.selection import selection_of
    from temper.train.arguments import rows_per_step, total_steps
    from temper.unlearn.alternatives import Alternatives, Draft
    from temper.unlearn.substitution import substitute

    objective = objective_of(recipe)
    workshop = Workshop(recipe) if workshop is None else workshop
    assert recipe.train is not None
    if is_offset_folder(resolve_path(recipe.model.path, recipe.world)):
        raise ModelError(
            f"model.path = {recipe.model.path}: is a logit offset, two models that answer together, and cannot be trained. Give the folder original "
            "inside it, or make one model of it with method.distil=true."
        )
    config = load_config(recipe.model.path, section=recipe.model, world=recipe.world)
    if problems := _precision_problems(recipe, dtype_of(recipe, config)):
        raise RecipeError(problems, f"recipe {recipe.name}")
    objective.check(int(config.get_text_config().num_hidden_layers))
    max_length = row_limit(config, recipe.train.max_length, "train.max_length")
    tokenizer = load_tokenizer(recipe.model.path, section=recipe.model, world=recipe.world)
    selection = selection_of(recipe)
    loaded = {
        role: load_role(
            role,
            recipe.data[role],
            tokenizer,
            world=recipe.world,
            max_length=max_length,
            overflow=recipe.train.overflow,
            make=workshop.make,
        )
        for role in dict.fromkeys((*objective.roles, *selection.roles))
    }
    workshop.close()
    rows = {role: loaded[role] for role in objective.roles}
    overlap: dict[str, Any] = {}
    if "forget" in loaded and "retain" in loaded:
        report = check_overlap(loaded["forget"], loaded["retain"], recipe.train.allow_overlap)
        overlap = {"exact": report.exact, "ngram_share": report.ngram_share}
    turns = objective.turns([item.topic for item in rows["forget"].items]) if "forget" in rows else ()
    if len(turns) > 1 and recipe.train.steps is None:
        raise RecipeError(
            [
                "train.epochs: topics take turns, a step each, whatever number of rows they have, so there is no epoch. Set train.steps."
            ],
            f"recipe {recipe.name}",
        )
    steps = total_steps(recipe.train, len(rows[recipe.train.anchor].items))
    if (smoother := smoother_of(recipe)) is not None:
        smoother.check(steps)
    if recipe.train.warmup_steps > steps:
        raise RecipeError(
            [f"train.warmup_steps: {recipe.train.warmup_steps} is longer than the run of {steps} steps"], f"recipe {recipe.name}"
        )
    a_step = rows_per_step(recipe.train)
    pairs = RolePairs(
        rows,
        anchor=recipe.train.anchor,
        seed=recipe.seed,
        length=steps * a_step,
        step=a_step,
        window=recipe.train.length_grouping,
        turns=turns,
    )
    sketched = frozenset(workshop.sketched)
    only_scored = {role: part for role, part in loaded.items() if role not in rows}
    prepared = Prepared(
        objective,
        config,
        tokenizer,
        rows,
        pairs,
        steps,
        max_length,
        {},
        overlap,
        selection,
        workshop.facts,
        sketched,
        only_scored,
    )
    _check_scored(recipe, prepared, loaded)
    source = objective.alternatives
    assert isinstance(source, Alternatives)
    if not source.needs_model:
        for role in objective.alternative_roles:
            draft = Draft(rows[role].items, recipe.seed, role)
            prepared.substitutions[role] = substitute(recipe, source, draft, pairs, rows[role], tokenizer, max_length)
    return prepared


def _check_scored(recipe: Recipe, prepared: Prepared, loaded: dict[str, Encoded]) -> None:
    """Refuse what a scored selection cannot do with this model and these rows, before weights are loaded.

    Raises:
        ModelError: Nothing competes or is selected, or the structure is not there to be chosen.
        DataError: There are hardly any retain rows.
    """
    from temper.models.checkpoint import skeleton_of
    from temper.models.choice import budget
    from temper.models.units import units_of
    from temper.unlearn.attribution.rows import score_rows

    selection = prepared.score
    if selection is None:
        return
    score_rows(selection, loaded, loaded.get("forget"), recipe.seed)
    model = skeleton_of(prepared.config, trust_remote_code=recipe.model.trust_remote_code)
    names = set(prepared.competing(model))
    competing = sum(p.numel() for name, p in model.named_parameters() if name in names)
    if not budget(selection.ratio, competing):
        raise ModelError(
            f"selection.{selection.name}.ratio = {selection.ratio:g} of {competing:,} weights selects none, so nothing could change. Raise it."
        )
    if selection.structure != "weights":
        units_of(model, selection.structure)


def refuse_unbuilt_world(recipe: Recipe) -> None:
    """Refuse to plan on a model of the embedded world that would have to be trained first."""
    if recipe.model.path.startswith("world:"):
        from temper.world import entry, world_spec

        world = recipe.world
        if not (entry(world_spec(world.size, world.seed)) / recipe.model.path.removeprefix("world:")).is_dir():
            raise ModelError(
                f"{recipe.model.path}: is not built yet, and a plan trains nothing. Build it first: temper world build --size {world.size} "
                f"--seed {world.seed}"
            )
