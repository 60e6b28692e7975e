"""From hidden states to log-probabilities at the positions that count, without a full table of logits.

The vocabulary projection is a large share of the work of a small model and of the memory of any; prompts and padding
need none of it. Some architectures scale or cap their logits outside the head: for those the head alone would be wrong,
so `ScoredHead` compares both ways once on a short input and takes the model's own full logits where they differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ScoredHead", "chosen_nll", "inner_model"]

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
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            full = inner(**given).logits
            alone = head(inner.base_model(**given).last_hidden_state)
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
        return self.project(self.states(input_ids_BL, attention_mask_BL), mask_BL)

    def states(self, input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor) -> torch.Tensor:
        """Return what `project` reads: hidden states (B, L, D), or all logits (B, L, V) where the head alone is not enough."""
        inner = inner_model(self._model)
        states_BLX: torch.Tensor
        if self._direct:
            states_BLX = inner.base_model(
                input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False
            ).last_hidden_state
        else:
            states_BLX = inner(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False).logits
        return states_BLX

    def project(self, states_BLX: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Return the logits at each masked position, shape (N, V), float32 (float64 of a float64 model)."""
        chosen_NX = states_BLX[mask_BL]
        logits_NV = inner_model(self._model).get_output_embeddings()(chosen_NX) if self._direct else chosen_NX
        wide: torch.Tensor = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        return wide


_ENTRIES_AT_ONCE: Final = 2**21
"""Entries of a temporary tensor of logits: 8 MiB in float32."""


class _ChosenNLL(torch.autograd.Function):
    """-log p of one token a row, whose backward pass writes the gradient over the logits it was given."""

    @staticmethod
    def forward(ctx: Any, logits_NV: torch.Tensor, tokens_N: torch.Tensor) -> torch.Tensor:
        # in parts: logsumexp makes a tensor of the size of what it is given
        rows = max(1, _ENTRIES_AT_ONCE // max(1, logits_NV.shape[1]))
        parts = [part_NV.logsumexp(dim=-1) for part_NV in torch.split(logits_NV, rows)]
        log_sum_N = torch.cat(parts) if parts else logits_NV.new_zeros(0)
        ctx.save_for_backward(logits_NV, log_sum_N, tokens_N)
        return log_sum_N - logits_NV.gather(1, tokens_N.unsqueeze(1)).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits_NV, log_sum_N, tokens_N = ctx.saved_tensors
        # softmax - onehot, in the memory of the logits: nobody else reads them, and they are the largest tensor of a step
        logits_NV.sub_(log_sum_N.unsqueeze(1)).exp_()
        logits_NV.scatter_add_(1, tokens_N.unsqueeze(1), logits_NV.new_full((len(tokens_N), 1), -1.0))
        return logits_NV.mul_(gradient_N.unsqueeze(1)), None


def chosen_nll(logits_NV: torch.Tensor, tokens_N: torch.Tensor) -> torch.Tensor:
    """Return -log p of one token for each row of logits, shape (N,).

    The logits are used up: the backward pass writes their gradient over them, so the step holds one tensor of their size instead of
    four. Nothing else may read them, and there is no second backward pass.

    Args:
        logits_NV: Logits that belong to this call alone.
        tokens_N: The tokens.
    """
    chosen: torch.Tensor = _ChosenNLL.apply(logits_NV, tokens_N)  # type: ignore[no-untyped-call]
    return chosen
