"""From the train section of a recipe to the arguments of `transformers.Trainer`, and the arithmetic of steps."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from transformers import TrainingArguments

from temper import processes
from temper.errors import MissingExtraError
from temper.recipe import TrainSection

__all__ = ["checkpoint_interval", "rows_per_step", "total_steps", "trackers_write_to", "trainer_arguments"]


def rows_per_step(train: TrainSection) -> int:
    """Return the rows of each role that an optimiser step reads, over micro-batches and processes."""
    return train.batch_size * train.accumulation * processes.count()


def total_steps(train: TrainSection, anchor_rows: int) -> int:
    """Return the optimiser steps of a run; an epoch that does not fill its last step rounds up."""
    if train.steps is not None:
        return train.steps
    assert train.epochs is not None
    return max(1, math.ceil(round(train.epochs * anchor_rows / rows_per_step(train), 9)))


def checkpoint_interval(train: TrainSection, steps: int) -> int:
    """Return the steps between checkpoints: what was asked for, else a tenth of the run; 0 for none."""
    if train.checkpoint_every is not None:
        return train.checkpoint_every
    return max(1, math.ceil(steps / 10))


def _check_trackers(trackers: list[str]) -> None:
    for tracker in trackers:
        if find_spec(tracker) is None:
            raise MissingExtraError(tracker, tracker, f"train.trackers: {tracker}")


_TRACKER_FOLDERS: Final = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "trackio": "TRACKIO_DIR", "wandb": "WANDB_DIR"}


@contextlib.contextmanager
def trackers_write_to(folder: Path, trackers: Sequence[str]) -> Iterator[None]:
    """Let trackers write below a run folder while the block lasts, unless the user has said where; some know the environment only."""
    names = {_TRACKER_FOLDERS[tracker]: tracker for tracker in trackers if tracker in _TRACKER_FOLDERS}
    mine = {name: str(folder / tracker) for name, tracker in names.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


def trainer_arguments(train: TrainSection, folder: Path, steps: int, seed: int) -> TrainingArguments:
    """Return the arguments.

    Args:
        train: The train section.
        folder: Where checkpoints lie; trackers write beside it.
        steps: Optimiser steps of the run.
        seed: Seed of the run.

    Raises:
        MissingExtraError: A tracker is not installed.
    """
    _check_trackers(train.trackers)
    every = checkpoint_interval(train, steps)
    arguments = TrainingArguments(
        output_dir=str(folder),
        run_name=folder.parent.name,
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
        # the trainer knows transformers models only; the runner switches recomputation on in the model itself
        activation_checkpointing=False,
        report_to=list(train.trackers) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    # several visible devices in one process would be driven by DataParallel, which splits losses in ways that are not exact
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
