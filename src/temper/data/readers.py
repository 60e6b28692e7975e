"""Reading rows from files, folders, the hub and the embedded world. A row is a plain dict; nothing in it is evaluated.

JSON Lines, JSON (a list, or one object a line), CSV, Parquet, plain text (one row a line), a folder saved by `datasets`,
or a hub data set. Every fault names the file and the row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from temper.errors import DataError, nearest
from temper.files import hash_json
from temper.recipe import DataSource, WorldSection

__all__ = ["read"]

Row = dict[str, Any]


def read(source: DataSource, world: WorldSection) -> list[Row]:
    """Return the rows of a source, each with its original columns and a text `id` that no other row of it has.

    Args:
        source: Where the rows are.
        world: Which embedded world a `world:` path means.

    Raises:
        DataError: A file is missing, broken or empty; file and row are named.
    """
    rows = list(_rows(source, world))
    rows = rows[source.skip : None if source.limit is None else source.skip + source.limit]
    if not rows:
        raise DataError(f"{source.path}: holds no rows" + (f" after skip={source.skip}" if source.skip else ""))
    return _named(rows, source)


def _rows(source: DataSource, world: WorldSection) -> Iterator[Row]:
    path = source.path
    if path.startswith("world:"):
        from temper.world import locate, world_spec

        yield from _json_lines(locate(path, world_spec(world.size, world.seed)))
        return
    file = Path(path).expanduser()
    if file.is_dir():
        yield from _dataset_folder(file, source)
    elif file.is_file():
        yield from _reader_of(file, source.format)(file)
    elif file.suffix or path.startswith((".", "/", "~")) or path.count("/") > 1:
        near = nearest(file.name, [item.name for item in file.parent.iterdir()]) if file.parent.is_dir() else ""
        raise DataError(f"{path}: no such file{near}")
    else:
        yield from _hub(source)


def _reader_of(file: Path, form: str) -> Callable[[Path], Iterator[Row]]:
    readers = {"jsonl": _json_lines, "json": _json, "csv": _csv, "parquet": _parquet, "txt": _text}
    known = form if form not in ("auto", "dataset") else file.suffix.lstrip(".").lower()
    if known not in readers:
        raise DataError(
            f"{file}: cannot tell its form from the ending {file.suffix!r}. Set format to one of: jsonl, json, csv, parquet."
        )
    return readers[known]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline=None) as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _json_lines(file: Path) -> Iterator[Row]:
    """Yield one row an object; a file whose first line is no JSON at all is read as plain text."""
    for number, line in _lines(file):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if number == 1 and line.lstrip()[:1] not in ("{", "[", '"'):
                yield from _text(file)
                return
            raise DataError(f"{file} line {number}: not valid JSON ({error.msg} at column {error.colno})") from error
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise DataError(f"{file} line {number}: expected an object with columns, seen {type(value).__name__}")
        yield value


def _json(file: Path) -> Iterator[Row]:
    first = next((line for _, line in _lines(file)), "")
    if not first.lstrip().startswith("["):
        yield from _json_lines(file)
        return
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file} line {error.lineno}: not valid JSON ({error.msg} at column {error.colno})") from error
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{file} row {number}: expected an object with columns, seen {type(row).__name__}")
        yield row


def _csv(file: Path) -> Iterator[Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{file} line {reader.line_num}: has another number of fields than the header ({len(reader.fieldnames or [])})"
                    )
                yield dict(row)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise DataError(f"{file}: not valid CSV ({error})") from error


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a Parquet file ({error})") from error
    yield from table.to_pylist()


def _text(file: Path) -> Iterator[Row]:
    for _, line in _lines(file):
        yield {"text": line}


def _dataset_folder(folder: Path, source: DataSource) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise DataError(f"{folder}: not a folder saved by datasets ({error})") from error
    if isinstance(found, DatasetDict):
        if source.split not in found:
            raise DataError(
                f"{folder}: split {source.split!r} is not there{nearest(str(source.split), found)}. It has: {', '.join(found)}."
            )
        found = found[source.split]
    yield from found


def _hub(source: DataSource) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        yield from load_dataset(source.path, source.config, split=source.split or "train")
    except (FileNotFoundError, ConnectionError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source.path}: no such file, and not reachable as a hub data set ({reason})") from error


def _named(rows: list[Row], source: DataSource) -> list[Row]:
    """Give every row an id: its own column, else the hash of its content; repeats get a number."""
    seen: dict[str, int] = {}
    named = []
    for row in rows:
        own = row.get(source.id)
        name = str(own) if own is not None and str(own) else hash_json(json.loads(json.dumps(row, default=str)))[:16]
        seen[name] = seen.get(name, 0) + 1
        named.append({**row, "id": name if seen[name] == 1 else f"{name}#{seen[name]}"})
    return named
