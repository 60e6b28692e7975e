"""Assessing a run: its model, the original and gold on the same rows; results, gaps, examples; written as evidence."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from temper import __version__
from temper.assess.choices import choice_sets, option_set
from temper.assess.earlier import has_invalid, keep_earlier, settings_of
from temper.assess.evidence import Cost, Evidence, Result, Which
from temper.assess.examples import examples
from temper.assess.gold import gaps
from temper.assess.itemtable import write_items
from temper.assess.measure import Metric
from temper.assess.notes import notes
from temper.assess.probes.probe import Setting
from temper.assess.probing import check_probes, probes_of
from temper.assess.scoring import Subject, check_prompts, context_of
from temper.assess.stages import judge_all, metrics_of, wanted_of
from temper.assess.tags import tags_of
from temper.assess.utility import utility
from temper.errors import InputError, RecipeError
from temper.files import hash_json
from temper.models.load import load_config, load_tokenizer, resolve_path, weights_hash
from temper.recipe import EvaluateSection, ModelSection, Recipe, load, recipe_hash
from temper.run import Progress, Run, open_run

if TYPE_CHECKING:
    from temper.data import Encoded

__all__ = ["check", "given", "run"]

_STAGE: Final = "assess"


def run(folder: Path, *, overrides: list[str] | None = None, progress: Progress | None = None) -> Evidence:
    """Judge the model of a run and return the evidence, which also lies in the run folder.

    A run that was assessed with the same settings, rows and weights is not scored again.

    Args:
        folder: A run folder that `temper.unlearn.run` or `given` made.
        overrides: Changes to `evaluate` and `report`, as `evaluate.bootstrap=200`.
        progress: Called with (stage, done, total, note).

    Raises:
        RecipeError: The recipe has no `evaluate`, or an override changes what was trained.
        InputError: The folder is no run, or its model does not exist yet.
        ModelError: A model cannot be loaded, or has another vocabulary.

    Example:
        >>> from temper import assess
        >>> assess.run(Path("runs/npo-tiny")).find("answer_accuracy", "forget").value  # doctest: +SKIP
        0.028
    """
    if not (folder / "recipe.yaml").is_file():
        raise InputError(
            f"{folder}: not a run folder (it holds no recipe.yaml). Give a folder that `temper unlearn` wrote, or a recipe."
        )
    stored = load(folder / "recipe.yaml")
    recipe = _changed(stored, folder, overrides)
    settings = _settings(recipe, str(folder / "recipe.yaml"))
    with open_run(stored, folder, progress=progress) as opened:
        return _assess(opened, recipe, settings)


def check(recipe: Recipe) -> None:
    """Check what the evaluation of a recipe needs before anything is trained: its data, its models, its lengths. Loads no weights.

    Raises:
        RecipeError: `evaluate` holds no data.
        DataError: An evaluation file is missing or wrong.
        ModelError: Original or gold cannot be found, or a prompt leaves no room for an answer.
    """
    settings = _settings(recipe, f"recipe {recipe.name}")
    for path in (settings.original, settings.gold):
        if path is not None and not path.startswith("world:"):  # the world's models are built when they are needed
            load_config(path, world=recipe.world)
    _setting(recipe, settings, recipe.model.path, recipe.model)


def given(path: str, overrides: list[str] | None = None, out: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Make the run folder of a recipe that trains nothing and only judges its model; return the folder.

    Raises:
        RecipeError: The recipe has a method, whose result is to be judged, or no `evaluate`.
    """
    recipe = load(path, overrides or [])
    if recipe.method is not None:
        raise RecipeError(
            [
                f"method: is {recipe.method.name}, so the model to judge does not exist yet. Run `temper unlearn {path}` and assess its folder, "
                "or leave the method out (method=) to judge the recipe's own model."
            ],
            path,
        )
    _settings(recipe, path)
    with open_run(recipe, out, progress=progress) as opened:
        return opened.folder


def _settings(recipe: Recipe, source: str) -> EvaluateSection:
    if recipe.evaluate is None:
        raise RecipeError(["evaluate: missing; it says on which data and against which models the result is judged."], source)
    if not recipe.evaluate.data:
        raise RecipeError(["evaluate.data: is empty. Give at least one role, e.g. forget."], source)
    return recipe.evaluate


def _changed(stored: Recipe, folder: Path, overrides: list[str] | None) -> Recipe:
    if not overrides:
        return stored
    recipe = load(folder / "recipe.yaml", overrides)
    old, new = stored.model_dump(mode="json"), recipe.model_dump(mode="json")
    trained = [name for name in new if name not in ("evaluate", "report") and new[name] != old[name]]
    if trained:
        raise RecipeError(
            [
                f"{name}: the run in {folder} was made with another one; assess can change evaluate and report only."
                for name in trained
            ],
            "overrides",
        )
    return recipe


def _subjects(run: Run, recipe: Recipe, settings: EvaluateSection) -> list[Subject]:
    if run.model_folder.is_dir():
        judged = str(run.model_folder)
    elif recipe.method is None:
        judged = recipe.model.path
    else:
        raise InputError(f"{run.folder}: has no model yet. Run `temper unlearn` with its recipe first.")
    original = settings.original or (recipe.model.path if recipe.method is not None else None)
    elsewhere = recipe.model.model_copy(update={"revision": None})  # a revision belongs to the recipe's own model

    def subject(which: Which, path: str, is_kept: bool) -> Subject:
        return Subject(which, path, recipe.model if path == recipe.model.path else elsewhere, is_kept)

    found = [subject("unlearned", judged, False)]
    if original is not None:
        found.append(subject("original", original, True))
    if settings.gold is not None:
        found.append(subject("gold", settings.gold, True))
    return found


def _rows(recipe: Recipe, settings: EvaluateSection, tokenizer: Any, config: Any) -> dict[str, Encoded]:
    from temper.data import load_role

    tags = tags_of(settings)
    return {
        role: tags.read_rows(
            load_role(role, sources, tokenizer, world=recipe.world, max_length=context_of(config), overflow="drop")
        )
        for role, sources in settings.data.items()
    }


def _setting(recipe: Recipe, settings: EvaluateSection, path: str, section: ModelSection) -> tuple[Setting, list[Metric]]:
    """Return rows and metrics, after checking all that can be known to be wrong before a model is loaded."""
    tokenizer = load_tokenizer(path, section=section, world=recipe.world)
    config = load_config(path, section=section, world=recipe.world)
    rows = _rows(recipe, settings, tokenizer, config)
    tokenizer = tags_of(settings).wrap(tokenizer)
    metrics = metrics_of(settings)
    wanted = wanted_of(settings, metrics)
    if wanted.generations:
        check_prompts(rows, tokenizer, config, settings.max_new_tokens, wanted.decoding)
    for role, encoded in rows.items():
        if wanted.choices:
            choice_sets(role, encoded)
        if any(metric.name in ("final_answer", "trace_category") for metric in metrics):
            for item in encoded.items:
                option_set(item, f"evaluate.data.{role}")
    setting = Setting(rows, tokenizer, context_of(config), settings, recipe.world, recipe.seed)
    check_probes(setting)
    return setting, metrics


def _assess(run: Run, recipe: Recipe, settings: EvaluateSection) -> Evidence:
    begun = time.monotonic()
    torch.set_num_threads(recipe.train.threads if recipe.train is not None else 1)
    subjects = _subjects(run, recipe, settings)
    setting, metrics = _setting(recipe, settings, subjects[0].path, subjects[0].section)
    rows = setting.rows
    key = _key(recipe, subjects, setting)
    path = run.folder / "evidence.json"
    if run.stage_done(_STAGE) and path.exists():
        if run.stage(_STAGE).get("key") != key:
            keep_earlier(run, path, str(run.stage(_STAGE).get("key")), settings)
        elif not has_invalid(before := Evidence.read(path)):
            run.progress(_STAGE, 1, 1, "done before")
            return before
    judging = judge_all(run, subjects, setting, metrics)
    scored, measures = judging.scored, judging.measures
    results = [
        _with_unread(measure.result(which, seed=recipe.seed, resamples=settings.bootstrap), rows)
        for which, found in measures.items()
        for measure in found
    ]
    results += utility(measures, seed=recipe.seed, resamples=settings.bootstrap)
    answers = {which: model.answers for which, model in scored.items()}
    facts = run.stage("unlearn") if run.stage_done("unlearn") else {}
    evidence = Evidence(
        name=recipe.name,
        method=recipe.method.name if recipe.method is not None else "given",
        seed=recipe.seed,
        recipe_hash=recipe_hash(recipe),
        models={which: model.facts for which, model in scored.items()},
        results=results,
        gaps=gaps(results),
        examples=examples(answers, count=recipe.report.examples, seed=recipe.seed),
        cost=_cost(facts),
        notes=notes(_acted(facts, recipe), rows, results, list(scored), settings),
        environment=run.manifest["environment"],
        settings=settings_of(settings),
    )
    write_items(run.folder / "records.parquet", answers, measures)
    evidence.write(path)
    run.finish_stage(_STAGE, key=key, wall_s=round(time.monotonic() - begun, 3), results=len(results))
    return evidence


def _key(recipe: Recipe, subjects: Sequence[Subject], setting: Setting) -> str:
    """Return the hash of everything that evidence depends on: settings, rows with all their columns, and weights."""
    weights = {}
    for subject in subjects:
        place = Path(resolve_path(subject.path, recipe.world))
        weights[subject.which] = weights_hash(place) if place.is_dir() else subject.path
    return hash_json(
        {
            "recipe": recipe_hash(recipe),
            "version": __version__,
            "metrics": settings_of(setting.settings)["metrics"],
            "examples": recipe.report.examples,
            "rows": {role: encoded.content_hash for role, encoded in setting.rows.items()},
            "columns": [
                json.dumps(item.row, sort_keys=True, default=str) for encoded in setting.rows.values() for item in encoded.items
            ],
            "probes": [probe.inputs(setting) for probe in probes_of(setting.settings)],
            "weights": weights,
        }
    )


def _acted(facts: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the facts of a run without the mask of a retain term that reads none."""
    acts = getattr(recipe.method, "retain_term", None) in ("embed", "kl") and getattr(recipe.method, "retain_weight", 1) > 0
    return {name: value for name, value in facts.items() if acts or name != "retain_mask"}


def _with_unread(result: Result, rows: Mapping[str, Encoded]) -> Result:
    """Count rows that never became items: too long for the model, or with nothing to score."""
    unread = len(rows[result.role].dropped) if result.role in rows else 0
    if not unread:
        return result
    reason = f"{unread} rows could not be read: {rows[result.role].dropped[0].reason}"
    return result.model_copy(
        update={"dropped": result.dropped + unread, "reason": f"{result.reason}; {reason}" if result.reason else reason}
    )


def _cost(facts: Mapping[str, Any]) -> Cost | None:
    if "spent" not in facts:
        return None
    spent = facts["spent"]
    return Cost(
        wall_s=spent["wall_s"],
        cpu_s=spent["cpu_s"],
        steps=spent["steps"],
        tokens=spent["tokens"],
        trained_parameters=facts["trained_parameters"],
        parameters=facts["parameters"],
    )
