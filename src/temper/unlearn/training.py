"""The training of an unlearning run: the model that is needed, what is kept of the one before, and the engine over both."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temper import processes
from temper.draws import key_of
from temper.errors import ModelError
from temper.models.cut import load_cut
from temper.models.load import load_model, pad_id_of
from temper.models.maskset import PackedMasks
from temper.models.selection import Selection
from temper.models.trunk import freeze_above
from temper.recipe import Recipe
from temper.registry import resolve
from temper.run import Run
from temper.train.dual import DualAscent
from temper.train.engine import Engine, count_units
from temper.train.losses.term import LossTerm
from temper.train.plan import Plan, plan_of
from temper.train.reference import RoleReference
from temper.train.sharding import local_numel, shard
from temper.train.stopping import RetainFloor, Stopped
from temper.train.trainer import Extras, Spent
from temper.train.training import train_roles
from temper.unlearn.checks import smoother_of
from temper.unlearn.masking import MASK_FILE
from temper.unlearn.prepare import Prepared
from temper.unlearn.references import needs_stored, references_of, used_rows

if TYPE_CHECKING:
    pass

__all__ = ["Trained", "fit", "load_to_train", "trains_cut"]


@dataclasses.dataclass
class Trained:
    """What a training left.

    Attributes:
        model: Trained, adapter included.
        spent: What it used.
        stopped: Why it ended early, if it did.
        plan: The passes of a step.
        facts: What is worth a line in the record.
    """

    model: Any
    spent: Spent
    stopped: Stopped | None
    plan: Plan
    facts: dict[str, Any]


def trains_cut(recipe: Recipe, prepared: Prepared) -> int | None:
    """Return the block at which the model is cut for this run, or None where all of it is loaded."""
    depth = prepared.objective.trunk_depth()
    if depth is None or prepared.config.get_text_config() is not prepared.config:
        return None
    return depth % prepared.n_layers


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give adapters, which draw from torch's global state, a start that depends on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(key_of(seed, "adapter") % 2**63)
        yield


def load_to_train(recipe: Recipe, prepared: Prepared) -> Any:
    """Return the model of a recipe with its selection applied, in evaluation mode; only the blocks that are read are loaded."""
    cut = trains_cut(recipe, prepared)
    model = (
        load_model(recipe.model.path, section=recipe.model, world=recipe.world)
        if cut is None
        else load_cut(recipe.model.path, cut, section=recipe.model, world=recipe.world)
    )
    selection = prepared.selection
    if cut is not None and not selection.is_adapter and not selection.covered(model):
        raise ModelError(
            f"the loss reads block {cut}, but selection {selection.name} trains nothing at or below it, so nothing could change. Select blocks up "
            "to that one."
        )
    return select(recipe, selection, model)


def select(recipe: Recipe, selection: Selection, model: Any) -> Any:
    """Return a model with a selection applied, in evaluation mode."""
    assert recipe.train is not None
    with _seeded(recipe.seed):
        model = selection.apply(model)
    model.eval()  # references and norms are those of the model as it is used
    if recipe.train.checkpointing:
        # transformers 5.23 has a new name, 5.19 knows the old one only; the keyword has kept its name
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if (smoother := smoother_of(recipe)) is not None:
        smoother.check_parameters((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return model


def _gradients(
    prepared: Prepared, model: Any, terms: Sequence[LossTerm], references: dict[str, RoleReference], batch_size: int
) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Return a function that gives the gradient of the forget terms, averaged over all forget rows, by parameter."""

    def compute() -> Iterator[tuple[str, torch.Tensor]]:
        from temper.data import collate
        from temper.train.plan import ALTERNATIVE

        forget = [term for term in terms if term.role == "forget"]
        engine = Engine(model, forget, references)
        rows = prepared.all_rows()
        names = [name for name in ("forget", "forget" + ALTERNATIVE) if name in rows]
        dataset = prepared.dataset()
        seen: dict[int, dict[str, int]] = {}
        for index in range(len(dataset)):
            sample = dataset[index]
            seen.setdefault(sample["forget"], {name: sample[name] for name in names})
        samples = [seen[place] for place in sorted(seen)]
        device = next(model.parameters()).device
        batches = []
        for start in range(0, len(samples), batch_size):
            tensors = collate(
                samples[start : start + batch_size], {name: rows[name] for name in names}, pad_id_of(prepared.tokenizer)
            )
            batches.append({role: {name: value.to(device) for name, value in part.items()} for role, part in tensors.items()})
        counts = [sum(column) for column in zip(*(count_units(forget, batch) for batch in batches), strict=True)]
        for batch in batches:
            engine(batch, counts, range(len(forget)))["loss"].backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                yield name, parameter.grad
                parameter.grad = None

    return compute


def fit(
    run: Run,
    prepared: Prepared,
    model: Any,
    terms: Sequence[LossTerm],
    *,
    identity: dict[str, Any],
    teacher: Any = None,
    folder: str = "checkpoints",
) -> Trained:
    """Train a model on some terms, as the recipe says.

    Args:
        run: The open run.
        prepared: Rows and samples.
        model: To train, its selection applied.
        terms: The loss.
        identity: What stored references depend on beside the rows.
        teacher: Gives the references instead of the model itself.
        folder: Name of the checkpoint folder.
    """
    recipe = run.recipe
    assert recipe.train is not None
    selection = prepared.selection
    plan = plan_of(terms)
    if plan.trunk_layer is not None:
        freeze_above(model, plan.trunk_layer)
    used = used_rows(prepared)
    needs, _ = needs_stored(recipe, prepared, terms, used)
    if teacher is not None:
        needs = {role: frozenset(need for need in wanted if need.startswith("ref_")) for role, wanted in plan.roles.items()}
    references = references_of(run, prepared, model if teacher is None else teacher, needs, used, identity)
    masks = None
    if selection.has_masks:
        # what lies above the block that is read does not train: a file that selects some of it was refused, unless it was to be dropped
        made = selection.masks(model, _gradients(prepared, model, terms, references, recipe.train.batch_size))
        if recipe.train.clip == "dense":
            _gradients_of_all(model, plan)
        masks = _Masks(made, {name: tuple(p.shape) for name, p in _trained(model)}, every=recipe.train.clip == "dense")
        if recipe.train.clip == "masked":
            for name, parameter in _trained(model):
                parameter.requires_grad_(name not in masks or masks.counts[name] > 0)
    sharded = recipe.train.sharding == "fsdp2" and processes.count() > 1
    engine = Engine(model, terms, references, sharded=sharded, masks=masks)
    floor = None
    if recipe.train.stop.retain_floor is not None:
        rows, pad_id = prepared.rows["retain"].items, pad_id_of(prepared.tokenizer)
        floor = RetainFloor(model, rows, recipe.train.stop, recipe.seed, pad_id, engine.places)
    if sharded:
        shard(engine, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    refuse_nothing_to_train(len(trained), selection)
    smoother, dual = smoother_of(recipe), prepared.objective.dual()
    extras = Extras(masks, smoother.begin(trained) if smoother is not None else None, None, floor, sharded)
    if dual is not None:
        epoch = len(prepared.rows[recipe.train.anchor].items) / (len(prepared.pairs) / prepared.steps)
        extras.dual = DualAscent(dual, prepared.objective.retain_weight, round(dual.warmup_epochs * epoch))
    spent, stopped = train_roles(
        engine,
        run=run,
        dataset=prepared.dataset(),
        rows=prepared.all_rows(),
        schedule=resolve("schedule", recipe.schedule)(),
        settings=recipe.train,
        pad_id=pad_id_of(prepared.tokenizer),
        steps=prepared.steps,
        extras=extras,
        folder=folder,
    )
    heavy = any(need != "ref_row_nll" for wanted in needs.values() for need in wanted)
    facts: dict[str, Any] = {
        "trained_parameters": sum(
            masks.counts[name] if masks is not None and name in masks else p.numel() for name, p in _trained(model)
        ),
        "passes": plan.describe(stored=heavy),
    }
    if sharded:
        shards = [(p.numel(), local_numel(p)) for _, p in _trained(model)]
        facts["sharded"] = {"entries": sum(n for n, _ in shards), "entries_in_this_process": sum(n for _, n in shards)}
    if stopped is not None:
        facts["stopped"] = {**dataclasses.asdict(stopped), "sentence": stopped.sentence()}
        run.log("stopped", **facts["stopped"])
    if extras.dual is not None:
        facts["dual_weight"] = round(extras.dual.weight, 6)
    if masks is not None:
        _save_masks(run, masks, prepared, selection)
    return Trained(model, spent, stopped, plan, facts)


class _Masks(Mapping[str, torch.Tensor]):
    """The masks of what trains, each made when it is asked for: together they would take a byte for every weight.

    Args:
        masks: As the selection has them.
        shapes: Parameters that have a gradient, with their shapes.
        every: Whether those without a mask have one that selects nothing, instead of training whole.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], *, every: bool) -> None:
        self._masks = masks
        self._shapes = {name: shape for name, shape in shapes.items() if every or name in masks}
        counted = masks.counts() if isinstance(masks, PackedMasks) else {name: int(mask.sum()) for name, mask in masks.items()}
        self.counts = {name: counted.get(name, 0) for name in self._shapes}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        return self._masks[name] if self.counts[name] else torch.zeros(self._shapes[name], dtype=torch.bool)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _gradients_of_all(model: Any, plan: Plan) -> None:
    """Let every parameter that the loss reads have a gradient, so that clipping can count them all."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    if plan.trunk_layer is not None:
        freeze_above(model, plan.trunk_layer)


def _trained(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _save_masks(run: Run, masks: _Masks, prepared: Prepared, selection: Selection) -> None:
    """Keep the masks that were made for this run; a mask file that was given is not copied."""
    from temper.models.checkpoint import skeleton_of
    from temper.models.masks import save_masks

    path: Path = run.folder / MASK_FILE
    if selection.needs_gradients and processes.is_first() and not path.exists():
        # of a model that was cut, the file names the parameters of the whole one
        whole = skeleton_of(prepared.config, trust_remote_code=run.recipe.model.trust_remote_code)
        facts = {"selection": selection.model_dump(mode="json"), "selected": sum(masks.counts.values())}
        save_masks(path, masks, whole, facts)


def refuse_nothing_to_train(trained: int, selection: Selection) -> None:
    """Refuse a run whose selection trains nothing that the loss reads.

    Raises:
        ModelError: Nothing trains.
    """
    if not trained:
        raise ModelError(
            f"selection {selection.name}: trains nothing that the loss reads, so nothing could change. Select other weights."
        )
