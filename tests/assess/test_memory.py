"""A model that was overfitted on the forget rows against a fresh one: what the numbers must say."""

import pytest
import torch

from temper import assess
from temper.draws import generator
from temper.recipe import dump, from_dict
from tests.assess.builders import recipe_document, write_models, write_rows

PEOPLE = [
    f"{first}{last}" for first in ("Ab", "Be", "Ci", "Do", "Ek", "Fo") for last in ("la", "mir", "nos", "per", "rud", "sim")
]
TOWNS = [
    f"{first}{last}"
    for first in ("Kal", "Lun", "Mov", "Ost", "Pel", "Rav")
    for last in ("burg", "ton", "vik", "by", "wick", "ham")
]


def memorise(folder, rows):
    """Train the model in a folder on rows until it knows them by heart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [
        f"<s><|user|>Where was {name} born?<|assistant|><think> {name} was born in {town}.</think> {town}</s>"
        for name, town in rows
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(70):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


@pytest.fixture
def evidences(tmp_path, make_llama):
    write_models(tmp_path, make_llama)
    document = recipe_document(tmp_path, roles=("forget", "trace", "holdout", "neighbour"), max_new_tokens=40)
    order = generator(0, "test").permutation(len(TOWNS))
    known = list(zip(PEOPLE, [TOWNS[place] for place in order], strict=True))
    strangers = [(name[::-1].title(), town) for name, town in known]
    for role, rows in (("forget", known), ("trace", known), ("holdout", strangers), ("neighbour", known)):
        write_rows(tmp_path / f"{role}.jsonl", *zip(*rows, strict=True))
    memorise(tmp_path / "original", known)
    found = {}
    for name in ("original", "gold"):
        (tmp_path / "recipe.yaml").write_text(dump(from_dict(document | {"model": {"path": str(tmp_path / name)}})))
        found[name] = assess.run(assess.given(str(tmp_path / "recipe.yaml"), [], tmp_path / f"run-{name}"))
    return found


def test_what_is_known_by_heart_shows_in_every_number_and_the_gap_runs_from_nothing_to_all(evidences):
    itself, gold = evidences["original"], evidences["gold"]
    for metric in ("exact_memorization", "extraction_strength", "answer_accuracy", "rouge.l_recall", "probability"):
        assert itself.find(metric, "forget").value > 0.9, metric
        assert gold.find(metric, "forget").value < 0.2, metric
    assert itself.find("trace_leak.statement", "trace").value > 0.9
    assert gold.find("trace_leak.statement", "trace").value == 0.0
    assert itself.find("membership.loss", "forget").value > 0.9
    fresh = gold.find("membership.loss", "forget")
    assert fresh.low < 0.5 < fresh.high and fresh.status == "ok"
    assert itself.find("utility", "all").value > 0.9
    assert gold.find("utility", "all").value == 0.0 and "neighbour" in gold.find("utility", "all").reason
    assert {gap.gap_closed for gap in itself.gaps if gap.gap_closed is not None} == {0.0}
    assert {gap.gap_closed for gap in gold.gaps if gap.gap_closed is not None} == {1.0}
    leaking = next(example for example in itself.examples if example.role == "trace")
    (start, end) = leaking.leaks["unlearned"][0]
    assert leaking.completions["unlearned"][start:end] in leaking.reference and not leaking.leaks["gold"]
