"""Where a parameter lies in a model, read off its name: in which block, and what it is called there."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["kind_of", "layer_of"]

_IN_A_BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.(.+)$")
_ENDINGS: Final = (".weight", ".bias")


def layer_of(name: str) -> int | None:
    """Return the number of the block that a parameter lies in; None outside of blocks.

    Example:
        >>> layer_of("model.layers.3.mlp.down_proj.weight"), layer_of("model.embed_tokens.weight")
        (3, None)
    """
    found = _IN_A_BLOCK.search(name)
    return int(found[1]) if found else None


def kind_of(name: str) -> str:
    """Return what a parameter is called in every block, or its module where it lies in none.

    Example:
        >>> kind_of("model.layers.3.mlp.down_proj.weight"), kind_of("model.embed_tokens.weight"), kind_of("lm_head.weight")
        ('mlp.down_proj', 'embed_tokens', 'lm_head')
    """
    found = _IN_A_BLOCK.search(name)
    inner = found[2] if found else name.rsplit("model.", 1)[-1].removeprefix("transformer.")
    for ending in _ENDINGS:
        inner = inner.removesuffix(ending)
    return inner
