"""Running an unlearning recipe: from data and model to a saved model that has forgotten."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temper.draws import key_of
from temper.errors import ModelError, RunError
from temper.files import folder_aside
from temper.models.heads import ScoredHead
from temper.models.load import load_model, pad_id_of, resolve_path, weights_hash
from temper.models.selection import selection_of
from temper.models.trunk import check_layer, freeze_above, run_trunk
from temper.recipe import Recipe
from temper.registry import resolve
from temper.run import Progress, Run, open_run
from temper.train.engine import Engine, plan_of
from temper.train.reference import reference_row_nll
from temper.train.trainer import Spent, train_roles
from temper.unlearn.card import model_card
from temper.unlearn.objective import Context
from temper.unlearn.prepare import Prepared, objective_of, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


__all__ = ["run", "unlearn"]


def run(recipe: Recipe, output: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Unlearn as a recipe says and return the run folder; its `model` folder opens with transformers.

    A run that was stopped goes on where it was; a finished one is returned as it is.

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
    with open_run(recipe, output, progress=progress) as opened:
        unlearn(opened)
        return opened.folder


def unlearn(run: Run) -> Spent:
    """Do the training stage of an open run, or return what it cost if it is done."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("unlearning in several processes (WORLD_SIZE above 1) is not supported yet. Start it without torchrun.")
    recipe = run.recipe
    assert recipe.train is not None
    torch.set_num_threads(recipe.train.threads)
    run.progress("read", 0, 1)
    prepared = prepare(recipe)
    run.progress("read", 1, 1)
    source = resolve_path(recipe.model.path, recipe.world)
    hashes: dict[str, Any] = {f"data.{role}": rows.content_hash for role, rows in prepared.rows.items()}
    if prepared.substitution is not None:
        hashes["data.forget.substituted"] = prepared.substitution.rows.content_hash
    # a hub model has no folder to hash; its commit says as much
    hashes["model"] = weights_hash(source) if Path(source).is_dir() else getattr(prepared.config, "_commit_hash", None)
    run.note_inputs(**hashes)
    if run.stage_done("unlearn") and run.model_folder.is_dir():
        run.progress("train", 1, 1, "done before")
        return Spent(**run.stage("unlearn")["spent"])
    run.log("read", rows={role: len(rows.items) for role, rows in prepared.rows.items()}, overlap=prepared.overlap)
    with _seeded(recipe.seed):
        model: Any = load_model(recipe.model.path, section=recipe.model, world=recipe.world)
        _refuse_half_precision(model, recipe)
        model = selection_of(recipe).apply(model)
    model.eval()  # references and norms are those of the model as it is used
    facts: dict[str, Any] = {}
    terms = prepared.objective.terms(_context(recipe, prepared, model, facts))
    plan = plan_of(terms)
    if plan.trunk_layer is not None:
        freeze_above(model, plan.trunk_layer)
    references = {
        role: reference_row_nll(
            ScoredHead(model), prepared.rows[role].items, pad_id_of(prepared.tokenizer), run.folder / "reference", run.progress
        )
        for role in plan.reference_rows
    }
    engine = Engine(model, terms, references)
    rows = dict(prepared.rows)
    remap = {}
    if prepared.substitution is not None:
        rows["forget"] = prepared.substitution.rows
        remap["forget"] = prepared.substitution.remap
    spent = train_roles(
        engine,
        run=run,
        rows=rows,
        drawn=prepared.rows,
        remap=remap,
        schedule=resolve("schedule", recipe.schedule)(),
        settings=recipe.train,
        pad_id=pad_id_of(prepared.tokenizer),
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    facts |= {
        "method": prepared.objective.name,
        "family": prepared.objective.family,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": trained,
        "passes": plan.describe(),
        "overlap": prepared.overlap,
        "dropped": {role: len(part.dropped) for role, part in prepared.rows.items()},
    }
    _save(run, model, prepared, facts, spent)
    run.finish_stage("unlearn", spent=vars(spent), **facts)
    return spent


def _refuse_half_precision(model: Any, recipe: Recipe) -> None:
    """Refuse to step weights that cannot hold small steps.

    A bfloat16 weight of 0.03 or more does not move by 7.5e-5: such a run would keep everything by rounding.
    """
    halves = {p.dtype for p in model.parameters()} & {torch.bfloat16, torch.float16}
    if halves and not selection_of(recipe).is_adapter:
        raise ModelError(
            f"model.dtype = {recipe.model.dtype}: the weights would be trained in {halves.pop()}, where most small steps round to nothing. Set "
            "model.dtype=float32, or train an adapter (selection={lora: {rank: 8}})."
        )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give adapters, which draw from torch's global state, a start that depends on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(key_of(seed, "adapter") % 2**63)
        yield


def _context(recipe: Recipe, prepared: Prepared, model: nn.Module, facts: dict[str, Any]) -> Context:
    def median_token_norm(layer: int, role: str) -> float:
        from temper.data import collate

        items = prepared.rows[role].items
        norms = []
        with torch.no_grad():
            for start in range(0, min(len(items), 256), 32):
                samples = [{role: index} for index in range(start, min(start + 32, len(items), 256))]
                batch = collate(samples, {role: prepared.rows[role]}, pad_id_of(prepared.tokenizer))[role]
                device = next(model.parameters()).device
                hidden_BLD, _ = run_trunk(model, layer, batch["input_ids"].to(device), batch["attention_mask"].to(device))
                norms.append(hidden_BLD.float().norm(dim=-1)[batch["attention_mask"].to(device) == 1])
        return float(torch.cat(norms).median())

    return Context(
        seed=recipe.seed,
        hidden_size=int(prepared.config.hidden_size),
        check_layer=lambda layer, what: check_layer(model, layer, what),
        median_token_norm=median_token_norm,
        facts=facts,
    )


def _save(run: Run, model: Any, prepared: Prepared, facts: dict[str, Any], spent: Spent) -> None:
    """Write the model whole, with tokenizer and card; an adapter is kept beside it and merged into it."""
    if selection_of(run.recipe).is_adapter:
        with folder_aside(run.folder / "adapter") as folder:
            model.save_pretrained(folder)
        model = model.merge_and_unload()
    with folder_aside(run.model_folder) as folder:
        model.save_pretrained(folder)
        prepared.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(model_card(run.recipe, facts, vars(spent)), encoding="utf-8")
    run.log("saved", weights=weights_hash(run.model_folder))
