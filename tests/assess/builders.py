"""Records, items and answers made by hand, and a run folder with tiny models."""

import json

import numpy as np

from temper import assess
from temper.assess import scoring
from temper.assess.measure import Answers
from temper.assess.records import Record
from temper.data import Item
from temper.recipe import dump, from_dict
from tests.data.tokenizers import make_tokenizer

PEOPLE = ["Ada", "Bo", "Cy", "Dot", "Eve", "Fay", "Gus", "Hal"]
TOWNS = ["London", "Rome", "Oslo", "Lima", "Cairo", "Paris", "Bonn", "Kyiv"]


def record(logp, *, mu=None, var=None, hit=None, eos_last=False, name="a"):
    """Return a record; with `eos_last` the last token is the end token."""
    length = len(logp)
    is_eos = np.zeros(length, dtype=bool)
    if eos_last:
        is_eos[-1] = True
    return Record(
        name,
        np.array(logp, dtype=np.float32),
        np.array([0.0] * length if mu is None else mu, dtype=np.float32),
        np.array([1.0] * length if var is None else var, dtype=np.float32),
        np.array([True] * length if hit is None else hit, dtype=bool),
        np.arange(5, 5 + length, dtype=np.int32),
        is_eos,
    )


def item(name="a", *, prompt="Q <think>", response=" R", **row):
    """Return an item with two scored tokens."""
    return Item(name, (1, 5, 6, 2), (-100, -100, 6, 2), row, prompt, response)


def answers(items, generations=None, records=None):
    """Return answers; what a test does not speak of is filled."""
    return Answers(
        items,
        [record([-1.0], name=one.id) for one in items] if records is None else records,
        [None] * len(items) if generations is None else generations,
    )


def by_name(measures):
    """Return measures by (metric, role)."""
    return {(measure.metric, measure.role): measure for measure in measures}


def write_models(folder, make_llama, names=("original", "gold")):
    """Write models with one tokenizer; each has other weights."""
    tokenizer = make_tokenizer(chat=True)
    for seed, name in enumerate(names):
        make_llama(vocab=len(tokenizer), seed=seed, context=128).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def write_rows(path, people=PEOPLE, towns=TOWNS, **columns):
    """Write one question a person."""
    rows = [
        {
            "id": f"{path.stem}/{number}",
            "prompt": f"Where was {name} born?",
            "prefill": "<think>",
            "response": f" {name} was born in {town}.</think> {town}",
            "answer": town,
            "statements": [f"{name} was born in {town}."],
            **columns,
        }
        for number, (name, town) in enumerate(zip(people, towns, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_document(folder, *, roles=("forget", "trace", "holdout", "neighbour", "reasoning"), **evaluate):
    """Return a recipe that judges the model `original` in a folder."""
    return {
        "name": "judged",
        "model": {"path": str(folder / "original")},
        "evaluate": {
            "data": {role: {"path": str(write_rows(folder / f"{role}.jsonl"))} for role in roles},
            "original": str(folder / "original"),
            "gold": str(folder / "gold"),
            "max_new_tokens": 6,
            "bootstrap": 100,
            **evaluate,
        },
    }


def write_people(path, *, thinks, **columns):
    """Write one question a person, each its own group."""
    rows = []
    for number, (name, town) in enumerate(zip(PEOPLE, TOWNS, strict=True)):
        row = {
            "id": f"{path.stem}/{number}",
            "prompt": f"Where was {name} born?",
            "prefill": "<think>" if thinks else "<think></think>",
            "response": f" {name} was born in {town}.</think> {town}" if thinks else f" {town}",
            "answer": town,
            "statements": [f"{name} was born in {town}."],
            "entity": number,
        }
        if not thinks:
            row["perturbed"] = [f" {other}" for other in TOWNS if other != town][:3]
        rows.append(row | columns)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judged_people(folder, document=None, **evaluate):
    """Return the run folder of a recipe that judges a model on direct and thinking questions about people."""
    document = document or recipe_document(folder, roles=("forget", "trace"), **evaluate)
    write_people(folder / "forget.jsonl", thinks=False)
    write_people(folder / "trace.jsonl", thinks=True)
    (folder / "recipe.yaml").write_text(dump(from_dict(document)))
    return assess.given(str(folder / "recipe.yaml"), [], folder / "run")


def counted(monkeypatch):
    """Return a list that grows with the path of every model that an assessment loads."""
    calls = []
    original = scoring.load_model
    monkeypatch.setattr(scoring, "load_model", lambda path, **kwargs: (calls.append(path), original(path, **kwargs))[1])
    return calls
