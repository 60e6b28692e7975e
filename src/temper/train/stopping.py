"""When a run ends before its last step: the retain rows fell under a floor, or ascent has broken the model.

Collapse. Ascent has no lower bound, nor has CE-U without a retain term. Once the mean -log p of forget tokens is over 1.5 ln V, the model
gives the right token far less than chance: it is not forgetting any more, it is being broken. The run stops there and says so; nothing
is clipped in silence.

Floor. Every few steps the mean probability exp(-A) of some retain rows is compared with what it was under the weights from before, A being
the mean -log p of a row's scored tokens. When it falls under the given share, the run ends with the weights of the last look that was above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from temper import processes
from temper.data import Item
from temper.data.batching import length_sorted
from temper.data.padding import pad_items
from temper.draws import generator
from temper.models.heads import ScoredHead
from temper.models.places import Place
from temper.recipe import StopSection
from temper.train.losses.term import Batch, predicting_BL, token_nll_BL

__all__ = ["RetainFloor", "Stopped", "collapse_bound"]

_COLLAPSE: Final = 1.5


def collapse_bound(vocabulary: int) -> float:
    """Return the mean -log p of forget tokens, in nats, over which a model counts as broken by ascent."""
    return _COLLAPSE * math.log(vocabulary)


@dataclass(frozen=True)
class Stopped:
    """Why a run ended early.

    Attributes:
        reason: collapse or retain_floor.
        step: The optimiser step after which it ended.
        value: What was seen.
        bound: What it was compared with.
        kept_step: The step whose weights the run ends with.
    """

    reason: str
    step: int
    value: float
    bound: float
    kept_step: int

    def sentence(self) -> str:
        """Return it in words."""
        if self.reason == "collapse":
            return (
                f"stopped at step {self.step}: the mean -log p of forget tokens reached {self.value:.2f} nats, over {self.bound:.2f} (1.5 ln V); "
                "the model is broken rather than forgetting"
            )
        return (
            f"stopped at step {self.step}: the probability of retain answers fell to {self.value:.3f}, under the floor of {self.bound:.3f}; the "
            f"weights are those after step {self.kept_step}"
        )


class RetainFloor:
    """Looks at the retain rows and keeps the last weights that were good.

    Args:
        model: With the weights from before.
        items: The retain rows.
        stop: The settings.
        seed: Draws the rows that are looked at.
        pad_id: The id that fills.
        selected: Parameter name to where its selected entries lie: of those no others are kept.
    """

    def __init__(
        self,
        model: Any,
        items: Sequence[Item],
        stop: StopSection,
        seed: int,
        pad_id: int,
        selected: Mapping[str, Place] | None = None,
    ) -> None:
        assert stop.retain_floor is not None
        self._model, self._pad_id, self._selected = model, pad_id, selected or {}
        places = generator(seed, "retain floor").permutation(len(items))[: stop.rows]
        self._items = [items[int(place)] for place in sorted(places)]
        self._head = ScoredHead(model)
        self.before = self.probability()
        self.bound = stop.retain_floor * self.before
        self.kept_step = 0
        self._kept: dict[str, torch.Tensor] = {}
        self.keep(0)

    @torch.no_grad()
    def probability(self) -> float:
        """Return the mean over rows of exp(-A)."""
        was_training = self._model.training
        self._model.eval()
        found: list[float] = []
        for places in length_sorted(self._items, self._head.vocabulary):
            padded = pad_items([self._items[place] for place in places], self._pad_id)
            batch = Batch.of({name: tensor.to(self._head.device) for name, tensor in padded.items()})
            wanted_BL = predicting_BL(batch)
            log_probs_NV = self._head.log_probs(batch.input_ids, batch.attention_mask, wanted_BL)
            nll_BL = token_nll_BL(batch, wanted_BL, log_probs_NV)
            found += (-nll_BL.sum(dim=1) / wanted_BL.sum(dim=1)).exp().tolist()
        self._model.train(was_training)
        mean = torch.tensor(sum(found) / len(found), dtype=torch.float64)
        if processes.count() > 1:
            # the same number in every process: a last bit must not end the run in one of them
            torch.distributed.all_reduce(mean)
            mean /= processes.count()
        return float(mean)

    def keep(self, step: int) -> None:
        """Keep the weights of this step."""
        self.kept_step = step
        self._kept = {
            name: (self._selected[name].gather(p.detach()) if name in self._selected else p.detach()).to("cpu", copy=True)
            for name, p in self._model.named_parameters()
            if p.requires_grad
        }

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint must hold: the weights of the last look that was good, and its step."""
        return {"step": torch.tensor(self.kept_step), **{f"kept.{name}": value for name, value in self._kept.items()}}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` returned."""
        self.kept_step = int(state["step"])
        self._kept = {name.removeprefix("kept."): value for name, value in state.items() if name.startswith("kept.")}

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept weights back."""
        for name, parameter in self._model.named_parameters():
            if name in self._kept and name in self._selected:
                self._selected[name].scatter(parameter, self._kept[name].to(parameter.device))
            elif name in self._kept:
                parameter.copy_(self._kept[name])
