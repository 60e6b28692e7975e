"""A training of roles from beginning to end: from its newest checkpoint, under the run's eyes, to weights that are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from temper import processes
from temper.data import Encoded
from temper.errors import RunError
from temper.recipe import TrainSection
from temper.run import Run
from temper.train import checkpoint
from temper.train.arguments import rows_per_step, trackers_write_to, trainer_arguments
from temper.train.dataset import RoleDataset, collator
from temper.train.engine import Engine
from temper.train.schedule import Schedule
from temper.train.stopping import Stopped
from temper.train.trainer import Extras, RoleTrainer, Spent

__all__ = ["train_roles"]


class _Follow(TrainerCallback):  # type: ignore[misc]
    """Tells the run how far training is, and ends it where a rule says so."""

    def __init__(self, run: Run, trainer: RoleTrainer) -> None:
        self._run = run
        self._trainer = trainer
        self._note = ""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self._trainer.after_step():
            control.should_training_stop = True
            control.should_save = False  # a run that is started again must meet the rule again, not go on behind it
        if state.is_world_process_zero:
            self._run.progress("train", state.global_step, state.max_steps, self._note)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self._note = f"loss {logs['loss']:.4f}"
            facts = {name: value for name, value in logs.items() if name not in ("loss", "grad_norm", "learning_rate", "epoch")}
            self._run.log(
                "train",
                step=state.global_step,
                loss=round(logs["loss"], 6),
                grad_norm=round(float(logs["grad_norm"]), 6) if "grad_norm" in logs else None,
                learning_rate=logs["learning_rate"],
                **facts,
            )


def _check_shape(folder: Path, steps: int, rows: int) -> None:
    """Refuse to go on with another number of rows a step: samples are numbered by it, and so is the length of the run.

    Raises:
        RunError: The checkpoint belongs to a run of another shape.
    """
    spent = checkpoint.load_spent(folder)
    begun = (int(spent.get("steps_of_run", steps)), int(spent.get("rows_per_step", rows)))
    if begun != (steps, rows):
        raise RunError(
            f"{folder.name} was written by a run of {begun[0]} steps of {begun[1]} rows; this one has {steps} steps of {rows}. Start it with as many "
            "processes as it was begun with, or remove the run folder."
        )


def train_roles(
    engine: Engine,
    *,
    run: Run,
    dataset: RoleDataset,
    rows: Mapping[str, Encoded],
    schedule: Schedule,
    settings: TrainSection,
    pad_id: int,
    steps: int,
    extras: Extras | None = None,
    folder: str = "checkpoints",
) -> tuple[Spent, Stopped | None]:
    """Train and return what it used and why it ended early, if it did; resumes from the newest checkpoint of the run folder.

    Args:
        engine: The model with its terms.
        run: Receives progress and log lines; checkpoints lie in its folder.
        dataset: Which rows a sample holds.
        rows: Role to its encoded rows, derived ones included.
        schedule: Which terms act.
        settings: The train section of the recipe.
        pad_id: The id that fills.
        steps: Optimiser steps.
        extras: Masks, smoother, dual weight, floor, shards.
        folder: Name of the checkpoint folder; a second training of a run has its own.

    Raises:
        RunError: The loss is not finite.
    """
    torch.set_num_threads(settings.threads)
    extras = extras or Extras()
    place = run.folder / folder
    if processes.is_first():
        checkpoint.sweep(place)
    processes.wait()
    with trackers_write_to(run.folder, settings.trackers):
        trainer = RoleTrainer(
            engine,
            schedule,
            settings,
            extras,
            args=trainer_arguments(settings, place, steps, run.recipe.seed),
            train_dataset=dataset,
            data_collator=collator(rows, pad_id),
        )
        trainer.add_callback(_Follow(run, trainer))
        newest = checkpoint.latest(place)
        if newest is not None:
            _check_shape(newest, steps, rows_per_step(settings))
            run.log("resume", checkpoint=newest.name)
        trainer.train(resume_from_checkpoint=str(newest) if newest is not None else None)
        trainer.release()
    if extras.smoothing is not None and trainer.stopped is None:
        extras.smoothing.finish()
        if extras.floor is not None and (probability := extras.floor.probability()) < extras.floor.bound:
            step = trainer.state.global_step  # weights that were put in place at the end are looked at too
            trainer.stopped = Stopped("retain_floor", step, probability, extras.floor.bound, extras.floor.kept_step)
    if trainer.stopped is not None and extras.floor is not None and trainer.stopped.reason == "retain_floor":
        extras.floor.restore()
    local = [getattr(p, "_local_tensor", p) for p in engine.parameters() if p.requires_grad]
    if not all(torch.isfinite(p).all() for p in local):
        raise RunError("a weight became infinite or NaN in the last step; nothing was saved. Lower train.learning_rate.")
    return trainer.spent, trainer.stopped
