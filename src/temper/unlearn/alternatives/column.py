"""Alternatives from the data: a column with another response, or a list of them of which one is drawn per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from temper.draws import generator
from temper.errors import DataError, nearest
from temper.unlearn.alternatives.source import Alternatives, Draft

__all__ = ["Column"]


class Column(Alternatives):
    """Settings of a column."""

    name: ClassVar[str] = "column"
    shorthand: ClassVar[str] = "column"
    column: str = Field("alternate", min_length=1, description="Holds text, or a list of texts.")

    def responses(self, draft: Draft, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return what the column of each item holds; of a list, one drawn by (item, epoch)."""
        found = []
        for item, epoch in pairs:
            row = draft.items[item].row
            value = row.get(self.column)
            choices = [value] if isinstance(value, str) else value
            if (
                not isinstance(choices, list)
                or not choices
                or not all(isinstance(text, str) and text.strip() for text in choices)
            ):
                columns = [name for name in row if name != "id"]
                if value is None:
                    raise DataError(
                        f"data.{draft.role} row {draft.items[item].id!r}: has no column {self.column!r}, which method.alternatives names"
                        f"{nearest(self.column, columns)}. Its columns: {', '.join(columns)}."
                    )
                raise DataError(
                    f"data.{draft.role} row {draft.items[item].id!r}: method.alternatives.column = {self.column!r} must hold text or a list of texts, "
                    f"seen: {value!r:.40}. Its columns: {', '.join(columns)}."
                )
            draw = int(generator(draft.seed, "alternative", epoch, item).integers(len(choices))) if len(choices) > 1 else 0
            found.append(choices[draw])
        return found
