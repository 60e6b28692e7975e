"""What a run leaves: a model folder that opens with transformers, a delta, an adapter, or two models that answer together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper import processes
from temper.files import folder_aside
from temper.models.delta import write_delta
from temper.models.load import load_model
from temper.models.offset import LogitOffsetModel
from temper.models.selection import selection_of
from temper.models.taskvector import negate_model
from temper.models.writeback import write_changed
from temper.run import Run
from temper.train.sharding import copy_whole, is_sharded, whole_trained
from temper.unlearn.prepare import Prepared
from temper.unlearn.training import load_to_train

if TYPE_CHECKING:
    import torch

__all__ = ["save_model", "save_offset", "save_weights"]


def _merged_names(model: Any) -> set[str]:
    """Return the parameters of the model inside an adapter that merging changes."""
    names: set[str] = set()
    for name, module in model.get_base_model().named_modules():
        # of an embedding the adapter has names of its own
        if getattr(module, "lora_A", None) or getattr(module, "lora_embedding_A", None):
            # experts are adapted as bare parameters; adapters of two parameters of one module are wrapped in each other
            leaves = (module.parameter_name,) if hasattr(module, "parameter_name") else ("weight", "bias")
            names |= {f"{name.replace('.base_layer', '')}.{leaf}" for leaf in leaves}
    return names


def _save_adapter(run: Run, model: Any) -> None:
    kept = getattr(model.get_base_model().config, "temper_full_layers", None)
    if kept is not None:
        # the adapter belongs to the blocks that were loaded; on the whole model it must not look for others
        for config in model.peft_config.values():
            config.layers_to_transform = list(range(int(model.get_base_model().config.num_hidden_layers)))
    with folder_aside(run.folder / "adapter") as folder, warnings.catch_warnings():
        # peft says that it saves embeddings that an adapter is on; that is what is wanted
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        model.save_pretrained(folder)


def save_weights(run: Run, model: Any, prepared: Prepared, card: str) -> None:
    """Write what was trained: into a copy of the checkpoint, whole, or as a delta; every process must call it.

    Args:
        run: The open run.
        model: Trained; an adapter is kept beside the result and merged into it.
        prepared: For the tokenizer.
        card: The model card.
    """
    recipe = run.recipe
    if any(is_sharded(p) for p in model.parameters()):
        trained = whole_trained(model)
        if not processes.is_first():
            return
        # a model of whole tensors, as a run of one process would have it; adapters are merged and files written from that one
        model = load_to_train(recipe, prepared)
        for name, parameter in model.named_parameters():
            if name in trained:
                copy_whole(parameter, trained[name])
    elif not processes.is_first():
        return
    is_cut = getattr(getattr(model, "get_base_model", lambda: model)().config, "temper_full_layers", None) is not None
    if selection_of(recipe).is_adapter:
        names = _merged_names(model)
        _save_adapter(run, model)
        model = model.merge_and_unload()
        changed = {name: p.detach() for name, p in model.named_parameters() if name in names}
    else:
        changed = whole_trained(model)
    if recipe.save == "delta":
        write_delta(recipe.model.path, changed, run.folder / "delta", section=recipe.model, world=recipe.world)
    if is_cut or recipe.save == "delta":
        # with a delta the model folder is base and delta together, bit for bit: what is judged is what is shipped
        _write_into_base(run, changed, prepared, card)
        return
    save_model(run.model_folder, model, prepared, card)


def _write_into_base(run: Run, changed: Mapping[str, torch.Tensor], prepared: Prepared, card: str) -> None:
    """Write the changed tensors into a copy of the checkpoint, in the dtype it stores."""
    recipe = run.recipe
    write_changed(recipe.model.path, changed, run.model_folder, section=recipe.model, world=recipe.world)
    (run.model_folder / "README.md").write_text(card, encoding="utf-8")
    prepared.tokenizer.save_pretrained(run.model_folder)


def save_model(path: Path, model: Any, prepared: Prepared, card: str) -> None:
    """Write a model folder whole, with tokenizer and card.

    Args:
        path: The folder.
        model: A transformers model.
        prepared: For the tokenizer.
        card: The model card.
    """
    with folder_aside(path) as folder:
        model.save_pretrained(folder)
        prepared.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def save_task_vector(run: Run, reinforced: Any, prepared: Prepared, strength: float, card: str) -> None:
    """Write θ_0 - a (θ_reinf - θ_0).

    Args:
        run: The open run.
        reinforced: A model, or the folder of one.
        prepared: For the tokenizer.
        strength: a.
        card: The model card.
    """
    recipe = run.recipe
    original = load_model(recipe.model.path, section=recipe.model, world=recipe.world)
    negate_model(original, reinforced, strength)
    if recipe.save == "delta":
        tied = dict(original.named_parameters())
        write_delta(recipe.model.path, tied, run.folder / "delta", section=recipe.model, world=recipe.world)
        _write_into_base(run, tied, prepared, card)
        return
    save_model(run.model_folder, original, prepared, card)


def save_offset(run: Run, reinforced: Any, prepared: Prepared, strength: float, card: str) -> None:
    """Write the two models of a logit offset.

    Args:
        run: The open run.
        reinforced: A model, or the folder of one.
        prepared: For the tokenizer.
        strength: a.
        card: The model card.
    """
    model = offset_of(run, reinforced, strength)
    model.save_pretrained(run.model_folder, tokenizer=prepared.tokenizer)
    (run.model_folder / "README.md").write_text(card, encoding="utf-8")


def offset_of(run: Run, reinforced: Any, strength: float) -> LogitOffsetModel:
    """Return the two models that answer together."""
    recipe = run.recipe
    original = load_model(recipe.model.path, section=recipe.model, world=recipe.world)
    # the revision that a recipe names is one of its own model
    section = recipe.model.model_copy(update={"revision": None})
    second = (
        load_model(str(reinforced), section=section, world=recipe.world) if isinstance(reinforced, str | Path) else reinforced
    )
    return LogitOffsetModel(original, second, strength)
