"""What a row says of where it comes from: the document it was cut from, and whether its response was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.errors import DataError, nearest
from temper.recipe import DataSource

__all__ = ["check_named", "document_of", "is_whole"]


def check_named(rows: Sequence[dict[str, Any]], source: DataSource, where: str) -> None:
    """Refuse a column that is named and that no row has: a slip in its name would say nothing.

    Raises:
        DataError: Naming the field and the nearest column.
    """
    for field_name in ("document", "whole"):
        name = getattr(source, field_name)
        if name is not None and rows and not any(name in row for row in rows):
            columns = sorted({column for row in rows for column in row} - {"id"})
            raise DataError(
                f"{where}: no row has the column {name!r}, which `{field_name}` names{nearest(name, columns)}. Columns: {', '.join(columns)}."
            )


def is_whole(row: dict[str, Any], source: DataSource, where: str) -> bool:
    """Return whether a row's response ends where it ends, as its column says; without one it does."""
    value = None if source.whole is None else row.get(source.whole)
    if value is None:
        return True
    said = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(said, bool):
        raise DataError(f"{where} row {row['id']!r}: column {source.whole!r} holds {value!r:.40}, expected true or false")
    return said


def document_of(row: dict[str, Any], source: DataSource, where: str) -> str:
    """Return the name of the document a row was cut from; the row's own where no column names it."""
    value = None if source.document is None else row.get(source.document)
    if value is None or value == "":
        return str(row["id"])
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(
            f"{where} row {row['id']!r}: column {source.document!r} holds {value!r:.40}, expected the name or number of a document"
        )
    return str(value)
