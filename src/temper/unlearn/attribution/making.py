"""Making masks: rows, gradients of one pass, scores, and a mask file for each ratio.

Gradients lie in the cache under a hash of model and rows while they are small, so that other ratios, other values of γ_H and other
formulas on the same rows cost no pass; large ones are dropped when the masks are made.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from temper import processes
from temper.data import Item
from temper.errors import DataError, InputError, RecipeError
from temper.files import cache_folder, folder_aside, hash_json, write_json
from temper.models.histogram import by_size
from temper.models.kinds import kind_of
from temper.models.load import load_model, pad_id_of
from temper.models.masks import save_masks
from temper.models.ranking import Choice, choose
from temper.models.rows import transposed_weights
from temper.models.tensorfile import TensorReader
from temper.models.units import units_of
from temper.unlearn.attribution.base import ScoredSelection
from temper.unlearn.attribution.gradients import BATCH_TOKENS, mean_gradients
from temper.unlearn.attribution.inputs import input_norms
from temper.unlearn.attribution.keeping import bytes_while_taken, gradient_cache, gradient_folder, make_room
from temper.unlearn.attribution.rows import forget_rows, score_rows, scored_tokens
from temper.unlearn.attribution.scores import Scores
from temper.unlearn.attribution.waiting import Spill

if TYPE_CHECKING:
    from temper.recipe import Recipe
    from temper.run import Progress
    from temper.unlearn.prepare import Prepared

__all__ = ["Scored", "make_masks", "score_masks", "scored", "scores_of"]

FORM: Final = 1
"""Raised whenever the same rows and weights give other gradients than before."""


@dataclass(frozen=True)
class Scored:
    """What one scoring pass gave.

    Attributes:
        files: Ratio to its mask file.
        facts: What stands in the headers, without what differs between ratios: score, γ_H, balance share, rows, data, seed, competing.
        by_ratio: Ratio to the facts of its file: ratio, selected, histogram.
    """

    files: dict[float, Path]
    facts: dict[str, Any]
    by_ratio: dict[float, dict[str, Any]]


def scores_of(
    selection: ScoredSelection,
    model: Any,
    items: Mapping[str, Sequence[Item]],
    *,
    pad_id: int,
    seed: int,
    folder: Path,
    names: Sequence[str] | None = None,
    identity: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Scores:
    """Return the scores of a model's weights by a selection's formula.

    Args:
        selection: The formula and what it reads.
        model: With the weights from before.
        items: Role to the rows that are scored.
        pad_id: The id that fills.
        seed: Of the run.
        folder: Where gradients lie.
        names: The parameters that compete; what the selection says when None.
        identity: What gradients depend on beside rows and settings; known gradients under it are read instead of computed.
        batch_tokens: Padded tokens that run together.
        progress: Called with (stage, done, total, note).

    Raises:
        RunError: A gradient is not finite.
    """
    competing = list(selection.competing(model) if names is None else names)
    parameters = dict(model.named_parameters())
    gradients: dict[str, TensorReader] = {}
    with Spill(folder, model) as spill:
        for role in ("forget", "retain"):
            if role not in selection.needs:
                continue
            content = [[list(item.input_ids), list(item.labels)] for item in items[role]]
            key = hash_json([FORM, identity, content, competing, selection.average, selection.hold])[:40]
            stored = folder / key / "gradients.safetensors"
            try:
                gradients[role] = TensorReader(stored)
                os.utime(stored)  # the oldest ones that nobody reads leave the cache first
                if progress is not None:
                    progress("score", len(items[role]), len(items[role]), f"gradient of the {role} rows, taken before")
            except (DataError, FileNotFoundError):

                def told(done: int, total: int, role: str = role) -> None:
                    if progress is not None:
                        progress("score", done, total, f"gradient of the {role} rows")

                held = getattr(torch, selection.hold)
                if folder == gradient_cache():
                    make_room(folder, held.itemsize * sum(parameters[name].numel() for name in competing))
                with folder_aside(stored.parent) as aside:
                    mean_gradients(
                        model,
                        items[role],
                        competing,
                        aside / stored.name,
                        pad_id=pad_id,
                        average=selection.average,
                        dtype=held,
                        batch_tokens=batch_tokens,
                        spill=spill,
                        progress=told,
                    )
                gradients[role] = TensorReader(stored)
    norms = input_norms(model, items["forget"], competing, pad_id) if "inputs" in selection.needs else None
    return Scores(
        selection,
        {name: parameters[name] for name in competing},
        forget=gradients.get("forget"),
        retain=gradients.get("retain"),
        inputs=norms,
        rows=len(items.get("retain", ())),
        seed=seed,
    )


def choices_of(selection: ScoredSelection, scores: Scores, model: Any, ratios: Sequence[float]) -> dict[float, Choice]:
    """Return the choice of each ratio."""
    structured = selection.structure != "weights"
    return choose(
        scores,
        ratios,
        scope=selection.scope,
        structure=selection.structure,
        kind_of=kind_of,
        units=units_of(model, selection.structure) if structured else None,
        transposed=transposed_weights(model),
    )


@contextlib.contextmanager
def scored(
    recipe: Recipe,
    prepared: Prepared,
    model: Any,
    ratios: Sequence[float],
    *,
    identity: str | None,
    progress: Progress | None = None,
) -> Iterator[tuple[Scores, dict[float, Choice], dict[str, Any]]]:
    """Score the weights of a model once; give the scores, the choice of each ratio and the facts of a header.

    Args:
        recipe: With a selection that is a score, or has one.
        prepared: Its rows.
        model: With the weights from before, whole.
        ratios: Shares of the competing weights that are chosen.
        identity: What tells the model apart; None where nothing does.
        progress: Called with (stage, done, total, note).
    """
    selection = prepared.score
    assert selection is not None
    names = prepared.competing(model)
    forget = forget_rows(recipe, prepared, selection, model) if selection.roles else None
    items = score_rows(selection, {**prepared.rows, **prepared.score_rows}, forget, recipe.seed)
    size = sum(p.numel() for name, p in model.named_parameters() if name in set(names))
    held = (
        size * getattr(torch, selection.hold).itemsize * len([role for role in ("forget", "retain") if role in selection.needs])
    )
    with gradient_folder(identity, held, bytes_while_taken(model, size, items) if held else 0) as folder:
        scores = scores_of(
            selection,
            model,
            items,
            pad_id=pad_id_of(prepared.tokenizer),
            seed=recipe.seed,
            folder=folder,
            names=names,
            identity=identity,
            progress=progress,
        )
        chosen = choices_of(selection, scores, model, ratios)
        settings = selection.model_dump(mode="json")
        facts: dict[str, Any] = {
            "score": selection.name,
            "scope": selection.scope,
            "structure": selection.structure,
            "exclude": selection.exclude,
            "settings": {key: value for key, value in settings.items() if key != "ratio"},
            "gamma": scores.facts.get("gamma"),
            "balance_share": None if (share := scores.balance_share()) is None else round(share, 6),
            "rows": {role: len(part) for role, part in items.items()},
            "scored_tokens": {role: scored_tokens(part) for role, part in items.items()},
            "data": {role: hash_json([[list(i.input_ids), list(i.labels)] for i in part]) for role, part in items.items()},
            "loss": f"-log p per scored {selection.average.removesuffix('s')}",
            "objective": prepared.objective.name,
            "seed": recipe.seed,
            "dtype": str(next(iter(model.parameters())).dtype).removeprefix("torch."),
            "gradients": selection.hold,
            "competing": (ranked := next(iter(chosen.values())).competing),
            "not_competing": sum(p.numel() for p in model.parameters()) - ranked,
        }
        yield scores, chosen, facts


def make_masks(
    recipe: Recipe,
    prepared: Prepared,
    model: Any,
    target: Mapping[float, Path],
    *,
    identity: str | None,
    weights: str | None,
    progress: Progress | None = None,
) -> Scored:
    """Score the weights of a model once and write a mask file for each ratio.

    Args:
        recipe: With a scored selection.
        prepared: Its rows.
        model: With the weights from before, whole.
        target: Ratio to the file that is written.
        identity: What tells the model apart; None where nothing does.
        weights: The hash of its weights, for the header.
        progress: Called with (stage, done, total, note).
    """
    begun = time.monotonic()
    by_ratio: dict[float, dict[str, Any]] = {}
    with scored(recipe, prepared, model, list(target), identity=identity, progress=progress) as (scores, chosen, facts):
        for ratio, choice in chosen.items():
            by_ratio[ratio] = {"ratio": ratio, "selected": choice.selected, "histogram": by_size(scores, choice)}
            save_masks(target[ratio], choice, model, {**facts, **by_ratio[ratio]}, weights_hash=weights)
    facts["seconds"] = round(time.monotonic() - begun, 3)
    return Scored(dict(target), facts, by_ratio)


def score_masks(recipe: Recipe, ratios: Sequence[float], out: Path, *, progress: Progress | None = None) -> Scored:
    """Score the weights of a recipe's model once and write `mask_RATIO.safetensors` for each ratio into a folder, with `scores.json`.

    Args:
        recipe: An unlearning recipe whose selection is a score: wagle, wagle_product, magnitude, gradient, snip, wanda, random.
        ratios: Shares of the competing weights that train; that of the recipe when empty.
        out: The folder; it must not exist, or be empty.
        progress: Called with (stage, done, total, note).

    Raises:
        RecipeError: The selection is no score.
        InputError: A ratio is not in [0, 1], or the folder holds something.
    """
    from temper.models.load import resolve_path, weights_hash
    from temper.models.selection import selection_of
    from temper.models.workshop import Workshop
    from temper.unlearn.prepare import identity_of, prepare

    selection = selection_of(recipe)
    if not isinstance(selection, ScoredSelection):
        raise RecipeError(
            [
                f"selection: {selection.name} is no score, so there is nothing to rank. Set e.g. selection={{wagle: 0.4}}; `temper methods` lists them."
            ],
            f"recipe {recipe.name}",
        )
    wanted = list(dict.fromkeys(map(float, ratios))) or [selection.ratio]
    for ratio in wanted:
        if not 0 <= ratio <= 1:
            raise InputError(f"--ratio {ratio:g}: is the share of weights that train; it must be in [0, 1]")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty. Name another folder.")
    if processes.count() > 1:
        raise InputError("scoring runs in one process; start it without torchrun")
    assert recipe.train is not None
    torch.set_num_threads(recipe.train.threads)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="score-", dir=cache_folder()) as rows_folder:
        prepared = prepare(recipe, Workshop(recipe, Path(rows_folder), progress))
    model = load_model(recipe.model.path, section=recipe.model, world=recipe.world)
    source = Path(resolve_path(recipe.model.path, recipe.world))
    weights = weights_hash(source) if source.is_dir() else None
    known = weights or getattr(prepared.config, "_commit_hash", None)
    with folder_aside(out) as aside:
        made = make_masks(
            recipe,
            prepared,
            model,
            {ratio: aside / f"mask_{ratio}.safetensors" for ratio in wanted},
            identity=hash_json(identity_of(recipe, prepared.config, known)) if known else None,
            weights=known,
            progress=progress,
        )
        write_json(
            aside / "scores.json",
            {**made.facts, "ratios": {str(ratio): found for ratio, found in made.by_ratio.items()}},
        )
    return Scored({ratio: out / path.name for ratio, path in made.files.items()}, made.facts, made.by_ratio)
