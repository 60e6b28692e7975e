"""The one trainer: `transformers.Trainer` fed with roles, and everything that makes its result exact.

- The loss of a micro-batch is divided by the units of the whole step, so accumulation and processes equal one large batch.
- The optimiser holds state for the weights that train and for nothing else; clipping counts their gradient alone. Where single
  weights are selected their gradients are packed as they come, and it is the packed ones that processes exchange.
- Samples are a function of the seed and their number, so a resumed run reads what an uninterrupted one would have read.
- Checkpoints are whole, safetensors and JSON; a run resumed from one gives the same bits on a CPU.
- A loss that is not finite stops the run instead of being averaged away; so does ascent that has broken the model.
- A smoother takes over the order of passes within a step: it sees the forget gradient of all micro-batches at once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerState
from transformers.trainer_callback import PrinterCallback

from temper import processes
from temper.errors import RecipeError, RunError
from temper.models.places import Place
from temper.recipe import TrainSection
from temper.train import checkpoint
from temper.train.arguments import rows_per_step
from temper.train.bases import base_of
from temper.train.dual import DualAscent
from temper.train.engine import Engine, count_units
from temper.train.losses.term import LossTerm
from temper.train.masked import MaskedOptimizer
from temper.train.plan import plan_of
from temper.train.schedule import Schedule
from temper.train.sharding import whole_trained
from temper.train.smoothers.base import Smoothing
from temper.train.stopping import RetainFloor, Stopped, collapse_bound

__all__ = ["Extras", "RoleTrainer", "Spent"]

_KEPT_CHECKPOINTS = 2
_FORGET_ROLES = ("forget", "trace")

logging.getLogger("transformers.trainer").setLevel(logging.WARNING)


@dataclass
class Spent:
    """What training used, earlier processes of a resumed run included."""

    wall_s: float
    cpu_s: float
    tokens: int
    steps: int


@dataclass
class Extras:
    """What a run adds to plain training.

    Attributes:
        masks: Parameter name to a mask of what trains; a parameter without one trains whole.
        smoothing: The running side of a smoother.
        dual: A retain weight that moves.
        floor: The look at the retain rows that may end the run.
        sharded: Whether the engine is sharded over processes.
    """

    masks: Mapping[str, torch.Tensor] | None = None
    smoothing: Smoothing | None = None
    dual: DualAscent | None = None
    floor: RetainFloor | None = None
    sharded: bool = False


class _Unwrapped(nn.Module):
    """Stands where the trainer expects a data parallel wrapper, for a model whose gradients this module's owner reduces."""

    def __init__(self, engine: nn.Module) -> None:
        super().__init__()
        self.module = engine

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class RoleTrainer(Trainer):  # type: ignore[misc]
    """Trains an `Engine` on samples that hold one row of every role."""

    # the loss is divided by the units of the whole accumulated batch, so the trainer must not divide it again
    loss_is_scaled_for_ga = True
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, engine: Engine, schedule: Schedule, settings: TrainSection, extras: Extras, **kwargs: Any) -> None:
        self._schedule = schedule
        self._settings = settings
        self._extras = extras
        self._counts: list[float] = []
        self._samples: list[Any] = []
        self._place = 0
        self._statistics: dict[str, list[torch.Tensor]] = {}
        self._steps_counted = 0
        self._step_values: dict[int, torch.Tensor] = {}
        self.stopped: Stopped | None = None
        self._bound = collapse_bound(int(engine.model.config.get_text_config().vocab_size))  # type: ignore[union-attr, operator]
        self._begun = (time.monotonic(), _cpu_seconds())
        self._before = {"wall_s": 0.0, "cpu_s": 0.0, "tokens": 0.0}
        self._tokens = 0
        if settings.clip == "dense" and extras.smoothing is not None:
            raise RecipeError(
                ["train.clip: a smoother follows masked gradients, so there are no dense ones to count. Set it to masked."],
                "recipe",
            )
        super().__init__(model=engine, **kwargs)
        self.remove_callback(PrinterCallback)

    @property
    def _packs_gradients(self) -> bool:
        """Whether the gradients of masked parameters are packed as they come; what reads or reduces whole gradients forbids it."""
        free = self._extras.smoothing is None and not self._extras.sharded
        return bool(self._extras.masks) and free and self._settings.clip == "masked" and self._settings.storage != "dense_compat"

    @property
    def _reduces_itself(self) -> bool:
        """Whether gradients are reduced here or by shards, instead of by a data parallel wrapper."""
        return self._extras.sharded or self._extras.smoothing is not None or self._packs_gradients

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if self._reduces_itself and processes.count() > 1:
            return _Unwrapped(self.model)
        return super()._wrap_model(model, training=training, dataloader=dataloader)

    # ---- data ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # the order is the dataset's own: a keyed permutation per epoch
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the micro-batches of one step and count their units over all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        terms = self.model.terms
        read = set(plan_of(terms).roles)
        totals = torch.zeros(len(terms) + 1, dtype=torch.float64)
        for sample in samples:
            tokens = sum(int(tensors["attention_mask"].sum()) for role, tensors in sample.items() if role in read)
            totals += torch.tensor([*count_units(terms, sample), tokens], dtype=torch.float64)
        if processes.count() > 1:
            torch.distributed.all_reduce(totals)
        *self._counts, tokens_of_all = totals.tolist()
        self._tokens += int(tokens_of_all)
        self._samples, self._place = samples, 0
        return samples, None

    # ---- loss ----

    def _terms(self) -> list[int]:
        return list(self._schedule.active(self.state.global_step, self.model.terms))

    def _factors(self) -> dict[int, float]:
        dual = self._extras.dual
        return (
            {} if dual is None else {n: dual.weight for n, term in enumerate(self.model.terms) if term.role == dual.settings.role}
        )

    def _loss(self, model: Any, inputs: Any, active: Sequence[int], noted: bool = True) -> torch.Tensor:
        """Return the share of one micro-batch in the loss of the step, and take note of its statistics."""
        result = model(inputs, self._counts, active, self._factors())
        loss: torch.Tensor = result["loss"]
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}. Lower train.learning_rate, or raise the weight of the retain "
                "term; unbounded objectives (ga, graddiff) diverge when run for long."
            )
        if not noted:
            return loss
        for name, value in result["statistics"].items():
            self._statistics.setdefault(name, []).append(value)
        for index in active:
            term = self.model.terms[index]
            # of a term that pushes away it is the loss of the right tokens that is watched
            value = result["statistics"][f"{term.role}.nll"] if term.pushes_away else result["values"][index]
            self._step_values[index] = self._step_values.get(index, torch.zeros_like(value)) + value
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the share of one micro-batch in the loss of the step."""
        # gradients are averaged over processes; the loss is already divided by the units of all of them
        return self._loss(model, inputs, self._terms()) * processes.count()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one micro-batch, or, with a smoother, all of them at the last one."""
        smoothing = self._extras.smoothing
        if smoothing is None and self._settings.passes == "by_role":
            return self._one_role_at_a_time(model, inputs)
        if smoothing is None:
            step: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
            return step
        self._place += 1
        if self._place < len(self._samples):
            return torch.zeros((), device=self.args.device)
        self.model.train()
        samples = [self._prepare_inputs(sample) for sample in self._samples]
        active = self._terms()
        forget = [index for index in active if self.model.terms[index].role in _FORGET_ROLES]
        retain = [index for index in active if index not in forget]
        report = smoothing.step(
            lambda: self._pass(samples, forget), lambda: self._pass(samples, retain), (self.args.seed, self.state.global_step)
        )
        for name, value in report.statistics.items():
            self._statistics.setdefault(f"smoother.{name}", []).append(torch.tensor(value / processes.count()))
        return torch.tensor(report.loss, device=self.args.device)

    def _one_role_at_a_time(self, model: Any, inputs: Any) -> torch.Tensor:
        """Run forward and backward of each role alone: the same gradient, with one role's activations in memory."""
        model.train()
        sample = self._prepare_inputs(inputs)
        by_role: dict[str, list[int]] = {}
        for index in self._terms():
            by_role.setdefault(self.model.terms[index].role, []).append(index)
        total = torch.zeros((), device=self.args.device)
        # data parallel wrappers reduce with the last backward pass, which then carries the gradients of all: it must reach all that trains
        order = sorted(by_role.values(), key=self._depth)
        for number, active in enumerate(order, start=1):
            waits = self.accelerator.no_sync(model) if number < len(by_role) else contextlib.nullcontext()
            with waits:
                loss = self._loss(model, sample, active) * processes.count()
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _depth(self, active: Sequence[int]) -> float:
        """Return the block at which the pass of some terms stops; infinity for a full one."""
        layer = plan_of([self.model.terms[index] for index in active]).trunk_layer
        return math.inf if layer is None else layer

    def _pass(self, samples: Sequence[Any], active: Sequence[int]) -> float:
        """Add the gradient of some terms over all micro-batches and processes to `.grad`; return their value."""
        if not active:
            return 0.0
        # a smoother runs the forget terms several times in a step; the record holds the first run, most often at the weights themselves
        noted = not any(index in self._step_values for index in active)
        before = {p: p.grad for p in self.model.parameters() if p.grad is not None}
        for parameter in before:
            parameter.grad = None
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for sample in samples:
            loss = self._loss(self.model, sample, active, noted)
            (loss * (processes.count() if self._extras.sharded else 1)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach().double()
        if processes.count() > 1:
            torch.distributed.all_reduce(total)
            if not self._extras.sharded:
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        torch.distributed.all_reduce(parameter.grad)
        self._own_optimizer.zero_unselected_gradients()
        for parameter, gradient in before.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return float(total)

    def after_step(self) -> bool:
        """Move the dual weight, average weights, look at the stopping rules; return whether training is to end."""
        step = self.state.global_step
        self._steps_counted += 1
        watched = [index for index, term in enumerate(self.model.terms) if self._is_watched(term) and index in self._step_values]
        values = torch.stack([self._step_values[index].double() for index in watched]) if watched else torch.zeros(0)
        self._step_values = {}
        if processes.count() > 1 and watched:
            torch.distributed.all_reduce(values)
        for index, value in zip(watched, values.tolist(), strict=True):
            term = self.model.terms[index]
            if term.pushes_away:
                if self._settings.stop.collapse and value > self._bound:
                    self.stopped = Stopped("collapse", step, value, self._bound, step)
            elif self._extras.dual is not None:
                self._extras.dual.update(step - 1, value)
        if self._extras.smoothing is not None:
            self._extras.smoothing.after_step(step)
        floor = self._extras.floor
        due = step % self._settings.stop.every == 0 or step >= self.state.max_steps  # what is saved has been looked at
        if self.stopped is None and floor is not None and due:
            probability = floor.probability()
            if probability < floor.bound:
                self.stopped = Stopped("retain_floor", step, probability, floor.bound, floor.kept_step)
            else:
                floor.keep(step)
        return self.stopped is not None

    def _is_watched(self, term: LossTerm) -> bool:
        dual = self._extras.dual
        return term.pushes_away or (dual is not None and term.role == dual.settings.role)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means per step of the term statistics since the last time."""
        # every micro-batch was divided by the units of the whole step, so a step is the sum of its micro-batches
        names = sorted(self._statistics)
        if names and "loss" in logs:
            means = torch.stack([torch.stack(self._statistics[name]).double().sum().cpu() for name in names])
            if processes.count() > 1:
                torch.distributed.all_reduce(means)
            means /= max(self._steps_counted, 1)
            logs = {**logs, **{name: round(value, 6) for name, value in zip(names, means.tolist(), strict=True)}}
            if self._extras.dual is not None:
                logs["dual_weight"] = round(self._extras.dual.weight, 6)
            self._statistics, self._steps_counted = {}, 0
        super().log(logs, start_time)

    # ---- optimiser ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimiser of the recipe over the weights that train; matrices decay, vectors do not."""
        if self.optimizer is None:
            settings = self._settings
            named = [(name, p) for name, p in self.model.model.named_parameters() if p.requires_grad]
            # looked up one at a time: together the masks would take a byte for every weight
            masks = ChainMap[str, Any](self.model.places, cast(Any, self._extras.masks or {}))
            self._own_optimizer = MaskedOptimizer(
                base_of(settings, named), masks, storage=settings.storage, precision=settings.precision
            )
            if self._packs_gradients:
                self._own_optimizer.attach(self.model.model)
            if settings.storage == "delta":
                self.model.original_from(self._own_optimizer.original)
            self.optimizer = self._own_optimizer
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    @property
    def optimizer_bytes(self) -> int:
        """The bytes of optimiser state in this process."""
        return self._own_optimizer.state_bytes()

    def release(self) -> None:
        """Take away what packs gradients; call it when training is over."""
        self._own_optimizer.detach()

    def _clip_grad_norm(self, model: Any) -> float:
        return self._norm(self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: float | None = None) -> float:
        return self._norm(float("inf")) if grad_norm is None else grad_norm

    def _norm(self, largest: float) -> float:
        """Average packed gradients over processes, clip, and return the norm of before; a step that would destroy the weights ends here."""
        if self._packs_gradients and processes.count() > 1:
            self._own_optimizer.average_gradients()
        dense = self._settings.clip == "dense"
        return self._own_optimizer.clip_gradients(largest, dense=dense, step=self.state.global_step + 1)

    # ---- checkpoints ----

    @property
    def spent(self) -> Spent:
        """Return what training used so far."""
        wall, cpu = time.monotonic() - self._begun[0], _cpu_seconds() - self._begun[1]
        return Spent(
            self._before["wall_s"] + wall,
            self._before["cpu_s"] + cpu,
            int(self._before["tokens"]) + self._tokens,
            self.state.global_step,
        )

    @property
    def _selected(self) -> dict[str, Place]:
        return {f"model.{name}": place for name, place in self.model.places.items()}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # reading shards whole is a collective: every process does it, one writes
        trained = whole_trained(self.model, self._selected)  # what is not selected is in the base already
        optimizer_state = checkpoint.whole_state(self.optimizer)
        random = checkpoint.random_states()
        extra = {
            f"smoother.{name}": value
            for name, value in (self._extras.smoothing.state() if self._extras.smoothing else {}).items()
        }
        if self._extras.dual is not None:
            extra["dual"] = torch.tensor(self._extras.dual.weight, dtype=torch.float64)
        if self._extras.floor is not None:
            extra |= {f"floor.{name}": value for name, value in self._extras.floor.state().items()}
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            spent = {"wall_s": self.spent.wall_s, "cpu_s": self.spent.cpu_s, "tokens": float(self.spent.tokens)}
            spent |= {"steps_of_run": self.state.max_steps, "rows_per_step": rows_per_step(self._settings)}
            checkpoint.save(
                folder / f"checkpoint-{self.state.global_step}",
                trained,
                optimizer_state,
                self.lr_scheduler,
                _state_text(self.state),
                spent,
                random,
                extra,
            )
            checkpoint.prune(folder, _KEPT_CHECKPOINTS)
        processes.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        checkpoint.load_trained(folder, self.model, self._selected)
        self._before = checkpoint.load_spent(folder)
        extra = checkpoint.load_extra(folder)
        if self._extras.dual is not None and "dual" in extra:
            self._extras.dual.weight = float(extra["dual"])
        if self._extras.smoothing is not None:
            state = {name.removeprefix("smoother."): value for name, value in extra.items() if name.startswith("smoother.")}
            self._extras.smoothing.load_state(state)
        if self._extras.floor is not None:
            self._extras.floor.load_state(
                {name.removeprefix("floor."): value for name, value in extra.items() if name.startswith("floor.")}
            )

    def _load_optimizer_and_scheduler(self, checkpoint_path: str | None) -> None:
        if checkpoint_path is not None:
            checkpoint.load_optimizer(Path(checkpoint_path), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint_path: str | None) -> None:
        if checkpoint_path is not None:
            checkpoint.load_random_state(Path(checkpoint_path))


def _state_text(state: TrainerState) -> str:
    import dataclasses
    import json

    return json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n"


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)
