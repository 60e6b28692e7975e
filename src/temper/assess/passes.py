"""Further passes of the original and gold models, kept by content beside the score packs: each is made once for many runs.

    CACHE/packs/KEY.parquet      KEY = hash of what the pass is, weights, precision, and every text or token that it reads

One row an item: a text, or a few numbers, or nothing. They lie apart from the score packs, so that a metric that is asked for later costs
its own pass and not the records and continuations again. What cannot be read is made again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from temper.assess.packs import pack_path, read_table, write_table
from temper.errors import DataError
from temper.files import hash_json

__all__ = ["PASS_FORMAT", "Entry", "pass_key", "remembered"]

log = logging.getLogger(__name__)

PASS_FORMAT: Final = "temper/pass/1"

Entry = str | list[float] | None
"""What a pass gave to one item."""


def pass_key(kind: str, *, weights: str, precision: str, content: Any) -> str:
    """Return the key of a pass: equal keys mean equal numbers.

    Args:
        kind: What the pass does.
        weights: Hash of the model's weights.
        precision: Numbers the model computes in.
        content: Everything else that it depends on, as JSON.
    """
    return hash_json({"format": PASS_FORMAT, "kind": kind, "weights": weights, "precision": precision, "content": content})


def remembered(key: str | None, compute: Callable[[], Sequence[Entry]]) -> list[Entry]:
    """Return what a pass gave, from the cache where it is there.

    Args:
        key: From `pass_key`; None for a pass that is not kept.
        compute: Makes the entries.
    """
    if key is None:
        return list(compute())
    path = pack_path(key)
    if path.exists():
        try:
            table, facts = read_table(path)
            if facts.get("format") != PASS_FORMAT or facts.get("key") != key:
                raise DataError(f"{path}: holds another pass")
            texts, numbers = table.column("text").to_pylist(), table.column("numbers").to_pylist()
            return [text if text is not None else row for text, row in zip(texts, numbers, strict=True)]
        except (DataError, KeyError) as error:
            log.warning("a kept pass is not usable and is made again: %s", error)
    entries = list(compute())
    _write(key, entries)
    return entries


def _write(key: str, entries: Sequence[Entry]) -> None:
    import pyarrow as pa

    columns = {
        "text": pa.array([entry if isinstance(entry, str) else None for entry in entries], pa.string()),
        "numbers": pa.array([entry if isinstance(entry, list) else None for entry in entries], pa.list_(pa.float64())),
    }
    facts = {"temper": json.dumps({"format": PASS_FORMAT, "key": key})}
    write_table(pack_path(key), pa.table(columns).replace_schema_metadata(facts))
