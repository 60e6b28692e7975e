"""Files that appear whole or not at all, hashes of content, and paths that stay in their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from temper.errors import DataError, DiskFull

__all__ = [
    "append_line",
    "cache_folder",
    "file_aside",
    "folder_aside",
    "hash_bytes",
    "hash_file",
    "hash_json",
    "inside",
    "read_json",
    "write_json",
    "write_jsonl",
    "write_text",
]


def cache_folder() -> Path:
    """Return the cache folder: ``$TEMPER_CACHE``, else ``$XDG_CACHE_HOME/temper``, else ``~/.cache/temper``."""
    if named := os.environ.get("TEMPER_CACHE"):
        folder = Path(named).expanduser()
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            what = "is a file" if not there.is_dir() else "cannot be written to"
            raise DataError(f"TEMPER_CACHE = {named}: {there} {what}. Name a folder that can be made or written to.")
        return folder
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "temper"


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order."""
    return hash_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # safetensors writes from Rust and reports the same condition as text
        full = (
            error.errno in (errno.ENOSPC, errno.EDQUOT) if isinstance(error, OSError) else "No space left on device" in str(error)
        )
        if full:
            raise DiskFull(
                f"{path}: no space left on the device. Free some space and run the same command again; it resumes."
            ) from error
        raise


@contextlib.contextmanager
def file_aside(path: Path) -> Iterator[BinaryIO]:
    """Give a file to fill; when the block ends well it is flushed and renamed over ``path``, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _disk_full_named(path):
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.chmod(aside, 0o644)  # mkstemp makes files private; results are meant to be shared
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(aside).unlink()
            raise


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole."""
    with file_aside(path) as handle:
        handle.write(text.encode())
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file whole, indented, with a final newline. NaN is refused."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a JSON Lines file whole."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line in a single write, so that a killed process leaves at most one torn last line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with _disk_full_named(path), path.open("ab+") as handle:
        if handle.tell() > 0:
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                line = "\n" + line  # the torn line of a killed process stays a line of its own
        handle.write(line.encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it takes the place of ``path``, else it is removed.

    An existing folder at ``path`` is replaced only after the new one is complete and flushed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _disk_full_named(path):
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    file.chmod(0o644)  # some writers make files private; results are meant to be shared
                    descriptor = os.open(file, os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
        os.chmod(aside, 0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / "replaced")
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name`` after checking that it stays in the folder.

    Raises:
        DataError: The name is absolute or climbs out of the folder.
    """
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise DataError(f"{name!r} leaves the folder {folder}. Give a path inside it.")
    return folder / name
