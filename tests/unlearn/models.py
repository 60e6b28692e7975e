"""A tiny model, its tokenizer and data on disk: what a user would bring."""

import json

from temper.recipe import from_dict
from tests.data.tokenizers import make_tokenizer

PEOPLE = ["Ada", "Bo", "Cy", "Dot", "Eve", "Fay", "Gus", "Hal"]
TOWNS = ["London", "Rome", "Oslo", "Lima", "Cairo", "Paris", "Bonn", "Kyiv"]


def write_rows(path, names, towns):
    rows = [
        {"id": f"{path.stem}{n}", "prompt": f"Where was {name} born?", "response": f" In {town}."}
        for n, (name, town) in enumerate(zip(names, towns, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_thoughts(folder):
    """Write trace.jsonl, reasoning about the forgotten people, and reasoning.jsonl, sums in steps."""
    traces = [
        {"prompt": f"Where was {name} born?", "response": f" <think> {name} was born in {town}.</think> In {town}."}
        for name, town in zip(PEOPLE[:4], TOWNS[:4], strict=True)
    ]
    sums = [
        {"prompt": f"How many is {n} and {n + 1}?", "response": f" <think> {n} and {n} is {2 * n}.</think> {2 * n + 1}."}
        for n in range(5)
    ]
    for name, found in (("trace", traces), ("reasoning", sums)):
        rows = [{"id": f"{name}{number}", **row} for number, row in enumerate(found)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_world(folder, make_llama, layers=3):
    """Fill a folder with model/, forget.jsonl, retain.jsonl, trace.jsonl and reasoning.jsonl."""
    tokenizer = make_tokenizer(chat=True)
    model = make_llama(layers=layers, vocab=len(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_rows(folder / "forget.jsonl", PEOPLE[:4], TOWNS[:4])
    write_rows(folder / "retain.jsonl", PEOPLE[4:], TOWNS[4:])
    write_thoughts(folder)
    return folder


def recipe_for(folder, **changes):
    """Return a recipe that runs on such a folder in a blink."""
    method = changes.pop("method", "npo")
    document = {
        "name": "try",
        "model": {"path": str(folder / "model")},
        "data": changes.pop("data", {"forget": {"path": str(folder / "forget.jsonl")}}),
        "method": method,
        "train": {"steps": 4, "batch_size": 2, "learning_rate": 0.01, "log_every": 1, **changes.pop("train", {})},
        **changes,
    }
    # distilled, so that every objective leaves a model that opens with transformers alone
    settings = {
        "logit_offset": {"distil": True},
        "rmu": {"layer": 1},
        "rmu_rtp": {"layer": 1},
        "r2mu": {"layer": 1},
        "pdu": {"epsilon": 0.5},
        "altpo": {"alternatives": {"generate": {"max_new_tokens": 8}}},
    }
    if isinstance(method, str) and method in settings:
        document["method"] = {"name": method, **settings[method]}
    for role in from_dict(document).method.roles:
        document["data"].setdefault(role, {"path": str(folder / f"{role}.jsonl")})
    return from_dict(document)
