"""An optimiser that steps the selected entries of parameters and keeps state for nothing else, around any elementwise optimiser.

    s = the selected entries of a parameter, m, v, ... = state of the size of s
    s ← base(s, ∇s, m, v, ...),  then s is written back; what is not selected is never touched

- Entries outside the masks are bit-identical after any number of steps: no gradient, no decay, no rounding reaches them.
- The mathematics is the base's own, applied to small tensors (shells) that hold the selected entries; a parameter that is
  selected whole is its own shell, so that without masks this is the base bit for bit.
- Half precision parameters are stepped on float32 masters of their selected entries: a bfloat16 weight has 8 significant
  bits, so most steps at usual learning rates would round away.
- Once attached, gradients are packed as they come (`train/packed.py`), and linear layers with selected rows or columns
  compute the gradient of those alone (`train/sliced.py`).

Sharded parameters (DTensor) are stepped shard by shard: elementwise optimisers need no communication.

Masters are taken from the parameters at the first step. Whoever changes half precision weights between steps by other
means must change the masters too, or the next step undoes it.

Source: the masked step of WAGLE (OPTML-Group, NeurIPS 2024), which multiplies whole gradients by a mask, keeps the state of all
weights and lets decay move those outside of it. `dense_compat` storage has its state, and not its drift.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from temper import processes
from temper.errors import ModelError, RunError
from temper.models.places import Place, place_of
from temper.train.bases import check_elementwise, decay_groups
from temper.train.packed import PackedGradients, Source
from temper.train.sharding import is_sharded, like, local, local_gradient, whole
from temper.train.shells import ShellOptimizer
from temper.train.storage import Member, Precision, Storage

__all__ = ["MaskedOptimizer", "masked_adamw"]

_AT_ONCE: Final = 2**16
"""Entries that are gathered before the base steps them: the copies of few tensors exist at a time, and are still in the cache when
they are written back."""


class MaskedOptimizer(ShellOptimizer):
    """Steps the selected entries of parameters with a given optimiser.

    A parameter without a mask trains whole. State is allocated at the first step. Hyper-parameters and schedules act on
    `param_groups`, which are the base's own; do not step the base itself.

    Args:
        base: The optimiser: AdamW, Adam, SGD, RMSprop, Adagrad, Adamax, NAdam, RAdam or Adadelta of torch, over named parameters
            (`AdamW(model.named_parameters())`) or with `named`. State that it already has is taken over.
        masks: Parameter name to a boolean tensor of its shape, True where it trains, or to its `Place`; read one at a time.
            Masks of parameters that the base does not have are passed over if they select nothing.
        named: Names of the base's parameters, where it was built without.
        storage: How entries are kept; see `train/storage.py`.
        precision: `master` keeps float32 masters of half precision weights; `bf16_pure` steps them as they are.

    Raises:
        ModelError: The base couples entries, or a mask has another shape or type than its parameter needs, or selects in a
            parameter that the base does not have.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        masks: Mapping[str, Tensor | Place] | None = None,
        *,
        named: Iterable[tuple[str, nn.Parameter]] | None = None,
        storage: Storage = "packed",
        precision: Precision = "master",
    ) -> None:
        check_elementwise(base)
        if storage == "delta" and precision == "bf16_pure":
            raise ModelError(
                "storage delta keeps a float32 δ, so it cannot be bf16_pure; take precision master, or storage packed"
            )
        masks = masks or {}
        names = None if named is None else {id(p): name for name, p in named}
        groups = [{**group, "params": _named_of(group, names)} for group in base.param_groups]
        super().__init__(base, groups, storage, precision)
        self._packed = PackedGradients()
        every = {name: p for _, name, p in self._each()}
        for name in masks.keys() - every.keys():
            _refuse_if_selecting(name, masks[name])
        self._chosen: set[str] = set()
        for name, parameter in every.items():
            place, is_masked = _place(name, masks.get(name), parameter)
            if name in masks and (place.count or is_sharded(parameter)):
                self._chosen.add(name)
            self._members[name] = self._member(name, parameter, place, is_masked)
        self._take_over_state()

    # ---- gradients ----

    def attach(self, model: nn.Module | None = None) -> None:
        """Pack the gradients of masked parameters as they come, from now until `detach`; `.grad` of those stays None.

        A step uses up what is packed. Parameters that are selected whole, or sharded, keep their `.grad`.

        Args:
            model: Its linear layers with selected rows or columns compute the gradient of those alone.
        """
        sources = {
            name: Source(p, self._members[name].place, self._members[name].dtype)
            for _, name, p in self._each()
            if not self._members[name].place.is_everything and not is_sharded(p)
        }
        if self.storage == "dense_compat":
            sources = {}
        self._packed.attach(sources, model)

    def detach(self) -> None:
        """Leave gradients alone from now on."""
        self._packed.detach()

    def packed_gradients(self) -> dict[str, Tensor]:
        """Return the packed gradients that are there now, by parameter name."""
        return self._packed.all()

    def put_packed(self, gradients: Mapping[str, Tensor]) -> None:
        """Make these the packed gradients; nothing is copied."""
        self._packed.clear()
        for name, values in gradients.items():
            self._packed.add(name, values)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Average the gradients over all processes, packed ones packed; every process must call it."""
        each = list(self._each())
        there = [self._packed.of(name) is not None or p.grad is not None for _, name, p in each]
        somewhere = torch.tensor(there, dtype=torch.int8, device=each[0][2].device)
        torch.distributed.all_reduce(somewhere, op=torch.distributed.ReduceOp.MAX)
        for (_, name, parameter), reached in zip(each, somewhere.tolist(), strict=True):
            if reached and name in self._packed:
                _average(self._packed.of_or_zeros(name))
            elif reached:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                _average(parameter.grad)

    @torch.no_grad()
    def zero_unselected_gradients(self) -> None:
        """Zero the gradient entries that do not train, so that a norm taken for clipping counts what trains alone."""
        for _, name, parameter in self._each():
            if parameter.grad is not None:
                self._of(name, parameter).place.clear_outside(local(parameter.grad))

    def _gradients(self) -> dict[str, Tensor]:
        """Return what the next step would use, by parameter; whole gradients of masked parameters that are not packed."""
        found = {}
        for _, name, parameter in self._each():
            packed = self._packed.of(name)
            if packed is not None:
                found[name] = packed
            elif parameter.grad is not None:
                found[name] = parameter.grad
        return found

    @torch.no_grad()
    def clip_gradients(self, max_norm: float, *, dense: bool = False, step: int | None = None) -> float:
        """Scale the gradients down to a norm and return the norm they had; every process must call it.

        Args:
            max_norm: The largest norm; infinity only measures.
            dense: Count the entries outside the masks too, as the published code does; they must not have been packed.
            step: The number of the step, for the error.

        Raises:
            RunError: A gradient, or the norm, is not finite.
        """
        if not dense:
            self.zero_unselected_gradients()
        gradients = self._gradients()
        if not gradients:
            return 0.0
        norm = whole(torch.nn.utils.get_total_norm(gradients.values()))
        if not torch.isfinite(norm):
            raise RunError(_not_finite(gradients, step))
        # the arithmetic is that of torch.nn.utils.clip_grad_norm_, so that the bits are
        coefficient = max_norm / (norm + 1e-6)
        if coefficient < 1:
            for gradient in gradients.values():
                gradient.mul_(float(coefficient) if is_sharded(gradient) else coefficient.to(gradient.device))
        return float(norm)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, packed ones included."""
        self._packed.clear()
        super().zero_grad(set_to_none)

    # ---- the step ----

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the selected entries of every parameter that has a gradient; what was packed is used up.

        Raises:
            RunError: A parameter that a mask selects entries of has no gradient at the first step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._has_stepped:
            self._refuse_unreached()
            self._has_stepped = True
        for group in self.param_groups:
            waiting: list[tuple[nn.Parameter, Member]] = []
            gathered = 0
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                member = self._of(name, parameter)
                # a shard without selected entries has empty state: joining shards needs every process
                if member.place.count == 0 and not is_sharded(parameter):
                    continue
                gradient = self._gradient(member, parameter)
                if gradient is None:
                    continue
                member.begin(local(parameter), gradient)
                waiting.append((parameter, member))
                gathered += 0 if member.steps_in_place else member.span.count
                if gathered > _AT_ONCE:
                    self._step(group, waiting)
                    waiting, gathered = [], 0
            self._step(group, waiting)
        self._packed.clear()
        return loss

    def _gradient(self, member: Member, parameter: nn.Parameter) -> Tensor | None:
        """Return the gradient of the entries of a member's span, None where there is none."""
        packed = self._packed.of(member.name)
        if parameter.grad is None:
            return packed
        dense = member.span.gather(local_gradient(parameter))
        return dense if packed is None else packed + dense

    def _step(self, group: dict[str, Any], waiting: Sequence[tuple[nn.Parameter, Member]]) -> None:
        if not waiting:
            return
        # the base sees one group, with the hyper-parameters of now, whose parameters are the shells
        shells = {key: value for key, value in group.items() if key != "param_names"}
        self.base.param_groups = [{**shells, "params": [member.shell for _, member in waiting]}]
        try:
            self.base.step()
        finally:
            self.base.param_groups = self.param_groups
        for parameter, member in waiting:
            member.end(local(parameter))
            if len(self.state[parameter]) != len(self.base.state[member.shell]) + len(member.kept):
                self._show(parameter, member)

    def _refuse_unreached(self) -> None:
        for _, name, parameter in self._each():
            if name in self._chosen and parameter.grad is None and self._packed.of(name) is None:
                raise RunError(
                    f"{name}: {self._members[name].place.count} of its entries are selected, but the objective gave it no gradient at the first "
                    "step, so they could not change. Leave it out of the selection, or take an objective that reads it."
                )

    @contextlib.contextmanager
    def original(self) -> Iterator[None]:
        """Give the parameters their values of before the first step while the block lasts; costs no memory.

        Raises:
            RunError: Entries are not kept as differences.
        """
        if self.storage != "delta":
            raise RunError(f"storage {self.storage} does not keep the entries of before; take storage delta")
        pairs = [(self._of(name, p), local(p.data)) for _, name, p in self._each()]
        try:
            for member, weight in pairs:
                member.put_original(weight)
            yield
        finally:
            for member, weight in pairs:
                member.put_moved(weight)


def masked_adamw(
    named: Sequence[tuple[str, nn.Parameter]],
    masks: Mapping[str, Tensor | Place] | None = None,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    storage: Storage = "packed",
    precision: Precision = "master",
) -> MaskedOptimizer:
    """Return the masked form of `torch.optim.AdamW(fused=True)`; matrices decay, vectors do not."""
    base = torch.optim.AdamW(decay_groups(named, weight_decay), lr=lr, betas=betas, eps=eps, fused=True)
    return MaskedOptimizer(base, masks, storage=storage, precision=precision)


def _named_of(group: dict[str, Any], names: dict[int, str] | None) -> list[tuple[str, nn.Parameter]]:
    if names is None:
        if "param_names" not in group:
            raise ModelError(
                "the optimiser does not know the names of its parameters, by which masks are found. Build it over model.named_parameters(), "
                "or give named=model.named_parameters()."
            )
        return list(zip(group["param_names"], group["params"], strict=True))
    missing = [list(p.shape) for p in group["params"] if id(p) not in names]
    if missing:
        raise ModelError(f"named: lacks {len(missing)} parameters that the optimiser has (the first of shape {missing[0]})")
    return [(names[id(p)], p) for p in group["params"]]


def _place(name: str, mask: Tensor | Place | None, parameter: Tensor) -> tuple[Place, bool]:
    """Return the place in this process's part of a parameter, and whether a part of the whole parameter is selected.

    That is decided on the whole mask: what is all selected in one process's shard need not be in another's.
    """
    part = local(parameter.detach())
    if isinstance(mask, Place):
        return mask, not mask.is_everything
    if mask is None:
        return place_of(None, part), False
    if mask.dtype != torch.bool:
        raise ModelError(f"mask of {name}: has the type {mask.dtype}; a mask is boolean, True where the weight trains")
    if mask.shape != parameter.shape:
        raise ModelError(f"mask of {name}: has the shape {list(mask.shape)}, but the parameter has {list(parameter.shape)}")
    if bool(mask.all()):
        return place_of(None, part), False
    return place_of(local(like(parameter, mask)) if is_sharded(parameter) else mask, part), True


def _refuse_if_selecting(name: str, mask: Tensor | Place) -> None:
    count = mask.count if isinstance(mask, Place) else int(mask.sum())
    if count:
        raise ModelError(
            f"mask of {name}: selects {count} entries, but no parameter of this name trains. Use the model's own parameter names."
        )


def _not_finite(gradients: Mapping[str, Tensor], step: int | None) -> str:
    where = "" if step is None else f" at step {step}"
    advice = "Lower train.learning_rate, or raise the weight of the retain term."
    for name, gradient in gradients.items():
        if not torch.isfinite(local(gradient)).all():
            return f"a gradient became infinite or NaN{where}, first in {name}. {advice}"
    return f"the norm of the gradient became infinite or NaN{where}, from what this process or another one holds. {advice}"


def _average(tensor: Tensor) -> None:
    torch.distributed.all_reduce(tensor)  # gloo has no average
    tensor.div_(processes.count())
