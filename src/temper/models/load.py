"""Loading models and tokenizers: a local folder, a hub name or the embedded world's models. Only safetensors weights.

A local folder may be that of a logit-offset model (`temper.models.offset`): its configuration and tokenizer are those of
the original model in it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import ModelError, TemperError, nearest
from temper.files import hash_file, hash_json
from temper.models.offsetfolder import MEMBERS, is_offset_folder, read_offset
from temper.recipe import ModelSection, WorldSection

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "config_hash",
    "load_config",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "pad_id_of",
    "resolve_path",
    "row_limit",
    "weights_hash",
]

_USUAL_LENGTH = 512
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def model_identity(section: ModelSection, world: WorldSection) -> str | None:
    """Return what tells the texts of a model apart: its weights or commit, its configuration, what ends its replies, and how it is loaded.

    None where the hub gave no commit.
    """
    source = resolve_path(section.path, world)
    config = load_config(section.path, section=section, world=world)
    ends = None
    if Path(source).is_dir():
        weights: str | None = weights_hash(source)
        generation = Path(source) / "generation_config.json"
        ends = json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id") if generation.is_file() else None
    else:
        weights = getattr(config, "_commit_hash", None)
    return None if weights is None else hash_json([weights, config_hash(config), ends, section.dtype, section.attention])


def config_hash(config: PretrainedConfig) -> str:
    """Return a hash of what a configuration says about the function that weights make: rotary base, norms, caps, windows, dtype."""
    said = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version", "use_cache")
    }
    return hash_json(json.loads(json.dumps(said, default=str)))


def resolve_path(path: str, world: WorldSection) -> str:
    """Return a local folder or a hub name; `world:` names are built on demand and become folders.

    Raises:
        ModelError: A local folder holds no model, or only pickled weights.
    """
    if path.startswith("world:"):
        from temper.world import locate, world_spec

        return str(locate(path, world_spec(world.size, world.seed)))
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if folder.is_file():
        raise ModelError(f"{path}: is a file. Give the folder that holds config.json and the safetensors weights.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        near = nearest(folder.name, [item.name for item in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise ModelError(f"{path}: no such folder{near}")
    if "/" not in path and (near := nearest(path, [item.name for item in Path().iterdir() if item.is_dir()])):
        raise ModelError(f"{path}: no such folder{near}. A hub name has the form owner/name.")
    return path


def _check_folder(folder: Path) -> None:
    if is_offset_folder(folder):
        parts = read_offset(folder)
        for part in (parts.original, parts.reinforced):
            _check_folder(part)
        return
    names = [item.name for item in folder.iterdir()]
    if "config.json" not in names:
        raise ModelError(f"{folder}: holds no config.json, so it is not a model folder")
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = sorted(name for name in names if name.endswith(_PICKLED))
    if pickled:
        raise ModelError(
            f"{folder}: holds only pickled weights ({', '.join(pickled[:3])}), which can run code when they are opened. "
            "Convert them to safetensors first, on a machine you trust the file on."
        )
    raise ModelError(f"{folder}: holds no safetensors weights")


def _hub_arguments(section: ModelSection | None) -> dict[str, Any]:
    if section is None:
        return {"trust_remote_code": False}
    return {"revision": section.revision or "main", "trust_remote_code": section.trust_remote_code}


def _named(error: Exception, path: str) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "scaled_dot_product_attention" in reason or "attn_implementation" in reason:
        return ModelError(f"{path}: could not be loaded ({reason}). Set model.attention=eager.")
    return ModelError(f"{path}: could not be loaded ({reason}). Give a local folder, or a hub name that this machine can reach.")


def load_config(path: str, *, section: ModelSection | None = None, world: WorldSection) -> PretrainedConfig:
    """Return the configuration of a model; reads no weights."""
    from transformers import AutoConfig

    try:
        source = resolve_path(path, world)
        if is_offset_folder(source):
            source = str(read_offset(source).original)
        return AutoConfig.from_pretrained(source, **_hub_arguments(section))
    except TemperError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise _named(error, path) from error


def load_model(path: str, *, section: ModelSection | None = None, world: WorldSection) -> PreTrainedModel:
    """Return a causal language model in evaluation mode, on the best device.

    Args:
        path: A local folder, a hub name, `world:original` or `world:gold`. The folder of a logit-offset model gives that model.
        section: Where it is given: dtype, attention, revision, trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The model cannot be found, has no safetensors weights or is no causal language model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = section.dtype if section is not None else "float32"
    try:
        source = resolve_path(path, world)
        loader: Any = AutoModelForCausalLM
        if is_offset_folder(source):
            from temper.models.offset import LogitOffsetModel

            loader = LogitOffsetModel
        model = loader.from_pretrained(
            source,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=section.attention if section is not None else "sdpa",
            use_safetensors=True,
            **_hub_arguments(section),
        )
    except TemperError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _named(error, path) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def load_tokenizer(path: str, *, section: ModelSection | None = None, world: WorldSection) -> PreTrainedTokenizerBase:
    """Return the tokenizer that lies beside a model, or in the folder of a logit-offset model.

    Raises:
        ModelError: There is none.
    """
    from transformers import AutoTokenizer

    try:
        source = resolve_path(path, world)
        if is_offset_folder(source):
            source = str(read_offset(source).tokenizer)
        return AutoTokenizer.from_pretrained(source, **_hub_arguments(section))
    except TemperError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise _named(error, path) from error


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id to pad with. It is never read: attention masks come from true lengths."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def row_limit(config: PretrainedConfig, wanted: int | None, what: str) -> int:
    """Return how many tokens a row may have: what was asked for, else the model's context up to 512.

    Raises:
        ModelError: More was asked for than the model's positions can hold.
    """
    context = getattr(config, "max_position_embeddings", None)
    if wanted is None:
        return min(_USUAL_LENGTH, context or _USUAL_LENGTH)
    if context is not None and wanted > context:
        raise ModelError(f"{what} = {wanted} tokens, but the model's context is {context}. Set it to at most {context}.")
    return wanted


def weights_hash(folder: str | Path) -> str:
    """Return one hash over the safetensors files of a model folder, independent of where it lies.

    That of a logit-offset model covers both members and the strength.
    """
    digest = hashlib.sha256()
    if is_offset_folder(folder):
        parts = read_offset(folder)
        digest.update(f"offset {parts.strength!r}".encode())
        for name, part in zip(MEMBERS, (parts.original, parts.reinforced), strict=True):
            digest.update(name.encode() + bytes.fromhex(weights_hash(part)))
        return digest.hexdigest()
    for file in sorted(Path(folder).glob("*.safetensors")):
        facts = file.stat()
        digest.update(file.name.encode() + bytes.fromhex(_hash_of(str(file.resolve()), facts.st_size, facts.st_mtime_ns)))
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _hash_of(file: str, size: int, changed: int) -> str:
    """Return the hash of a file of that size and time of change; a large model is read once in a process."""
    return hash_file(Path(file))
