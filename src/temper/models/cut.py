"""A model without its upper part: embeddings and blocks 0..ℓ, for losses on the output of block ℓ.

Neither later blocks nor the final norm nor the head are read from disk, fetched from the hub or given memory. The names of
the parameters are those of the full model, so that what is trained can be written back into the full checkpoint
(`temper.models.writeback`).
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from temper.errors import ModelError
from temper.models.checkpoint import Checkpoint, StoredNames, open_checkpoint, skeleton_of
from temper.models.load import _hub_arguments, _named, load_config, resolve_path
from temper.models.selection import decoder_layers
from temper.recipe import ModelSection, WorldSection

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["NoHead", "load_cut"]

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What architectures call the norm after their last block."""


class NoHead(nn.Module):
    """Stands where a model that was cut had its head: holds no weights and says so when it is called.

    Args:
        kept: How many blocks are left.
        full: How many blocks the model has.
    """

    def __init__(self, kept: int, full: int) -> None:
        super().__init__()
        self._reason = f"this model was cut after block {kept - 1} of {full} and has no head, so it gives no logits. Load the whole model for that."

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Refuse.

        Raises:
            ModelError: Always.
        """
        raise ModelError(self._reason)


def load_cut(path: str, layer: int, *, section: ModelSection | None = None, world: WorldSection) -> PreTrainedModel:
    """Return a causal language model whose base gives the output of block `layer`, in evaluation mode, on the best device.

    Blocks above `layer`, the final norm and the head are not read. The base's last hidden state is the output of block
    `layer`, shape (B, L, D), before any final norm; `config.temper_full_layers` says how many blocks the full model has.

    Args:
        path: A local folder, a hub name (only the shards that are needed are fetched) or a `world:` name.
        layer: The last block that is kept, counted from 0; negative ones count from the end of the full model.
        section: Where it is given: dtype, attention, revision, trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The model cannot be found, has no such block, lacks a tensor, or is built in a way that cannot be cut.
    """
    config = load_config(path, section=section, world=world)
    if config.get_text_config() is not config:
        raise ModelError(
            f"{path}: {type(config).__name__} is a model of more than text, which cannot be cut. Load the whole model."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{path}: holds quantised weights, which cannot be cut. Load the whole model.")
    full = int(config.num_hidden_layers)
    if not -full <= layer < full:
        raise ModelError(f"layer = {layer}, but {path} has {full} layers (0 to {full - 1}). Set a layer in that range.")
    config = _cut_config(config, layer % full + 1)
    source = resolve_path(path, world)
    trusted = section is not None and section.trust_remote_code
    attention = section.attention if section is not None else "sdpa"
    try:
        checkpoint = open_checkpoint(source, section.revision if section is not None else None)
        skeleton = skeleton_of(config, attention=attention, trust_remote_code=trusted)
        _strip(skeleton)
        wanted = _wanted(checkpoint, skeleton)
        model = _filled(type(skeleton), config, checkpoint, wanted, section)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _named(error, path) from error
    model.name_or_path = model.config._name_or_path = source
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    _check_output(model)
    return model


def _cut_config(config: PretrainedConfig, kept: int) -> PretrainedConfig:
    """Return the configuration of the first blocks alone."""
    full = int(config.num_hidden_layers)
    cut = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        # lists with one entry a block: layer_types, mlp_layer_types, no_rope_layers, layers_block_type
        if ("layer" in name or "block" in name) and isinstance(value, list | tuple) and len(value) == full:
            setattr(cut, name, list(value[:kept]))
    cut.num_hidden_layers = kept
    cut.temper_full_layers = full
    return cut


def _strip(model: Any) -> None:
    """Take the final norm and the head out of a model.

    Raises:
        ModelError: The final norm or the head was not found.
    """
    blocks = decoder_layers(model)
    owner = next(module for module in model.base_model.modules() if any(child is blocks for child in module.children()))
    norms = [name for name in _FINAL_NORMS if getattr(owner, name, None) is not None]
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_children() if module is head]
    if len(norms) != 1 or len(names) != 1:
        raise ModelError(
            f"{type(model).__name__}: cannot be cut, its {'head' if len(norms) == 1 else 'final norm'} was not found "
            f"(looked for {', '.join(_FINAL_NORMS)}). Load the whole model."
        )
    setattr(owner, norms[0], nn.Identity())
    setattr(model, names[0], NoHead(len(blocks), model.config.temper_full_layers))
    # nothing is shared with a head any more; the configuration still says that the full model shares
    model._tied_weights_keys = None
    model.all_tied_weights_keys = {}


def _wanted(checkpoint: Checkpoint, skeleton: PreTrainedModel) -> dict[str, str]:
    """Return which stored tensors the model takes, each under the name it is handed over by."""
    names = StoredNames(skeleton)
    wanted = {stored: stored for stored in checkpoint.file_of if names.parameter_of(stored)[0] is not None}
    embedding = next(name for name, p in skeleton.named_parameters() if p is skeleton.get_input_embeddings().weight)
    if embedding not in {names.parameter_of(stored)[0] for stored in wanted} and skeleton.config.tie_word_embeddings:
        # some writers keep a shared matrix under the name of the head
        wanted.update({stored: embedding for stored in checkpoint.file_of if stored in ("lm_head.weight", "embed_out.weight")})
    return wanted


def _filled(
    kind: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    wanted: dict[str, str],
    section: ModelSection | None,
) -> PreTrainedModel:
    """Return the cut model with its weights, loaded and converted by transformers."""
    hub = _hub_arguments(section)

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        _strip(self)

    # transformers builds the model itself and finds the rules for its names by class; only the construction differs
    stripped: Any = type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for file in sorted({checkpoint.file_of[stored] for stored in wanted}):
            opened = stack.enter_context(safe_open(checkpoint.path_of(file), framework="pt"))
            for stored, name in wanted.items():
                if checkpoint.file_of[stored] == file:
                    tensors[name] = opened.get_slice(stored)  # read when transformers asks for it
        model, found = stripped.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=_dtype(section, config, checkpoint, wanted),
            attn_implementation=section.attention if section is not None else "sdpa",
            output_loading_info=True,
            trust_remote_code=hub["trust_remote_code"],
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(f"{checkpoint.source}: lacks {len(missing)} tensors of the blocks that are kept, e.g. {missing[0]}")
    model.__class__ = kind
    filled: PreTrainedModel = model
    return filled


def _dtype(section: ModelSection | None, config: PretrainedConfig, checkpoint: Checkpoint, wanted: dict[str, str]) -> torch.dtype:
    if section is None or section.dtype != "auto":
        named: torch.dtype = getattr(torch, section.dtype if section is not None else "float32")
        return named
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    return next((d for stored in wanted if (d := checkpoint.place_of(stored).dtype).is_floating_point), torch.float32)


@torch.no_grad()
def _check_output(model: Any) -> None:
    """Check on a short input that the base adds nothing to the output of its last block.

    Raises:
        ModelError: It does.
    """
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder_layers(model)[-1].register_forward_hook(keep)
    try:
        ids_BL = torch.arange(4, device=model.device).remainder(model.config.vocab_size).unsqueeze(0)
        last = model.base_model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), use_cache=False).last_hidden_state
    finally:
        handle.remove()
    # weights that are not numbers are for the first step to find: they are no sign of a model that cannot be cut
    if not torch.allclose(last, seen[0], rtol=0.0, atol=0.0, equal_nan=True):
        raise ModelError(
            f"{type(model).__name__}: cannot be cut, it works on the output of its last block before the head. Load the whole model."
        )
