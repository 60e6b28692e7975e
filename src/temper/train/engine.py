"""The engine: from what the terms need to the fewest forward passes that give it.

- Roles whose rows are of similar length share one padded batch; else each role runs alone.
- If no term reads logits, the pass is a trunk: it stops at the deepest block that is read.
- The vocabulary projection runs at scored positions only.
- Reference log-probabilities of rows are computed once before training; frozen activations share the trunk's lower part.

The engine is an ordinary module, so data parallel wrappers see one forward a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from temper.errors import ModelError
from temper.models.heads import ScoredHead, inner_model
from temper.models.original import OriginalWeights
from temper.models.selection import decoder_layers
from temper.models.trunk import Entry, FrozenBranch, capture_hidden, run_trunk
from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, Unit, followed_BL, labelled_BL, predicting_BL, token_nll_BL

__all__ = ["Counts", "Engine", "Plan", "count_units", "plan_of"]

_MERGE_WASTE = 1.2
"""Roles share a batch while the shared padding costs at most this factor in tokens."""

Counts = Mapping[str, Mapping[str, float]]
"""Role to unit to the number of such units in the whole optimiser step, over micro-batches and processes."""


def _layers(needs: frozenset[str], prefix: str) -> frozenset[int]:
    return frozenset(int(need.removeprefix(prefix)) for need in needs if need.startswith(prefix))


@dataclass(frozen=True)
class Plan:
    """What a set of terms costs.

    Attributes:
        roles: Role to everything its terms need.
        trunk_layer: The block the pass stops at; None for a full pass.
        frozen_layer: The block at which the frozen branch is read; None without one.
        original_logits: Whether a second, ungraded full pass under the original weights is needed.
        reference_rows: Roles whose rows' reference log-probabilities are computed once before training.
    """

    roles: dict[str, frozenset[str]]
    trunk_layer: int | None
    frozen_layer: int | None
    original_logits: bool
    reference_rows: tuple[str, ...]

    def describe(self) -> list[str]:
        """Return the passes of one micro-batch, a line each."""
        where = (
            "all blocks, head at scored positions" if self.trunk_layer is None else f"blocks 0..{self.trunk_layer} only, no head"
        )
        lines = [f"one pass with gradient over {' + '.join(self.roles)} ({where}), split by role where lengths differ much"]
        if self.frozen_layer is not None:
            lines.append(
                f"frozen branch without gradient: trained blocks up to {self.frozen_layer}, sharing what lies below them"
            )
        if self.original_logits:
            lines.append("one pass without gradient under the original weights")
        lines += [
            f"before training, once: log-probabilities of the {role} rows under the original weights"
            for role in self.reference_rows
        ]
        return lines


def plan_of(terms: Sequence[LossTerm]) -> Plan:
    """Return the plan of some terms."""
    roles: dict[str, frozenset[str]] = {}
    for term in terms:
        roles[term.role] = roles.get(term.role, frozenset()) | term.needs
    needs = frozenset().union(*roles.values())
    reads_logits = bool(needs & {"token_nll", "log_probs"})
    depth = _layers(needs, "hidden:")
    frozen = _layers(needs, "ref_hidden:")
    return Plan(
        roles=roles,
        trunk_layer=None if reads_logits else max(depth),
        frozen_layer=max(frozen) if frozen else None,
        original_logits="ref_log_probs" in needs,
        reference_rows=tuple(role for role, wanted in roles.items() if "ref_row_nll" in wanted),
    )


def _reaches(model: nn.Module, layer: int) -> bool:
    """Return whether something that trains can change the output of a block."""
    blocks = list(decoder_layers(model))[: layer + 1]
    below = {id(p) for part in (*blocks, inner_model(model).get_input_embeddings()) for p in part.parameters()}
    return any(p.requires_grad and id(p) in below for p in model.parameters())


def count_units(batch: Batch) -> dict[Unit, int]:
    """Return how many rows, labelled tokens and predicting positions a batch has."""
    return {
        "rows": batch.input_ids.shape[0],
        "tokens": int(labelled_BL(batch).sum()),
        "positions": int(followed_BL(batch).sum()),
    }


class Engine(nn.Module):
    """Runs the model for a set of terms and returns their weighted sum.

    Args:
        model: The model to train, its selection applied.
        terms: The terms of the objective.
        reference_rows: Role to the summed -log p of every item under the original weights, shape (items,).
    """

    def __init__(
        self, model: nn.Module, terms: Sequence[LossTerm], reference_rows: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.terms = tuple(terms)
        whole = plan_of(self.terms)
        self._reference_rows = dict(reference_rows or {})
        self._head = ScoredHead(model) if whole.trunk_layer is None else None
        self._original = OriginalWeights(model) if whole.original_logits else None
        anchored = _layers(frozenset().union(*whole.roles.values()), "ref_hidden:")
        if len(anchored) > 1:
            raise ModelError(f"terms anchor the blocks {sorted(anchored)}; one run can anchor one block only")
        if whole.trunk_layer is not None and not _reaches(model, whole.trunk_layer):
            raise ModelError(
                f"the loss reads block {whole.trunk_layer}, but the selection trains nothing at or below it, so nothing could change. "
                "Select blocks up to that one."
            )
        self._frozen = FrozenBranch(model, whole.frozen_layer) if whole.frozen_layer is not None else None

    def forward(self, batches: dict[str, dict[str, torch.Tensor]], counts: Counts, active: Sequence[int]) -> dict[str, Any]:
        """Return the loss of one micro-batch, already divided by the units of the whole step, and statistics.

        Args:
            batches: Role to its tensors.
            counts: What each sum is divided by.
            active: Indices of the terms that act.
        """
        terms = [self.terms[index] for index in active]
        plan = plan_of(terms)
        rows = {role: Batch(**batches[role]) for role in plan.roles}
        outputs: dict[str, Outputs] = {}
        caches: dict[str, Cache] = {}
        for group in self._groups(rows):
            self._run(plan, group, outputs, caches)
        loss: torch.Tensor | None = None
        statistics: dict[str, torch.Tensor] = {}
        for term in terms:
            value = term(outputs[term.role], rows[term.role], caches[term.role])
            divisor = max(float(counts[term.role][term.unit]), 1.0)
            part = term.weight * value.total / divisor
            loss = part if loss is None else loss + part
            statistics[f"{term.role}.{term.label}"] = value.total.detach() / divisor
            for name, total in value.statistics.items():
                statistics[f"{term.role}.{name}"] = total / divisor
        assert loss is not None
        return {"loss": loss, "statistics": statistics}

    def _groups(self, rows: dict[str, Batch]) -> list[dict[str, Batch]]:
        """Return batches to run: all roles together where that wastes little, else each alone."""
        shapes = [batch.input_ids.shape for batch in rows.values()]
        alone = sum(shape[0] * shape[1] for shape in shapes)
        together = sum(shape[0] for shape in shapes) * max(shape[1] for shape in shapes)
        if together <= _MERGE_WASTE * alone:
            return [rows]
        return [{role: batch} for role, batch in rows.items()]

    def _run(self, plan: Plan, group: dict[str, Batch], outputs: dict[str, Outputs], caches: dict[str, Cache]) -> None:
        """Run one padded batch of one or more roles and file what came out by role."""
        length = max(batch.input_ids.shape[1] for batch in group.values())
        ids_BL = torch.cat([_widened(batch.input_ids, length) for batch in group.values()])
        mask_BL = torch.cat([_widened(batch.attention_mask, length) for batch in group.values()])
        needs = frozenset().union(*(plan.roles[role] for role in group))
        slices: dict[str, slice] = {}
        start = 0
        for role, batch in group.items():
            slices[role] = slice(start, start + batch.input_ids.shape[0])
            start += batch.input_ids.shape[0]
            outputs[role] = Outputs()
            caches[role] = Cache()
            if role in self._reference_rows:
                caches[role].row_nll = self._reference_rows[role].to(ids_BL.device)[batch.index]
        wanted_BL = torch.cat([_widened(_positions(plan.roles[role], batch), length) for role, batch in group.items()])
        if self._original is not None and "ref_log_probs" in needs:
            self._original_log_probs(plan, group, caches)
        entries: dict[int, Entry] = {}
        if plan.trunk_layer is not None:
            depths = _layers(needs, "hidden:")
            entry_of = self._frozen.first if self._frozen is not None else None
            with capture_hidden(self.model, depths - {max(depths)}) as hidden:
                deepest, entries = run_trunk(self.model, max(depths), ids_BL, mask_BL, entry_of=entry_of)
            hidden = {**hidden, max(depths): deepest}
        else:
            assert self._head is not None
            with capture_hidden(self.model, _layers(needs, "hidden:")) as hidden:
                log_probs_NV = self._head.log_probs(ids_BL, mask_BL, wanted_BL)
            self._file_log_probs(plan, group, slices, wanted_BL, log_probs_NV, outputs)
        for role, batch in group.items():
            width = batch.input_ids.shape[1]
            for layer in _layers(plan.roles[role], "hidden:"):
                outputs[role].hidden[layer] = hidden[layer][slices[role], :width]
            if self._frozen is not None and (frozen := _layers(plan.roles[role], "ref_hidden:")):
                branch = self._frozen.hidden(ids_BL, mask_BL, entries, slices[role])
                for layer in frozen:
                    caches[role].hidden[layer] = branch[:, :width]

    def _original_log_probs(self, plan: Plan, group: dict[str, Batch], caches: dict[str, Cache]) -> None:
        assert self._original is not None and self._head is not None
        for role, batch in group.items():
            if "ref_log_probs" in plan.roles[role]:
                was_training = self.model.training
                self.model.eval()  # the teacher is the model as it is used: no dropout
                with self._original.active():
                    caches[role].log_probs = self._head.log_probs(batch.input_ids, batch.attention_mask, followed_BL(batch))
                self.model.train(was_training)

    @staticmethod
    def _file_log_probs(
        plan: Plan,
        group: dict[str, Batch],
        slices: dict[str, slice],
        wanted_BL: torch.Tensor,
        log_probs_NV: torch.Tensor,
        outputs: dict[str, Outputs],
    ) -> None:
        start = 0
        for role, batch in group.items():
            here_BL = wanted_BL[slices[role], : batch.input_ids.shape[1]]
            count = int(here_BL.sum())
            part_NV = log_probs_NV[start : start + count]
            start += count
            if "log_probs" in plan.roles[role]:
                outputs[role].log_probs = part_NV
            if "token_nll" in plan.roles[role]:
                outputs[role].token_nll = token_nll_BL(batch, here_BL, part_NV)


def _widened(tensor_BL: torch.Tensor, length: int) -> torch.Tensor:
    """Pad on the right with 0 (a masked token, an unwanted position)."""
    return nn.functional.pad(tensor_BL, (0, length - tensor_BL.shape[1]))


def _positions(needs: frozenset[str], batch: Batch) -> torch.Tensor:
    """Return the positions at which a role needs the head, shape (B, L)."""
    if "log_probs" in needs:
        return followed_BL(batch)
    if "token_nll" in needs:
        return predicting_BL(batch)
    return torch.zeros_like(batch.labels, dtype=torch.bool)
