"""Base and models, opened once and merged as often as wanted: other densities, scales and methods, with a model more or less.

Tensors are taken one after the other in the order of their names. The rows of a tensor are put in an order of their content first, so
that neither the order of the models nor their names, files or shards change a bit of the result; only SLERP asks which model is
first. In memory (`temper.merge.memory`) and from disk (`temper.merge.opening`) the same code runs on the same pieces.

Memory: n rows of the largest tensor in float32, the result in the dtype it is stored in, and a few pieces.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from temper.errors import ModelError, nearest
from temper.merge.method import MergeMethod, Unit, pieces
from temper.merge.sources import Source
from temper.merge.stores import TensorStore, whole
from temper.merge.tally import MergeReport, TensorTally
from temper.merge.ties import elected_majority
from temper.merge.trim import Cut, cut_of

__all__ = ["Deltas", "Merged", "Returned"]


@dataclass(frozen=True)
class Merged:
    """One tensor of a merge.

    Attributes:
        names: The names it has in the base; several where one matrix is stored twice.
        value: The result in the base's dtype, or the merged change where that was asked for; None: no model changed it.
        tally: What was counted.
    """

    names: list[str]
    value: Tensor | None
    tally: TensorTally


@dataclass(frozen=True)
class Returned:
    """What taking one model out of a merge brings back.

    Attributes:
        model: Which one.
        norms: By tensor: ‖merged − merged without it‖₂ of those where that is not zero.
        relative: ‖merged − merged without it‖ / ‖merged‖ over all tensors; None where nothing was merged.
    """

    model: str
    norms: dict[str, float]
    relative: float | None


@dataclass
class _Plan:
    """What a merge knows before its first tensor."""

    method: MergeMethod
    weights: list[float]
    seed: int
    as_change: bool
    cuts: list[Cut] | None = None
    majority: float | None = None


class Deltas:
    """A base and the models that were trained from it.

    Args:
        base: The base's tensors.
        sources: The models.
        units: Tensors that are merged: the name that stands for one, to all its names in the base. Others are copied.
        reopen: Opens one more model for `add`.

    Attributes:
        base: The base's tensors.
        sources: The models.
        units: Tensors that are merged.
        labels: What the models are called.
    """

    def __init__(
        self,
        base: TensorStore,
        sources: Sequence[Source],
        units: Mapping[str, list[str]],
        reopen: Callable[[Any], Source] | None = None,
    ) -> None:
        self.base, self.sources, self.units = base, list(sources), dict(units)
        self._reopen = reopen
        self._unchanged: dict[tuple[str, str], bool] = {}  # (hash of a model, tensor) that were found equal to the base's
        if not self.sources:
            raise ModelError("no model is given. Give one or more that were trained from the base.")

    @property
    def labels(self) -> list[str]:
        """Return what the models are called."""
        return [source.label for source in self.sources]

    def add(self, model: Any) -> Self:
        """Return these with one more model, a path or what `held` takes; the others are not opened again."""
        if self._reopen is None:
            raise ModelError("these deltas cannot take another model. Open them anew with all models.")
        return self._of([*self.sources, self._reopen(model)])

    def _of(self, sources: list[Source]) -> Self:
        """Return these with other models; what was found out of each is shared."""
        made = copy.copy(self)
        made.sources = sources
        return made

    def without(self, model: str | int) -> Self:
        """Return these without a model, named by its label or its number.

        Raises:
            ModelError: There is no such model, or it is the only one.
        """
        number = self._number(model)
        rest = [source for other, source in enumerate(self.sources) if other != number]
        if not rest:
            raise ModelError(f"{self.labels[number]}: is the only model. Without it nothing is left to merge.")
        return self._of(rest)

    def _number(self, model: str | int) -> int:
        if isinstance(model, str) and model in self.labels:
            return self.labels.index(model)
        if isinstance(model, int) and 0 <= model < len(self.sources):
            return model
        raise ModelError(
            f"{model!r} is no model of these{nearest(str(model), self.labels)}. There are: {', '.join(self.labels)}."
        )

    # ---- merging ----

    def each(
        self,
        method: MergeMethod,
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        as_change: bool = False,
    ) -> Iterator[Merged]:
        """Yield every merged tensor, one at a time.

        Args:
            method: How.
            weights: One a model; equal ones of 1 where left out.
            seed: For methods that draw.
            as_change: Yield the merged change, wide, instead of the base with it, cast to its dtype.

        Raises:
            ModelError: A change has entries that are no numbers, or a result does not fit its dtype.
        """
        plan = _Plan(method, method.check(weights, len(self.sources)), seed, as_change)
        if len(self.sources) == 1 and method.bypasses_one:
            for name in sorted(self.units):
                yield self._single(name, as_change)
            return
        if method.trim_unit == "model" and method.kept_share not in (None, 1):
            self._look_ahead(plan)
        for name in sorted(self.units):
            yield self._merged(name, plan)

    def merge(
        self, method: MergeMethod, *, weights: Sequence[float] | None = None, seed: int = 0
    ) -> tuple[dict[str, Tensor], MergeReport]:
        """Return all tensors of the merged model by name, and what the merge did; arguments as in `each`."""
        report, result = self.report_for(method), {}
        for merged in self.each(method, weights=weights, seed=seed):
            value = merged.value if merged.value is not None else whole(self.base, merged.names[0]).clone()
            result.update(dict.fromkeys(merged.names, value))
            report.add(merged.names[0], merged.tally)
        return {name: result[name] if name in result else whole(self.base, name).clone() for name in self.base.shapes}, report

    def report_for(self, method: MergeMethod) -> MergeReport:
        """Return an empty report of a merge of these."""
        bypassed = len(self.sources) == 1 and method.bypasses_one
        return MergeReport(self.labels, bypassed, kept_share=method.kept_share, trims_model=method.trim_unit == "model")

    def what_returns(
        self, model: str | int, method: MergeMethod, *, weights: Sequence[float] | None = None, seed: int = 0
    ) -> Returned:
        """Return how far the merge moves when one model is left out: what of it comes back, tensor by tensor.

        Args:
            model: Label or number of the one left out.
            method: How; other arguments as in `each`.
            weights: One a model, that one's included.
            seed: For methods that draw.

        Raises:
            ModelError: There is no such model, or it is the only one.
        """
        number, rest = self._number(model), self.without(model)
        others = None if weights is None else [weight for other, weight in enumerate(weights) if other != number]
        norms, moved, all_of_it = {}, 0.0, 0.0
        both = self.each(method, weights=weights, seed=seed, as_change=True)
        for one, less in zip(both, rest.each(method, weights=others, seed=seed, as_change=True), strict=True):
            if one.value is None:
                continue
            change = one.value if less.value is None else one.value - less.value
            square = float(torch.linalg.vector_norm(change, dtype=torch.float64)) ** 2
            moved, all_of_it = moved + square, all_of_it + one.tally.merged
            if square:
                norms[one.names[0]] = math.sqrt(square)
        return Returned(self.labels[number], norms, math.sqrt(moved / all_of_it) if all_of_it else None)

    # ---- one tensor ----

    def _rows(self, name: str) -> list[Tensor] | None:
        """Return τ of every model, or None where no model changed the tensor."""
        shape = self.base.shapes[name]
        rows, changed = [], False
        if all(self._unchanged.get((source.hash, name), False) for source in self.sources):
            return None
        for source in self.sources:
            row = torch.empty(shape.entries, dtype=shape.wide)
            differs = not self._unchanged.get((source.hash, name), False) and source.fill(name, self.base, row)
            self._unchanged[source.hash, name] = not differs
            changed |= differs
            rows.append(row if differs else row.zero_())
        return rows if changed else None

    def _unit(self, name: str, plan: _Plan, rows: list[Tensor]) -> tuple[Unit, list[int]]:
        """Return the rows in the order of their content, and which models they are."""
        order = list(range(len(rows)))
        keys = [source.key for source in self.sources]
        if not plan.method.is_ordered:

            def compared(s: int, t: int) -> int:
                return _compare((rows[s], plan.weights[s], keys[s]), (rows[t], plan.weights[t], keys[t]))

            order.sort(key=functools.cmp_to_key(compared))
        wide = self.base.shapes[name].wide
        return (
            Unit(
                name,
                [rows[t] for t in order],
                [plan.weights[t] for t in order],
                [keys[t] for t in order],
                plan.seed,
                lambda start, stop: self.base.read(name, start, stop).to(wide),
                [plan.cuts[t] for t in order] if plan.cuts is not None else None,
                plan.majority,
            ),
            order,
        )

    def _merged(self, name: str, plan: _Plan) -> Merged:
        shape, rows = self.base.shapes[name], self._rows(name)
        tally = TensorTally(len(self.sources), shape.entries)
        if rows is None:
            return Merged(self.units[name], None, tally)
        for start, stop in pieces(shape.entries):
            tally.before(torch.stack([row[start:stop] for row in rows]))
        unit, order = self._unit(name, plan, rows)
        plan.method.prune(unit)
        combine = plan.method.combine(unit)
        result = torch.empty(shape.entries, dtype=shape.wide if plan.as_change else shape.dtype)
        for start, stop in unit.pieces():
            before, parts = self.base.read(name, start, stop), [row[start:stop] for row in unit.rows]
            base_P = before.to(shape.wide)
            merged_P = combine(base_P, parts)
            tally.after(parts, order, merged_P)
            if plan.as_change:
                result[start:stop] = merged_P
            else:
                part = result[start:stop]
                part.copy_(base_P + merged_P)
                is_zero = before == 0
                if bool(is_zero.numpy().any()):  # a sum would turn -0.0 to 0.0 where nothing is added
                    part.copy_(torch.where(is_zero & (merged_P == 0), before, part))
        if unit.elected is not None:
            tally.zero_sums = tally.touched - unit.elected
        if not math.isfinite(tally.merged) or not bool(torch.isfinite(result.sum(dtype=shape.wide))):
            self._check_fits(name, result)
        return Merged(self.units[name], result.reshape(shape.sizes), tally)

    def _check_fits(self, name: str, result: Tensor) -> None:
        wrong = ~torch.isfinite(result)
        if bool((wrong & torch.isfinite(self.base.read(name, 0, len(result)).float())).any()):
            raise ModelError(
                f"{name}: the merge has {int(wrong.sum())} entries that {str(result.dtype).removeprefix('torch.')} cannot hold. Lower the scale or the weights."
            )

    def _single(self, name: str, as_change: bool) -> Merged:
        """Return a tensor of the one model there is, as it has it."""
        source, shape, rows = self.sources[0], self.base.shapes[name], self._rows(name)
        tally = TensorTally(1, shape.entries)
        if rows is None:
            return Merged(self.units[name], None, tally)
        for start, stop in pieces(shape.entries):
            piece = rows[0][start:stop]
            tally.before(piece[None])
            tally.after([piece], [0], piece)
        value = rows[0].reshape(shape.sizes) if as_change else source.value(name, self.base)
        return Merged(self.units[name], value, tally)

    # ---- entries of a whole model that compete ----

    def _look_ahead(self, plan: _Plan) -> None:
        """Find where each model is cut when the entries of all its tensors compete, and the majority of signs where that is needed."""
        names = [name for name in sorted(self.units) if self._rows(name) is not None]
        competing = sum(self.base.shapes[name].entries for name in names)
        counted = sum(self.base.shapes[name].entries for name in self.units) if plan.method.counts_unchanged else competing
        count = min(plan.method.wanted(counted, "the model"), competing)  # entries of 0 beyond are kept or not, they stay 0
        keeps_equal = plan.method.needs_majority
        plan.cuts = []
        for source in self.sources:
            if not count:
                plan.cuts.append(Cut(2**63 - 1, 0))
                continue
            plan.cuts.append(cut_of(functools.partial(self._all_rows, source, names), count, all_ties=keeps_equal))
        if plan.method.needs_majority:
            plan.majority = 0.0
            for name in names:
                unit, _ = self._unit(name, plan, self._rows(name) or [])
                plan.method.prune(unit)
                plan.majority += elected_majority(unit)

    def _all_rows(self, source: Source, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            shape = self.base.shapes[name]
            row = torch.empty(shape.entries, dtype=shape.wide)
            if not source.fill(name, self.base, row):
                row.zero_()
            yield name, row


def _compare(one: tuple[Tensor, float, str], other: tuple[Tensor, float, str]) -> int:
    """Return which of two rows comes first: by the first entries in which they differ, then by weight and key."""
    for start, stop in pieces(one[0].numel()):
        a, b = one[0][start:stop], other[0][start:stop]
        if not torch.equal(a, b):
            place = int((a != b).nonzero()[0])
            return -1 if a[place] < b[place] else 1
    rest, others = (one[1], one[2]), (other[1], other[2])
    return -1 if rest < others else int(rest > others)
