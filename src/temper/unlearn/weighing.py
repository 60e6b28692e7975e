"""Weighing: which weight of the retain anchor to take, by short runs and two probes instead of a full evaluation.

For each weight the model trains a few steps from where it started, and block ℓ is read before and after on rows of every role, at the
tokens that the objective counts:

| probe | meaning |
| --- | --- |
| cosine | mean over tokens of cos(h_θ^ℓ(t), h_0^ℓ(t)): near 1 on what must be kept, low on what must go |
| norm | mean token norm after / before |

Published weights span 1.4 to 1200, because norms of activations do; the search goes over decades. A low cosine on the forget rows is a
sign that misdirection works, not a proof that the fact is gone: assess what the chosen weight gives.

Source: R2MU specification of this project; the two figures are those the RMU notebooks print.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from temper import processes
from temper.errors import InputError, RecipeError
from temper.files import cache_folder
from temper.models.workshop import Workshop
from temper.recipe import Recipe
from temper.unlearn.checks import objective_of
from temper.unlearn.prepare import Prepared, prepare

if TYPE_CHECKING:
    from temper.run import Progress
    from temper.unlearn.objective import Context

__all__ = ["KEEP", "MOVED", "Probed", "Weighed", "weigh"]

KEEP: Final = 0.95
"""Cosine on what must be kept below which a weight is not proposed."""

MOVED: Final = 0.99
"""Cosine on the forget rows from which a weight is said to move nothing."""

_KEPT: Final = ("retain", "reasoning")
_ROWS: Final = 64


@dataclass(frozen=True)
class Probed:
    """What a short run did to the states of a role's rows.

    Attributes:
        cosine: To the states from before, mean over the tokens of all sources.
        norm: Mean token norm after / before.
        lowest: The cosine of the source that moved most.
    """

    cosine: float
    norm: float
    lowest: float


@dataclass(frozen=True)
class Weighed:
    """One weight and what it gave.

    Attributes:
        weight: Of the retain anchor.
        roles: Role to what its rows show.
    """

    weight: float
    roles: dict[str, Probed]

    @property
    def keeps(self) -> bool:
        """Return whether all that is to be kept is where it was, source by source."""
        return all(probed.lowest >= KEEP for role, probed in self.roles.items() if role in _KEPT)

    def facts(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {
            "weight": self.weight,
            "roles": {role: asdict(probed) for role, probed in self.roles.items()},
            "keeps": self.keeps,
        }


@dataclass(frozen=True)
class Weighing:
    """What weighing found.

    Attributes:
        tried: Every weight, in the order asked.
        steps: Steps of each short run.
        facts: What the objective found out before: norms, lengths.
    """

    tried: list[Weighed]
    steps: int
    facts: dict[str, Any]

    @property
    def proposed(self) -> float | None:
        """Return the weight that moves the forget rows furthest among those that keep the others; None where none does both."""
        keeping = [weighed for weighed in self.tried if weighed.keeps and weighed.roles["forget"].cosine < MOVED]
        return min(keeping, key=lambda weighed: weighed.roles["forget"].cosine).weight if keeping else None


def weigh(recipe: Recipe, weights: Sequence[float], *, steps: int = 40, progress: Progress | None = None) -> Weighing:
    """Return what short runs with each weight of the retain anchor do to the states that the objective reads.

    Writes nothing but what providers of rows keep in the cache.

    Args:
        recipe: With an objective that steers hidden states: rmu, r2mu.
        weights: To try, at least one.
        steps: Of each run, taken from the recipe's own rows.
        progress: Called with (stage, done, total, note).

    Raises:
        RecipeError: The objective reads no hidden states, or an adapter is asked for.
        InputError: No weight, or one that is not above 0.
    """
    from temper.models.selection import selection_of
    from temper.unlearn.context import context_of
    from temper.unlearn.training import load_to_train

    if not weights or any(not 0 < weight < float("inf") for weight in weights):
        raise InputError(f"weights = {list(weights)}: give at least one, all above 0, e.g. 1 10 100 1000")
    if processes.count() > 1:
        raise InputError("weighing runs in one process; start it without torchrun")
    objective = objective_of(recipe)
    if "method.layer" not in objective.layers_read() or objective.trunk_depth() is None:
        raise RecipeError(
            [
                f"method: {objective.name} is weighed by the hidden states it steers, and as it is set it reads others or none. Use rmu or r2mu."
            ],
            f"recipe {recipe.name}",
        )
    if objective.retain_term == "none":
        raise RecipeError(
            ["method.retain_term: is none, so there is no anchor to weigh. Leave it out, or set embed."], f"recipe {recipe.name}"
        )
    if recipe.smoother is not None:
        raise RecipeError(["smoother: weighing trains without one; leave it out and add it to the run."], f"recipe {recipe.name}")
    if selection_of(recipe).is_adapter or selection_of(recipe).has_masks:
        raise RecipeError(
            ["selection: weighing trains whole tensors; weigh with {layers: ...} and set the adapter or mask afterwards."],
            f"recipe {recipe.name}",
        )
    assert recipe.train is not None
    short = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"steps": steps, "epochs": None, "warmup_steps": 0})}
    )
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="weigh-", dir=cache_folder()
    ) as folder:  # for rows of a model that nothing tells apart
        prepared = prepare(short, Workshop(short, Path(folder), progress))
    torch.set_num_threads(recipe.train.threads)
    model = load_to_train(short, prepared)
    context = context_of(recipe.seed, prepared, model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in trained.items()}
    layer = context.check_layer(objective.layers_read()["method.layer"], "method.layer")
    masks = _masks(objective, context, tuple(prepared.rows))
    before = _states(model, prepared, layer, masks)
    tried = []
    for number, weight in enumerate(weights):
        if progress is not None:
            progress("weigh", number, len(weights), f"retain weight {weight:g}")
        terms = objective.model_copy(update={"retain_weight": weight}).terms(context)
        _train(short, prepared, model, terms, steps)
        tried.append(Weighed(weight, _compared(before, _states(model, prepared, layer, masks))))
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(start[name])
                p.grad = None
    if progress is not None:
        progress("weigh", len(weights), len(weights), "")
    return Weighing(tried, steps, context.facts)


def _train(recipe: Recipe, prepared: Prepared, model: Any, terms: Sequence[Any], steps: int) -> None:
    from temper.data import collate
    from temper.models.load import pad_id_of
    from temper.train.engine import Engine, count_units
    from temper.train.masked import masked_adamw

    settings = recipe.train
    assert settings is not None
    engine = Engine(model, terms)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = masked_adamw(
        trained, lr=settings.learning_rate, betas=(settings.adam_beta1, settings.adam_beta2), weight_decay=settings.weight_decay
    )
    dataset, rows, size = prepared.dataset(), prepared.all_rows(), settings.batch_size * settings.accumulation
    device = next(model.parameters()).device
    for step in range(steps):
        samples = [dataset[step * size + place] for place in range(size)]
        batches = [
            {
                role: {name: value.to(device) for name, value in part.items()}
                for role, part in collate(
                    samples[first : first + settings.batch_size], rows, pad_id_of(prepared.tokenizer)
                ).items()
            }
            for first in range(0, size, settings.batch_size)
        ]
        counts = [sum(column) for column in zip(*(count_units(terms, batch) for batch in batches), strict=True)]
        optimizer.zero_grad()
        for batch in batches:
            engine(batch, counts, range(len(terms)))["loss"].backward()
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_([p for _, p in trained], settings.max_grad_norm)
        optimizer.step()


def _masks(objective: Any, context: Context, roles: Sequence[str]) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return role to the mask under which the objective reads its rows, and the tokens of the closing tag where that needs them."""
    fields = {"forget": "mask", "retain": "retain_mask", "trace": "trace_mask", "reasoning": "reasoning_mask"}
    masks: dict[str, Any] = {role: getattr(objective, fields[role], "nonpad") if role in fields else "nonpad" for role in roles}
    return {role: (mask, context.closing_of(mask, role)) for role, mask in masks.items()}


def _states(
    model: Any, prepared: Prepared, layer: int, masks: dict[str, tuple[Any, tuple[int, ...]]]
) -> dict[str, dict[int, torch.Tensor]]:
    """Return role and source to the states of block `layer` at the tokens that count on some rows of each, (tokens, D) in float32."""
    from temper.data.padding import pad_items
    from temper.models.load import pad_id_of
    from temper.models.trunk import run_trunk
    from temper.train.losses.activation import token_mask_BL
    from temper.train.losses.term import Batch
    from temper.unlearn.context import some_of_each

    found: dict[str, dict[int, torch.Tensor]] = {}
    device = next(model.parameters()).device
    with torch.no_grad():
        for role, rows in prepared.rows.items():
            chosen = some_of_each(range(len(rows.items)), rows.source_of, _ROWS)
            parts: dict[int, list[torch.Tensor]] = {}
            for source in sorted({rows.source_of[place] for place in chosen}):
                items = [rows.items[place] for place in chosen if rows.source_of[place] == source]
                batch = pad_items(items, pad_id_of(prepared.tokenizer))
                hidden_BLD, _ = run_trunk(model, layer, batch["input_ids"].to(device), batch["attention_mask"].to(device))
                counted_BL = token_mask_BL(Batch.of(batch), *masks[role]) & (batch["attention_mask"] == 1)
                parts.setdefault(source, []).append(hidden_BLD[counted_BL.to(device)].float())
            found[role] = {source: torch.cat(states) for source, states in parts.items()}
    return found


def _compared(before: dict[str, dict[int, torch.Tensor]], after: dict[str, dict[int, torch.Tensor]]) -> dict[str, Probed]:
    found = {}
    for role, sources in before.items():
        cosines = {source: torch.cosine_similarity(old_ND, after[role][source], dim=-1) for source, old_ND in sources.items()}
        old_N = torch.cat([old_ND.norm(dim=-1) for old_ND in sources.values()])
        new_N = torch.cat([after[role][source].norm(dim=-1) for source in sources])
        found[role] = Probed(
            round(float(torch.cat(list(cosines.values())).mean()), 4),
            round(float(new_N.mean() / old_N.mean()), 4),
            round(min(float(cosine_N.mean()) for cosine_N in cosines.values()), 4),
        )
    return found
