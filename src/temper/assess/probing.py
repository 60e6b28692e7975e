"""Running the probes on every model; what original and gold gave is kept by content."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import numpy as np

from temper.assess.evidence import Which
from temper.assess.measure import Absent, Measure, PerItem, TwoSample
from temper.assess.probes.probe import Probe, Request, Setting
from temper.assess.scoring import Live, ScoredModel
from temper.errors import DataError
from temper.files import cache_folder, read_json, write_json
from temper.recipe import EvaluateSection

__all__ = ["check_probes", "probe_all", "probes_of", "work_of"]

log = logging.getLogger(__name__)

_FORMAT: Final = "temper/probe/1"


def probes_of(settings: EvaluateSection) -> list[Probe]:
    """Return the probes of an evaluation: those that leave the model as it is first, so that it is loaded once for all of them."""
    return sorted(cast("list[Probe]", list(settings.probes)), key=lambda probe: probe.changes_model)


def check_probes(setting: Setting) -> None:
    """Refuse rows that a probe cannot work with.

    Raises:
        DataError: Naming the role and the row.
    """
    for probe in probes_of(setting.settings):
        probe.check(setting)


def work_of(setting: Setting) -> int:
    """Return how many units of work the probes cost a model."""
    return sum(probe.work(setting) for probe in probes_of(setting.settings))


def probe_all(
    setting: Setting,
    lives: Mapping[Which, Live],
    scored: Mapping[Which, ScoredModel],
    told: Callable[[int, str], None],
) -> dict[Which, list[Measure]]:
    """Return the measures of all probes on all models.

    Args:
        setting: Rows and settings.
        lives: The models; each is let go when its probes are done.
        scored: Their answers.
        told: Called with a number of units of work and what was done.
    """
    original = scored["original"].answers if "original" in scored else None
    given = {field.name: getattr(setting, field.name) for field in dataclasses.fields(Setting)}
    found: dict[Which, list[Measure]] = {}
    for which, live in lives.items():
        for probe in probes_of(setting.settings):
            work = probe.work(setting)
            done = 0

            def count(number: int, note: str = f"{probe.name} of {which}") -> None:
                nonlocal done
                done += number
                told(number, note)

            request = Request(**given, which=which, answers=scored[which].answers, original=original, load=live.model, told=count)
            found.setdefault(which, []).extend(_measured(probe, request, live))
            count(work - done)
            if probe.changes_model:
                live.release()
        live.release()
    return found


def _measured(probe: Probe, request: Request, live: Live) -> list[Measure]:
    content = [probe.name, probe.model_dump(mode="json"), probe.content(request)]
    path = cache_folder() / "probes" / f"{live.key('probe', content)[:40]}.json"
    if live.subject.is_kept and path.exists():
        try:
            return _read(read_json(path))
        except (DataError, KeyError, TypeError) as error:
            log.warning("a kept probe is not usable and is made again: %s", error)
    measures = probe.run(request)
    if live.subject.is_kept:
        write_json(path, {"format": _FORMAT, "measures": [_written(measure) for measure in measures]})
    return measures


_KINDS: Final[dict[str, Any]] = {kind.__name__: kind for kind in (PerItem, TwoSample, Absent)}
_ARRAYS: Final = {"places": np.int64, "values": np.float64, "members": np.float64, "others": np.float64}


def _written(measure: Measure) -> dict[str, Any]:
    fields = {field.name: getattr(measure, field.name) for field in dataclasses.fields(measure)}
    return {"kind": type(measure).__name__} | {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()
    }


def _read(document: Any) -> list[Measure]:
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise DataError("it holds no measures of this version")
    found = []
    for entry in document["measures"]:
        fields = {
            name: np.array(value, dtype=_ARRAYS[name]) if name in _ARRAYS else value
            for name, value in entry.items()
            if name != "kind"
        }
        found.append(_KINDS[entry["kind"]](**fields))
    return found
