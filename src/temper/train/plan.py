"""The plan of some terms: what each role needs, where the pass stops, and what is read under the weights from before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from temper.train.losses.term import LossTerm, Positions

__all__ = ["ALTERNATIVE", "Plan", "kinds_of", "layers_of", "plan_of"]

ALTERNATIVE: Final = ".alternative"
"""Ends the name of the rows that hold other responses to a role's prompts."""


def layers_of(needs: frozenset[str], prefix: str) -> frozenset[int]:
    """Return the blocks that needs of this prefix name, e.g. `hidden:`."""
    return frozenset(int(need.removeprefix(prefix)) for need in needs if need.startswith(prefix))


def kinds_of(needs: frozenset[str], prefix: str) -> list[Positions]:
    """Return the kinds of position that needs of this prefix name, e.g. `ref_log_probs:`."""
    return cast("list[Positions]", sorted(need.removeprefix(prefix) for need in needs if need.startswith(prefix)))


@dataclass(frozen=True)
class Plan:
    """What a set of terms costs.

    Attributes:
        roles: Role to everything its terms need; alternatives are roles of their own.
        trunk_layer: The block the pass stops at; None for a full pass.
        frozen_layers: The blocks that are read under the weights from before.
        original_logits: Whether logits under the weights from before are read.
        reference_rows: Roles whose rows' reference log-probabilities are computed once before training.
    """

    roles: dict[str, frozenset[str]]
    trunk_layer: int | None
    frozen_layers: tuple[int, ...]
    original_logits: bool
    reference_rows: tuple[str, ...]

    def describe(self, stored: bool = False) -> list[str]:
        """Return the passes of one micro-batch, a line each.

        Args:
            stored: Whether logits and activations from before are read from a store.
        """
        where = (
            "all blocks, head at scored positions" if self.trunk_layer is None else f"blocks 0..{self.trunk_layer} only, no head"
        )
        lines = [f"one pass with gradient over {' + '.join(self.roles)} ({where}), split by role where lengths differ much"]
        if self.frozen_layers:
            lines.append(
                f"activations of block {max(self.frozen_layers)} from before: read from a store"
                if stored
                else f"frozen branch without gradient: trained blocks up to {max(self.frozen_layers)}, sharing what lies below them"
            )
        if self.original_logits:
            lines.append(
                "distributions from before: read from a store"
                if stored
                else "one pass without gradient under the original weights"
            )
        lines += [
            f"before training, once: log-probabilities of the {role} rows under the original weights"
            for role in self.reference_rows
        ]
        return lines


def plan_of(terms: Sequence[LossTerm]) -> Plan:
    """Return the plan of some terms."""
    roles: dict[str, frozenset[str]] = {}
    for term in terms:
        own = term.needs - {"alt"}
        roles[term.role] = roles.get(term.role, frozenset()) | own
        if "alt" in term.needs:
            roles[term.role + ALTERNATIVE] = roles.get(term.role + ALTERNATIVE, frozenset()) | own
    needs = frozenset[str]().union(*roles.values())
    reads_logits = "token_nll" in needs or any(need.startswith(("log_probs:", "logits:")) for need in needs)
    depth = layers_of(needs, "hidden:")
    return Plan(
        roles=roles,
        trunk_layer=None if reads_logits or not depth else max(depth),
        frozen_layers=tuple(sorted(layers_of(needs, "ref_hidden:"))),
        original_logits=any(need.startswith(("ref_log_probs:", "ref_logits:")) for need in needs),
        reference_rows=tuple(role for role, wanted in roles.items() if "ref_row_nll" in wanted),
    )
