"""Reading rows from files, folders, the hub and the embedded world. A row is a plain dict; nothing in it is evaluated.

JSON Lines, JSON (a list, or one object a line), CSV, Parquet, plain text (one row a line, by the ending .txt or `format: text`),
a folder saved by `datasets`,
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

_FORMS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


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
    elif file.suffix.lower() in _FORMS or path.startswith((".", "/", "~")) or path.count("/") > 1:
        near = nearest(file.name, [item.name for item in file.parent.iterdir()]) if file.parent.is_dir() else ""
        raise DataError(f"{path}: no such file{near}")
    elif "/" not in path and (near := nearest(path, [item.name for item in Path().iterdir()])):
        raise DataError(f"{path}: no such file{near}. A hub data set has the form owner/name.")
    else:
        yield from _hub(source)


def _reader_of(file: Path, form: str) -> Callable[[Path], Iterator[Row]]:
    known = form if form not in ("auto", "dataset") else _FORMS.get(file.suffix.lower(), "")
    readers = {"jsonl": _json_lines, "json": _json, "csv": _csv, "parquet": _parquet, "text": _text}
    if known not in readers:
        raise DataError(
            f"{file}: cannot tell its form from the ending {file.suffix!r}. Set format to one of: jsonl, json, csv, parquet, text."
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


def _parsed(text: str, where: str) -> Any:
    """Return the JSON value of a text, which must hold nothing that cannot be written again."""
    try:
        value = json.loads(text)
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = where if error.lineno == 1 else f"{where.rsplit(' line', 1)[0]} line {error.lineno}"
        hint = "" if text.lstrip()[:1] in ("{", "[") else ". For a file of plain text, a row a line, set format: text"
        raise DataError(f"{place}: not valid JSON ({error.msg} at column {error.colno}){hint}") from error
    except (UnicodeEncodeError, RecursionError, ValueError) as error:
        raise DataError(f"{where}: JSON that cannot be used ({type(error).__name__}: {error!s:.80})") from error
    return value


def _json_lines(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        value = _parsed(line, f"{file} line {number}")
        if not isinstance(value, dict):
            raise DataError(f"{file} line {number}: expected an object with columns, seen {type(value).__name__}")
        yield value


def _json(file: Path) -> Iterator[Row]:
    first = next((line for _, line in _lines(file)), "")
    if not first.lstrip().startswith("["):
        yield from _json_lines(file)
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    value = _parsed(text, f"{file} line 1")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{file} row {number}: expected an object with columns, seen {type(row).__name__}")
        yield row


def _csv(file: Path) -> Iterator[Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            header = list(reader.fieldnames or [])
            if len(set(header)) < len(header):
                twice = sorted({name for name in header if header.count(name) > 1})
                raise DataError(f"{file} line 1: columns named twice: {', '.join(twice)}")
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
    seen: set[str] = set()
    named = []
    for row in rows:
        own = row.get(source.id)
        first = name = str(own) if own is not None and str(own) else hash_json(json.loads(json.dumps(row, default=str)))[:16]
        repeat = 1
        while name in seen:
            repeat += 1
            name = f"{first}#{repeat}"
        seen.add(name)
        named.append({**row, "id": name})
    return named
