"""What assessment needs of a model: the few members that every unlearned model has, changed weights or not.

A method that changes weights gives a transformers model; one that works at inference (`temper.models.offset`) gives a
model of its own. Metrics and probes use nothing but what stands here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = ["UnlearnedModel"]


@runtime_checkable
class UnlearnedModel(Protocol):
    """A causal language model that can be scored, asked and saved.

    Attributes:
        config: Its configuration; `config.get_text_config().vocab_size` is V.
        device: Where its inputs go.
    """

    config: Any

    @property
    def device(self) -> torch.device:
        """Return where the model lies."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return an output with `logits` (B, L, V), from `input_ids`, `attention_mask`, `past_key_values` and `use_cache`."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Return prompts (B, L) with their continuations."""

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> Any:
        """Write a folder that `temper.models.load.load_model` reads."""
