"""Attribution: which weights forget (WAGLE), by a number for each weight, and the masks of those with the largest.

One file a score. A score is a selection of a recipe, `{wagle: {ratio: 0.4}}`: it is computed in a stage of its own, before training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.unlearn.attribution.making import Scored, score_masks

__all__ = ["Scored", "score_masks"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch loads only when something is scored
        from temper.unlearn.attribution import making

        return getattr(making, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
