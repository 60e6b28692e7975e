"""Adapter folders that come out of a merge: one LoRA of a chosen rank, or an adapter negated.

    ΔW ≈ B A,   B = U_r √S_r,  A = √S_r V_rᵀ        from the r largest singular values of the merged change of a layer

    energy kept = Σ_{i≤r} s_i² / Σ s_i²,   ‖ΔW − BA‖ = √(Σ_{i>r} s_i²)

The merge of trimmed changes has a high rank even where every adapter had a low one: the energy says what a rank loses.

Source: Eckart and Young (1936) for the best approximation of a rank; the negation of adapters: `temper.merge.negation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from temper.errors import InputError, ModelError
from temper.files import folder_aside, write_json
from temper.merge.adapters import ADAPTER_CONFIG, ADAPTER_TENSORS, check_form, read_adapter
from temper.merge.folder import RECORD, record_of
from temper.merge.method import MergeMethod
from temper.merge.negation import negated_factor, negated_scales
from temper.merge.opening import Opened
from temper.models.tensorfile import TensorWriter
from temper.models.writeback import check_apart

__all__ = ["factors_of", "negate_adapter", "write_adapter"]


def factors_of(change: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return B (out, r), A (r, in) and the share of the squared norm that B A keeps.

    Args:
        change: ΔW, (out, in).
        rank: r; where the matrix has fewer singular values, the rest of both factors is zero.
    """
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    kept = min(rank, len(values))
    roots = values[:kept].sqrt()
    b, a = change.new_zeros(change.shape[0], rank), change.new_zeros(rank, change.shape[1])
    b[:, :kept], a[:kept] = left[:, :kept] * roots, roots[:, None] * right[:kept]
    squares = values.double().square()
    return b, a, float(squares[:kept].sum() / squares.sum()) if bool(squares.any()) else 1.0


def write_adapter(
    deltas: Opened,
    method: MergeMethod,
    out: Path,
    *,
    rank: int,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the merged change as one LoRA adapter for peft, and return what merge.json says, with the energy kept per layer.

    Args:
        deltas: Base and models.
        method: How.
        out: The folder, whole or not at all.
        rank: r of every layer.
        weights: One a model.
        seed: For methods that draw.
        progress: Is told of every tensor.

    Raises:
        ModelError: Something else than the weight of a linear layer changed, or `out` overlaps the base or a model.
    """
    if rank < 1:
        raise InputError(f"adapter rank = {rank}: must be 1 or more")
    check_apart(deltas.model.folder, out)
    for source in deltas.sources:
        check_apart(Path(source.label), out)
    report = deltas.report_for(method)
    energies: dict[str, float] = {}
    tensors: dict[str, Tensor] = {}
    turned: set[bool] = set()
    for number, merged in enumerate(deltas.each(method, weights=weights, seed=seed, as_change=True)):
        if progress is not None:
            progress("merge", number, len(deltas.units))
        report.add(merged.names[0], merged.tally)
        if merged.value is None:
            continue
        module, is_turned = _layer(deltas, merged.names[0])
        b, a, energy = factors_of(merged.value.T if is_turned else merged.value, rank)
        turned.add(is_turned)
        tensors |= {f"base_model.model.{module}.lora_A.weight": a.float(), f"base_model.model.{module}.lora_B.weight": b.float()}
        energies[module] = energy
    if not tensors:
        raise ModelError("no model differs from the base, so there is no change to write an adapter of")
    if len(turned) > 1:
        raise ModelError(
            "the layers that changed store their weights both ways (Linear and Conv1D), which one adapter cannot say. Write full weights."
        )
    record = record_of(deltas, method, report, weights=weights, seed=seed, adapter={"rank": rank, "energy_kept": energies})
    with folder_aside(out) as aside:
        _write_tensors(aside, tensors)
        write_json(aside / ADAPTER_CONFIG, _config(deltas.model.name, rank, sorted(energies), next(iter(turned))))
        write_json(aside / RECORD, record)
    return record


def _layer(deltas: Opened, stored: str) -> tuple[str, bool]:
    """Return the module of a stored weight, and whether it is stored as (in, out)."""
    parameter = next(name for name, parts in deltas.model.parts.items() if stored in parts)
    module = parameter.removesuffix(".weight")
    layer = deltas.model.skeleton.get_submodule(module) if parameter.endswith(".weight") else None
    is_turned = type(layer).__name__ == "Conv1D"
    if not (isinstance(layer, nn.Linear) or is_turned) or len(deltas.model.parts[parameter]) != 1:
        raise ModelError(
            f"{stored}: changed, but is not the weight of a linear layer, so no LoRA can hold it. Write full weights (no adapter rank)."
        )
    return module, is_turned


def _config(base: str, rank: int, modules: list[str], is_turned: bool) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,  # a scaling of 1
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": is_turned,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    announced = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(folder / ADAPTER_TENSORS, announced, {"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


def negate_adapter(adapter: Path, out: Path, strength: float) -> Path:
    """Write the negation of a LoRA (by one factor) or of an (IA)³, exactly and at its own size, and return the folder.

    Args:
        adapter: The adapter folder.
        out: Where the negated one goes, whole or not at all.
        strength: a.

    Raises:
        ModelError: It is of another kind, has tensors that are saved whole, or `out` overlaps it.
    """
    if not math.isfinite(strength):
        raise InputError(f"strength = {strength!r}: must be a finite number")
    check_apart(adapter, out)
    config, tensors = read_adapter(adapter)
    if config["peft_type"] != "IA3":
        check_form(adapter, config)
    changed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        if config["peft_type"] == "LORA" and ("lora_A" in name or "lora_embedding_A" in name):
            changed[name] = negated_factor(wide, strength).to(tensor.dtype)
        elif config["peft_type"] == "LORA" and ("lora_B" in name or "lora_embedding_B" in name):
            changed[name] = tensor
        elif config["peft_type"] == "IA3" and "ia3_l" in name:
            changed[name] = negated_scales(wide, strength).to(tensor.dtype)
        else:
            raise ModelError(
                f"{adapter}: {name} of a {config['peft_type']} cannot be negated on its own; only the factors of a LoRA and the scales of an IA3 can. "
                "Merge it into its base and negate the full weights."
            )
    with folder_aside(out) as aside:
        _write_tensors(aside, changed)
        write_json(aside / ADAPTER_CONFIG, config)
    return out
