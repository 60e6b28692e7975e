"""The masks of a run: a score becomes a mask file in the run folder before training; a file that was given is checked before weights load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper import processes
from temper.errors import ModelError
from temper.files import hash_json, read_json, write_json
from temper.models.load import load_model
from temper.models.lora import SelectLora
from temper.models.masks import mask_facts
from temper.models.selection import SelectMaskFile
from temper.unlearn.attribution.inputs import linear_weights
from temper.unlearn.attribution.making import make_masks, scored
from temper.unlearn.attribution.ranks import ranks_of

if TYPE_CHECKING:
    from temper.recipe import Recipe
    from temper.run import Run
    from temper.unlearn.prepare import Prepared

__all__ = ["MASK_FILE", "RANKS_FILE", "check_given", "put_in_force"]

MASK_FILE, RANKS_FILE = "mask.safetensors", "adapter_ranks.json"


def check_given(recipe: Recipe, prepared: Prepared, weights: str | None) -> dict[str, Any]:
    """Check a mask file against the weights and against what the objective reads, before anything is loaded; return its header.

    Args:
        recipe: The recipe.
        prepared: Its objective and selection.
        weights: The hash of the model's weights; None where nothing is known.

    Raises:
        ModelError: The file was made for other weights, selects nothing, or selects what the loss cannot change.
    """
    selection = prepared.selection
    assert isinstance(selection, SelectMaskFile)
    header = mask_facts(Path(selection.path))
    made_for = header["weights_hash"]
    if not selection.any_weights and weights is not None and made_for not in (None, weights):
        raise ModelError(
            f"selection.mask: {selection.path} was made from weights with the hash {made_for[:12]}, those of {recipe.model.path} have {weights[:12]}. "
            "Score this model, or set selection.mask.any_weights=true to use the places of the other one."
        )
    depth = prepared.objective.trunk_depth()
    if depth is not None and not selection.drop_unread:
        _refuse_unread(recipe, prepared, selection, depth)
    return header


def _refuse_unread(recipe: Recipe, prepared: Prepared, selection: SelectMaskFile, depth: int) -> None:
    from temper.models.checkpoint import skeleton_of
    from temper.models.trunk import check_layer, reached

    model = skeleton_of(prepared.config, trust_remote_code=recipe.model.trust_remote_code)
    read = reached(model, check_layer(model, depth, "method.layer"))
    counts = selection.opened(model).counts()
    unread = {name: count for name, count in counts.items() if count and name not in read}
    if unread:
        first = next(iter(unread))
        raise ModelError(
            f"selection.mask: {selection.path} selects {sum(unread.values()):,} weights in {len(unread)} parameters that {prepared.objective.name} "
            f"gives no gradient, first {first}: it stops reading at block {depth}. Score with the recipe of this objective, or set "
            "selection.mask.drop_unread=true to leave them as they are."
        )


def put_in_force(run: Run, prepared: Prepared, identity: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """Turn scores into what trains, made once for the run and taken up again when it is resumed: a mask file, or the ranks of an adapter.

    Args:
        run: The open run; what is made lies in its folder.
        prepared: Its rows; its selection becomes the one that was made.
        identity: What the model's gradients depend on.
        facts: Receives what the scores showed, without the histogram.
    """
    if prepared.score is not None:
        make = _make_ranks if isinstance(prepared.selection, SelectLora) else _make_mask
        known = hash_json(dict(identity)) if identity.get("weights") else None
        with processes.first_goes_ahead():
            make(run, prepared, known, identity.get("weights"))
        prepared.selection = _made(run, prepared)
    if isinstance(prepared.selection, SelectMaskFile):
        header = mask_facts(Path(prepared.selection.path))["facts"]
        facts["weight_mask"] = {key: value for key, value in header.items() if key not in ("histogram", "settings", "data")}
        run.log("weight_mask", **facts["weight_mask"])
    elif isinstance(prepared.selection, SelectLora) and prepared.selection.ranks is not None and prepared.score is None:
        facts["adapter_ranks"] = prepared.selection.ranks


def _make_mask(run: Run, prepared: Prepared, identity: str | None, weights: str | None) -> None:
    path, score = run.folder / MASK_FILE, prepared.score
    assert score is not None
    if path.is_file():
        return
    model = load_model(run.recipe.model.path, section=run.recipe.model, world=run.recipe.world)
    make_masks(run.recipe, prepared, model, {score.ratio: path}, identity=identity, weights=weights, progress=run.progress)


def _make_ranks(run: Run, prepared: Prepared, identity: str | None, weights: str | None) -> None:
    path, score, selection = run.folder / RANKS_FILE, prepared.score, prepared.selection
    assert score is not None and isinstance(selection, SelectLora)
    if path.is_file():
        return
    model = load_model(run.recipe.model.path, section=run.recipe.model, world=run.recipe.world)
    with scored(run.recipe, prepared, model, [score.ratio], identity=identity, progress=run.progress) as (_, chosen, facts):
        counts, parameters = chosen[score.ratio].counts(), dict(model.named_parameters())
        sides = {name: tuple(parameters[name].shape) for name in linear_weights(model) if name in counts}
        densities = {name.removesuffix(".weight"): counts[name] / math.prod(shape) for name, shape in sides.items()}
        largest = {name.removesuffix(".weight"): min(shape) for name, shape in sides.items()}
        ranks = ranks_of(densities, largest, rank=selection.rank, keep=selection.keep)
    if not ranks:
        raise ModelError(
            f"selection.lora.by: {score.name} selects nothing in a linear layer, so no module gets an adapter. Raise its ratio."
        )
    write_json(path, {"ranks": ranks, "densities": {name: round(share, 6) for name, share in densities.items()}, **facts})


def _made(run: Run, prepared: Prepared) -> SelectMaskFile | SelectLora:
    """Return the selection that was made from the scores."""
    selection = prepared.selection
    if isinstance(selection, SelectLora):
        return selection.model_copy(update={"by": None, "ranks": read_json(run.folder / RANKS_FILE)["ranks"]})
    return SelectMaskFile(path=str(run.folder / MASK_FILE))
