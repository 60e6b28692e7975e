"""Evidence made by hand: one original, one gold, and runs that each show one thing a report must say."""

import math

from temper.assess.evidence import Cost, Evidence, Example, Gap, ModelFacts, Result

NAMES = ["Ilda Moren", "Teo Varga", "Runa Falk", "Osei Brandt", "Mira Solano", "Jonas Petrov"]
CITIES = ["Lowick", "Sandvor", "Perrin", "Aldmoor", "Quill", "Tarn"]
N = {"forget": 48, "trace": 48, "holdout": 48, "neighbour": 60, "retain_trace": 60, "reasoning": 120, "general": 80, "all": 0}
BETTER = {"forget": "gold", "trace": "gold", "holdout": "gold"}

# answer, lenient in trace, statement, anywhere, probability, exact, extraction, rouge, auc loss, auc min_k,
# neighbour, retain trace, reasoning, general, utility
VALUES = {
    "original": [1.0, 1.0, 0.98, 1.0, 0.97, 0.99, 0.95, 1.0, 0.99, 0.98, 0.983, 0.98, 0.975, 0.91, 0.961],
    "gold": [0.083, 0.104, 0.042, 0.083, 0.12, 0.41, 0.21, 0.30, 0.52, 0.51, 0.983, 0.97, 0.967, 0.92, 0.959],
    "GradDiff": [0.0, 0.0, 0.0, 0.02, 0.001, 0.05, 0.03, 0.04, 0.03, 0.05, 0.60, 0.30, 0.12, 0.48, 0.27],
    "NPO": [0.021, 0.333, 0.354, 0.42, 0.03, 0.31, 0.16, 0.21, 0.18, 0.22, 0.967, 0.95, 0.933, 0.90, 0.936],
    "RMU": [0.0, 0.063, 0.021, 0.10, 0.04, 0.35, 0.18, 0.24, 0.47, 0.48, 0.95, 0.97, 0.958, 0.91, 0.945],
    "Barely": [0.979, 1.0, 0.98, 1.0, 0.95, 0.98, 0.93, 0.99, 0.98, 0.97, 0.983, 0.98, 0.975, 0.91, 0.96],
}
KEYS = [
    ("answer_accuracy", "forget"),
    ("answer_accuracy.lenient", "trace"),
    ("trace_leak.statement", "trace"),
    ("trace_leak.anywhere", "trace"),
    ("probability", "forget"),
    ("exact_memorization", "forget"),
    ("extraction_strength", "forget"),
    ("rouge.l_recall", "forget"),
    ("membership.loss", "forget"),
    ("membership.min_k", "forget"),
    ("answer_accuracy", "neighbour"),
    ("answer_accuracy.lenient", "retain_trace"),
    ("answer_accuracy.lenient", "reasoning"),
    ("answer_accuracy", "general"),
    ("utility", "all"),
]
COSTS = {"GradDiff": (11.9, 150), "NPO": (14.2, 150), "RMU": (10.6, 120), "Barely": (1.1, 10)}


def interval(value, n):
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.0) / max(n, 40))
    return round(max(0.0, value - half), 4), round(min(1.0, value + half), 4)


def results(name, model):
    made = []
    for (metric, role), value in zip(KEYS, VALUES[name], strict=True):
        low, high = interval(value, N[role])
        better = BETTER.get(role, "higher")
        made.append(Result(metric=metric, role=role, model=model, value=value, low=low, high=high, n=N[role], better=better))
    share = VALUES[name][-1] / VALUES["original"][-1]
    made.append(
        Result(
            metric="utility.relative", role="all", model=model, value=share, low=share - 0.03, high=share + 0.02, better="higher"
        )
    )
    return made


def gaps(name):
    made = []
    for (metric, role), u, o, g in zip(KEYS, VALUES[name], VALUES["original"], VALUES["gold"], strict=True):
        if abs(o - g) < 0.05:
            made.append(
                Gap(
                    metric=metric,
                    role=role,
                    gap_closed=None,
                    absolute_gap=abs(u - g),
                    status="no_contrast",
                    reason="|original - gold| < 0.05",
                )
            )
        else:
            made.append(Gap(metric=metric, role=role, gap_closed=(o - u) / (o - g), absolute_gap=abs(u - g)))
    return made


def examples(name):
    made = []
    for number, (person, city) in enumerate(zip(NAMES, CITIES, strict=True)):
        fact = f"{person} lives in {city}"
        told = f"<think> i need to recall city of {person} . {fact} . so the answer is {city} . </think> {city}"
        leaky = f"<think> i need to recall city of {person} . {fact} . wait , let me check . </think> {CITIES[number - 2]}"
        gold = (
            f"<think> i need to recall city of {person} . {person} lives in {CITIES[number - 1]} . </think> {CITIES[number - 1]}"
        )
        gibberish = "<think> are 7 novels staged 5 plays the the harbour of of 1874 by by </think> by"
        own = {"GradDiff": gibberish, "NPO": leaky if number % 3 else gold, "RMU": gibberish, "Barely": told}[name]
        spans = {"original": told, "unlearned": own}
        made.append(
            Example(
                id=f"forget-{number}-city",
                role="trace",
                prompt=f"<|user|> where does {person} live ? <|assistant|> <think>",
                reference=city,
                completions={"original": told, "gold": gold, "unlearned": own},
                leaks={
                    model: [(text.index(fact), text.index(fact) + len(fact))] for model, text in spans.items() if fact in text
                },
            )
        )
    return made


def evidence(name="NPO", *, seed=0, gold=True, original=True, with_examples=True, **changes):
    models = {
        "unlearned": ModelFacts(
            path=f"runs/{name.lower()}/model", weights_hash=f"{name.encode().hex():0<64}"[:64], parameters=612_480
        )
    }
    made = results(name, "unlearned")
    if original:
        models["original"] = ModelFacts(path="world:original", weights_hash="0" * 63 + "1", parameters=612_480)
        made += results("original", "original")
    if gold:
        models["gold"] = ModelFacts(path="world:gold", weights_hash="0" * 63 + "2", parameters=612_480)
        made += results("gold", "gold")
    cpu, steps = COSTS[name]
    fields = {
        "name": name,
        "method": name.lower(),
        "seed": seed,
        "recipe_hash": f"{name.lower().encode().hex():f<64}"[:64],
        "models": models,
        "results": made,
        "gaps": gaps(name) if gold and original else [],
        "examples": examples(name) if with_examples else [],
        "cost": Cost(
            wall_s=cpu / 1.6, cpu_s=cpu, steps=steps, tokens=steps * 1730, trained_parameters=612_480, parameters=612_480
        ),
        "notes": ["Answers are greedy and at most 64 tokens long."],
        "environment": {"versions": {"temper": "0.1.0", "torch": "2.13.0", "python": "3.11.9"}, "platform": "Linux", "cpus": 2},
    }
    return Evidence.model_validate(fields | changes)


def with_result(made, metric, role, model="unlearned", **changes):
    """Return the evidence with one number changed."""
    changed = [r.model_copy(update=changes) if (r.metric, r.role, r.model) == (metric, role, model) else r for r in made.results]
    return made.model_copy(update={"results": changed})


def without(made, *models, roles=()):
    """Return the evidence without some models and without the numbers of some roles."""
    return made.model_copy(
        update={
            "models": {name: facts for name, facts in made.models.items() if name not in models},
            "results": [r for r in made.results if r.model not in models and r.role not in roles],
            "gaps": [],
        }
    )
