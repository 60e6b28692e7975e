"""What changed in the weights of each run: read from its manifest, said in words and tables.

The facts are those that the run took of its own files (`temper.unlearn.damage`); a model that was only judged has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from temper.display.numbers import compact
from temper.display.tables import Cell, Heading, Row, Table, absent
from temper.display.theme import icon
from temper.errors import DataError
from temper.files import read_json
from temper.report.columns import Column, Columns

__all__ = [
    "Change",
    "Damage",
    "Layer",
    "Told",
    "changes_table",
    "damage_in",
    "damages_of",
    "finely",
    "layer_name",
    "one_line",
    "places_table",
    "said",
]


_RELATIVE: Final = Heading("relative change", "‖Δθ‖ / ‖θ‖")


class Change(BaseModel):
    """Counts over some weights; a relative change is null where the weights from before are zero or the new ones no numbers."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    parameters: int = Field(ge=0)
    changed: int = Field(ge=0)
    share_changed: float = Field(ge=0, le=1)
    relative_change: float | None = Field(ge=0)
    not_finite: int = 0
    selected: int | None = None
    moved: int | None = None
    share_moved: float | None = None
    others: int | None = None
    others_moved: int | None = None

    @property
    def share_selected(self) -> float | None:
        """The share of weights that were to change, None where it is not known."""
        return None if self.selected is None or not self.parameters else self.selected / self.parameters


class Layer(Change):
    """A decoder block, counted from 0; null is what lies outside of them."""

    layer: int | None


class _Kind(Change):
    kind: str


class Damage(Change):
    """What a run did to the weights."""

    layers: list[Layer]
    kinds: list[_Kind]
    strays: list[str] = []
    dtype: dict[str, str] = {}
    selection_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of one run: a sentence that begins with its name, a chip with its class, and further lines."""

    name: str
    sentence: str
    chip: tuple[str, str] | None
    details: tuple[str, ...]


def damage_in(folder: Path) -> Damage | str | None:
    """Return what the run in a folder did to the weights, the reason why it cannot be told, or None where it was not taken.

    Raises:
        DataError: The manifest holds something else there.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    stage = read_json(path).get("stages", {}).get("unlearn", {})
    found: Any = stage.get("damage") if isinstance(stage, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    if "share_changed" not in found:
        return str(found.get("reason", "the run gave no reason"))
    try:
        return Damage.model_validate(found)
    except ValidationError as error:
        raise DataError(
            f"{path}: stages.unlearn.damage is not what this version writes ({error.error_count()} fields differ). Make the run again."
        ) from error


def damages_of(models: Columns, damages: Sequence[Damage | str | None]) -> list[tuple[Column, Damage]]:
    """Return the runs of which it is known, with what is."""
    return [(column, found) for column, found in zip(models.runs, damages, strict=True) if isinstance(found, Damage)]


def finely(share: float) -> str:
    r"""Return a share in per cent, two digits of small ones, and never 0 or 100 for a share that is neither.

    Example:
        >>> finely(0.364), finely(0.000123), finely(0.99999), finely(1.0), finely(0.0)
        ('36.4\xa0%', '0.012\xa0%', '99.99\xa0%', '100\xa0%', '0\xa0%')
    """
    if share in (0.0, 1.0):
        return f"{share * 100:.0f}\u00a0%"
    if 0.99 <= share < 1:
        return f"{math.floor(share * 10_000) / 100:.4g}\u00a0%"
    return f"{float(f'{100 * share:.{2 if share < 0.1 else 3}g}'):g}\u00a0%"


def one_line(found: Damage | str | None) -> str:
    """Return what a run did to the weights in one line, for a terminal.

    Example:
        >>> one_line("two models answer together")
        'what changed cannot be told: two models answer together'
    """
    if not isinstance(found, Damage):
        return f"what changed cannot be told: {found or 'it was not measured'}"
    line = f"{finely(found.share_changed)} of {compact(found.parameters)} changed"
    if found.not_finite:
        line += f", {compact(found.not_finite)} are not numbers any more"
    elif found.relative_change:
        line += f", by {finely(found.relative_change)} of their norm"
        blocks = [(row.relative_change, row.layer) for row in found.layers if row.layer is not None and row.relative_change]
        if len(blocks) > 1:
            most, layer = max(blocks, key=lambda pair: pair[0])
            line += f" (most in block {layer}: {finely(most)})"
    if found.selected and found.share_moved is not None and found.selected < found.parameters:
        others = "none" if not found.others_moved else compact(found.others_moved)
        line += f"; of {compact(found.selected)} selected {finely(found.share_moved)} moved, of all others {others}"
    return line


def said(models: Columns, damages: Sequence[Damage | str | None]) -> list[Told]:
    """Return what the weights of each run say, in words."""
    return [_said(column.name, found) for column, found in zip(models.runs, damages, strict=True)]


def _said(name: str, found: Damage | str | None) -> Told:
    if not isinstance(found, Damage):
        reason = found or "its run was not made here, or by an earlier version, which did not compare the weights"
        return Told(name, f"{name}: {reason}.", ("cannot tell", "unknown"), ())
    sentence = f"{name}: {finely(found.share_changed)} of {compact(found.parameters)} weights changed"
    if found.relative_change:
        sentence += f"; all together they moved by {finely(found.relative_change)} of their norm"
    details = [f"{compact(found.not_finite)} weights are not numbers any more."] if found.not_finite else []
    before, after = found.dtype.get("before"), found.dtype.get("after")
    if before != after:
        details.append(
            f"Compared in {after}: the checkpoint stores {before}, and what loading it in {after} rounds is not counted."
        )
    if found.selected is None:
        why = f" ({found.selection_reason})" if found.selection_reason else ""
        return Told(name, f"{sentence}.", None, (*details, f"No single weights were selected beforehand{why}."))
    if found.selected == found.parameters:
        return Told(name, f"{sentence}. All were free to.", None, tuple(details))
    return Told(name, f"{sentence}. {_of_selection(found)}", _chip(found), (*details, *_strays(found)))


def _of_selection(found: Damage) -> str:
    share = finely(found.share_moved) if found.share_moved is not None else "none"
    others = (
        f"not one of the {compact(found.others or 0)} others did, compared bit by bit"
        if not found.others_moved
        else f"so did {compact(found.others_moved)} of the {compact(found.others or 0)} others"
    )
    return f"Of the {compact(found.selected or 0)} that were selected ({finely(found.share_selected or 0.0)}), {share} moved; {others}."


def _chip(found: Damage) -> tuple[str, str]:
    return ("rest changed", "leak") if found.others_moved else ("rest untouched", "met")


def _strays(found: Damage) -> list[str]:
    more = f" and {len(found.strays) - 3} more" if len(found.strays) > 3 else ""
    return [f"Weights changed that were not selected, in {', '.join(found.strays[:3])}{more}."] if found.strays else []


def _head(column: Column) -> Heading:
    return Heading(column.name, icon=icon(column.mark))


def _share(value: float | None, count: int | None) -> Cell:
    return (
        Cell(finely(value), "", compact(count) if count is not None else "")
        if value is not None
        else replace(absent("absent", None), reason="")
    )


def _relative(found: Change) -> Cell:
    if found.relative_change is not None:
        return Cell(finely(found.relative_change))
    return Cell(chip="cannot tell", reason="not numbers" if found.not_finite else "all zero before")


def changes_table(models: Columns, damages: Sequence[Damage | str | None]) -> Table | None:
    """Return one row a run: what changed, and how much of the selection was real; None where nothing is known."""
    rows = []
    for column, found in damages_of(models, damages):
        cells: tuple[Cell, ...] = (_share(found.share_changed, found.changed), _relative(found))
        if found.selected is None:
            cells += (Cell("no weights", columns=3),)
        else:
            others = Cell(compact(found.others_moved or 0), "", f"of {compact(found.others or 0)}")
            cells += (_share(found.share_selected, found.selected), _share(found.share_moved, found.moved), others)
        rows.append(Row(_head(column), cells))
    heads = (Heading("changed"), _RELATIVE, Heading("selected"), Heading("of these moved"), Heading("others that moved"))
    caption = "The weights as they are saved, against the model from before, entry by entry and bit for bit. Shared matrices count once."
    return Table(caption, "run", heads, tuple(rows)) if rows else None


def layer_name(layer: int | None) -> str:
    """Return what a layer is called."""
    return f"block {layer}" if layer is not None else "outside the blocks"


def places_table(models: Columns, damages: Sequence[Damage | str | None]) -> Table | None:
    """Return where it changed, one row a layer and one a kind of module; None where nothing is known.

    Of several runs there is one column each, of a single one there is a column for each number.
    """
    known = damages_of(models, damages)
    if not known:
        return None
    alone = known[0][1] if len(known) == 1 else None
    layers = [{layer_name(row.layer): row for row in found.layers} for _, found in known]
    kinds = [{row.kind: row for row in found.kinds} for _, found in known]
    rows: list[Row] = []
    for title, tables in (("by layer", layers), ("by kind of module", kinds)):
        rows.append(Row(Heading(title)))
        names = dict.fromkeys(name for table in tables for name in table)
        cells = _numbers if alone is not None else _beside
        rows += [Row(Heading(name), cells([table.get(name) for table in tables])) for name in names]
    if alone is not None:
        heads = [
            _RELATIVE,
            Heading("changed"),
            *([Heading("selected"), Heading("of these moved")] if alone.selected is not None else []),
        ]
        return Table("Where it changed.", "weights", tuple(heads), tuple(rows))
    caption = "Where it changed: relative change ‖Δθ‖ / ‖θ‖ of the weights there, and below it the share that changed and that was selected."
    return Table(caption, "weights", tuple(_head(column) for column, _ in known), tuple(rows))


def _beside(found: Sequence[Change | None]) -> tuple[Cell, ...]:
    """Return one cell a run."""
    return tuple(_place(one) if one is not None else Cell("–") for one in found)


def _place(found: Change) -> Cell:
    selected = f"{finely(found.share_selected)} selected" if found.share_selected is not None else ""
    return replace(_relative(found), interval=f"{finely(found.share_changed)} changed", count=selected)


def _numbers(found: Sequence[Change | None]) -> tuple[Cell, ...]:
    """Return one cell a number of a single run."""
    (one,) = found
    assert one is not None  # the rows are those of this run
    cells = (_relative(one), Cell(finely(one.share_changed)))
    if one.share_selected is None:
        return cells
    return (*cells, Cell(finely(one.share_selected)), Cell(finely(one.share_moved) if one.share_moved is not None else "–"))
