"""The work of an assessment in its order: every model scored and let go, traces read by the original, probes; then every number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from temper.assess.evidence import Which
from temper.assess.measure import Measure, Metric
from temper.assess.metrics.trace_category import TraceCategory
from temper.assess.modes import in_mode, is_in_modes, modes_of, thinking_places
from temper.assess.packs import items_hash
from temper.assess.passes import remembered
from temper.assess.probes.probe import Setting
from temper.assess.probing import probe_all, work_of
from temper.assess.scoring import Live, ScoredModel, Subject, Wanted, score_subject
from temper.assess.tags import tags_of
from temper.assess.tracepass import trace_entries, trace_nlls, traces_of
from temper.recipe import EvaluateSection
from temper.registry import names, resolve
from temper.run import Run

if TYPE_CHECKING:
    from temper.data import Encoded

__all__ = ["Judging", "judge_all", "metrics_of", "wanted_of"]

_STAGE: Final = "assess"


@dataclass(frozen=True, eq=False)
class Judging:
    """What every model gave, and the measures of it."""

    scored: dict[Which, ScoredModel]
    measures: dict[Which, list[Measure]]


def metrics_of(settings: EvaluateSection) -> list[Metric]:
    """Return the metrics of an evaluation; one that has settings of its own is built from them."""
    built: list[Metric] = []
    for name in settings.metrics or names("metric"):
        kind: Any = resolve("metric", name)
        built.append(kind.of(settings) if hasattr(kind, "of") else kind())
    return built


def wanted_of(settings: EvaluateSection, metrics: Sequence[Metric]) -> Wanted:
    """Return what the metrics and probes of an evaluation read beside the records."""
    needs = {metric.needs for metric in metrics}
    return Wanted(
        generations=bool(needs & {"generations", "original"}) or bool(settings.probes),
        choices="choices" in needs,
        decoding=tuple(modes_of(settings)) if any(is_in_modes(metric) for metric in metrics) else (),
    )


def judge_all(run: Run, subjects: Sequence[Subject], setting: Setting, metrics: Sequence[Metric]) -> Judging:
    """Return answers and measures of all models.

    Args:
        run: The open run; progress and log go there.
        subjects: The models. The original is scored last and stays for the traces of the others.
        setting: Rows and settings.
        metrics: From `metrics_of`.
    """
    settings, rows = setting.settings, setting.rows
    wanted = wanted_of(settings, metrics)
    lives: dict[Which, Live] = {subject.which: Live(subject, setting.world, tags_of(settings)) for subject in subjects}
    thinking = sum(len(thinking_places(encoded)) for encoded in rows.values())
    reads_traces = "original" in lives and any(metric.needs == "original" for metric in metrics)
    judging = sum(_judging_of(metric, rows) for metric in metrics)
    total = len(subjects) * (wanted.work(rows) + (thinking if reads_traces else 0) + work_of(setting) + judging)
    done = 0

    def told(count: int, note: str) -> None:
        nonlocal done
        done += count
        run.progress(_STAGE, done, total, note)

    scored: dict[Which, ScoredModel] = {}
    for which in sorted(lives, key=lambda which: which == "original"):
        told(0, which)
        scored[which] = score_subject(
            lives[which],
            rows,
            setting.tokenizer,
            settings=settings,
            wanted=wanted,
            told=lambda count, note=which: told(count, note),  # type: ignore[misc]
        )
        run.log("scored", model=which, path=lives[which].subject.path, weights=scored[which].facts.weights_hash)
        if which != "original":
            lives[which].release()
    if reads_traces:
        for which, model in scored.items():
            scored[which] = _with_traces(lives["original"], model, setting)
            told(thinking, f"traces of {which}")
    if "original" in lives:
        lives["original"].release()
    scored = {which: scored[which] for which in lives}
    probed = probe_all(setting, lives, scored, told) if settings.probes else {}
    measures = {
        which: [
            *_measures(model, metrics, rows, lambda count, note=f"judging {which}": told(count, note)),  # type: ignore[misc]
            *probed.get(which, []),
        ]
        for which, model in scored.items()
    }
    return Judging(scored, measures)


def _judging_of(metric: Metric, rows: Mapping[str, Encoded]) -> int:
    """Return the units of work of a metric whose judges take their time; other metrics have none."""
    return metric.work({role: encoded.items for role, encoded in rows.items()}) if isinstance(metric, TraceCategory) else 0


def _measures(
    model: ScoredModel, metrics: Sequence[Metric], rows: Mapping[str, Encoded], told: Callable[[int], None]
) -> list[Measure]:
    found: list[Measure] = []
    for metric in metrics:
        if not isinstance(metric, TraceCategory):
            found += metric.compute(model.answers)
            continue
        left = _judging_of(metric, rows)

        def count(number: int) -> None:
            nonlocal left
            left -= number
            told(number)

        found += metric.compute(model.answers, count)
        if left:
            told(left)  # cases that were not asked
    for name, asked in model.modes.items():
        found += in_mode(name, asked, metrics)
    return found


def _with_traces(original: Live, model: ScoredModel, setting: Setting) -> ScoredModel:
    """Return a model's answers with the -log p of their traces under the original."""
    answers = {}
    for role, given in model.answers.items():
        traces = traces_of(given)

        def compute(given: Any = given, traces: Any = traces) -> Any:
            return trace_entries(original.model(), setting.tokenizer, given.items, traces, limit=setting.limit)

        entries = []
        if traces:
            key = original.key("trace", [items_hash(given.items), [list(trace) for trace in traces], setting.limit])
            entries = remembered(key, compute)
        answers[role] = replace(given, trace_nll=trace_nlls(given, traces, entries))
    return replace(model, answers=answers)
