"""What evidence says of how it was judged, and what becomes of it when a run is assessed again in another way."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from temper.assess.evidence import Evidence
from temper.assess.notes import INVALID
from temper.errors import DataError
from temper.files import write_text
from temper.recipe import EvaluateSection
from temper.registry import names
from temper.run import Run

__all__ = ["differing", "has_invalid", "keep_earlier", "settings_of"]

log = logging.getLogger(__name__)

_ELSEWHERE: Final = ("data", "original", "gold")
"""Fields whose content is in the evidence already, as models and results."""

_SECRET: Final = re.compile(r"(?:^|_)(?:key|secret|password|token)(?:_|$)")
"""Names of settings that lead to a secret; they stay out of evidence."""


def settings_of(settings: EvaluateSection) -> dict[str, Any]:
    """Return how an evaluation judges, as JSON: every default filled in, the metrics by name, nothing that leads to a key."""
    written = {name: value for name, value in settings.model_dump(mode="json").items() if name not in _ELSEWHERE}
    return dict(_open({**written, "metrics": settings.metrics or list(names("metric"))}))


def _open(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _open(item) for name, item in value.items() if not _SECRET.search(str(name))}
    return [_open(item) for item in value] if isinstance(value, list) else value


def has_invalid(evidence: Evidence) -> bool:
    """Return whether a judge gave no valid verdict on some traces, so that it is to be asked again."""
    return any(INVALID.fullmatch(result.metric) and result.value for result in evidence.results)


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def keep_earlier(run: Run, path: Path, key: str, settings: EvaluateSection) -> None:
    """Keep evidence that was made with other settings beside the one that takes its place, and say so.

    Args:
        run: The open run.
        path: Where the evidence lies.
        key: Of the earlier assessment.
        settings: Of the new one.
    """
    try:
        before = Evidence.read(path).settings
        fields = differing(before, settings_of(settings)) if before else ["which were not kept"]
    except DataError:
        fields = ["its form"]
    if not fields:  # other rows or other weights: what it said is no longer so
        return
    kept = path.with_name(f"{path.stem}-{key[:12]}{path.suffix}")
    write_text(kept, path.read_text(encoding="utf-8"))
    log.warning("the evidence of an assessment with other settings (%s) is kept as %s", ", ".join(fields), kept.name)
    run.log("kept", file=kept.name, differing=fields)
