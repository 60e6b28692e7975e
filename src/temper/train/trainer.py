"""The one trainer: `transformers.Trainer` fed with roles, and everything that makes its result exact.

- The loss of a micro-batch is divided by the units of the whole step, so accumulation equals one large batch.
- The optimiser holds state for the parameters that train and for nothing else.
- Samples are a function of the seed and their number, so a resumed run reads what an uninterrupted one would have read.
- Checkpoints are whole, safetensors and JSON; a run resumed from one gives the same bits on a CPU.
- A loss that is not finite stops the run instead of being averaged away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from temper.data import Encoded
from temper.errors import RunError
from temper.recipe import TrainSection
from temper.run import Run
from temper.train import checkpoint
from temper.train.dataset import Remap, RoleDataset, collator
from temper.train.engine import Counts, Engine, count_units
from temper.train.losses.term import Batch
from temper.train.schedule import Schedule

__all__ = ["RoleTrainer", "Spent", "total_steps", "train_roles"]

_KEPT_CHECKPOINTS = 2

logging.getLogger("transformers.trainer").setLevel(logging.WARNING)


@dataclass
class Spent:
    """What training used, earlier processes of a resumed run included."""

    wall_s: float
    cpu_s: float
    tokens: int
    steps: int


def total_steps(train: TrainSection, anchor_rows: int) -> int:
    """Return the optimiser steps of a run; an epoch that does not fill its last step rounds up."""
    if train.steps is not None:
        return train.steps
    assert train.epochs is not None
    return max(1, math.ceil(round(train.epochs * anchor_rows / (train.batch_size * train.accumulation), 9)))


def checkpoint_interval(train: TrainSection, steps: int) -> int:
    """Return the steps between checkpoints: what was asked for, else a tenth of the run; 0 for none."""
    if train.checkpoint_every is not None:
        return train.checkpoint_every
    return max(1, math.ceil(steps / 10))


def _arguments(train: TrainSection, folder: Path, steps: int, seed: int) -> TrainingArguments:
    every = checkpoint_interval(train, steps)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.accumulation,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_schedule if train.lr_schedule != "constant" else "constant_with_warmup",
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        adam_beta1=train.adam_beta1,
        adam_beta2=train.adam_beta2,
        max_grad_norm=train.max_grad_norm,
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if every else "no",
        save_steps=every or 500,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # several visible devices in one process would be driven by DataParallel, which splits losses in ways that are not exact
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class _Follow(TrainerCallback):  # type: ignore[misc]
    """Tells the run how far training is."""

    def __init__(self, run: Run, trainer: RoleTrainer) -> None:
        self._run = run
        self._trainer = trainer
        self._note = ""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            statistics = self._trainer.take_statistics()
            self._note = f"loss {logs['loss']:.4f}"
            self._run.log(
                "train",
                step=state.global_step,
                loss=round(logs["loss"], 6),
                grad_norm=round(float(logs["grad_norm"]), 6) if "grad_norm" in logs else None,
                learning_rate=logs["learning_rate"],
                **{name: round(value, 6) for name, value in statistics.items()},
            )

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._trainer.check_gradients()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._run.progress("train", state.global_step, state.max_steps, self._note)


class RoleTrainer(Trainer):  # type: ignore[misc]
    """Trains an `Engine` on samples that hold one row of every role."""

    # the loss is divided by the units of the whole accumulated batch, so the trainer must not divide it again
    loss_is_scaled_for_ga = True
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, engine: Engine, schedule: Schedule, settings: TrainSection, **kwargs: Any) -> None:
        self._schedule = schedule
        self._settings = settings
        self._counts: Counts = {}
        self._statistics: dict[str, list[float]] = {}
        self._begun = (time.monotonic(), _cpu_seconds())
        self._before = {"wall_s": 0.0, "cpu_s": 0.0, "tokens": 0.0}
        self._tokens = 0
        super().__init__(model=engine, **kwargs)
        self.remove_callback(PrinterCallback)

    # ---- data ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # the order is the dataset's own: a keyed permutation per epoch
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the micro-batches of one step and count their units over all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        totals: dict[str, dict[str, float]] = {}
        for sample in samples:
            for role, tensors in sample.items():
                batch = Batch(**tensors)
                here = totals.setdefault(role, {})
                for unit, count in count_units(batch).items():
                    here[unit] = here.get(unit, 0.0) + count
                self._tokens += int(batch.attention_mask.sum())
        if self.args.world_size > 1:
            for role, here in totals.items():
                values = torch.tensor(list(here.values()), dtype=torch.float64, device=device)
                summed = self.accelerator.reduce(values, reduction="sum")
                totals[role] = dict(zip(here, summed.tolist(), strict=True))
        self._counts = totals
        return samples, None

    # ---- loss ----

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the share of one micro-batch in the loss of the step."""
        active = self._schedule.active(self.state.global_step, self.model.terms)
        result = model(inputs, self._counts, active)
        loss = result["loss"]
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}. Lower train.learning_rate, or raise the weight of the retain "
                "term; unbounded objectives (ga, graddiff) diverge when run for long."
            )
        for name, value in result["statistics"].items():
            self._statistics.setdefault(name, []).append(float(value))
        # data parallel averages gradients over processes; the loss is already divided by the units of all of them
        return loss * self.args.world_size

    def check_gradients(self) -> None:
        """Stop before a step that would destroy the weights.

        Raises:
            RunError: A gradient is not finite.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not all(torch.isfinite(gradient).all() for gradient in gradients):
            raise RunError(
                f"a gradient became infinite or NaN at step {self.state.global_step + 1}. Lower train.learning_rate, or raise the weight of the "
                "retain term."
            )

    def take_statistics(self) -> dict[str, float]:
        """Return the means of the term statistics since the last call, per step."""
        # every micro-batch was divided by the units of the whole step, so a step is the sum of its micro-batches
        means = {name: sum(values) * self._settings.accumulation / len(values) for name, values in self._statistics.items()}
        self._statistics = {}
        return means

    # ---- optimiser ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return AdamW over the parameters that train; matrices decay, vectors do not."""
        if self.optimizer is None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            groups = [
                {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.args.weight_decay},
                {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
            ]
            self.optimizer = torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                fused=True,
            )
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

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

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            state = _state_text(self.state)
            spent = {"wall_s": self.spent.wall_s, "cpu_s": self.spent.cpu_s, "tokens": float(self.spent.tokens)}
            checkpoint.save(
                folder / f"checkpoint-{self.state.global_step}", self.model, self.optimizer, self.lr_scheduler, state, spent
            )
            checkpoint.prune(folder, _KEPT_CHECKPOINTS)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.load_trained(Path(resume_from_checkpoint), self.model)
        self._before = checkpoint.load_spent(Path(resume_from_checkpoint))

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


def train_roles(
    engine: Engine,
    *,
    run: Run,
    rows: Mapping[str, Encoded],
    drawn: Mapping[str, Encoded] | None = None,
    remap: Mapping[str, Remap] | None = None,
    schedule: Schedule,
    settings: TrainSection,
    pad_id: int,
) -> Spent:
    """Train and return what it used; resumes from the newest checkpoint of the run folder.

    Args:
        engine: The model with its terms.
        run: Receives progress and log lines; checkpoints lie in its folder.
        rows: Role to its encoded rows, substitutes included.
        drawn: Role to the rows that are drawn from, where that is less than `rows`.
        remap: Role to a substitution of its rows by (item, epoch).
        schedule: Which terms act.
        settings: The train section of the recipe.
        pad_id: The id that fills.

    Raises:
        RunError: The loss is not finite.
    """
    torch.set_num_threads(settings.threads)
    folder = run.folder / "checkpoints"
    checkpoint.sweep(folder)
    base = dict(drawn or rows)
    steps = total_steps(settings, len(base[settings.anchor].items))
    arguments = _arguments(settings, folder, steps, run.recipe.seed)
    length = steps * settings.batch_size * settings.accumulation * arguments.world_size
    dataset = RoleDataset(base, anchor=settings.anchor, seed=run.recipe.seed, length=length, remap=remap)
    trainer = RoleTrainer(
        engine,
        schedule,
        settings,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator(rows, pad_id),
    )
    trainer.add_callback(_Follow(run, trainer))
    newest = checkpoint.latest(folder)
    if newest is not None:
        run.log("resume", checkpoint=newest.name)
    trainer.train(resume_from_checkpoint=str(newest) if newest is not None else None)
    if not all(torch.isfinite(p).all() for p in engine.parameters() if p.requires_grad):
        raise RunError("a weight became infinite or NaN in the last step; nothing was saved. Lower train.learning_rate.")
    return trainer.spent
