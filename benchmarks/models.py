"""Models with random weights for benchmarks."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["random_llama"]


def random_llama(
    *, layers: int, width: int, vocabulary: int, context: int, heads: int = 4, feed_forward: int = 3, std: float = 0.02
) -> LlamaForCausalLM:
    """Return a Llama in evaluation mode whose gated MLP is `feed_forward` times as wide, float32, the same at every call."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        initializer_range=std,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()
