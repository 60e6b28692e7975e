"""The TOFU table: every objective on the real forget05 rows at two settings, a milder and a stronger one, judged against the gold model.

    python benchmarks/real/tofu_table.py MODELS OUT [--only npo rmu] [--from-runs]

MODELS is the folder that `tofu_models.py` wrote. A setting is one ordinary run of `temper.unlearn` and `temper.assess` in OUT/runs; OUT/table.json
and OUT/table.md are written anew after each. Runs that are there are not made again; `--from-runs` only writes the table of them.

| role | rows |
| --- | --- |
| forget, trained on and judged | forget05: the last 10 authors, 200 rows; the gold model never saw them |
| retain, trained on | 75 of the 180 retain authors, 1,500 rows |
| retain, judged | every 15th of those, 100 rows |
| neighbour, judged | 100 rows of the 105 retain authors that no run reads; original and gold have learned them |
| holdout, judged | the first 10 authors, 200 rows, that neither model saw |

Likelihood metrics read all those rows; greedy answers (ROUGE-L) the first 60 of forget, retain and neighbour, which are spread over the
authors. Answers are the words of the data set behind one space, as the models were trained. The rows are written to OUT/data.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofu_models import FORGET, HOLDOUT, PROMPT, source

from temper.errors import TemperError
from temper.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from temper.assess.evidence import Which

AUTHOR, RETAIN_AUTHORS, BATCH, STEPS, ASKED = 20, 75, 8, 60, 60


@dataclass(frozen=True)
class Case:
    """One run: an objective at a setting.

    Attributes:
        method: The method section.
        learning_rate: Of the run.
        train: Other settings of training.
        selection: What trains.
    """

    method: dict[str, Any]
    learning_rate: float
    train: dict[str, Any] = field(default_factory=dict)
    selection: Any = "all"

    @property
    def setting(self) -> str:
        """Return the setting in words."""
        own = {key: value for key, value in self.method.items() if key != "name"}
        parts = [f"{key} {_shown(value)}" for key, value in own.items()]
        parts += [f"lr {self.learning_rate:g}", *(f"{key} {value}" for key, value in self.train.items())]
        return ", ".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def pair(method: dict[str, Any], mild: float, strong: float, **both: Any) -> list[Case]:
    """Return an objective at two learning rates."""
    return [Case(method, mild, **both), Case(method, strong, **both)]


LOWER = {"layers": [0, 1]}
CASES: dict[str, list[Case]] = {
    "ga": pair({"name": "ga"}, 1.0e-4, 3.0e-4),
    "graddiff": pair({"name": "graddiff"}, 3.0e-4, 1.0e-3),
    "klmin": pair({"name": "klmin"}, 3.0e-4, 1.0e-3),
    "wga": pair({"name": "wga"}, 3.0e-4, 1.0e-3),
    "satimp": pair({"name": "satimp", "forget_weight": 1.0}, 3.0e-4, 1.0e-3),
    "npo": pair({"name": "npo", "beta": 0.1}, 3.0e-4, 1.0e-3),
    "simnpo": pair({"name": "simnpo", "forget_weight": 1.0}, 3.0e-4, 1.0e-3),
    "po": pair({"name": "po"}, 3.0e-4, 1.0e-3),
    "dpo": pair({"name": "dpo", "beta": 0.1}, 3.0e-4, 1.0e-3),
    "altpo": pair({"name": "altpo", "beta": 0.1, "alternatives": {"generate": {"samples": 5, "temperature": 2.5, "max_new_tokens": 96}}}, 3.0e-4, 1.0e-3),
    "rmu": [
        Case({"name": "rmu", "layer": 1, "steering_coefficient": "auto:2", "retain_weight": 10.0}, rate, selection=LOWER)
        for rate in (3.0e-4, 1.0e-3)
    ],
    "undial": [Case({"name": "undial", "beta": beta}, 1.0e-3) for beta in (3.0, 10.0)],
    "ceu": pair({"name": "ceu"}, 3.0e-4, 1.0e-3),
    "me": pair({"name": "me"}, 3.0e-4, 1.0e-3),
    "pdu": pair({"name": "pdu", "epsilon": 0.1, "forget_weight": 0.01, "warmup": 1.0}, 3.0e-4, 1.0e-3),
    "task_vector": [Case({"name": "task_vector", "strength": strength}, 1.0e-4) for strength in (1.0, 5.0)],
    "logit_offset": [
        Case({"name": "logit_offset", "strength": 5.0}, 1.0e-3),
        Case({"name": "logit_offset", "strength": 5.0, "distil": True}, 1.0e-3),
    ],
}  # fmt: skip


def spread(rows: list[Any]) -> list[Any]:
    """Return rows in an order whose beginning holds some of every author."""
    return [row for start in range(7) for row in rows[start::7]]


def write_rows(data: Path, folder: Path) -> dict[str, Path]:
    """Write the rows of each role with their prompts and answers as the models were trained on them."""
    from temper.data import read
    from temper.recipe import WorldSection

    rows = read(source(data / "full.json"), WorldSection())
    kept = rows[HOLDOUT:-FORGET]
    authors = [kept[start : start + AUTHOR] for start in range(0, len(kept), AUTHOR)]
    # spread over all authors, so that neither part is one corner of the data set
    chosen = {number * len(authors) // RETAIN_AUTHORS for number in range(RETAIN_AUTHORS)}
    retain = [row for number, author in enumerate(authors) if number in chosen for row in author]
    others = [row for number, author in enumerate(authors) if number not in chosen for row in author]
    parts = {
        "forget": rows[-FORGET:],
        "holdout": rows[:HOLDOUT],
        "retain": retain,
        "forget_judged": spread(rows[-FORGET:]),
        "retain_judged": spread(retain[:: len(retain) // 100][:100]),
        "neighbour": spread(others[:: len(others) // 100][:100]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = [json.dumps({"id": row["id"], "prompt": row["question"], "response": f" {row['answer']}"}) for row in part]
        write_text(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
    return {name: folder / f"{name}.jsonl" for name in parts}


def recipe_of(name: str, case: Case, models: Path, files: dict[str, Path]) -> Any:
    """Return the recipe of a run."""
    from temper.recipe import from_dict

    def read(part: str) -> dict[str, Any]:
        return {"path": str(files[part]), "template": "plain", "plain_format": PROMPT}

    return from_dict(
        {
            "name": name,
            "model": {"path": str(models / "original")},
            "data": {"forget": read("forget"), "retain": read("retain")},
            "method": case.method,
            "selection": case.selection,
            "train": {
                "steps": STEPS, "batch_size": BATCH, "learning_rate": case.learning_rate, "adam_beta2": 0.98, "checkpoint_every": 0, **case.train,
            },
            "evaluate": {
                "gold": str(models / "gold"),
                "metrics": ["extraction_strength", "exact_memorization", "probability", "membership"],
                "max_new_tokens": 96,
                "batch_size": ASKED,
                "data": {
                    "forget": read("forget_judged"), "retain": read("retain_judged"), "neighbour": read("neighbour"), "holdout": read("holdout"),
                },
            },
        }
    )  # fmt: skip


def run(name: str, case: Case, models: Path, files: dict[str, Path], folder: Path) -> None:
    """Unlearn and assess; note the CPU-seconds of the whole call, references and sampled alternatives included."""
    from temper import assess, unlearn

    note = folder / "benchmark.json"
    if note.exists():
        return
    recipe = recipe_of(name, case, models, files)
    if not recipe.method.roles[1:]:
        recipe = recipe.model_copy(update={"data": {"forget": recipe.data["forget"]}})
    begun = time.process_time()
    unlearn.run(recipe, folder)
    unlearned = time.process_time() - begun
    assess.run(folder).write(folder / "likelihood.json")
    asked = [f"evaluate.data.{role}.0.limit={ASKED}" for role in ("forget", "retain", "neighbour")]
    assess.run(folder, overrides=["evaluate.metrics=[rouge]", "evaluate.data.holdout.0.limit=1", *asked]).write(
        folder / "answers.json"
    )
    spent = {"unlearn_cpu_s": round(unlearned, 1), "assess_cpu_s": round(time.process_time() - begun - unlearned, 1)}
    write_json(note, spent)


NUMBERS = {
    "forget_es": ("extraction_strength", "forget"),
    "forget_p": ("probability", "forget"),
    "forget_em": ("exact_memorization", "forget"),
    "forget_rouge": ("rouge.l_recall", "forget"),
    "retain_es": ("extraction_strength", "retain"),
    "retain_p": ("probability", "retain"),
    "retain_rouge": ("rouge.l_recall", "retain"),
    "neighbour_es": ("extraction_strength", "neighbour"),
    "neighbour_p": ("probability", "neighbour"),
    "neighbour_rouge": ("rouge.l_recall", "neighbour"),
    "holdout_es": ("extraction_strength", "holdout"),
    "holdout_p": ("probability", "holdout"),
    "membership_auc": ("membership.loss", "forget"),
    "membership_min_k_auc": ("membership.min_k", "forget"),
    "utility": ("utility", "all"),
    "utility_relative": ("utility.relative", "all"),
}
GAPS = {
    "gap_es": "extraction_strength",
    "gap_p": "probability",
    "gap_membership": "membership.loss",
    "gap_rouge": "rouge.l_recall",
}


def row_of(method: str, setting: str, folder: Path, which: Which = "unlearned") -> dict[str, Any]:
    """Return one row of the table."""
    from temper.assess import Evidence

    likelihood, answers = Evidence.read(folder / "likelihood.json"), Evidence.read(folder / "answers.json")
    found: dict[str, Any] = {"method": method, "setting": setting}
    for name, (metric, role) in NUMBERS.items():
        result = (answers if metric.startswith(("rouge", "utility")) else likelihood).find(metric, role, which)
        value = None if result is None else result.value
        found[name] = None if value is None else round(value, 4)
        if (
            result
            and result.low is not None
            and result.high is not None
            and name in ("forget_es", "neighbour_es", "membership_auc")
        ):
            found[f"{name}_interval"] = [round(result.low, 4), round(result.high, 4)]
    if which != "unlearned":
        return found
    for name, metric in GAPS.items():
        gap = next((g for g in (*likelihood.gaps, *answers.gaps) if (g.metric, g.role) == (metric, "forget")), None)
        found[name] = None if gap is None or gap.gap_closed is None else round(gap.gap_closed, 4)
    stage = read_json(folder / "manifest.json")["stages"]["unlearn"]
    cost, stopped = likelihood.cost, stage.get("stopped")
    assert cost is not None  # every run here trained
    found |= {
        "steps": cost.steps,
        "train_cpu_s": round(cost.cpu_s, 1),
        **read_json(folder / "benchmark.json"),
        "tokens": cost.tokens,
        "passes": stage.get("passes"),
        "trained_parameters": cost.trained_parameters,
        "stopped": stopped["sentence"] if stopped else None,
    }
    if "dual_weight" in stage:
        found["dual_weight"] = stage["dual_weight"]
    return found


def _two(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _passes(lines: list[str]) -> str:
    """Return in short what a step runs: f, a, r are the rows of forget, alternatives and retain in one pass with gradient."""
    roles, blocks = re.findall(r"over (.+?) \((all blocks|blocks [0-9.]+)", lines[0])[0]
    letters = " + ".join({"forget": "f", "retain": "r"}.get(role, "a") for role in roles.split(" + "))
    words = [letters if blocks == "all blocks" else f"{letters} in {blocks}"]
    for start, short in {"one pass without": "1 ungraded", "frozen branch": "frozen branch", "before": "reference once"}.items():
        words += [short] if any(line.startswith(start) for line in lines[1:]) else []
    words += ["stored distributions"] if any("read from a store" in line for line in lines[1:]) else []
    return ", ".join(words)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return two tables: what was forgotten and kept, and the distance to gold with the cost."""
    first = [
        "forget_es",
        "forget_p",
        "forget_rouge",
        "membership_auc",
        "membership_min_k_auc",
        "retain_es",
        "retain_p",
        "retain_rouge",
    ]
    first += ["neighbour_es", "neighbour_p", "neighbour_rouge"]
    lines = [
        "| objective | setting | forget ES | p | ROUGE-L | AUC loss | AUC min-k | retain ES | p | ROUGE-L | neighbour ES | p | ROUGE-L |",
        "| --- | --- |" + " --- |" * len(first),
    ]
    lines += [f"| {r['method']} | {r['setting']} | " + " | ".join(_two(r[name]) for name in first) + " |" for r in rows]
    second = ["gap_es", "gap_p", "gap_membership", "utility_relative"]
    lines += [
        "",
        "| objective | setting | gap closed: ES | p | membership | utility ratio | steps | CPU s | whole | tokens | passes a step | trained | ended |",
        "| --- | --- |" + " --- |" * (len(second) + 7),
    ]
    for r in rows:
        if "steps" in r:
            numbers = [_two(r[name]) for name in second]
            spent = [
                str(r["steps"]),
                f"{r['train_cpu_s']:.0f}",
                f"{r['unlearn_cpu_s']:.0f}",
                f"{r['tokens']:,}",
                _passes(r["passes"]),
            ]
            ended = "collapse" if r["stopped"] else "as planned"
            lines.append(
                f"| {r['method']} | {r['setting']} | "
                + " | ".join([*numbers, *spent, f"{r['trained_parameters']:,}", ended])
                + " |"
            )
    return "\n".join(lines) + "\n"


def write_table(out: Path, failures: dict[str, str]) -> None:
    """Write the table of the runs that are there."""
    rows: list[dict[str, Any]] = []
    for method, cases in CASES.items():
        for number, case in enumerate(cases, start=1):
            folder = out / "runs" / f"{method}-{number}"
            if not (folder / "benchmark.json").is_file():
                continue
            if not rows:
                rows += [row_of("original", "", folder, "original"), row_of("gold", "", folder, "gold")]
            rows.append(row_of(method, case.setting, folder))
    write_json(out / "table.json", {"rows": rows, "failures": failures})
    write_text(out / "table.md", markdown(rows))


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), metavar="OBJECTIVE")
    parser.add_argument("--from-runs", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    data = os.environ.get("TEMPER_REAL_DATA")
    if not data or not (Path(data) / "tofu").is_dir():
        parser.error("set TEMPER_REAL_DATA to the folder of the real data sets")
    os.environ.setdefault("TEMPER_CACHE", str(arguments.out / "cache"))
    files = write_rows(Path(data) / "tofu", arguments.out / "data")
    failures: dict[str, str] = {}
    jobs = [(number, method, case) for method in arguments.only or CASES for number, case in enumerate(CASES[method], start=1)]
    # the stronger settings first: a table that is cut short has a row of every objective
    for number, method, case in [] if arguments.from_runs else sorted(jobs, key=lambda job: -job[0]):
        name = f"{method}-{number}"
        begun = time.monotonic()
        try:
            run(name, case, arguments.models, files, arguments.out / "runs" / name)
        except TemperError as error:
            failures[name] = str(error)
            sys.stderr.write(f"{name}: {error}\n")
        else:
            sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n")
        write_table(arguments.out, failures)
    write_table(arguments.out, failures)
    print((arguments.out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
