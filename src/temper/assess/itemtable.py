"""`records.parquet`: every item of every model with its record, its continuation and the value of each metric.

Every number of the evidence that is a mean can be taken again from the column `values`, and two runs on the same items compared
item by item. The file's facts hold a hash of the items of each role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from temper.assess.evidence import Which
from temper.assess.measure import Answers, Measure, PerItem
from temper.assess.packs import items_hash, read_table, record_columns, write_table
from temper.errors import DataError

__all__ = ["ITEM_TABLE", "ItemValues", "read_values", "write_items"]

ITEM_TABLE: Final = "temper/records/1"


@dataclass(frozen=True, eq=False)
class ItemValues:
    """The values of one model, from a file of records.

    Attributes:
        items: Role to the hash of its items.
        values: (metric, role) to one value an item of the role, NaN where it has none.
    """

    items: dict[str, str]
    values: dict[tuple[str, str], NDArray[np.float64]]


def write_items(path: Path, answers: Mapping[Which, Mapping[str, Answers]], measures: Mapping[Which, Sequence[Measure]]) -> Path:
    """Write the items of all models whole.

    Args:
        path: The file.
        answers: By model and role.
        measures: By model; those with a value an item are written.
    """
    import pyarrow as pa

    tables = []
    roles: dict[str, str] = {}
    for model, by_role in answers.items():
        for role, given in by_role.items():
            roles.setdefault(role, items_hash(given.items))
            values: list[list[tuple[str, float]]] = [[] for _ in given.items]
            for measure in measures[model]:
                if isinstance(measure, PerItem) and measure.role == role:
                    for place, value in zip(measure.places, measure.values, strict=True):
                        values[place].append((measure.metric, float(value)))
            count = len(given.items)
            columns: dict[str, Any] = {
                "model": pa.array([model] * count, pa.string()),
                "role": pa.array([role] * count, pa.string()),
                "id": pa.array([item.id for item in given.items], pa.string()),
                **record_columns(given.records),
                "failed": pa.array([record.failed for record in given.records], pa.bool_()),
                "generation": pa.array(list(given.generations), pa.string()),
                "values": pa.array(values, pa.map_(pa.string(), pa.float64())),
            }
            tables.append(pa.table(columns))
    facts = {"format": ITEM_TABLE, "items": roles}
    return write_table(path, pa.concat_tables(tables).replace_schema_metadata({"temper": json.dumps(facts)}))


def read_values(path: Path, model: Which = "unlearned") -> ItemValues:
    """Read the values of one model.

    Raises:
        DataError: The file is missing, is no file of records, or does not hold the model.
    """
    table, facts = read_table(path)
    if facts.get("format") != ITEM_TABLE:
        raise DataError(f"{path}: records of the form {facts.get('format')!r}; this version reads {ITEM_TABLE!r}. Assess again.")
    models, roles = table.column("model").to_pylist(), table.column("role").to_pylist()
    entries = table.column("values").to_pylist()
    places: dict[str, int] = {}
    sizes = {role: sum(m == model and r == role for m, r in zip(models, roles, strict=True)) for role in facts["items"]}
    if not any(sizes.values()):
        raise DataError(f"{path}: holds no records of the {model} model. It has: {', '.join(sorted(set(models)))}.")
    values: dict[tuple[str, str], NDArray[np.float64]] = {}
    for found, role, pairs in zip(models, roles, entries, strict=True):
        if found != model:
            continue
        place = places.get(role, 0)
        places[role] = place + 1
        for metric, value in pairs:
            values.setdefault((metric, role), np.full(sizes[role], np.nan))[place] = value
    return ItemValues(dict(facts["items"]), values)
