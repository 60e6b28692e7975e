"""What an unlearning run needs before the model's weights are loaded: rows, their checks, and the plan of the work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from temper.errors import ModelError, RecipeError
from temper.models.workshop import Workshop
from temper.recipe import Recipe
from temper.unlearn.checks import dtype_of, objective_of, precision_problems, smoother_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from temper.data import Encoded, RolePairs
    from temper.models.selection import Selection
    from temper.train.dataset import RoleDataset
    from temper.unlearn.attribution.base import ScoredSelection
    from temper.unlearn.objective import Objective
    from temper.unlearn.substitution import Substitution

__all__ = ["Prepared", "identity_of", "prepare", "refuse_unbuilt_world"]


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
        from temper.models.lora import SelectLora
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
    if problems := precision_problems(recipe, dtype_of(recipe, config)):
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
