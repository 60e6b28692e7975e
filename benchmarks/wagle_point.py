"""One point of the study of WAGLE: an objective trains what a selection lets it, until the forget loss has passed given levels.

    measure("world", "npo", {"wagle": {"ratio": 0.2}}, seed=0, levels=[1.2, 2.4], rows="rows")

The parts are the library's own: rows, masks, engine, losses and the masked optimiser. Only the loop is here, because it looks at the
forget loss every few steps and stops when the last level is passed. Where two looks lie on both sides of a level, everything is read
on the weights of both, and what is reported is the straight line between them at the level.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from wagle_bench import BENCHES, path_of, prepared_of, reading_rows

__all__ = ["loss_and_right", "measure", "read_all", "reference"]


@torch.no_grad()
def loss_and_right(model: Any, items: Sequence[Any], pad_id: int) -> dict[str, float]:
    """Return what is read of some rows.

    Returns:
        `loss`: the mean over rows of their mean -log p a token, nats; `tokens` and `right`: the share of tokens, and of whole answers, that
        greedy decoding gets right.
    """
    from temper.data.batching import length_sorted
    from temper.data.padding import pad_items
    from temper.models.heads import ScoredHead
    from temper.train.losses.term import Batch, predicting_BL, token_nll_BL

    head = ScoredHead(model)
    losses: list[float] = []
    tokens: list[float] = []
    whole: list[float] = []
    for places in length_sorted(items, head.vocabulary):
        batch = Batch.of(pad_items([items[place] for place in places], pad_id))
        wanted_BL = predicting_BL(batch)
        log_probs_NV = head.log_probs(batch.input_ids, batch.attention_mask, wanted_BL)
        nll_BL = token_nll_BL(batch, wanted_BL, log_probs_NV)
        hit_BL = torch.zeros_like(wanted_BL, dtype=torch.float32)
        next_N = batch.labels[:, 1:][wanted_BL[:, :-1]]
        hit_BL[wanted_BL] = (log_probs_NV.argmax(-1) == next_N).float()
        count_B = wanted_BL.sum(1)
        losses += (nll_BL.sum(1) / count_B).tolist()
        tokens += (hit_BL.sum(1) / count_B).tolist()
        whole += (hit_BL.sum(1) == count_B).float().tolist()
    return {"loss": sum(losses) / len(losses), "tokens": sum(tokens) / len(tokens), "right": sum(whole) / len(whole)}


def read_all(model: Any, rows: Mapping[str, Any], pad_id: int) -> dict[str, float]:
    """Return NAME.loss, NAME.tokens and NAME.right of every group of rows."""
    was_training = model.training
    model.eval()
    found = {
        f"{name}.{what}": value for name, items in rows.items() for what, value in loss_and_right(model, items, pad_id).items()
    }
    model.train(was_training)
    return found


def _begin() -> None:
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()


def reference(bench: str, models: str | None, rows: str) -> dict[str, dict[str, float]]:
    """Return what is read of the original and of the gold model."""
    from temper.models.load import load_model
    from temper.recipe import WorldSection

    _begin()
    items, pad_id = reading_rows(bench, models, rows)
    return {
        which: read_all(load_model(path_of(bench, models, which), world=WorldSection()).eval(), items, pad_id)
        for which in ("original", "gold")
    }


def _masks(recipe: Any, prepared: Any, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the masks of a scored selection and the facts of their making."""
    from temper.models.load import model_identity
    from temper.unlearn.attribution.making import scored

    begun = time.process_time()
    identity = model_identity(recipe.model, recipe.world)
    with scored(recipe, prepared, model, [prepared.selection.ratio], identity=identity) as (_, chosen, facts):
        (choice,) = chosen.values()
        masks = {name: choice[name] for name, count in choice.counts().items() if count}
    kept = {key: facts[key] for key in ("gamma", "balance_share", "competing")}
    return masks, {**kept, "score_cpu_s": time.process_time() - begun}


def _engine(recipe: Any, prepared: Any, model: Any, masks: Any) -> Any:
    """Return the engine of a run over a model whose selection is applied."""
    from temper.files import cache_folder
    from temper.models.load import config_hash, model_identity, pad_id_of
    from temper.models.trunk import freeze_above
    from temper.train.engine import Engine
    from temper.train.plan import plan_of
    from temper.train.reference import reference_of
    from temper.unlearn.context import context_of
    from temper.unlearn.references import needs_stored, used_rows

    terms = prepared.objective.terms(context_of(recipe.seed, prepared, model))
    layer = plan_of(terms).trunk_layer
    if layer is not None:
        freeze_above(model, layer)
    used = used_rows(prepared)
    needs, _ = needs_stored(recipe, prepared, terms, used)
    rows = prepared.all_rows()
    identity = {"weights": model_identity(recipe.model, recipe.world), "config": config_hash(prepared.config)}
    references = {
        role: reference_of(
            model,
            rows[role].items,
            used[role],
            wanted,
            pad_id=pad_id_of(prepared.tokenizer),
            identity=identity,
            folder=cache_folder() / "reference",
        )
        for role, wanted in needs.items()
    }
    return Engine(model, terms, references, masks=masks)


def _counts(prepared: Any, model: Any) -> tuple[int, int]:
    """Return the weights of the whole model, and of those the ones that the loss depends on; an adapter's own are not counted."""
    from temper.models.trunk import check_layer, reached

    sizes = {name: p.numel() for name, p in model.named_parameters() if "lora_" not in name}
    depth = prepared.objective.trunk_depth()
    if depth is None or hasattr(model, "disable_adapter"):
        return sum(sizes.values()), sum(sizes.values())
    names = reached(model, check_layer(model, depth, "method.layer"))
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in names)


def measure(
    bench: str,
    objective: str,
    selection: dict[str, Any] | str,
    seed: int,
    levels: list[float],
    rows: str,
    models: str | None = None,
    rate: float | None = None,
) -> dict[str, Any]:
    """Train until the forget loss has passed the last level, and return what was read at each.

    Args:
        bench: world or tofu.
        objective: Its name.
        selection: As in a recipe.
        seed: Of data order, retain pairing, directions, random masks and adapters.
        levels: Forget losses in the unseen wording, nats a token, rising.
        rows: Folder for rows that are written.
        models: Folder of the models of TOFU.
        rate: Times the learning rate of the objective. None: divided by the root of the share of weights that train, among those the loss
            reaches; a step of Adam then has about the same norm whatever share trains.
    """
    from temper.models.load import load_model
    from temper.recipe import named_settings
    from temper.train.bases import base_of
    from temper.train.dataset import collator
    from temper.train.engine import count_units
    from temper.train.masked import MaskedOptimizer
    from temper.unlearn.attribution.base import ScoredSelection
    from temper.unlearn.training import select

    _begin()
    recipe, prepared = prepared_of(bench, objective, seed, models, rows)
    settings = named_settings("selection", selection)
    recipe = recipe.model_copy(update={"selection": settings})
    prepared = dataclasses.replace(prepared, selection=settings)
    items, pad_id = reading_rows(bench, models, rows)
    model = load_model(recipe.model.path, section=recipe.model, world=recipe.world)
    model.eval()
    masks: dict[str, torch.Tensor] | None = None
    facts: dict[str, Any] = {}
    if isinstance(settings, ScoredSelection):
        masks, facts = _masks(recipe, prepared, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in masks)
    else:
        model = select(recipe, settings, model)
    engine = _engine(recipe, prepared, model, masks)
    total, reached = _counts(prepared, model)
    if rate is None:
        rate = 1.0 if masks is None else (sum(int(mask.sum()) for mask in masks.values()) / reached) ** -0.5
    train = recipe.train.model_copy(update={"learning_rate": recipe.train.learning_rate * rate})
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = MaskedOptimizer(base_of(train, named), masks)
    optimizer.attach(model)
    dataset, gather = prepared.dataset(), collator(prepared.all_rows(), pad_id)
    trail = _Trail(model, items, pad_id, levels)
    begun, looking = time.process_time(), 0.0
    place = BENCHES[bench]
    stopped = "as planned"
    for step in range(1, place.steps + 1):
        batch = gather([dataset[index] for index in range((step - 1) * place.batch, step * place.batch)])
        model.train()
        loss = engine(batch, count_units(engine.terms, batch), range(len(engine.terms)))["loss"]
        loss.backward()
        optimizer.clip_gradients(train.max_grad_norm, step=step)
        optimizer.step()
        optimizer.zero_grad()
        if step % place.every == 0:
            now = time.process_time()
            is_over = trail.look(step)
            looking += time.process_time() - now
            if is_over:
                stopped = "last level passed"
                break
    optimizer.detach()
    return {
        "levels": trail.found,
        "curve": trail.curve,
        "steps": step,
        "stopped": stopped,
        "trained": optimizer.selected,
        "share": optimizer.selected / total,
        "share_reached": optimizer.selected / reached,
        "rate": rate,
        "cpu_s": time.process_time() - begun - looking,
        **facts,
    }


class _Trail:
    """Looks at the forget loss on the way and reads everything on both sides of a level.

    Args:
        model: That trains.
        items: Name to rows.
        pad_id: The id that fills.
        levels: Forget losses, rising.

    Attributes:
        found: For each level what was read there and the step, or None while it is not reached.
        curve: Step and forget loss of every look.
    """

    def __init__(self, model: Any, items: Mapping[str, Any], pad_id: int, levels: Sequence[float]) -> None:
        self._model, self._items, self._pad_id = model, items, pad_id
        self._levels = list(levels)
        self.found: list[dict[str, float] | None] = [None] * len(levels)
        self.curve: list[tuple[int, float]] = []
        self._before = self._weights()
        self._before_read: dict[str, float] | None = None
        self._note(0)

    def _weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self._model.parameters() if p.requires_grad]

    @torch.no_grad()
    def _put(self, weights: Sequence[torch.Tensor]) -> None:
        trained = [p for p in self._model.parameters() if p.requires_grad]
        for parameter, value in zip(trained, weights, strict=True):
            parameter.copy_(value)

    def _note(self, step: int) -> float:
        self._model.eval()
        self.curve.append((step, loss_and_right(self._model, self._items["forget"], self._pad_id)["loss"]))
        return self.curve[-1][1]

    def look(self, step: int) -> bool:
        """Look; return whether the last level is passed."""
        before_step, before = self.curve[-1]
        now = self._note(step)
        passed = [n for n, level in enumerate(self._levels) if self.found[n] is None and now >= level]
        weights, read = self._weights(), None
        if passed:
            read = read_all(self._model, self._items, self._pad_id)
            if self._before_read is None:
                self._put(self._before)
                self._before_read = read_all(self._model, self._items, self._pad_id)
                self._put(weights)
            for number in passed:
                part = (self._levels[number] - before) / (now - before) if now > before else 1.0
                between = {name: (1 - part) * self._before_read[name] + part * value for name, value in read.items()}
                self.found[number] = {**between, "step": before_step + part * (step - before_step)}
        self._before, self._before_read = weights, read
        return self.found[-1] is not None
