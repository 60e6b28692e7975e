"""The engine: from what the terms need to the fewest forward passes that give it.

- Roles share one padded batch where that wastes little; alternatives of a row are rows of the same pass.
- If no term reads logits, the pass is a trunk: it stops at the deepest block that is read.
- The vocabulary projection runs at scored positions only.
- What the weights from before training give is read from a store by item, or computed by a branch that shares what it can.

The engine is an ordinary module, so data parallel wrappers see one forward a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from temper.errors import ModelError
from temper.models.heads import ScoredHead, chosen_nll, inner_model
from temper.models.original import OriginalWeights
from temper.models.places import Place, place_of
from temper.models.selection import decoder_layers
from temper.models.trunk import Entry, FrozenBranch, capture_hidden, run_trunk
from temper.train.losses.term import (
    Batch,
    Cache,
    LossTerm,
    Outputs,
    Positions,
    next_tokens_N,
    positions_BL,
    predicting_BL,
    spread_BL,
    token_nll_BL,
)
from temper.train.plan import ALTERNATIVE, Plan, kinds_of, layers_of, plan_of
from temper.train.reference import RoleReference

__all__ = ["Engine", "batches_of", "count_units"]

_MERGE_WASTE = 1.2
"""Roles share a batch while the shared padding costs at most this factor in tokens."""

Tensors = Mapping[str, Mapping[str, torch.Tensor]]
"""Role (or role.alternative) to its padded tensors."""


def _reaches(model: nn.Module, layer: int) -> bool:
    """Return whether something that trains can change the output of a block."""
    blocks = list(decoder_layers(model))[: layer + 1]
    below = {id(p) for part in (*blocks, inner_model(model).get_input_embeddings()) for p in part.parameters()}
    return any(p.requires_grad and id(p) in below for p in model.parameters())


def batches_of(tensors: Tensors) -> dict[str, Batch]:
    """Return role to its batch, alternatives put beside the rows they answer for."""
    rows = {role: Batch.of(values) for role, values in tensors.items()}
    for role, batch in rows.items():
        batch.alternative = rows.get(role + ALTERNATIVE)
    return rows


def count_units(terms: Sequence[LossTerm], tensors: Tensors) -> list[float]:
    """Return for each term how many units its sum over these rows has; 0 where its role is not among them."""
    rows = batches_of(tensors)
    return [float(term.count(rows[term.role])) if term.role in rows else 0.0 for term in terms]


class Engine(nn.Module):
    """Runs the model for a set of terms and returns their weighted sum.

    Args:
        model: The model to train, its selection applied.
        terms: The terms of the objective.
        references: Role to what the weights from before give to its rows; row sums must be there where a term needs them,
            logits and activations are computed where they are not stored.
        sharded: Whether parameters lie in shards over processes: every process must then run the same passes, and the original weights
            cannot be swapped in.
        masks: Parameter name to a boolean tensor of its shape, where single weights train; the original values of those alone are kept.

    Attributes:
        places: Where the selected entries lie, once that was needed; the optimiser can use the same.
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Sequence[LossTerm],
        references: Mapping[str, RoleReference] | None = None,
        *,
        sharded: bool = False,
        masks: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.terms = tuple(terms)
        self._sharded = sharded
        whole = plan_of(self.terms)
        self._references = dict(references or {})
        self._head = ScoredHead(model) if whole.trunk_layer is None else None
        if whole.trunk_layer is not None and not _reaches(model, whole.trunk_layer):
            raise ModelError(
                f"the loss reads block {whole.trunk_layer}, but the selection trains nothing at or below it, so nothing could change. "
                "Select blocks up to that one."
            )
        missing = {role: self._missing(role, needs) for role, needs in whole.roles.items()}
        frozen = layers_of(frozenset[str]().union(*missing.values()), "ref_hidden:")
        logits = any(need.startswith(("ref_log_probs:", "ref_logits:")) for needs in missing.values() for need in needs)
        if (frozen or logits) and sharded:
            raise ModelError(
                "what the model from before gives must be stored where weights are sharded; set train.reference=store"
            )
        self.places: dict[str, Place] = {}
        if masks and not sharded:
            self.places = {name: place_of(masks[name], p.detach()) for name, p in model.named_parameters() if name in masks}
        self._frozen = FrozenBranch(model, max(frozen), self.places) if frozen else None
        self._original = OriginalWeights(model, places=self.places) if logits else None

    def original_from(self, elsewhere: Callable[[], AbstractContextManager[None]]) -> None:
        """Let something else put the original weights in place, and keep no copies of them."""
        if self._original is not None:
            self._original.keep_nothing(elsewhere)
        if self._frozen is not None:
            self._frozen.original.keep_nothing(elsewhere)

    def _missing(self, role: str, needs: frozenset[str]) -> frozenset[str]:
        """Return the needs under the original weights that no store answers."""
        stored = self._references.get(role)
        return frozenset(
            need
            for need in needs
            if need.startswith(("ref_hidden:", "ref_log_probs:", "ref_logits:")) and (stored is None or not stored.holds(need))
        )

    def forward(
        self,
        batches: Tensors,
        counts: Sequence[float],
        active: Sequence[int],
        factors: Mapping[int, float] | None = None,
    ) -> dict[str, Any]:
        """Return the loss of one micro-batch, already divided by the units of the whole step, statistics, and each term's value.

        Args:
            batches: Role to its tensors.
            counts: For each term what its sum is divided by.
            active: Indices of the terms that act.
            factors: Term index to a factor beside its weight, where that moves during training.
        """
        terms = {index: self.terms[index] for index in active}
        plan = plan_of(list(terms.values()))
        every = batches_of(batches)
        rows = {role: every[role] for role in plan.roles}
        outputs: dict[str, Outputs] = {}
        caches: dict[str, Cache] = {}
        for group in groups_of(rows, self._widths(rows)):
            self._run(plan, group, outputs, caches)
        for role in plan.roles:
            outputs[role].alternative = outputs.get(role + ALTERNATIVE)
            caches[role].alternative = caches.get(role + ALTERNATIVE)
        loss: torch.Tensor | None = None
        values: dict[int, torch.Tensor] = {}
        statistics: dict[str, torch.Tensor] = {}
        for index, term in terms.items():
            value = term(outputs[term.role], rows[term.role], caches[term.role])
            divisor = max(float(counts[index]), 1.0)
            weight = term.weight * (factors or {}).get(index, 1.0)
            part = weight * value.total / divisor
            loss = part if loss is None else loss + part
            values[index] = value.total.detach() / divisor
            statistics[f"{term.role}.{term.label}"] = values[index]
            for name, total in value.statistics.items():
                statistics[f"{term.role}.{name}"] = total / divisor
        assert loss is not None
        return {"loss": loss, "statistics": statistics, "values": values}

    def _widths(self, rows: dict[str, Batch]) -> dict[str, int]:
        """Return role to the tokens of its widest row, over all processes where they must run the same passes."""
        widths = {role: batch.input_ids.shape[1] for role, batch in rows.items()}
        if self._sharded:
            # a pass gathers every block, so processes that grouped their roles differently would wait for each other for ever
            device = next(iter(rows.values())).input_ids.device
            widest = torch.tensor([widths[role] for role in sorted(widths)], device=device)
            torch.distributed.all_reduce(widest, op=torch.distributed.ReduceOp.MAX)
            widths = dict(zip(sorted(widths), widest.tolist(), strict=True))
        return widths

    def _run(self, plan: Plan, group: dict[str, Batch], outputs: dict[str, Outputs], caches: dict[str, Cache]) -> None:
        """Run one padded batch of one or more roles and file what came out by role."""
        length = max(batch.input_ids.shape[1] for batch in group.values())
        ids_BL = torch.cat([_widened(batch.input_ids, length) for batch in group.values()])
        mask_BL = torch.cat([_widened(batch.attention_mask, length) for batch in group.values()])
        needs = frozenset[str]().union(*(plan.roles[role] for role in group))
        slices: dict[str, slice] = {}
        start = 0
        for role, batch in group.items():
            slices[role] = slice(start, start + batch.input_ids.shape[0])
            start += batch.input_ids.shape[0]
            outputs[role] = Outputs()
            caches[role] = Cache()
            self._file_stored(role, plan.roles[role], batch, caches[role])
        if self._original is not None:
            self._original_logits(plan, group, caches)
        entries: dict[int, Entry] = {}
        depths = layers_of(needs, "hidden:")
        if plan.trunk_layer is not None:
            entry_of = self._frozen.first if self._frozen is not None else None
            with capture_hidden(self.model, depths - {max(depths)}) as hidden:
                deepest, entries = run_trunk(self.model, max(depths), ids_BL, mask_BL, entry_of=entry_of)
            hidden = {**hidden, max(depths): deepest}
        else:
            assert self._head is not None
            with capture_hidden(self.model, depths) as hidden:
                states_BLX = self._head.states(ids_BL, mask_BL)
            self._file_nll(plan, group, slices, states_BLX, outputs)
            _file_logits(self._head, plan, group, slices, states_BLX, outputs)
        for role, batch in group.items():
            width = batch.input_ids.shape[1]
            for layer in layers_of(plan.roles[role], "hidden:"):
                outputs[role].hidden[layer] = hidden[layer][slices[role], :width]
            frozen = layers_of(self._missing(role, plan.roles[role]), "ref_hidden:")
            if self._frozen is not None and frozen:
                branch = self._frozen.hidden(ids_BL, mask_BL, entries, slices[role], frozen)
                for layer in frozen:
                    caches[role].hidden[layer] = branch[layer][:, :width]

    def _file_nll(
        self,
        plan: Plan,
        group: dict[str, Batch],
        slices: dict[str, slice],
        states_BLX: torch.Tensor,
        outputs: dict[str, Outputs],
    ) -> None:
        """Give the roles that read -log p of their own tokens and no distribution what they need, with one call of the head."""
        assert self._head is not None
        roles = [role for role in group if "token_nll" in plan.roles[role] and not _kinds(plan.roles[role])]
        if not roles:
            return
        wanted_BL = torch.zeros(states_BLX.shape[:2], dtype=torch.bool, device=states_BLX.device)
        for role in roles:
            width = group[role].input_ids.shape[1]
            wanted_BL[slices[role], :width] = predicting_BL(group[role])
        tokens_N = torch.cat([next_tokens_N(group[role], "labelled") for role in roles])
        counts = [int(predicting_BL(group[role]).sum()) for role in roles]
        nll_N = chosen_nll(self._head.project(states_BLX, wanted_BL), tokens_N)
        for role, part_N in zip(roles, torch.split(nll_N, counts), strict=True):
            outputs[role].token_nll = spread_BL(group[role], predicting_BL(group[role]), part_N)

    def _file_stored(self, role: str, needs: frozenset[str], batch: Batch, cache: Cache) -> None:
        """Read what the store holds for these rows."""
        stored = self._references.get(role)
        if "ref_row_nll" in needs:
            if stored is None or stored.row_nll is None:
                raise ModelError(f"the rows of {role} have no reference log-probabilities; compute them before training")
            cache.row_nll = stored.row_nll.to(batch.input_ids.device)[batch.index]
        if stored is None:
            return
        device = batch.input_ids.device
        for kind in kinds_of(needs, "ref_log_probs:"):
            if stored.holds(f"ref_log_probs:{kind}"):
                cache.log_probs[kind] = stored.log_probs(kind, batch.index).to(device)
        for layer in layers_of(needs, "ref_hidden:"):
            if stored.holds(f"ref_hidden:{layer}"):
                cache.hidden[layer] = stored.hidden(layer, batch.index, batch.input_ids.shape[1]).to(device)

    def _original_logits(self, plan: Plan, group: dict[str, Batch], caches: dict[str, Cache]) -> None:
        """Run the rows that no store answers under the weights from before."""
        assert self._original is not None and self._head is not None
        for role, batch in group.items():
            missing = self._missing(role, plan.roles[role])
            log_probs, raw = kinds_of(missing, "ref_log_probs:"), kinds_of(missing, "ref_logits:")
            if not log_probs and not raw:
                continue
            was_training = self.model.training
            self.model.eval()  # the teacher is the model as it is used: no dropout
            with self._original.active():
                for kind in sorted({*log_probs, *raw}):
                    logits_NV = self._head.logits(batch.input_ids, batch.attention_mask, positions_BL(batch, kind))
                    if kind in raw:
                        caches[role].logits[kind] = logits_NV
                    if kind in log_probs:
                        caches[role].log_probs[kind] = torch.log_softmax(logits_NV, dim=-1)
            self.model.train(was_training)


def groups_of(rows: dict[str, Batch], widths: Mapping[str, int]) -> list[dict[str, Batch]]:
    """Return batches to run: roles of like width together while that wastes little, the widest first.

    Example:
        Widths 10, 9 and 2 of one row each: the first two share a pass (20 cells for 19), the third would cost 30 for 21.
    """
    order = sorted(rows, key=lambda role: -widths[role])
    groups: list[dict[str, Batch]] = []
    for role in order:
        candidate = {**groups[-1], role: rows[role]} if groups else {role: rows[role]}
        alone = sum(len(batch.input_ids) * widths[name] for name, batch in candidate.items())
        together = sum(len(batch.input_ids) for batch in candidate.values()) * max(widths[name] for name in candidate)
        if groups and together <= _MERGE_WASTE * alone:
            groups[-1] = candidate
        else:
            groups.append({role: rows[role]})
    return groups


def _kinds(needs: frozenset[str]) -> set[Positions]:
    """Return the kinds of position at which a role reads whole distributions."""
    return {*kinds_of(needs, "log_probs:"), *kinds_of(needs, "logits:")}


def _file_logits(
    head: ScoredHead,
    plan: Plan,
    group: dict[str, Batch],
    slices: dict[str, slice],
    states_BLX: torch.Tensor,
    outputs: dict[str, Outputs],
) -> None:
    """Give the roles that read distributions theirs, by kind of position."""
    for role, batch in group.items():
        needs = plan.roles[role]
        if not _kinds(needs):
            continue
        here_BL = _positions(needs, batch)
        logits_NV = head.project(states_BLX[slices[role], : batch.input_ids.shape[1]], here_BL)
        for kind in kinds_of(needs, "logits:"):
            outputs[role].logits[kind] = _at(logits_NV, here_BL, positions_BL(batch, kind))
        if "token_nll" in needs or kinds_of(needs, "log_probs:"):
            log_probs_NV = torch.log_softmax(logits_NV, dim=-1)
            for kind in kinds_of(needs, "log_probs:"):
                outputs[role].log_probs[kind] = _at(log_probs_NV, here_BL, positions_BL(batch, kind))
            if "token_nll" in needs:
                outputs[role].token_nll = token_nll_BL(batch, here_BL, log_probs_NV)


def _at(values_NV: torch.Tensor, computed_BL: torch.Tensor, wanted_BL: torch.Tensor) -> torch.Tensor:
    """Return the rows of computed positions that are also wanted."""
    chosen_N = wanted_BL[computed_BL]
    return values_NV if bool(chosen_N.all()) else values_NV[chosen_N]


def _widened(tensor_BL: torch.Tensor, length: int) -> torch.Tensor:
    """Pad on the right with 0 (a masked token, an unwanted position)."""
    return nn.functional.pad(tensor_BL, (0, length - tensor_BL.shape[1]))


def _positions(needs: frozenset[str], batch: Batch) -> torch.Tensor:
    """Return the positions at which a role needs the head, shape (B, L)."""
    wanted_BL = torch.zeros_like(batch.labels, dtype=torch.bool)
    if "token_nll" in needs:
        wanted_BL |= predicting_BL(batch)
    for kind in _kinds(needs):
        wanted_BL |= positions_BL(batch, kind)
    return wanted_BL
