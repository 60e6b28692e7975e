"""Tiny freshly initialised models of the architectures whose checkpoints this library reads and writes."""

import torch

KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox", "mixtral")
"""Architectures by the name of their configuration."""

TIED = ("gemma", "gemma2", "gemma3_text", "gpt2")
"""Those whose published models share the embedding with the head."""

_WINDOWED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 3}


def configuration(kind, layers=4, tie=None):
    """Return the configuration of a tiny model of this architecture."""
    import transformers as t

    tie = kind in TIED if tie is None else tie
    ends = {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": tie}
    if kind == "gpt2":
        return t.GPT2Config(
            n_embd=32, n_layer=layers, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            initializer_range=0.2, **ends,
        )  # fmt: skip
    common = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4,
        "max_position_embeddings": 64, "initializer_range": 0.2, **ends,
    }  # fmt: skip
    if kind == "gpt_neox":
        return t.GPTNeoXConfig(**common, rotary_pct=0.5)
    common["num_key_value_heads"] = 2
    windows = {**_WINDOWED, "layer_types": (_WINDOWED["layer_types"] * layers)[:layers]}
    match kind:
        case "llama":
            return t.LlamaConfig(**common)
        case "mistral":
            return t.MistralConfig(**common, sliding_window=3)
        case "qwen2":
            return t.Qwen2Config(**common, use_sliding_window=True, **windows)
        case "qwen3":
            return t.Qwen3Config(**common, head_dim=8)
        case "gemma":
            return t.GemmaConfig(**common, head_dim=8)
        case "gemma2":
            return t.Gemma2Config(**common, head_dim=8, **windows)
        case "gemma3_text":
            return t.Gemma3TextConfig(**common, head_dim=8, **windows)
        case "phi3":
            return t.Phi3Config(**common)
        case "mixtral":
            return t.MixtralConfig(**common, num_local_experts=4, num_experts_per_tok=2)
    raise ValueError(kind)


def attentions(kind):
    """Return the implementations of attention that this architecture has in transformers 5.23."""
    return ("eager",) if kind == "gemma2" else ("eager", "sdpa")


def build(kind, layers=4, tie=None, seed=0, attention=None):
    """Return a tiny model in float32 and evaluation mode."""
    from transformers import AutoModelForCausalLM

    attention = attention or attentions(kind)[-1]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(configuration(kind, layers, tie), attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)  # biases and norms start at constants, which would hide swaps
    return model.eval()


def saved(kind, folder, layers=4, tie=None, seed=0, dtype=torch.float32, shard="12KB"):
    """Save such a model in many shards and return it."""
    model = build(kind, layers, tie, seed).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return model
