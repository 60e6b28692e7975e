"""Names for parts of a model that hold across architectures: `down_proj` is `mlp.c_proj` in GPT-2, `mlp.dense_4h_to_h` in GPT-NeoX.

An alias becomes a pattern over parameter names. Where an architecture keeps several matrices in one, an alias for one of them
would train the others too; it is refused, with the name of the fused matrix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from temper.errors import ModelError, nearest
from temper.models.heads import inner_model

__all__ = ["ALIASES", "architectures", "module_pattern"]

ALIASES = (
    "down_proj",
    "up_proj",
    "gate_proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "mlp",
    "attention",
    "norms",
    "embedding",
    "head",
)


@dataclass(frozen=True)
class _Layout:
    """What one family of architectures calls its parts.

    Attributes:
        blocks: The list of blocks.
        parts: Modules in a block, by alias.
        norms: Every norm, in blocks and outside, as an alternation.
        embedding: The token embedding.
        head: The vocabulary projection.
        fused: Aliases that fall in a matrix that holds more, and that matrix.
        absent: Aliases the architecture does not have.
    """

    blocks: str
    parts: dict[str, str]
    norms: str
    embedding: str
    head: str = "lm_head"
    fused: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def pattern(self, alias: str) -> str:
        match alias:
            case "norms":
                return rf"(?:^|\.)(?:{self.norms})\."
            case "embedding" | "head":
                return rf"(?:^|\.){self.embedding if alias == 'embedding' else self.head}\."
        # experts are tensors of their own, without a module's `.weight`
        return rf"(?:^|\.){self.blocks}\.\d+\.{re.escape(self.parts[alias])}(?:\.|$)"


_QKV = ("q_proj", "k_proj", "v_proj")
_NORMS = "input_layernorm|post_attention_layernorm|pre_feedforward_layernorm|post_feedforward_layernorm|q_norm|k_norm|norm"
_ATTENTION = {name: f"self_attn.{name}" for name in (*_QKV, "o_proj")} | {"attention": "self_attn", "mlp": "mlp"}
_LLAMA = _Layout(
    blocks="layers",
    parts={**_ATTENTION, **{name: f"mlp.{name}" for name in ("down_proj", "up_proj", "gate_proj")}},
    norms=_NORMS,
    embedding="embed_tokens",
)
_LAYOUTS: dict[str, _Layout] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _LLAMA),
    "phi3": _Layout(
        blocks="layers",
        parts={**_ATTENTION, "down_proj": "mlp.down_proj"},
        norms=_NORMS,
        embedding="embed_tokens",
        fused={**dict.fromkeys(_QKV, "self_attn.qkv_proj"), **dict.fromkeys(("gate_proj", "up_proj"), "mlp.gate_up_proj")},
    ),
    "mixtral": _Layout(
        blocks="layers",
        parts={**_ATTENTION, "down_proj": "mlp.experts.down_proj"},
        norms=_NORMS,
        embedding="embed_tokens",
        fused=dict.fromkeys(("gate_proj", "up_proj"), "mlp.experts.gate_up_proj"),
    ),
    "gpt2": _Layout(
        blocks="h",
        parts={"down_proj": "mlp.c_proj", "up_proj": "mlp.c_fc", "o_proj": "attn.c_proj", "attention": "attn", "mlp": "mlp"},
        norms="ln_1|ln_2|ln_f",
        embedding="wte",
        fused=dict.fromkeys(_QKV, "attn.c_attn"),
        absent=("gate_proj",),
    ),
    "gpt_neox": _Layout(
        blocks="layers",
        parts={
            "down_proj": "mlp.dense_4h_to_h",
            "up_proj": "mlp.dense_h_to_4h",
            "o_proj": "attention.dense",
            "attention": "attention",
            "mlp": "mlp",
        },
        norms="input_layernorm|post_attention_layernorm|final_layer_norm",
        embedding="embed_in",
        head="(?:lm_head|embed_out)",
        fused=dict.fromkeys(_QKV, "attention.query_key_value"),
        absent=("gate_proj",),
    ),
}


def architectures() -> list[str]:
    """Return the architectures (`model_type` of their configuration) whose names are known."""
    return sorted(_LAYOUTS)


def module_pattern(alias: str, model: Any) -> str:
    r"""Return a regular expression that finds the parameters an alias means in this model (with `re.search`).

    Weights and biases are found, in every block; with an adapter, the matrices it adds to those modules too.

    Args:
        alias: One of `ALIASES`.
        model: A causal language model, with or without an adapter, whole or cut.

    Raises:
        ModelError: No such alias, an architecture whose names are not known, a part that the architecture lacks or keeps
            fused with others, or one that this model does not hold (a shared or cut head).

    Example:
        >>> from types import SimpleNamespace
        >>> parameters = [("transformer.h.0.mlp.c_proj.weight", None)]
        >>> config = SimpleNamespace(model_type="gpt2")
        >>> module_pattern("down_proj", SimpleNamespace(config=config, named_parameters=lambda: parameters))
        '(?:^|\\.)h\\.\\d+\\.mlp\\.c_proj(?:\\.|$)'
    """
    if alias not in ALIASES:
        raise ModelError(
            f"module = {alias!r}: no such alias{nearest(alias, ALIASES)}. Use one of {', '.join(ALIASES)}, or a pattern."
        )
    inner = inner_model(model)
    kind = str(inner.config.model_type)
    if kind not in _LAYOUTS:
        raise ModelError(
            f"module = {alias!r}: the names of {kind!r} models are not known{nearest(kind, _LAYOUTS)}. Known are "
            f"{', '.join(architectures())}. Give a pattern over parameter names instead; they look like {_examples(model)}."
        )
    layout = _LAYOUTS[kind]
    if alias in layout.fused:
        whole = layout.fused[alias]
        same = ", ".join(other for other, matrix in layout.fused.items() if matrix == whole)
        raise ModelError(
            f"module = {alias!r}: {kind} keeps {same} in one matrix, {whole}, so they cannot be chosen one by one. "
            f"To train them together, give the pattern {re.escape(whole)!r}."
        )
    if alias in layout.absent:
        raise ModelError(
            f"module = {alias!r}: {kind} has none. It has {', '.join(name for name in ALIASES if name in layout.parts)}."
        )
    pattern = layout.pattern(alias)
    if not any(re.search(pattern, name) for name, _ in model.named_parameters()):
        raise ModelError(f"module = {alias!r}: {_why_missing(alias, inner)}. Parameters look like {_examples(model)}.")
    return pattern


def _why_missing(alias: str, inner: Any) -> str:
    full = getattr(inner.config, "temper_full_layers", None)
    if alias == "head" and full is not None:
        return f"this model was cut to {inner.config.num_hidden_layers} of {full} blocks and has no head"
    if alias == "head" and getattr(inner.config, "tie_word_embeddings", False):
        return "the head is the embedding in this model. Use 'embedding', which changes both"
    return f"{type(inner).__name__} holds no such parameter"


def _examples(model: Any) -> str:
    return ", ".join(name for name, _ in list(model.named_parameters())[:3])
