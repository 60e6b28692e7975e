"""The training of an unlearning run: the model that is needed, what is kept of the one before, and the engine over both."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from temper import processes
from temper.draws import key_of
from temper.errors import ModelError
from temper.files import cache_folder
from temper.models.cut import load_cut
from temper.models.load import load_model, pad_id_of
from temper.models.selection import Selection, selection_of
from temper.models.trunk import check_layer, freeze_above, run_trunk
from temper.recipe import Recipe
from temper.registry import resolve
from temper.run import Run
from temper.train.dual import DualAscent
from temper.train.engine import Engine, Plan, count_units, plan_of
from temper.train.losses.term import LossTerm
from temper.train.reference import RoleReference, reference_of, stored_bytes
from temper.train.sharding import local_numel, shard
from temper.train.stopping import RetainFloor, Stopped
from temper.train.trainer import Extras, Spent, train_roles
from temper.unlearn.objective import Context
from temper.unlearn.prepare import Prepared, dtype_of, smoother_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Trained", "context_of", "fit", "load_to_train", "needs_stored", "sketched_context", "trains_cut", "used_rows"]

STORE_LIMIT: Final = 2**30
"""Bytes up to which distributions and activations of the model before are stored without being asked."""

_LOOKED_AT = 256
"""Rows from which the median token norm is taken."""


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
    # a mask file names the parameters of the whole model
    if depth is None or selection_of(recipe).name == "mask" or prepared.config.get_text_config() is not prepared.config:
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
    selection = selection_of(recipe)
    if cut is not None and not selection.is_adapter and not selection.covered(model):
        raise ModelError(
            f"the loss reads block {cut}, but selection {selection.name} trains nothing at or below it, so nothing could change. Select blocks up "
            "to that one."
        )
    return select(recipe, model)


def select(recipe: Recipe, model: Any) -> Any:
    """Return a model with the selection of a recipe applied, in evaluation mode."""
    assert recipe.train is not None
    with _seeded(recipe.seed):
        model = selection_of(recipe).apply(model)
    model.eval()  # references and norms are those of the model as it is used
    if recipe.train.checkpointing:
        # transformers 5.23 has a new name, 5.19 knows the old one only; the keyword has kept its name
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if (smoother := smoother_of(recipe)) is not None:
        smoother.check_parameters((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return model


def tokens_of(tokenizer: Any, words: Sequence[str]) -> dict[str, list[int]]:
    """Return word to the single tokens that are it, as it stands and after a blank; none where it takes several."""
    found = {}
    for word in words:
        ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in (word, f" {word}")]
        unknown = tokenizer.unk_token_id
        found[word] = sorted({row[0] for row in ids if len(row) == 1 and row[0] != unknown})
    return found


def context_of(recipe: Recipe, prepared: Prepared, model: nn.Module) -> Context:
    """Return what the objective may ask while it builds its terms."""

    def median_token_norm(layer: int, role: str, topic: str) -> float:
        from temper.data.padding import pad_items

        items = [item for item in prepared.rows[role].items if item.topic == topic][:_LOOKED_AT]
        device = next(model.parameters()).device
        norms = []
        with torch.no_grad():
            for start in range(0, len(items), 32):
                batch = pad_items(items[start : start + 32], pad_id_of(prepared.tokenizer))
                hidden_BLD, _ = run_trunk(model, layer, batch["input_ids"].to(device), batch["attention_mask"].to(device))
                norms.append(hidden_BLD.float().norm(dim=-1)[batch["attention_mask"].to(device) == 1])
        median = float(torch.cat(norms).median())
        if not math.isfinite(median):
            raise ModelError(
                f"the output of block {layer} on the {role} rows is {median}: the model gives no finite numbers, so nothing can be steered by its "
                "norm. Check the model's weights."
            )
        return median

    return Context(
        seed=recipe.seed,
        hidden_size=int(prepared.config.get_text_config().hidden_size),
        check_layer=lambda layer, what: check_layer(model, layer, what),
        median_token_norm=median_token_norm,
        topics_of=lambda role: [item.topic for item in prepared.rows[role].items],
        token_ids=lambda words: tokens_of(prepared.tokenizer, words),
    )


def sketched_context(
    *,
    seed: int = 0,
    width: int,
    topics_of: Callable[[str], Sequence[str]],
    check: Callable[[int, str], int] | None = None,
    prepared: Prepared | None = None,
) -> Context:
    """Return a context for terms that are only looked at: no model is asked, every norm is 1."""

    def token_ids(words: Sequence[str]) -> dict[str, list[int]]:
        return {word: [0] for word in words} if prepared is None else tokens_of(prepared.tokenizer, words)

    return Context(seed, width, check or (lambda layer, what: layer), lambda *_: 1.0, topics_of, token_ids)


def can_be_stored(need: str, role: str, terms: Sequence[LossTerm]) -> bool:
    """Return whether what a need names depends on the item alone, so that it can be kept by item."""
    counts_padding = any(term.role == role and getattr(term, "mask", None) == "all" for term in terms)
    return need.startswith(("ref_log_probs:", "ref_hidden:")) and not need.endswith(":all") and not counts_padding


def bytes_of(prepared: Prepared, needs: Mapping[str, frozenset[str]], used: Mapping[str, list[int]], recipe: Recipe) -> int:
    """Return the bytes that storing some needs of roles takes."""
    rows, config = prepared.all_rows(), prepared.config.get_text_config()
    return sum(
        stored_bytes(
            [rows[role].items[place] for place in used[role]],
            wanted,
            vocabulary=int(config.vocab_size),
            width=int(config.hidden_size),
            itemsize=2 if dtype_of(recipe, prepared.config) in ("bfloat16", "float16") else 4,
        )
        for role, wanted in needs.items()
    )


def needs_stored(
    recipe: Recipe, prepared: Prepared, terms: Sequence[LossTerm], used: dict[str, list[int]]
) -> tuple[dict[str, frozenset[str]], int]:
    """Return role to what is computed once and stored, and the bytes that takes; what is not among it is computed at each step."""
    assert recipe.train is not None
    plan, mode = plan_of(terms), recipe.train.reference
    chosen: dict[str, frozenset[str]] = {}
    total = 0
    for role, needs in plan.roles.items():
        heavy = frozenset(need for need in needs if can_be_stored(need, role, terms))
        size = bytes_of(prepared, {role: heavy}, used, recipe)
        pays = size <= STORE_LIMIT and len(prepared.pairs) > len(used[role])
        keep = mode == "store" or recipe.train.sharding == "fsdp2" or (mode == "auto" and pays)
        chosen[role] = (needs & {"ref_row_nll"}) | (heavy if keep else frozenset())
        total += size if keep else 0
    return {role: needs for role, needs in chosen.items() if needs}, total


def used_rows(prepared: Prepared) -> dict[str, list[int]]:
    """Return for each name of a batch the places of the rows that the run reads."""
    dataset = prepared.dataset()
    seen: dict[str, set[int]] = {}
    for index in range(len(dataset)):
        for role, row in dataset[index].items():
            seen.setdefault(role, set()).add(row)
    return {role: sorted(places) for role, places in seen.items()}


def _store(run: Run, identity: dict[str, Any]) -> Path:
    """Return where references are kept."""
    # without a hash of the weights another model could be mistaken for this one, so the store stays in the run
    return cache_folder() / "reference" if identity.get("weights") else run.folder / "reference"


def _references(
    run: Run,
    prepared: Prepared,
    teacher: Any,
    needs: dict[str, frozenset[str]],
    used: dict[str, list[int]],
    identity: dict[str, Any],
) -> dict[str, RoleReference]:
    """Return what the weights from before give; the first process computes what no store holds."""
    rows = prepared.all_rows()
    folder = _store(run, identity)
    with processes.first_goes_ahead():
        return {
            role: reference_of(
                teacher,
                rows[role].items,
                used[role],
                wanted,
                pad_id=pad_id_of(prepared.tokenizer),
                identity=identity,
                folder=folder,
                progress=run.progress,
            )
            for role, wanted in needs.items()
        }


def _gradients(
    prepared: Prepared, model: Any, terms: Sequence[LossTerm], references: dict[str, RoleReference], batch_size: int
) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Return a function that gives the gradient of the forget terms, averaged over all forget rows, by parameter."""

    def compute() -> Iterator[tuple[str, torch.Tensor]]:
        from temper.data import collate
        from temper.train.engine import ALTERNATIVE

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
    selection: Selection = selection_of(recipe)
    plan = plan_of(terms)
    if plan.trunk_layer is not None:
        freeze_above(model, plan.trunk_layer)
    used = used_rows(prepared)
    needs, _ = needs_stored(recipe, prepared, terms, used)
    if teacher is not None:
        needs = {role: frozenset(need for need in wanted if need.startswith("ref_")) for role, wanted in plan.roles.items()}
    references = _references(run, prepared, model if teacher is None else teacher, needs, used, identity)
    masks = None
    if selection.has_masks:
        masks = selection.masks(model, _gradients(prepared, model, terms, references, recipe.train.batch_size))
        # what lies above the block that is read does not train, whatever the mask says
        masks = {name: mask for name, mask in masks.items() if name in dict(_trained(model))}
    floor = None
    if recipe.train.stop.retain_floor is not None:
        floor = RetainFloor(model, prepared.rows["retain"].items, recipe.train.stop, recipe.seed, pad_id_of(prepared.tokenizer))
    sharded = recipe.train.sharding == "fsdp2" and processes.count() > 1
    engine = Engine(model, terms, references, sharded=sharded)
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
            int(masks[name].sum()) if masks and name in masks else p.numel() for name, p in _trained(model)
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
        _save_masks(run, masks, model, selection)
    return Trained(model, spent, stopped, plan, facts)


def _trained(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _save_masks(run: Run, masks: dict[str, torch.Tensor], model: Any, selection: Selection) -> None:
    """Keep the masks that were made for this run; a mask file that was given is not copied."""
    from temper.models.masks import save_masks

    path: Path = run.folder / "mask.safetensors"
    if selection.needs_gradients and processes.is_first() and not path.exists():
        if getattr(model.config, "temper_full_layers", None) is not None:
            return  # a mask file names the parameters of a whole model
        save_masks(path, masks, model, {"selection": selection.model_dump(mode="json")})


def refuse_nothing_to_train(trained: int, selection: Selection) -> None:
    """Refuse a run whose selection trains nothing that the loss reads.

    Raises:
        ModelError: Nothing trains.
    """
    if not trained:
        raise ModelError(
            f"selection {selection.name}: trains nothing that the loss reads, so nothing could change. Select other weights."
        )
