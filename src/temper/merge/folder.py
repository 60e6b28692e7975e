"""Write a merge into a model folder, tensor by tensor, with merge.json beside the weights: whole or not at all.

    merge.json      schema, method and its settings, seed, hashes of base and models, what was counted, warnings

Configuration and tokenizer are the base's. Tensors fill files up to a size in the order the base has them; a tensor that no model
changed, a buffer or one of integers is copied.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from temper.errors import InputError
from temper.files import folder_aside, write_json
from temper.merge.method import MergeMethod
from temper.merge.opening import Opened
from temper.merge.stores import TensorStore, whole
from temper.merge.tally import MergeReport
from temper.models.checkpoint import INDEX_FILE, SINGLE_FILE
from temper.models.tensorfile import TensorWriter
from temper.models.writeback import check_apart, copy_beside

__all__ = ["MERGE_SCHEMA", "RECORD", "bytes_in", "record_of", "write_merge"]

MERGE_SCHEMA: Final = "temper/merge/1"
RECORD: Final = "merge.json"
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_in(text: str) -> int:
    """Return a size in bytes.

    Raises:
        InputError: It is no size.

    Example:
        >>> bytes_in("5GB"), bytes_in("1.5 MiB")
        (5000000000, 1572864)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 1:
        raise InputError(f"shard size = {text!r}: must be a size above zero such as 5GB, 500MB or 2GiB")
    return size


def write_merge(
    deltas: Opened,
    method: MergeMethod,
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    shard_size: str = "5GB",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the merged model into a folder and return what merge.json says.

    Args:
        deltas: Base and models.
        method: How.
        out: The folder, whole or not at all; one that is there is replaced.
        weights: One a model.
        seed: For methods that draw.
        shard_size: The most a file of weights holds; a larger tensor has a file of its own.
        progress: Is told of every tensor.

    Raises:
        ModelError: `out` overlaps the base or a model, or the models cannot be merged.
        DiskFull: No space is left; nothing is written then.
    """
    largest = bytes_in(shard_size)
    check_apart(deltas.model.folder, out)
    for source in deltas.sources:
        check_apart(Path(source.label), out)
    method.check(weights, len(deltas.sources))
    files = _planned(deltas.base, largest)
    file_of = {name: file for file, names in files.items() for name in names}
    report = deltas.report_for(method)
    with folder_aside(out) as aside:
        copy_beside(deltas.model.folder, aside, False)
        with contextlib.ExitStack() as stack:
            writers = {file: stack.enter_context(_writer(aside / file, deltas.base, names)) for file, names in files.items()}
            left = dict.fromkeys(deltas.base.shapes)
            for number, merged in enumerate(deltas.each(method, weights=weights, seed=seed)):
                if progress is not None:
                    progress("merge", number, len(deltas.units))
                for name in merged.names if merged.value is not None else ():
                    writers[file_of[name]].write(name, merged.value)  # type: ignore[arg-type]
                    del left[name]
                report.add(merged.names[0], merged.tally)
                del merged  # the next tensor needs its room
            for name in left:
                writers[file_of[name]].write(name, whole(deltas.base, name))
        if progress is not None:
            progress("merge", len(deltas.units), len(deltas.units))
        if len(files) > 1:
            size = sum(shape.entries * shape.dtype.itemsize for shape in deltas.base.shapes.values())
            write_json(aside / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": dict(sorted(file_of.items()))})
        record = record_of(deltas, method, report, weights=weights, seed=seed)
        write_json(aside / RECORD, record)
    return record


def record_of(
    deltas: Opened, method: MergeMethod, report: MergeReport, *, weights: Sequence[float] | None, seed: int, **more: Any
) -> dict[str, Any]:
    """Return what merge.json says."""
    return {
        "schema": MERGE_SCHEMA,
        "method": {"name": method.name, **method.model_dump(mode="json"), "trim_unit": method.trim_unit},
        "seed": seed,
        "bypassed": report.bypassed,
        "base": {"path": deltas.model.name, "weights": deltas.base_weights},
        "models": [
            {"path": source.label, "form": source.form, "content": source.hash, "key": source.key, "weight": weight}
            for source, weight in zip(deltas.sources, method.check(weights, len(deltas.sources)), strict=True)
        ],
        **more,
        **report.facts(),
    }


def _planned(base: TensorStore, largest: int) -> dict[str, list[str]]:
    """Return the tensors of each file."""
    groups: list[list[str]] = [[]]
    room = largest
    for name, shape in base.shapes.items():
        size = shape.entries * shape.dtype.itemsize
        if groups[-1] and size > room:
            groups.append([])
            room = largest
        groups[-1].append(name)
        room -= size
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    return {f"model-{number:05d}-of-{len(groups):05d}.safetensors": names for number, names in enumerate(groups, 1)}


def _writer(path: Path, base: TensorStore, names: list[str]) -> TensorWriter:
    return TensorWriter(path, {name: (base.shapes[name].dtype, base.shapes[name].sizes) for name in names}, {"format": "pt"})
