"""The processes of one run: how many there are, which one writes, and waiting for each other.

`torchrun` starts several and tells each its place through the environment. The first one (rank 0) reads and writes the run folder;
the others compute. Nothing here imports torch before it is needed, so that a command line stays quick.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator

__all__ = ["count", "first_goes_ahead", "is_first", "part", "rank", "start", "wait"]

_parted = False


def count() -> int:
    """Return the number of processes that work together now."""
    return 1 if _parted else int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the place of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Return whether this process writes."""
    return rank() == 0


def start() -> None:
    """Join the other processes; does nothing where there are none or they are joined already."""
    global _parted
    _parted = False
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # a mixed backend: tensors of either kind can be sent, plain objects too
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # the others wait while the first one reads references or writes a model, longer than the usual half hour
        dist.init_process_group(backend, timeout=datetime.timedelta(days=1))


def part() -> None:
    """Wait for all, then work on alone: what follows is for the first process, and the others may end.

    The group is left as it is: taking a gloo group down while threads still use it has been seen to abort a process.
    """
    global _parted
    if count() > 1:
        wait()
        _parted = True


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        import torch.distributed as dist

        dist.barrier()


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
    """Let the first process run the block alone, then the others: what it stored is there for them to read.

    If the first one fails, the others are stopped by `torchrun` while they wait.
    """
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
