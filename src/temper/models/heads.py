"""From hidden states to log-probabilities at the positions that count, without a full table of logits.

The vocabulary projection is a large share of the work of a small model and of the memory of any; prompts and padding
need none of it. Some architectures scale or cap their logits outside the head: for those the head alone would be wrong,
so `ScoredHead` compares both ways once on a short input and takes the model's own full logits where they differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ScoredHead", "inner_model"]

_OUTSIDE_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")
"""Settings by which architectures change their logits after the head; small logits would hide it from a comparison."""


def inner_model(model: Any) -> PreTrainedModel:
    """Return the transformers model inside an adapter wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class ScoredHead:
    """Log-probabilities over the vocabulary at chosen positions.

    Args:
        model: A causal language model, with or without an adapter.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._direct = self._head_is_enough()

    @property
    def is_direct(self) -> bool:
        """Return whether the head alone gives the model's logits."""
        return self._direct

    @property
    def device(self) -> torch.device:
        """Return where the model lies."""
        return torch.device(next(iter(self._model.parameters())).device)

    @property
    def vocabulary(self) -> int:
        """Return how many tokens have a logit."""
        return int(inner_model(self._model).config.get_text_config().vocab_size)

    @torch.no_grad()
    def _head_is_enough(self) -> bool:
        inner = inner_model(self._model)
        head = inner.get_output_embeddings()
        if head is None or any(getattr(inner.config, name, None) for name in _OUTSIDE_THE_HEAD):
            return False
        was_training = inner.training
        inner.eval()
        try:
            ids = torch.arange(4, device=head.weight.device).remainder(head.weight.shape[0]).unsqueeze(0)
            full = inner(input_ids=ids, use_cache=False).logits
            alone = head(inner.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        finally:
            inner.train(was_training)
        return full.shape == alone.shape and bool(torch.allclose(full, alone.to(full.dtype), rtol=1e-4, atol=1e-5))

    def log_probs(self, input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Return log p(v | prefix up to and including each masked position), shape (N, V); see `logits`."""
        return torch.log_softmax(self.logits(input_ids_BL, attention_mask_BL, mask_BL), dim=-1)

    def logits(self, input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Return the logits that predict what follows each masked position, shape (N, V), float32 (float64 of a float64 model).

        Args:
            input_ids_BL: Token ids.
            attention_mask_BL: 1 where there is a token.
            mask_BL: True at the N positions wanted; N counts row by row.
        """
        inner = inner_model(self._model)
        if self._direct:
            hidden_BLD = inner.base_model(
                input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False
            ).last_hidden_state
            logits_NV = inner.get_output_embeddings()(hidden_BLD[mask_BL])
        else:
            logits_NV = inner(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False).logits[mask_BL]
        wide: torch.Tensor = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        return wide
