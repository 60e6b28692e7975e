"""A Llama decoder as a bare function of its weights, for training on one core.

Same function as ``transformers.LlamaForCausalLM`` (a test compares the logits), without what training a model of this
size does not need: no cache, no mask (rows are padded on the right, and a causal model never looks there), query, key
and value in one product, and the vocabulary projection at scored positions only. At this width the overhead of a module
tree costs as much as its arithmetic.

All matrices are views into one flat tensor and all norm weights into another, so that clearing gradients, clipping and
the optimiser step are a handful of calls.

Letters: B batch, L length, D width, H heads, E width of a head, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from temper.draws import torch_generator
from temper.world.products import linear

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["INIT_STD", "LeanLlama", "Shape"]

INIT_STD = 0.05  # 0.02, the usual value, makes a width of 64 start too close to zero
ROPE_THETA = 10_000.0
NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model."""

    vocabulary: int
    width: int
    n_layers: int
    n_heads: int
    max_length: int

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward part."""
        return 3 * self.width


class LeanLlama:
    """Weights of a small Llama and its forward pass.

    Args:
        shape: The sizes.
        seed: Seed of the initial weights; each weight draws from its own named generator.

    Attributes:
        matrices: All matrices, flat; its ``grad`` is kept allocated.
        vectors: All norm weights, flat; its ``grad`` is kept allocated.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        d, f = shape.width, shape.feed_forward
        sizes = {"embed": (shape.vocabulary, d)}
        for i in range(shape.n_layers):
            sizes |= {f"{i}.qkv": (3 * d, d), f"{i}.out": (d, d), f"{i}.gate_up": (2 * f, d), f"{i}.down": (d, f)}
        norms = {name: (d,) for i in range(shape.n_layers) for name in (f"{i}.norm_attention", f"{i}.norm_mlp")} | {"norm": (d,)}
        self.matrices, weights = _flat(sizes)
        self.vectors, gains = _flat(norms)
        self.weights: dict[str, torch.Tensor] = weights | gains
        with torch.no_grad():
            for name, weight in weights.items():
                weight.normal_(0.0, INIT_STD, generator=torch_generator(seed, "init", name))
            self.vectors.fill_(1.0)
        self._cos_LE, self._sin_LE = _rotary(shape.max_length, d // shape.n_heads)

    def hidden(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the normed hidden states of the last layer, shape (B, L, D)."""
        w, shape = self.weights, self.shape
        batch, length = ids_BL.shape
        cos, sin = self._cos_LE[:length, None, None], self._sin_LE[:length, None, None]
        x_BLD = functional.embedding(ids_BL, w["embed"])
        for i in range(shape.n_layers):
            y_BLD = functional.rms_norm(x_BLD, (shape.width,), w[f"{i}.norm_attention"], NORM_EPS)
            qkv = linear(y_BLD, w[f"{i}.qkv"]).view(batch, length, 3, shape.n_heads, -1)
            qk = qkv[:, :, :2]
            first, second = qk.chunk(2, dim=-1)
            qk = qk * cos + torch.cat((-second, first), dim=-1) * sin
            q_BHLE, k_BHLE, v_BHLE = qk[:, :, 0].transpose(1, 2), qk[:, :, 1].transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, is_causal=True)
            x_BLD = x_BLD + linear(mixed.transpose(1, 2).reshape(batch, length, -1), w[f"{i}.out"])
            y_BLD = functional.rms_norm(x_BLD, (shape.width,), w[f"{i}.norm_mlp"], NORM_EPS)
            gate, up = linear(y_BLD, w[f"{i}.gate_up"]).chunk(2, dim=-1)
            x_BLD = x_BLD + linear(functional.silu(gate) * up, w[f"{i}.down"])
        return functional.rms_norm(x_BLD, (shape.width,), w["norm"], NORM_EPS)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states of any leading shape; the embedding is tied."""
        return functional.linear(hidden, self.weights["embed"])

    def export(self, config: LlamaConfig) -> LlamaForCausalLM:
        """Return an ordinary transformers model with these weights."""
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM(config)
        missing, unexpected = model.load_state_dict(dict(self._named()), strict=False)
        if unexpected or set(missing) - {"lm_head.weight"}:
            raise RuntimeError(f"this transformers names Llama weights differently: missing {missing}, unexpected {unexpected}")
        model.tie_weights()
        return model.eval()

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        w = {name: weight.detach().clone() for name, weight in self.weights.items()}
        yield "model.embed_tokens.weight", w["embed"]
        yield "model.norm.weight", w["norm"]
        for i in range(self.shape.n_layers):
            at = f"model.layers.{i}."
            for name, part in zip("qkv", w[f"{i}.qkv"].chunk(3), strict=True):
                yield f"{at}self_attn.{name}_proj.weight", part
            yield f"{at}self_attn.o_proj.weight", w[f"{i}.out"]
            for name, part in zip(("gate", "up"), w[f"{i}.gate_up"].chunk(2), strict=True):
                yield f"{at}mlp.{name}_proj.weight", part
            yield f"{at}mlp.down_proj.weight", w[f"{i}.down"]
            yield f"{at}input_layernorm.weight", w[f"{i}.norm_attention"]
            yield f"{at}post_attention_layernorm.weight", w[f"{i}.norm_mlp"]


def _flat(sizes: Mapping[str, tuple[int, ...]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return a flat tensor with a gradient, and leaves that share its memory and its gradient's memory."""
    total = sum(torch.Size(size).numel() for size in sizes.values())
    flat, grad, views, start = torch.zeros(total), torch.zeros(total), {}, 0
    flat.grad = grad
    for name, size in sizes.items():
        end = start + torch.Size(size).numel()
        views[name] = flat[start:end].view(size).requires_grad_()
        views[name].grad = grad[start:end].view(size)
        start = end
    return flat, views


def _rotary(length: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = 1.0 / ROPE_THETA ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()
