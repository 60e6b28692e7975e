"""Score packs: what one model gave on one set of items, as Parquet, so that original and gold are scored once for many runs.

    CACHE/packs/KEY.parquet      KEY = hash of weights, items, number of new tokens, precision, version of this form

One row an item: id, the arrays of its record, its continuation. A pack that cannot be read, or was made for other items, is scored again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from temper.assess.record import Record
from temper.errors import DataError
from temper.files import cache_folder, file_aside, hash_json

if TYPE_CHECKING:
    import pyarrow as pa

    from temper.data import Item

__all__ = [
    "PACK_FORMAT",
    "Pack",
    "items_hash",
    "pack_key",
    "pack_path",
    "read_pack",
    "read_table",
    "record_columns",
    "write_pack",
    "write_table",
]

log = logging.getLogger(__name__)

PACK_FORMAT: Final = "temper/pack/1"
_ARRAYS: Final = {
    "logp": np.float32,
    "mu": np.float32,
    "var": np.float32,
    "hit": np.bool_,
    "token": np.int32,
    "is_eos": np.bool_,
}


@dataclass(frozen=True, eq=False)
class Pack:
    """What one model gave on one set of items.

    Attributes:
        key: Of `pack_key`.
        parameters: Of the model.
        records: One an item.
        generations: One an item; None for a row without a prompt.
    """

    key: str
    parameters: int
    records: Sequence[Record]
    generations: Sequence[str | None]


def items_hash(items: Sequence[Item]) -> str:
    """Return one hash over everything of some items that a model sees."""
    return hash_json([[item.id, list(item.input_ids), list(item.labels), item.prompt] for item in items])


def pack_key(*, weights: str, items: str, max_new_tokens: int, precision: str) -> str:
    """Return the key of a pack: equal keys mean equal numbers.

    Args:
        weights: Hash of the model's weights.
        items: From `items_hash`.
        max_new_tokens: Where continuations are cut.
        precision: Numbers the model computes in.
    """
    return hash_json(
        {"format": PACK_FORMAT, "weights": weights, "items": items, "max_new_tokens": max_new_tokens, "precision": precision}
    )


def pack_path(key: str) -> Path:
    """Return where the cache keeps a pack."""
    return cache_folder() / "packs" / f"{key[:40]}.parquet"


def write_table(path: Path, table: pa.Table) -> Path:
    """Write a Parquet file whole."""
    import pyarrow.parquet as pq

    with file_aside(path) as handle:
        pq.write_table(table, handle, compression="zstd")
    return path


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return a table that this module wrote and the facts written with it.

    Raises:
        DataError: The file is missing, is no Parquet file or carries no facts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pq.read_table(path)
        return table, dict(json.loads((table.schema.metadata or {})[b"temper"]))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a table of this library ({type(error).__name__}: {error})") from error


def record_columns(records: Sequence[Record]) -> dict[str, pa.Array]:
    """Return the arrays of records as columns of lists."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(record.logp) for record in records])]).astype(np.int32)
    columns = {}
    for name, dtype in _ARRAYS.items():
        parts = [getattr(record, name) for record in records]
        flat = np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.astype(dtype), from_pandas=False))
    return columns


def write_pack(path: Path, pack: Pack) -> Path:
    """Write a pack whole."""
    import pyarrow as pa

    columns: Mapping[str, Any] = {
        "id": pa.array([record.id for record in pack.records], pa.string()),
        **record_columns(pack.records),
        "generation": pa.array(list(pack.generations), pa.string()),
    }
    facts = {"format": PACK_FORMAT, "key": pack.key, "parameters": pack.parameters}
    return write_table(path, pa.table(columns).replace_schema_metadata({"temper": json.dumps(facts)}))


def read_pack(path: Path, key: str, ids: Sequence[str]) -> Pack:
    """Read a pack.

    Raises:
        DataError: There is none, it cannot be read, or it was made for another key or other items.
    """
    table, facts = read_table(path)
    if facts.get("format") != PACK_FORMAT or facts.get("key") != key:
        raise DataError(f"{path}: a pack of other scores (key {str(facts.get('key'))[:12]}, wanted {key[:12]})")
    if table.column("id").to_pylist() != list(ids):
        raise DataError(f"{path}: holds other items than asked for ({len(table)} there, {len(ids)} here)")
    arrays: dict[str, list[Any]] = {}
    for name, dtype in _ARRAYS.items():
        column = table.column(name).combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(dtype)
        arrays[name] = np.split(flat, np.cumsum(column.value_lengths().to_numpy())[:-1]) if len(column) else []
    records = [Record(item_id, **{name: arrays[name][place] for name in _ARRAYS}) for place, item_id in enumerate(ids)]
    return Pack(key, int(facts["parameters"]), records, table.column("generation").to_pylist())
