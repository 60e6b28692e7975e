"""An optimiser whose state belongs to shells: small tensors that stand for the selected entries of parameters.

The shells are what a base optimiser steps; `param_groups` and `state` show the parameters themselves, as wrappers, schedules and
torch's own tools for checkpoints expect. A state is saved and loaded by parameter name, its selected entries row by row, on any
number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from temper.errors import RunError
from temper.models.places import Place, place_of
from temper.train.bases import SCALARS, states_per_entry
from temper.train.sharding import as_shard_of, is_sharded, joined, joined_mask, like, local, whole
from temper.train.storage import Member, Precision, Storage

__all__ = ["ShellOptimizer"]


class ShellOptimizer(torch.optim.Optimizer):
    """Keeps the members of a masked optimiser and their state.

    Args:
        base: Steps the shells; its groups become those of this optimiser, its state that of the shells.
        groups: Its groups with named parameters.
        storage: How entries are kept.
        precision: The precision of the step.
    """

    def __init__(self, base: torch.optim.Optimizer, groups: list[dict[str, Any]], storage: Storage, precision: Precision) -> None:
        super().__init__(groups, base.defaults)
        self.base = base
        self.storage, self.precision = storage, precision
        self._members: dict[str, Member] = {}
        self._has_stepped = False

    def _member(self, name: str, parameter: Tensor, place: Place, is_masked: bool) -> Member:
        part = local(parameter.detach())
        return Member(name, part, place, is_masked=is_masked, storage=self.storage, precision=self.precision)

    def _each(self) -> Iterator[tuple[dict[str, Any], str, nn.Parameter]]:
        for group in self.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                yield group, name, parameter

    def _take_over_state(self) -> None:
        """Give the shells what state the base has: Adagrad begins with one, others where they have stepped before."""
        state, self.base.state = self.base.state, type(self.base.state)(dict)
        self.base.param_groups = self.param_groups
        for _, name, parameter in self._each():
            member = self._members[name]
            if parameter in state and (member.place.count or is_sharded(parameter)):
                parts = {part: local(value) if isinstance(value, Tensor) else value for part, value in state[parameter].items()}
                self.base.state[member.shell] = {
                    part: value if part in SCALARS or value is None else member.span.gather(value).to(member.dtype).clone()
                    for part, value in parts.items()
                }

    def _of(self, name: str, parameter: nn.Parameter) -> Member:
        # by name, not by identity: wrappers that shard a model put other tensors in the place of the parameters
        member = self._members[name]
        part = local(parameter.detach()) if is_sharded(parameter) else parameter
        if part.shape != member.place.shape:
            if member.is_masked:
                raise RunError(
                    f"{name}: had the shape {list(member.place.shape)} when its mask was read and has {list(part.shape)} at the step. Build the "
                    "optimiser after the model is sharded."
                )
            member = self._members[name] = self._member(name, parameter, place_of(None, part), False)
        return member

    @property
    def selected(self) -> int:
        """The number of entries that train, in this process's shards."""
        return sum(self._of(name, p).place.count for _, name, p in self._each())

    def state_bytes(self) -> int:
        """Return the bytes of state and of what is kept beside it, in this process; known before the first step."""
        total = 0
        for group, name, parameter in self._each():
            member = self._of(name, parameter)
            if member.place.count:
                total += member.kept_bytes(parameter)
                total += member.span.count * member.dtype.itemsize * states_per_entry(self.base, group)
        return total

    def place_bytes(self) -> int:
        """Return the bytes that say where the selected entries lie."""
        return sum(member.place.stored_bytes for member in self._members.values())

    def _show(self, parameter: nn.Parameter, member: Member) -> None:
        """Let the state of a parameter show what the base and this keep for its shell; nothing is copied."""
        parts: dict[str, Any] = {**self.base.state[member.shell], **member.kept}
        if is_sharded(parameter) and not member.is_ragged:
            # whole sharded parameters show sharded state, so that torch's own tools can gather and reshard it
            parts = {part: value if part in SCALARS else as_shard_of(parameter, value) for part, value in parts.items()}
        self.state[parameter] = parts

    # ---- saving and going on ----

    def _stored(self, state_dict: dict[str, Any]) -> list[tuple[Any, nn.Parameter, Member, dict[str, Tensor]]]:
        """Return the entries of a state with their keys and what they belong to.

        Raises:
            RunError: They belong to other parameters.
        """
        names = [name for _, name, _ in self._each()]
        stored = [name for group in state_dict["param_groups"] for name in group.get("param_names", ())]
        if names != stored:
            here, there = next(((a, b) for a, b in zip(names, stored, strict=False) if a != b), (len(names), len(stored)))
            raise RunError(
                f"the stored optimiser state belongs to other parameters than the selection trains (first difference: {there} stored, {here} "
                "here). Remove the run folder and start again."
            )
        # a key is whatever the stored groups call a parameter: its number, or its name for torch's own tools
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        state = state_dict["state"]
        return [
            (key, parameter, self._of(name, parameter), state[key])
            for key, (_, name, parameter) in zip(keys, self._each(), strict=True)
            if key in state
        ]

    def whole_state_dict(self) -> dict[str, Any]:
        """Return `state_dict` with shards joined, as one process would have it; every process must call it.

        The state of a masked parameter holds its selected entries, row by row.
        """
        found = self.state_dict()
        state: dict[Any, dict[str, Tensor]] = {}
        for key, parameter, member, entry in self._stored(found):
            state[key] = dict(entry)
            if not is_sharded(parameter):
                continue
            mask = joined_mask(parameter, member.place) if member.is_ragged else None
            for part, value in entry.items():
                if part not in SCALARS:
                    state[key][part] = (
                        whole(value) if mask is None else joined(parameter, member.place, value).masked_select(mask)
                    )
        return {"state": state, "param_groups": found["param_groups"]}

    def load_whole_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `whole_state_dict` returned, on any number of processes; every process must call it.

        Raises:
            RunError: The state belongs to other parameters or to another selection of their entries.
        """
        state: dict[Any, dict[str, Tensor]] = {}
        for key, parameter, member, entry in self._stored(state_dict):
            state[key] = dict(entry)
            if not is_sharded(parameter):
                continue
            mask = joined_mask(parameter, member.place) if member.is_ragged else None
            count = parameter.numel() if mask is None else int(mask.sum())
            for part, value in entry.items():
                if part in SCALARS:
                    continue
                if value.numel() != count:
                    raise RunError(_other_selection(member.name, value.numel(), count))
                if mask is None:
                    state[key][part] = like(parameter, value)
                else:
                    dense = torch.zeros(parameter.shape, dtype=value.dtype, device=mask.device)
                    dense.masked_scatter_(mask, value.to(mask.device))
                    state[key][part] = member.place.gather(local(like(parameter, dense)))
        self.load_state_dict({"state": state, "param_groups": state_dict["param_groups"]})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned, bit for bit.

        Raises:
            RunError: The state belongs to other parameters, to another selection of their entries, or to another form of storage.
        """
        entries = self._stored(state_dict)
        for _, parameter, member, entry in entries:
            _check_entry(parameter, member, entry)
        for _, name, parameter in self._each():
            if parameter in self.state:  # what has not stepped may have a state to begin with (Adagrad)
                member = self._of(name, parameter)
                self.base.state.pop(member.shell, None)
                member.kept = {}
        super().load_state_dict(state_dict)
        self.base.param_groups = self.param_groups
        # torch casts what it loads to the precision of the parameter, which would round masters and moments
        for _, parameter, member, entry in entries:
            parts = {
                part: value if part in SCALARS else local(value).reshape(member.span.gathered) for part, value in entry.items()
            }
            # the count of steps stays where torch keeps it: on a GPU reading it would wait for the device at every step
            parts = {
                part: value if part in SCALARS and not _counts_on_device(self.base) else value.to(parameter.device)
                for part, value in parts.items()
            }
            member.kept = {part: parts.pop(part) for part in member.parts}
            self.base.state[member.shell] = parts
            self._show(parameter, member)
        self._has_stepped = bool(entries)


def _other_selection(name: str, stored: int, here: int) -> str:
    return f"the stored optimiser state of {name} is for {stored} entries; the selection trains {here}. Remove the run folder and start again."


def _check_entry(parameter: Tensor, member: Member, entry: Mapping[str, Tensor]) -> None:
    """Refuse the stored state of a parameter that does not fit what is kept for it here."""
    name = member.name
    for part, value in entry.items():
        if part not in SCALARS and local(value).numel() != member.span.count:
            raise RunError(_other_selection(name, local(value).numel(), member.span.count))
    if ("delta" in entry) != ("delta" in member.parts):
        raise RunError(
            f"the stored optimiser state of {name} is {'with' if 'delta' in entry else 'without'} δ. Train with the train.storage of before, or "
            "remove the run folder and start again."
        )
    if ("master" in entry) != ("master" in member.parts):
        raise RunError(
            f"the stored optimiser state of {name} is {'with' if 'master' in entry else 'without'} a float32 master, but the parameter is "
            f"{parameter.dtype}. Train with the model.dtype and train.precision of before, or remove the run folder and start again."
        )


def _counts_on_device(base: torch.optim.Optimizer) -> bool:
    return bool(base.defaults.get("fused") or base.defaults.get("capturable"))
