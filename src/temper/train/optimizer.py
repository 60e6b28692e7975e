"""AdamW that steps the selected entries and keeps state for nothing else.

    s = the selected entries of a parameter,  m, v, master = float32 tensors of the size of s
    s ← AdamW(s, ∇s, m, v),  then s is written back; what is not selected is never touched

- Entries outside the masks are bit-identical after any number of steps: no gradient, no decay, no rounding reaches them.
- Half precision parameters are stepped on float32 masters of their selected entries: a bfloat16 weight has 8 significant
  bits, so most steps at usual learning rates would round away.
- Float32 parameters without a mask are stepped in place, by the same fused call as `torch.optim.AdamW(fused=True)`.

The mathematics is torch's own (`torch.optim.adamw.adamw`); here is only what it is applied to. Sharded parameters
(DTensor) are stepped shard by shard: AdamW is elementwise, so no communication is needed.

Masters are taken from the parameters at the first step. Whoever changes half precision weights between steps by other
means must change the masters too, or the next step undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from temper.errors import ModelError, RunError
from temper.train.places import Place, place_of

__all__ = ["SelectedAdamW"]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")  # DTensor, without importing torch.distributed where it is not used


def _local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    return cast(Any, tensor).to_local() if _is_sharded(tensor) else tensor


def _local_gradient(parameter: Tensor) -> Tensor:
    gradient = cast(Tensor, parameter.grad)
    if _is_sharded(gradient):
        sharded: Any = gradient
        placements = cast(Any, parameter).placements
        gradient = sharded if sharded.placements == placements else sharded.redistribute(placements=placements)
    return _local(gradient)


def _sharded_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """Return a whole tensor, which every process holds, sharded as a parameter is; nothing is sent."""
    if not _is_sharded(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    return distribute_tensor(whole.to(parameter.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


def _joined(parameter: Tensor, place: Place, values: Tensor) -> Tensor:
    """Return the whole tensor whose selected entries are the values of all processes, zero elsewhere; a collective."""
    from torch.distributed.tensor import DTensor

    sharded: Any = parameter
    local = torch.zeros(place.shape, dtype=values.dtype, device=values.device)
    place.scatter(local, values)
    joined: Tensor = DTensor.from_local(
        local, sharded.device_mesh, sharded.placements, run_check=False, shape=sharded.shape, stride=sharded.stride()
    ).full_tensor()
    return joined


def _joined_mask(parameter: Tensor, place: Place) -> Tensor:
    ones = torch.ones(place.gathered, dtype=torch.uint8, device=_local(parameter.detach()).device)
    return _joined(parameter, place, ones).bool()


def _step_dtype(parameter: Tensor) -> torch.dtype:
    """Return the precision that a parameter is stepped in: its own, but at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def _has_master(parameter: Tensor) -> bool:
    return _step_dtype(parameter) != parameter.dtype


class SelectedAdamW(torch.optim.Optimizer):
    """AdamW over the selected entries of parameters; matrices decay, vectors do not.

    A parameter without a mask trains whole. State is allocated at the first step.

    Args:
        named: The parameters that train, with their names.
        masks: Parameter name to a boolean tensor of its shape, True where it trains. Masks of parameters that are not in
            `named` are passed over if they select nothing.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay of parameters with more than one dimension.

    Raises:
        ModelError: A mask has another shape or type than its parameter needs, or selects in a parameter that does not train.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        masks: Mapping[str, Tensor] | None = None,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        masks = masks or {}
        parameters = dict(named)
        for name, mask in masks.items():
            _check_mask(name, mask, parameters.get(name))
        groups: list[dict[str, Any]] = [
            {"params": [(name, p) for name, p in named if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [(name, p) for name, p in named if p.dim() <= 1], "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)
        # decided on whole masks: what is all selected in one process's shard need not be in another's
        partial = {name: mask for name, mask in masks.items() if name in parameters and not bool(mask.all())}
        self._masked = frozenset(partial)
        self._places = {
            name: place_of(_local(_sharded_like(p, partial[name])) if name in partial else None, _local(p.detach()))
            for name, p in named
        }

    def _members(self, group: dict[str, Any]) -> Iterator[tuple[str, nn.Parameter, Place]]:
        # by name, not by identity: wrappers that shard a model put other tensors in the place of the parameters
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            place = self._places[name]
            shape = tuple(_local(parameter.detach()).shape)
            if shape != place.shape:
                if name in self._masked:
                    raise RunError(
                        f"{name}: had the shape {list(place.shape)} when its mask was read and has {list(shape)} at the step. Build the "
                        "optimiser after the model is sharded."
                    )
                place = self._places[name] = place_of(None, _local(parameter.detach()))
            yield name, parameter, place

    # ---- what the trainer asks ----

    @property
    def selected(self) -> int:
        """The number of entries that train, in this process's shards."""
        return sum(place.count for group in self.param_groups for _, _, place in self._members(group))

    def state_bytes(self) -> int:
        """Return the bytes of moments and masters, in this process; known before the first step."""
        return sum(
            place.count * _step_dtype(parameter).itemsize * (3 if _has_master(parameter) else 2)
            for group in self.param_groups
            for _, parameter, place in self._members(group)
        )

    @torch.no_grad()
    def zero_unselected_gradients(self) -> None:
        """Zero the gradient entries that do not train, so that a norm taken for clipping counts what trains alone."""
        for group in self.param_groups:
            for _, parameter, place in self._members(group):
                if parameter.grad is not None:
                    place.clear_outside(_local(parameter.grad))

    # ---- the step ----

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the selected entries of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            whole: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
            for name, parameter, place in self._members(group):
                # a shard without selected entries has empty state: joining shards needs every process
                if parameter.grad is None or (place.count == 0 and not _is_sharded(parameter)):
                    continue
                state = self.state[parameter] or self._begin(name, parameter, place)
                weight, gradient = _local(parameter), _local_gradient(parameter)
                if place.is_everything and not _has_master(parameter):
                    whole.append((weight, gradient, state))
                    continue
                # one parameter at a time: the gathered copies of one parameter are all that exists beside the state
                values = _local(state["master"]) if "master" in state else place.gather(weight)
                self._adamw(group, [(values, place.gather(gradient).to(values.dtype), state)])
                place.scatter(weight, values)
            self._adamw(group, whole)
        return loss

    def _begin(self, name: str, parameter: nn.Parameter, place: Place) -> dict[str, Tensor]:
        # whole sharded parameters get sharded state, so that torch's own tools can gather and reshard it
        selected = place.gather(_local(parameter)) if name in self._masked else parameter.detach()
        dtype = _step_dtype(parameter)
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=selected.device)
        state["exp_avg"] = torch.zeros_like(selected, dtype=dtype)
        state["exp_avg_sq"] = torch.zeros_like(selected, dtype=dtype)
        if _has_master(parameter):
            state["master"] = selected.to(dtype)
        return cast(dict[str, Tensor], state)

    def _adamw(self, group: dict[str, Any], members: Sequence[tuple[Tensor, Tensor, dict[str, Tensor]]]) -> None:
        if not members:
            return
        adamw(
            [values for values, _, _ in members],
            [gradient for _, gradient, _ in members],
            [_local(state["exp_avg"]) for _, _, state in members],
            [_local(state["exp_avg_sq"]) for _, _, state in members],
            [],
            [state["step"] for _, _, state in members],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    # ---- saving and going on ----

    def _stored(self, state_dict: dict[str, Any]) -> list[tuple[Any, str, nn.Parameter, Place, dict[str, Tensor]]]:
        """Return the entries of a state with their keys and what they belong to.

        Raises:
            RunError: They belong to other parameters.
        """
        members = [member for group in self.param_groups for member in self._members(group)]
        names = [name for name, _, _ in members]
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
        return [(key, *member, state[key]) for key, member in zip(keys, members, strict=True) if key in state]

    def whole_state_dict(self) -> dict[str, Any]:
        """Return `state_dict` with shards joined, as one process would have it; every process must call it.

        The state of a masked parameter holds its selected entries, row by row.
        """
        found = self.state_dict()
        whole: dict[Any, dict[str, Tensor]] = {}
        for key, name, parameter, place, entry in self._stored(found):
            whole[key] = dict(entry)
            if not _is_sharded(parameter):
                continue
            mask = _joined_mask(parameter, place) if name in self._masked else None
            for part, value in entry.items():
                if part != "step":
                    whole[key][part] = (
                        cast(Any, value).full_tensor() if mask is None else _joined(parameter, place, value).masked_select(mask)
                    )
        return {"state": whole, "param_groups": found["param_groups"]}

    def load_whole_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `whole_state_dict` returned, on any number of processes; every process must call it.

        Raises:
            RunError: The state belongs to other parameters or to another selection of their entries.
        """
        local: dict[Any, dict[str, Tensor]] = {}
        for key, name, parameter, place, entry in self._stored(state_dict):
            local[key] = dict(entry)
            if not _is_sharded(parameter):
                continue
            mask = _joined_mask(parameter, place) if name in self._masked else None
            count = parameter.numel() if mask is None else int(mask.sum())
            for part, value in entry.items():
                if part == "step":
                    continue
                if value.numel() != count:
                    raise RunError(_other_selection(name, value.numel(), count))
                if mask is None:
                    local[key][part] = _sharded_like(parameter, value)
                else:
                    dense = torch.zeros(parameter.shape, dtype=value.dtype, device=mask.device)
                    dense.masked_scatter_(mask, value.to(mask.device))
                    local[key][part] = place.gather(_local(_sharded_like(parameter, dense)))
        self.load_state_dict({"state": local, "param_groups": state_dict["param_groups"]})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned, bit for bit.

        Raises:
            RunError: The state belongs to other parameters or to another selection of their entries.
        """
        entries = self._stored(state_dict)
        for _, name, parameter, place, entry in entries:
            count = _local(entry["exp_avg"]).numel()
            if count != place.count:
                raise RunError(_other_selection(name, count, place.count))
            if ("master" in entry) != _has_master(parameter):
                raise RunError(
                    f"the stored optimiser state of {name} is {'with' if 'master' in entry else 'without'} a float32 master, but the parameter is "
                    f"{parameter.dtype}. Train with the model.dtype of before, or remove the run folder and start again."
                )
        super().load_state_dict(state_dict)
        # torch casts what it loads to the precision of the parameter, which would round masters and moments
        for _, name, parameter, place, entry in entries:
            self.state[parameter] = {
                part: (value.reshape(place.gathered) if name in self._masked and part != "step" else value).to(parameter.device)
                for part, value in entry.items()
            }


def _other_selection(name: str, stored: int, here: int) -> str:
    return f"the stored optimiser state of {name} is for {stored} entries; the selection trains {here}. Remove the run folder and start again."


def _check_mask(name: str, mask: Tensor, parameter: Tensor | None) -> None:
    if mask.dtype != torch.bool:
        raise ModelError(f"mask of {name}: has the type {mask.dtype}; a mask is boolean, True where the weight trains")
    if parameter is None:
        if bool(mask.any()):
            raise ModelError(
                f"mask of {name}: selects {int(mask.sum())} entries, but no parameter of this name trains. Use the model's own parameter names."
            )
    elif mask.shape != parameter.shape:
        raise ModelError(f"mask of {name}: has the shape {list(mask.shape)}, but the parameter has {list(parameter.shape)}")
