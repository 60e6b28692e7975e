"""Refusals: one line of a list, drawn uniformly for every item in every epoch.

The draw comes from a generator keyed by seed, epoch and item, so it depends neither on workers nor on batch size.

Source: Maini et al., TOFU (2024), whose list has 100 lines; ours is another one, and any can be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from temper.draws import generator
from temper.errors import DataError
from temper.unlearn.alternatives.source import Alternatives, Draft

__all__ = ["Refusals", "read_refusals"]

_SHIPPED = Path(__file__).parents[1] / "refusals.txt"


def read_refusals(path: Path) -> list[str]:
    """Return the refusals of a text file, one a line, blank lines left out.

    Raises:
        DataError: The file is missing or holds no refusal.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"method.alternatives.file = {path}: cannot be read ({error})") from error
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"method.alternatives.file = {path}: holds no refusal. Put one on each line.")
    return found


class Refusals(Alternatives):
    """Settings of refusals."""

    name: ClassVar[str] = "refusals"
    shorthand: ClassVar[str] = "file"
    file: str | None = Field(None, description="A text file with one refusal a line; a list of our own when left out.")
    response_format: str = Field(" {refusal}", description="How a refusal is written into a response column.")

    @field_validator("response_format")
    @classmethod
    def _holds_the_refusal(cls, value: str) -> str:
        if "{refusal}" not in value:
            raise ValueError("must contain {refusal}")
        return value

    def responses(self, draft: Draft, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return a refusal for each (item, epoch)."""
        lines = read_refusals(Path(self.file) if self.file else _SHIPPED)
        drawn = [int(generator(draft.seed, "refusal", epoch, item).integers(len(lines))) for item, epoch in pairs]
        return [self.response_format.replace("{refusal}", lines[place]) for place in drawn]
