"""LoRA adapter folders in weight space: ΔW = scaling · B A, layer by layer. Merging A and B apart would merge something else.

    scaling = α / r,  with rank-stabilised LoRA α / √r          r and α may differ by layer (rank_pattern, alpha_pattern)

Modules that were saved whole (modules_to_save) enter with their difference from the base. What is not a product added to a weight is
refused: DoRA, lora_bias, KaSA and others that change how factors act, trained biases, factors that start from the base's own weights.

Source: Hu et al., LoRA (2022); Kalajdzievski, rsLoRA (2023). The forms refused are those that peft 0.21 merges wrongly without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from temper.errors import DataError, ModelError
from temper.files import hash_bytes, hash_file, read_json
from temper.merge.sources import not_finite
from temper.merge.stores import TensorStore, whole
from temper.models.tensorfile import mapped
from temper.models.writeback import StoredModel

__all__ = ["ADAPTER_CONFIG", "ADAPTER_TENSORS", "Adapter", "check_form", "read_adapter", "scaling_of"]

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_TENSORS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(r"^(.+)\.(lora_(?:embedding_)?[AB])(?:\.weight)?$")
_REFUSED: Final = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias",
    "kasa_config": "KaSA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "layer_replication": "layer replication",
    "megatron_config": "Megatron layers",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "bare parameters (target_parameters)",
}
_FROM_WEIGHTS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration of an adapter folder and its tensors, backed by the file.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        config: Any = read_json(folder / ADAPTER_CONFIG)
        tensors = mapped(folder / ADAPTER_TENSORS)
    except DataError as error:
        raise ModelError(f"{folder}: is no adapter folder with safetensors ({error})") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: has no peft_type, so it is no adapter of peft")
    return config, tensors


def _pattern(patterns: Mapping[str, Any] | None, module: str, usual: float) -> float:
    # as peft does: a key is a regular expression for the end of the module's name
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return usual


def scaling_of(config: Mapping[str, Any], module: str) -> float:
    """Return what B A of a module is multiplied by.

    Example:
        >>> scaling_of({"r": 4, "lora_alpha": 8}, "q_proj"), scaling_of({"r": 4, "lora_alpha": 8, "use_rslora": True}, "q_proj")
        (2.0, 4.0)
    """
    rank = _pattern(config.get("rank_pattern"), module, float(config["r"]))
    alpha = _pattern(config.get("alpha_pattern"), module, float(config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_form(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that an adapter is a LoRA whose change is scaling · B A and nothing else.

    Raises:
        ModelError: It is not.
    """
    if config["peft_type"] != "LORA":
        raise ModelError(
            f"{folder}: is an adapter of the kind {config['peft_type']}; LORA can be merged. An IA3 alone can be negated with --method negation."
        )
    used = [words for name, words in _REFUSED.items() if config.get(name)]
    if used:
        raise ModelError(
            f"{folder}: uses {', '.join(used)}, which is not a product added to a weight and would be merged wrongly. Merge it into its base "
            "with peft (merge_and_unload), save that model and give its folder."
        )
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"{folder}: trained biases (bias = {config['bias']}). Merge it into its base with peft and give that model's folder."
        )
    start = str(config.get("init_lora_weights", ""))
    if start.lower().startswith(_FROM_WEIGHTS):
        raise ModelError(
            f"{folder}: started from the base's own weights (init_lora_weights = {start}), so B A is not its change. Save it with "
            "peft's path_initial_model_for_weight_conversion, or give the merged model's folder."
        )


class Adapter:
    """A LoRA in weight space.

    Args:
        folder: With adapter_config.json and adapter_model.safetensors.
        base: The checkpoint whose layers it changes.
        key: What tells it apart; None: a hash of its content.

    Attributes:
        names: Stored tensors of the base that it changes.
        config: Its configuration.

    Raises:
        ModelError: It has a form that is not merged, or does not fit the base.
    """

    form = "adapter"

    def __init__(self, folder: Path, base: StoredModel, key: str | None = None) -> None:
        self.label = str(folder)
        self.config, self._tensors = read_adapter(folder)
        check_form(folder, self.config)
        hashes = hash_file(folder / ADAPTER_CONFIG) + hash_file(folder / ADAPTER_TENSORS)
        self.hash = hash_bytes(hashes.encode())
        self.key = key or self.hash
        self._factors: dict[str, dict[str, str]] = {}
        self._whole: dict[str, str] = {}
        self._module_of: dict[str, str] = {}
        for name in self._tensors:
            self._place(name, base)
        for stored, factors in self._factors.items():
            self._check_factors(stored, factors, base)

    @property
    def names(self) -> set[str]:
        """Return the stored tensors of the base that it changes."""
        return {*self._factors, *self._whole}

    def _place(self, name: str, base: StoredModel) -> None:
        found = _FACTOR.match(name)
        if found is None and "lora_" in name:
            raise ModelError(f"{self.label}: the tensor {name} is not understood. Give the merged model's folder instead.")
        module = (found[1] if found else name.removesuffix(".weight")).removeprefix(_PREFIX)
        module = module.removesuffix(".base_layer")
        parameter = f"{module}.weight" if found or name.endswith(".weight") else name.removeprefix(_PREFIX)
        for target in base.targets(parameter):
            if len(base.parts[target]) != 1:
                raise ModelError(
                    f"{self.label}: {parameter} is stored by {base.name} in {len(base.parts[target])} pieces. Give the merged model's folder."
                )
            stored = base.parts[target][0]
            if found:
                self._factors.setdefault(stored, {})[found[2]] = name
                self._module_of[stored] = module
            else:
                self._whole[stored] = name

    def _check_factors(self, stored: str, factors: dict[str, str], base: StoredModel) -> None:
        if len(factors) != 2:
            raise ModelError(f"{self.label}: has {', '.join(factors)} of {self._module_of[stored]}, but not the other factor")
        a, b = (self._tensors[name] for name in self._pair(stored))
        shape = base.checkpoint.place_of(stored).shape
        out = (b.shape[0], a.shape[1]) if a.dim() == b.dim() == 2 else None
        turned = self._is_turned(stored)
        if out is None or a.shape[0] != b.shape[1] or shape != (out[::-1] if turned else out):
            raise ModelError(
                f"{self.label}: factors of shapes {list(b.shape)} and {list(a.shape)} do not make {stored} of {base.name}, {list(shape)}. "
                "Give an adapter of this base and vocabulary."
            )

    def _pair(self, stored: str) -> tuple[str, str]:
        factors = self._factors[stored]
        ending = "embedding_" if "lora_embedding_A" in factors else ""
        return factors[f"lora_{ending}A"], factors[f"lora_{ending}B"]

    def _is_turned(self, stored: str) -> bool:
        """Return whether the weight is stored as (in, out), as those of an embedding and of Conv1D are."""
        return "lora_embedding_A" in self._factors[stored] or bool(self.config.get("fan_in_fan_out"))

    def fill(self, name: str, base: TensorStore, row: Tensor) -> bool:
        """Fill a row with τ; see `temper.merge.sources.Source`.

        Raises:
            ModelError: A change is NaN or infinite, or a module saved whole has another shape.
        """
        if name in self._factors:
            a, b = (self._tensors[factor].to(row.dtype) for factor in self._pair(name))
            change = (b @ a).mul_(scaling_of(self.config, self._module_of[name]))
            row.copy_((change.T if self._is_turned(name) else change).reshape(-1))
        elif name in self._whole:
            saved, shape = self._tensors[self._whole[name]], base.shapes[name]
            if tuple(saved.shape) != shape.sizes:
                raise ModelError(
                    f"{self.label}: {self._whole[name]} has the shape {list(saved.shape)}, the base's {list(shape.sizes)}. Vocabularies differ?"
                )
            torch.sub(saved.reshape(-1).to(row.dtype), base.read(name, 0, row.numel()).to(row.dtype), out=row)
        else:
            return False
        if not bool(torch.isfinite(row.sum())) and not bool(torch.isfinite(row).all()):
            raise not_finite(self.label, name, row)
        return bool(row.any())

    def value(self, name: str, base: TensorStore) -> Tensor:
        """Return the base's tensor with the change added, cast once."""
        before = whole(base, name)
        row = torch.empty(before.numel(), dtype=base.shapes[name].wide)
        if not self.fill(name, base, row):
            return before
        return row.add_(before.reshape(-1).to(row.dtype)).to(before.dtype).reshape(before.shape)
