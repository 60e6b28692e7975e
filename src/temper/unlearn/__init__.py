"""Making a model forget: objectives composed of loss terms, one file each.

The loss terms themselves are in `temper.train.losses`, the training loop in `temper.train`, the judgement of the result
in `temper.assess`. An objective says which terms act on which roles and with what weight, and nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.unlearn.runner import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name == "run":  # torch loads only when something is unlearned
        from temper.unlearn.runner import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
