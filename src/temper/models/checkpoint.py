"""Checkpoints on disk: in which file a stored tensor lies, and which parameter it becomes.

The names in a file are not always those in memory: older files use other words (`embed_out`), leave the prefix of the base
model away (GPT-2 on the hub) or keep apart what is one tensor in memory (the experts of Mixtral). transformers knows the
rules; here its own renaming is asked, for one stored name at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import DataError, ModelError
from temper.files import inside
from temper.models.offsetfolder import MEMBERS, is_offset_folder
from temper.models.tensorfile import Place, read_header

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["INDEX_FILE", "SINGLE_FILE", "Checkpoint", "StoredNames", "open_checkpoint", "skeleton_of"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass
class Checkpoint:
    """The safetensors files of a model, in a local folder or on the hub; files of the hub are fetched when asked for.

    Attributes:
        source: A local folder or a hub name.
        revision: Branch, tag or commit on the hub.
        file_of: The file that holds each stored tensor.
        is_sharded: Whether an index names the files.
    """

    source: str
    revision: str | None
    file_of: dict[str, str]
    is_sharded: bool
    _headers: dict[str, dict[str, Place]] = field(default_factory=dict)

    def path_of(self, file: str) -> Path:
        """Return where a file of the checkpoint lies on this machine, fetched from the hub if need be.

        Raises:
            ModelError: It is not there.
        """
        found = _cached(self.source, file, self.revision)
        if found is None:
            raise ModelError(
                f"{self.source}: the file {file}, which its {INDEX_FILE} names, is missing. Complete the checkpoint."
            )
        return found

    def place_of(self, stored: str) -> Place:
        """Return dtype, shape and place of a stored tensor in its file.

        Raises:
            ModelError: Its file does not hold it.
        """
        file = self.file_of[stored]
        if file not in self._headers:
            self._headers[file] = read_header(self.path_of(file))[0]
        if stored not in self._headers[file]:
            raise ModelError(f"{self.source}: {INDEX_FILE} says that {file} holds {stored!r}, but it does not")
        return self._headers[file][stored]


def _cached(source: str, file: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    if Path(source).is_dir():
        path = inside(Path(source), file)
        return path if path.is_file() else None
    found = cached_file(source, file, revision=revision or "main", _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def open_checkpoint(source: str, revision: str | None = None) -> Checkpoint:
    """Return the stored tensors of a model and the files they lie in; of a sharded model only the index is read.

    Args:
        source: A local folder or a hub name.
        revision: Branch, tag or commit on the hub.

    Raises:
        ModelError: There are no safetensors weights, or the index is damaged.
    """
    if is_offset_folder(source):
        raise ModelError(
            f"{source}: is a logit-offset model of two checkpoints. Give the folder of one of them ({', '.join(MEMBERS)})."
        )
    single = _cached(source, SINGLE_FILE, revision)
    if single is not None:  # transformers prefers it to an index beside it
        places, _ = read_header(single)
        return Checkpoint(source, revision, dict.fromkeys(places, SINGLE_FILE), False)
    index = _cached(source, INDEX_FILE, revision)
    if index is None:
        raise ModelError(f"{source}: holds neither {SINGLE_FILE} nor {INDEX_FILE}. Save the model with save_pretrained.")
    try:
        file_of = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{index}: is no index of a sharded checkpoint ({type(error).__name__}: {error})") from error
    odd = sorted({str(file) for file in file_of.values() if not str(file).endswith(".safetensors")})
    if odd:
        raise ModelError(f"{index}: names {odd[0]}, which is no safetensors file")
    if Path(source).is_dir():
        for file in set(file_of.values()):
            try:
                inside(Path(source), file)
            except DataError as error:
                raise ModelError(f"{index}: {error}") from error
    return Checkpoint(source, revision, file_of, True)


def skeleton_of(config: PretrainedConfig, *, attention: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the causal language model of a configuration without weights (on the meta device)."""
    import torch
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **settings)


class StoredNames:
    """Which parameter of a model a stored tensor becomes when transformers loads it.

    Args:
        skeleton: The model, with or without weights.
    """

    def __init__(self, skeleton: PreTrainedModel) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self._skeleton = skeleton
        self._mapping = get_model_conversion_mapping(skeleton)
        self._renamings = [entry for entry in self._mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in self._mapping if isinstance(entry, WeightConverter)]
        self._expected = skeleton.state_dict()

    def parameter_of(self, stored: str) -> tuple[str | None, bool]:
        """Return the parameter or buffer a stored tensor becomes or is a part of (None: unused), and whether it is converted."""
        from transformers.core_model_loading import rename_source_key

        prefix = self._skeleton.base_model_prefix
        name, pattern = rename_source_key(stored, self._renamings, self._converters, prefix, self._expected)
        if name not in self._expected and stored in self._expected:
            name, pattern = rename_source_key(stored, [], [], prefix, self._expected)
        return (name, pattern is not None) if name in self._expected else (None, False)

    def stored_as(self, name: str, tensor: Any, known: set[str]) -> dict[str, Any]:
        """Return the stored tensors that a converted parameter is made of, by transformers' own reverse conversion.

        Args:
            name: The parameter.
            tensor: Its value.
            known: All stored names, each of which `parameter_of` has been asked about before.
        """
        from transformers.core_model_loading import revert_weight_conversion

        used = [entry for entry in self._mapping if entry.was_used()]
        had = getattr(self._skeleton, "_weight_conversions", None)
        self._skeleton._weight_conversions = used
        try:
            parts = revert_weight_conversion(self._skeleton, {name: tensor})
        finally:
            self._skeleton._weight_conversions = had
        prefix = self._skeleton.base_model_prefix + "."
        return {part if part in known else _other_prefix(part, prefix): value for part, value in parts.items()}


def _other_prefix(name: str, prefix: str) -> str:
    return name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
