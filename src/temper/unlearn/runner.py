"""Running an unlearning recipe: from data and model to a saved model that has forgotten."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from temper import processes
from temper.errors import RecipeError
from temper.files import hash_file, hash_json
from temper.models.load import config_hash, load_config, load_model, resolve_path, weights_hash
from temper.models.selection import SelectMaskFile, selection_of
from temper.models.workshop import Workshop
from temper.recipe import Recipe
from temper.run import Progress, Run, open_run
from temper.train.losses.kl import KL
from temper.train.trainer import Spent
from temper.unlearn.alternatives import Alternatives, Draft
from temper.unlearn.card import model_card
from temper.unlearn.checks import objective_of
from temper.unlearn.context import context_of
from temper.unlearn.damage import damage_of
from temper.unlearn.masking import check_given, put_in_force
from temper.unlearn.prepare import Prepared, identity_of, prepare
from temper.unlearn.saving import offset_of, save_model, save_offset, save_task_vector, save_weights
from temper.unlearn.substitution import substitute
from temper.unlearn.training import Trained, fit, load_to_train, select

__all__ = ["run", "unlearn"]


def run(recipe: Recipe, output: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Unlearn as a recipe says and return the run folder; its `model` folder opens with transformers.

    A run that was stopped goes on where it was; a finished one is returned as it is. Under `torchrun` every process calls this;
    the first one writes.

    Args:
        recipe: The recipe.
        output: The run folder; else what the recipe says.
        progress: Called with (stage, done, total, note).

    Raises:
        TemperError: See `temper.errors`; input errors are raised before weights are loaded.

    Example:
        >>> from temper import recipe, unlearn
        >>> folder = unlearn.run(recipe.load("tiny/npo.yaml"))  # doctest: +SKIP
    """
    objective_of(recipe)  # an incomplete recipe leaves no folder behind
    assert recipe.train is not None
    if recipe.train.sharding == "fsdp2" and processes.count() == 1:
        raise RecipeError(
            [
                "train.sharding: fsdp2 shards over several processes, and this is one. Start with torchrun --standalone --nproc_per_node N -m temper ..."
            ],
            f"recipe {recipe.name}",
        )
    processes.start()
    with open_run(recipe, output, progress=progress) as opened:
        unlearn(opened)
        processes.part()
        return opened.folder


def unlearn(run: Run) -> Spent:
    """Do the training stage of an open run, or return what it cost if it is done."""
    recipe = run.recipe
    assert recipe.train is not None
    torch.set_num_threads(recipe.train.threads)
    run.progress("read", 0, 1)
    is_done = run.stage_done("unlearn") and run.model_folder.is_dir()
    # what a finished run read is not made again only to be compared
    prepared = prepare(recipe, Workshop(recipe, None if is_done else run.folder, run.progress))
    run.progress("read", 1, 1)
    identity = _note_inputs(run, prepared)
    if is_done:
        run.progress("train", 1, 1, "done before")
        return Spent(**run.stage("unlearn")["spent"])
    run.log("read", rows={role: len(rows.items) for role, rows in prepared.rows.items()}, overlap=prepared.overlap)
    facts: dict[str, Any] = {
        "method": prepared.objective.name,
        "family": prepared.objective.family,
        "overlap": prepared.overlap,
        "dropped": {role: len(part.dropped) for role, part in prepared.rows.items()},
        "reads_of_a_row": prepared.reads(),
        **({"made": prepared.provided} if prepared.provided else {}),
        "processes": processes.count(),
    }
    put_in_force(run, prepared, identity, facts)
    if prepared.objective.result == "weights":
        spent = _train_and_save(run, prepared, identity, facts)
    else:
        spent = _with_a_reinforced_model(run, prepared, identity, facts)
    if processes.is_first():
        run.log("saved", weights=weights_hash(run.model_folder))
        run.progress("compare", 0, 1)
        facts["damage"] = damage_of(run, prepared)
        run.progress("compare", 1, 1)
    run.finish_stage("unlearn", spent=vars(spent), **facts)
    return spent


def _note_inputs(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Record the hashes of data and model; return what stored references depend on beside the rows."""
    recipe = run.recipe
    source = resolve_path(recipe.model.path, recipe.world)
    known = {role: rows for role, rows in prepared.rows.items() if role not in prepared.sketched}
    hashes: dict[str, Any] = {f"data.{role}": rows.content_hash for role, rows in known.items()}
    hashes |= {f"data.{prepared.name_of(role)}.other": found.rows.content_hash for role, found in prepared.substitutions.items()}
    # a hub model has no folder to hash; its commit says as much
    hashes["model"] = weights_hash(source) if Path(source).is_dir() else getattr(prepared.config, "_commit_hash", None)
    hashes["config"] = config_hash(prepared.config)
    given = getattr(prepared.objective, "reinforced", None)
    if given is not None:
        hashes["reinforced"] = _weights_of(resolve_path(given, recipe.world), recipe)
    if isinstance(prepared.selection, SelectMaskFile):
        check_given(recipe, prepared, hashes["model"])
        hashes["mask"] = hash_file(Path(prepared.selection.path))
    run.note_inputs(**hashes)
    return identity_of(recipe, prepared.config, hashes["model"])


def _weights_of(path: str, recipe: Recipe) -> str | None:
    """Return what tells the weights of a local folder or of a hub model apart; None where nothing does."""
    if Path(path).is_dir():
        return weights_hash(path)
    found: str | None = getattr(load_config(path, world=recipe.world), "_commit_hash", None)
    return found


def _train(run: Run, prepared: Prepared, identity: dict[str, Any], facts: dict[str, Any]) -> Trained:
    model = load_to_train(run.recipe, prepared)
    _substitute_from_model(run, prepared, model)
    context = context_of(run.recipe.seed, prepared, model)
    terms = prepared.objective.terms(context)
    if context.facts:
        run.log("objective", **context.facts)
    trained = fit(run, prepared, model, terms, identity=identity)
    facts |= {**context.facts, **trained.facts, "parameters": _parameters(run.recipe, prepared)}
    return trained


def _parameters(recipe: Recipe, prepared: Prepared) -> int:
    """Return the parameters of the whole model: also where only its lower blocks were loaded, and without an adapter's own."""
    from temper.models.checkpoint import skeleton_of

    whole = skeleton_of(prepared.config, trust_remote_code=recipe.model.trust_remote_code)
    return sum(p.numel() for p in whole.parameters())


def _substitute_from_model(run: Run, prepared: Prepared, model: Any) -> None:
    """Let the model write the alternatives that the objective reads, before it is changed."""
    source = prepared.objective.alternatives
    assert isinstance(source, Alternatives)
    for role in prepared.objective.alternative_roles:
        if role in prepared.substitutions:
            continue
        with processes.first_goes_ahead():
            draft = Draft(
                prepared.rows[role].items,
                run.recipe.seed,
                role,
                run.folder,
                model,
                prepared.tokenizer,
                prepared.max_length,
                run.progress,
            )
            prepared.substitutions[role] = substitute(
                run.recipe, source, draft, prepared.pairs, prepared.rows[role], prepared.tokenizer, prepared.max_length
            )


def _train_and_save(run: Run, prepared: Prepared, identity: dict[str, Any], facts: dict[str, Any]) -> Spent:
    trained = _train(run, prepared, identity, facts)
    save_weights(run, trained.model, prepared, model_card(run.recipe, facts, vars(trained.spent)))
    return trained.spent


def _with_a_reinforced_model(run: Run, prepared: Prepared, identity: dict[str, Any], facts: dict[str, Any]) -> Spent:
    """Make what follows from the model before and one that learned the forget data harder."""
    objective: Any = prepared.objective
    reinforced = run.folder / "reinforced"
    spent = Spent(0.0, 0.0, 0, 0)
    if objective.reinforced is not None:
        reinforced = Path(resolve_path(objective.reinforced, run.recipe.world))
    elif run.stage_done("reinforce") and reinforced.is_dir():
        earlier = run.stage("reinforce")
        spent = Spent(**earlier["spent"])
        facts |= earlier["facts"]
    else:
        found: dict[str, Any] = {}
        trained = _train(run, prepared, identity, found)
        spent = trained.spent
        facts |= found
        model = trained.model.merge_and_unload() if selection_of(run.recipe).is_adapter else trained.model
        if processes.is_first():
            save_model(reinforced, model, prepared, model_card(run.recipe, facts, vars(spent)))
        processes.wait()
        run.finish_stage("reinforce", spent=vars(spent), facts=found)
    if objective.result == "offset" and objective.distil:
        return _distil(run, prepared, objective, reinforced, identity, facts, spent)
    if processes.is_first():
        card = model_card(run.recipe, facts, vars(spent))
        save = save_task_vector if objective.result == "task_vector" else save_offset
        save(run, reinforced, prepared, objective.strength, card)
    return spent


def _distil(
    run: Run, prepared: Prepared, objective: Any, reinforced: Path, identity: dict[str, Any], facts: dict[str, Any], before: Spent
) -> Spent:
    """Train the model from before to what the two models say together."""
    recipe = run.recipe
    teacher = offset_of(run, reinforced, objective.strength)
    second = _weights_of(str(reinforced), recipe)
    # where one of the two cannot be told apart from others, the store stays in the run
    known = (
        None if identity["weights"] is None or second is None else hash_json([identity["weights"], second, objective.strength])
    )
    both = {**identity, "weights": known}
    student = select(recipe, prepared.selection, load_model(recipe.model.path, section=recipe.model, world=recipe.world))
    terms = [KL("forget", objective.forget_weight), KL("retain", objective.retain_weight)]
    trained = fit(run, prepared, student, terms, identity=both, teacher=teacher, folder="distil")
    facts |= {"distilled": trained.facts, "distil_steps": trained.spent.steps}
    spent = Spent(
        **{field.name: getattr(before, field.name) + getattr(trained.spent, field.name) for field in dataclasses.fields(Spent)}
    )
    save_weights(run, trained.model, prepared, model_card(recipe, facts, vars(spent)))
    return spent
