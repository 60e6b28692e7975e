"""The folder of a logit-offset model: two model folders and what joins them. Nothing heavy is imported.

FOLDER/offset.json     {"schema": "temper/offset/1", "strength": a, "members": {"original": ..., "reinforced": ...}}
FOLDER/original/       θ_0: config, weights, tokenizer
FOLDER/reinforced/     the reinforced model: config, weights
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from temper.errors import DataError, ModelError
from temper.files import inside, read_json, write_json

__all__ = [
    "MEMBERS",
    "OFFSET_FILE",
    "OFFSET_FORMAT",
    "OffsetFolder",
    "check_strength",
    "is_offset_folder",
    "read_offset",
    "write_offset",
]

OFFSET_FILE: Final = "offset.json"
OFFSET_FORMAT: Final = "temper/offset/1"
MEMBERS: Final = ("original", "reinforced")
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class OffsetFolder:
    """Where the parts of a saved logit-offset model lie.

    Attributes:
        folder: The folder itself.
        strength: a, at least 0.
        original: Folder of θ_0.
        reinforced: Folder of the reinforced model.
    """

    folder: Path
    strength: float
    original: Path
    reinforced: Path

    @property
    def tokenizer(self) -> Path:
        """Return where the tokenizer lies: with the original, else beside offset.json, as a training run writes it."""
        for place in (self.original, self.folder):
            if holds_tokenizer(place):
                return place
        return self.original


def holds_tokenizer(folder: Path) -> bool:
    """Return whether a tokenizer lies in a folder."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def is_offset_folder(folder: str | Path) -> bool:
    """Return whether a path is the folder of a logit-offset model: one that holds offset.json."""
    return (Path(folder) / OFFSET_FILE).is_file()


def check_strength(strength: float, where: str) -> float:
    """Return a strength that can be used.

    Raises:
        ModelError: It is negative, which would raise the logits the reinforced model prefers, or no finite number.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength) or strength < 0:
        raise ModelError(f"{where} = {strength!r}: must be a finite number, at least 0 (0 leaves the original model's logits)")
    return float(strength)


def write_offset(folder: Path, strength: float) -> None:
    """Write offset.json for members that lie in `original` and `reinforced`."""
    write_json(folder / OFFSET_FILE, {"schema": OFFSET_FORMAT, "strength": strength, "members": {name: name for name in MEMBERS}})


def read_offset(folder: str | Path) -> OffsetFolder:
    """Return what offset.json says, checked; the members themselves are not opened.

    Raises:
        ModelError: There is no offset.json, it is of another form, or a member's folder is missing.
    """
    file = Path(folder) / OFFSET_FILE
    try:
        content = read_json(file)
    except DataError as error:
        raise ModelError(f"{error}. Give a folder that LogitOffsetModel.save_pretrained wrote.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != OFFSET_FORMAT:
        raise ModelError(f"{file}: schema = {schema!r}, but {OFFSET_FORMAT!r} is read here. Save the model again.")
    members = content.get("members")
    if not isinstance(members, dict) or sorted(members) != sorted(MEMBERS):
        raise ModelError(f"{file}: members = {members!r}, but it must name the folders of {' and '.join(MEMBERS)}")
    places = {}
    for name in MEMBERS:
        try:
            places[name] = inside(Path(folder), str(members[name]))
        except DataError as error:
            raise ModelError(f"{file}: members.{name}: {error}") from error
        if not places[name].is_dir():
            raise ModelError(
                f"{file}: members.{name} = {members[name]!r}: no such folder. The copy is incomplete; save or copy it again."
            )
    strength = check_strength(content.get("strength"), f"{file}: strength")
    return OffsetFolder(Path(folder), strength, places["original"], places["reinforced"])
