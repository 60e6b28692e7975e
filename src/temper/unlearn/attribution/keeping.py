"""Where gradients lie: in the cache, for as long as somebody reads them, or in a folder of their own that goes when masks are made."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from temper.data import Item
from temper.errors import DiskFull
from temper.files import cache_folder
from temper.unlearn.attribution.gradients import SPILL_LIMIT

__all__ = ["bytes_while_taken", "gradient_cache", "gradient_folder", "make_room"]

KEEP_LIMIT: Final = 2**30
"""Bytes of gradients up to which they stay in the cache."""

CACHE_LIMIT: Final = 4 * 2**30
"""Bytes of all gradients in the cache; the oldest go first."""


def gradient_cache() -> Path:
    """Return the folder in which small gradients stay."""
    return cache_folder() / "attribution"


def make_room(cache: Path, size: int) -> None:
    """Drop the gradients that were not read for longest until others of this size fit. One that is being read stays readable."""
    known = []
    for file in cache.glob("*/gradients.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            if not file.parent.name.startswith("."):  # those are still being written
                facts = file.stat()
                known.append((facts.st_mtime_ns, facts.st_size, file.parent))
    total = sum(held for _, held, _ in known)
    for _, held, folder in sorted(known):
        if total + size <= CACHE_LIMIT:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= held


def bytes_while_taken(model: Any, size: int, items: Mapping[str, Sequence[Item]]) -> int:
    """Return about how many bytes lie on disk while gradients are taken: their float32 sums, and activations that wait."""
    config = model.config.get_text_config()
    tokens = max((sum(len(item.input_ids) for item in part) for part in items.values()), default=0)
    width = next(iter(model.parameters())).element_size()
    # some forty numbers a token for each unit of width, in every block
    activations = 40 * width * int(config.hidden_size) * int(config.num_hidden_layers) * tokens
    return int(4 * size + min(activations, SPILL_LIMIT))


@contextlib.contextmanager
def gradient_folder(identity: str | None, size: int, waiting: int) -> Iterator[Path]:
    """Give the folder for gradients: in the cache, for good where they are small and belong to a model that can be told from others."""
    cache = gradient_cache()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if (size + waiting) * 1.1 > free:
        raise DiskFull(
            f"gradients of the forget and retain rows take {size / 2**30:.1f} GiB in {cache}, and {waiting / 2**30:.1f} GiB while they are taken, where "
            f"{free / 2**30:.1f} GiB are free. Exclude parameters, set hold: bfloat16 in the selection, or give another cache folder (TEMPER_CACHE)."
        )
    if identity is not None and size <= KEEP_LIMIT:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="once-", dir=cache) as folder:
        yield Path(folder)
