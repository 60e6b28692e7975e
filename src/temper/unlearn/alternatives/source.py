"""What every source of alternative responses is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from temper.errors import InputError
from temper.recipe import NamedSettings

if TYPE_CHECKING:
    from temper.data import Item

__all__ = ["Alternatives", "Draft"]


@dataclass
class Draft:
    """What a source may use.

    Attributes:
        items: The rows of the role.
        seed: Seed of the run.
        role: The role, for messages and draws.
        folder: Where generated responses are kept between starts of a run; None while nothing may be written.
        model: The model from before, with its tokenizer; None until it is loaded.
        tokenizer: The tokenizer.
        max_length: Tokens a row may have.
        progress: Called as generation proceeds.
    """

    items: Sequence[Item]
    seed: int
    role: str = "forget"
    folder: Path | None = None
    model: Any = None
    tokenizer: Any = None
    max_length: int = 512
    progress: Callable[[str, int, int, str], None] | None = None


class Alternatives(NamedSettings):
    """Base of all sources.

    Attributes:
        needs_model: Whether responses can be written only once the model is loaded.
    """

    needs_model: ClassVar[bool] = False

    def responses(self, draft: Draft, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return one response for each (item, epoch); the same pair always gets the same one.

        Raises:
            DataError: A row does not hold what the source reads.
        """
        raise InputError(f"alternatives {self.name} gives no responses")
