"""What a run did to the weights: how many changed and by how much, and whether any did that was not selected.

It is read from the files alone, the base checkpoint and the model that was saved, so it speaks of what is shipped: an adapter
is merged, masters are rounded to the dtype of the weights, a delta is applied. Where single entries were selected, two numbers
tell how much of the selection was real: the share of selected weights that moved (in bfloat16 without masters most steps are
smaller than half a unit in the last place and leave a weight as it was), and that of the others, which must be none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.difference import Selected, difference
from temper.models.masks import load_masks
from temper.models.offsetfolder import is_offset_folder
from temper.models.selection import Selection
from temper.models.trunk import freeze_above
from temper.models.writeback import StoredModel
from temper.run import Run
from temper.unlearn.masking import MASK_FILE
from temper.unlearn.prepare import Prepared

__all__ = ["damage_of"]

_OFFSET: Final = "two models answer together, and the weights of the original are as they were"


def damage_of(run: Run, prepared: Prepared, masks: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Return what a run did to the weights, as JSON; of what cannot be known the reason.

    Both checkpoints are read tensor by tensor; no model is loaded.

    Args:
        run: Its model is saved.
        prepared: For the objective.
        masks: The entries that trained, by parameter; read from the run's mask file where left out.

    Returns:
        See `temper.models.difference.Difference.facts`; `reason` alone where the weights cannot be compared,
        `selection_reason` where they can but what was selected is not known.
    """
    recipe = run.recipe
    if is_offset_folder(run.model_folder):
        return {"reason": _OFFSET}
    try:
        before = StoredModel(recipe.model.path, recipe.model, recipe.world)
        # a revision belongs to the recipe's own model
        after = StoredModel(run.model_folder, recipe.model.model_copy(update={"revision": None}), recipe.world)
        chosen, why = _selected(run, prepared, masks, before.skeleton)
        found = difference(before, after, chosen).facts()
    except ModelError as error:
        return {"reason": str(error)}
    return {**found, **({"selection_reason": why} if why else {})}


def _selected(
    run: Run, prepared: Prepared, masks: Mapping[str, Tensor] | None, skeleton: nn.Module
) -> tuple[Selected | None, str | None]:
    """Return which entries of the model's own weights trained, or None and why that is not known or means nothing."""
    selection = prepared.selection
    if selection.is_adapter:
        return None, "an adapter trained beside the weights and was merged into them"
    if prepared.objective.result == "task_vector" and getattr(prepared.objective, "reinforced", None) is not None:
        return None, "the task vector is that of a model that was trained elsewhere"
    if masks is None and selection.has_masks:
        masks = _kept(run, selection, skeleton)
        if masks is None:
            return None, "the masks of the run were not kept"
    if masks is None:
        try:
            selection.apply(skeleton)
        except (RuntimeError, NotImplementedError) as error:  # what torch raises where a plug-in reads weights that are not there
            return None, f"what {selection.name} selects cannot be told without the weights ({str(error).splitlines()[0]})"
    depth = prepared.objective.trunk_depth()
    if depth is not None:
        freeze_above(skeleton, depth % prepared.n_layers)  # what the loss does not read did not train, whatever was selected
    trained = {name for name, parameter in skeleton.named_parameters() if parameter.requires_grad}
    return Selected(masks, trained), None


def _kept(run: Run, selection: Selection, skeleton: nn.Module) -> Mapping[str, Tensor] | None:
    """Return the masks that the run kept, or that its recipe names."""
    given = getattr(selection, "path", None)
    places = [run.folder / MASK_FILE, *([Path(given)] if isinstance(given, str) else [])]
    found = next((place for place in places if place.is_file()), None)
    return load_masks(found, skeleton) if found is not None else None
